"""`python -m tpu`: a study on Cloud TPU, from request to result."""

import argparse
import json
import re
import signal
import sys
from typing import Any, NoReturn

from tpu import slices, study
from tpu.errors import UserError
from tpu.manifest import jobset, slurm
from tpu.startup import Place, launch_id, place, script

STOPPED = 75
"""Exit code for: not done; run the same command again."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line."""

    def error(self, message: str) -> NoReturn:
        print(f"tpu: {' '.join(message.split())}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Runs a command; what the user can mend is one line and exit code 2."""
    top = parser()
    # Overrides may stand after options too, where argparse does not expect them.
    given, more = top.parse_known_args(arguments)
    if unknown := [argument for argument in more if argument.startswith("-")]:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    given.overrides += more
    try:
        given.run(given)
    except UserError as error:
        # What the user named may have line ends.
        print(f"tpu: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fsspec", "google", "grpc"):
            raise
        print(f'tpu: no {error.name} here; pip install -e ".[cloud]"', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("tpu: not watched any more; the same command watches on", file=sys.stderr)
        sys.exit(STOPPED)


def parser() -> Parser:
    """The commands and their options."""
    top = Parser(prog="python -m tpu", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def add(name: str, run: Any, help: str, *options: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.add_argument("study", metavar="STUDY", help="a file of experiments/")
        command.add_argument("--scale", required=True, help="one of the study's SCALES")
        for option in options:
            command.add_argument(option, required=True, **OPTIONS[option])
        command.add_argument(
            "overrides", nargs="*", metavar="field.path=value", help="changes every run alike"
        )
        command.set_defaults(run=run)
        return command

    where = ("--bucket", "--project", "--zone")
    launch = add("launch", _launch, "ask for slices, run the study on them", "--slice", *where)
    _add_slices(launch)
    launch.add_argument("--runtime", help="machine image (default: the slice's own)")
    launch.add_argument("--dry-run", action="store_true", help="print it all, send nothing")
    launch.add_argument("--detach", action="store_true", help="do not watch")
    # These take the same options, so that only the command's name changes.
    add("status", _status, "what the queue and the hosts say", *where)
    logs = add("logs", _logs, "print the newest log of a host", *where)
    logs.add_argument("--host", default="0-0", help="SLICE-HOST (default: 0-0)")
    add("stop", _stop, "give the slices back; the study can go on later", *where)
    manifest = add("manifest", _manifest, "print a JobSet for GKE, or a Slurm script")
    manifest.add_argument("--kind", required=True, choices=("jobset", "slurm"))
    manifest.add_argument("--slice", help="jobset: such as v5e-8")
    manifest.add_argument("--bucket", help="jobset: gs://NAME[/FOLDER]")
    _add_slices(manifest)
    manifest.set_defaults(slices=None)
    manifest.add_argument("--gpus", type=_count, help="slurm: GPUs of a machine (8)")
    manifest.add_argument("--nodes", type=_count, help="slurm: machines (1)")
    return top


OPTIONS: dict[str, Any] = {
    "--slice": {"help": "such as v5e-8"},
    "--bucket": {"help": "gs://NAME[/FOLDER]: where runs, logs and states go"},
    "--project": {"type": lambda text: _matching(PROJECT, text, "a project's id")},
    "--zone": {"type": lambda text: _matching(ZONE, text, "a zone, such as us-west4-a")},
}

PROJECT = r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]"
ZONE = r"[a-z]+-[a-z]+\d+-[a-z0-9]+"


def _add_slices(command: argparse.ArgumentParser) -> None:
    command.add_argument("--slices", type=_count, default=1, help="how many (1)")
    command.add_argument("--spot", action="store_true", help="cheaper, and may be taken away")


def _matching(pattern: str, text: str, what: str) -> str:
    if not re.fullmatch(pattern, text):
        raise argparse.ArgumentTypeError(f"{text!a} is not {what}")
    return text


def _count(text: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,3}", text):
        raise argparse.ArgumentTypeError(f"{text!a} is not a whole number from 1 to 9999")
    return int(text)


def _study(given: argparse.Namespace) -> study.Study:
    return study.find(given.study, given.scale, given.overrides)


def _launch(given: argparse.Namespace) -> None:
    chosen = _study(given)
    slice_ = slices.find(given.slice)
    slices.check_number(slice_, given.slices)
    runtime = slices.check_runtime(slice_, given.runtime)
    where = place(given.bucket, chosen)
    commit = study.commit()
    cost = study.check(chosen, slice_.name, given.slices)
    # Manifests need no Google client.
    from tpu import launch
    from tpu.queued import Job, Requests

    job = Job(
        name=chosen.name,
        slice=slice_,
        slices=given.slices,
        runtime=runtime,
        tier="spot" if given.spot else "on demand",
        script=script(chosen, commit, where, hosts=given.slices * slice_.hosts, told="all"),
    )
    if given.dry_run:
        requests = Requests(given.project, given.zone, chosen.name)
        print(_dry_run(job, requests, where, commit))
        return
    _report(f"{chosen.name}: {cost}")
    queue, bucket, id = _queue(given, chosen), _bucket(where), launch_id(chosen, commit)
    bucket.put_source(commit, study.bundle())
    if launch.start(job, queue, bucket, id, _report):
        if given.detach:
            _report(
                "not watched: the same command without --detach asks again after a"
                " preemption, and gives the slices back when the study is done"
            )
            return
        launch.watch(job, queue, bucket, id, _report)
    _report(f"{chosen.name}: done; {where.url(where.runs)}/{chosen.study}")


def _status(given: argparse.Namespace) -> None:
    chosen = _study(given)
    where = place(given.bucket, chosen)
    from tpu.launch import describe

    found, hosts = _queue(given, chosen).get(), _bucket(where).hosts()
    state = describe(found, hosts) if found else "not in the queue"
    print(f"{chosen.name}: {state}")
    for host in hosts:
        code = f" with exit code {host.code}" if host.code else ""
        print(f"  {host.host:<7} {host.state}{code} since {host.time}")
    print(f"  {where.url(where.runs)}/{chosen.study}")


def _logs(given: argparse.Namespace) -> None:
    print(_bucket(place(given.bucket, _study(given))).log(given.host), end="")


def _stop(given: argparse.Namespace) -> None:
    chosen = _study(given)
    there = _queue(given, chosen).delete()
    print(f"{chosen.name}: {'stopped' if there else 'not in the queue of ' + given.zone}")


def _manifest(given: argparse.Namespace) -> None:
    chosen = _study(given)
    options = {"jobset": ("slice", "slices", "spot", "bucket"), "slurm": ("gpus", "nodes")}
    own = options.pop(given.kind)
    for option in (option for others in options.values() for option in others):
        if getattr(given, option):
            legal = ", ".join(f"--{name}" for name in own)
            raise UserError(f"--{option}: not of --kind {given.kind}, which has {legal}")
    if given.kind == "slurm":
        gpus, nodes = given.gpus or 8, given.nodes or 1
        study.check(chosen, f"h100-{gpus * nodes}", 1)  # another GPU differs in speed alone
        print(slurm(chosen, gpus, nodes), end="")
        return
    if not given.slice or not given.bucket:
        raise UserError("--kind jobset needs --slice and --bucket")
    slice_, where = slices.find(given.slice), place(given.bucket, chosen)
    number = given.slices or 1
    slices.check_number(slice_, number)
    study.check(chosen, slice_.name, number)
    tier = "spot" if given.spot else "on demand"
    print(jobset(chosen, slice_, number, tier, where, study.commit()), end="")


def _dry_run(job: Any, requests: Any, where: Place, commit: str) -> str:
    """What `launch` would send, in order, as JSON; then the script, as a host would run it."""
    sent = [requests.get(), requests.create(job), *map(requests.get_node, job.nodes)]
    sent.append(requests.delete())
    described = {
        "upload": where.url(f"{where.folder}/source-{commit}.bundle"),
        "requests": [
            {type(request).__name__.removesuffix("Request"): _plain(request)}
            for request in sent
        ],
    }
    return f"{json.dumps(described, indent=2)}\n{job.script}"


def _plain(request: Any) -> Any:
    """A message as JSON has it, without the fields that are not set."""
    text = type(request).to_json(request, always_print_fields_with_no_presence=False)
    return json.loads(text)


def _queue(given: argparse.Namespace, chosen: study.Study) -> Any:
    from tpu.queued import Queue

    return Queue(given.project, given.zone, chosen.name)


def _bucket(where: Place) -> Any:
    from tpu.bucket import Bucket

    return Bucket(where)


def _report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
