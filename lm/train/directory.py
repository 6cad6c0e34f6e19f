"""A run's directory: whose it is, what is in it, and what its files say."""

import hashlib
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import msgspec
from msgspec.structs import replace

from lm.artifact import Started
from lm.config import UserError, dump, essence, parse, read_json
from lm.config.convert import T
from lm.data import (
    LengthModel,
    TextMixture,
    Tokenizer,
    Tokens,
    corpus_digest,
    open_tokens,
    survey,
    tokenizer_of,
)
from lm.data.tokenizers import load_tokenizer, save_tokenizer
from lm.distributed import hosts
from lm.distributed.mesh import MEMBERS
from lm.distributed.process import usable_cores
from lm.output.files import write_whole
from lm.results import Result, read_result
from lm.run import (
    Run,
    decided_by,
    differing,
    identity_digest,
    in_positions,
    read_run,
    same_result,
)

if TYPE_CHECKING:  # orbax takes a second, and `lm audit` needs none
    from lm.train.checkpoint import Restored


def run_tokenizer(run: Run, directory: Path) -> Tokenizer:
    """The tokenizer of a run directory, which is in it once training has begun.

    Raises UserError where it had to be learnt anew and is another than is recorded.
    """
    if (directory / "tokenizer").exists():
        return load_tokenizer(directory / "tokenizer")
    there = data_digests(directory)
    tokenizer = tokenizer_of(run.data, there.get("corpus_digest"))
    _check_same(directory, "tokenizer_digest", tokenizer.digest, there.get("tokenizer_digest"))
    return tokenizer


def checkpoints_of(run: Run, directory: Path) -> str:
    """Where the checkpoints of a run are.

    In a folder for several runs each has its own, named like its directory and by what decides
    its result, as runs of two studies may be named alike.
    """
    if run.checkpoints.directory is None:
        return str(directory / "checkpoints")
    name = f"{directory.name}-{identity_digest(run)[:8]}"
    return f"{run.checkpoints.directory.rstrip('/')}/{name}"


def decided_by_all(run: Run, tokens: Tokens) -> dict[str, str]:
    """Digests of all that decides a run's state: its settings, by field, and its data."""
    data = {name: getattr(tokens, name) for name in ("corpus_digest", "tokenizer_digest")}
    return decided_by(run) | data


def refuse_others(mine: dict[str, str], place: str, found: "Restored", *, known: bool) -> None:
    """Raises UserError where a checkpoint is of another run, or of other data.

    One of an older version does not say what decided it: it is believed where the run is
    `known` by the config.json of its directory. A corpus that is not at hand is not compared.
    """
    there = found.extra.get("decided_by")
    if there is None and not known:
        why = "does not say of which run it is, and no config.json does"
    elif there is None:
        return
    else:
        names = [name for name in mine | there if mine.get(name) != there.get(name)]
        if "corpus_digest" not in mine:
            names.remove("corpus_digest")
        if not names:
            return
        why = f"is of another run: {', '.join(names)} differ"
    raise UserError(
        f"{place}: checkpoint {found.step} {why}; choose another directory or remove it"
    )


def open_run_tokens(run: Run, directory: Path, tokenizer: Tokenizer | None = None) -> Tokens:
    """The run's tokens; raises UserError if they are not those that the directory began with.

    A file added to the corpus, or another Python's standard library, is another experiment; so
    is a tokenizer learnt anew, whose ids mean other tokens. The first host goes first: it
    builds what is not there yet, and the others find that, or build the same on their disks.
    """
    opened: list[Tokens] = []

    def first_opens() -> list[str]:
        opened.append(checked_tokens(run, directory, tokenizer))
        return [opened[0].corpus_digest, opened[0].tokenizer_digest]

    def others_open() -> Tokens:
        tokens = opened[0] if opened else checked_tokens(run, directory, tokenizer)
        if [tokens.corpus_digest, tokens.tokenizer_digest] != digests:
            raise UserError(
                "data: the corpus here, or the tokenizer learnt from it, is not the first"
                " host's; all hosts need the same files and versions"
            )
        return tokens

    digests = hosts.broadcast_from_first(first_opens)
    return hosts.barrier(others_open)


def checked_tokens(run: Run, directory: Path, tokenizer: Tokenizer | None) -> Tokens:
    """The tokens of this machine; raises UserError where the directory began with others."""
    if (directory / "tokenizer").exists():
        tokenizer = load_tokenizer(directory / "tokenizer")
    tokens = open_tokens(run.data, tokenizer)
    for name, then in data_digests(directory).items():
        _check_same(directory, name, getattr(tokens, name), then)
    return tokens


def data_digests(directory: Path) -> dict[str, str]:
    """The digests of corpus and tokenizer by a run's data.json; {} where there is none."""
    path = directory / "data.json"
    if not path.exists():
        return {}
    there = read_json(path)
    try:
        return {name: there[name][:] for name in ("corpus_digest", "tokenizer_digest")}
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged: {error!r}") from None


def component_digests(directory: Path) -> dict[str, str]:
    """The digests of a mixture's components by a run's data.json; {} where it says none."""
    path = directory / "data.json"
    there = read_json(path).get("components", {}) if path.exists() else {}
    return {f"text of {name}": each["corpus_digest"] for name, each in there.items()}


def budget_in_positions(run: Run, directory: Path) -> Run:
    """The run as it was trained, by what its directory says of how full its rows were."""
    if run.data.packing == "stream":
        return run
    return in_positions(run, read_json(directory / "data.json")["row_tokens"])


def finished_result(run: Run, directory: Path, *, asked: bool) -> Result | None:
    """The result that is there already, if the corpus is still the one that it is of.

    None where an evaluator is `asked` that has not been asked yet.

    Refuses a directory of another run, and a file.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory}: there is a file of this name; choose another directory")
    if why := other_settings(run, directory):
        raise UserError(
            f"{directory} holds another run: {why}; choose another directory or remove this one"
        )
    path = directory / "result.json"
    if not path.exists():
        return None
    result = read_result(path)
    # One that was trained without being asked anything lacks what the evaluator finds.
    if asked and result.evaluation is None and run.objective.predictions:
        return None
    then = result.training.corpus_digest
    _check_same(directory, "corpus_digest", corpus_digest(run.data), then)
    return result


def other_settings(run: Run, directory: Path) -> str:
    """Which fields of a run differ from what its directory is of, in words; "" if none.

    Both config.json and result.json say so; the result of an older version does not, and
    without a config.json nothing tells whose it is.
    """
    names: list[str] = []
    if known := (directory / "config.json").exists():
        there = read_run(directory)
        if run.start and there.start and run.start == replace(there.start, digest=None):
            # Settings as they were given; what was found there completed them.
            data = replace(run.data, tokenizer=there.data.tokenizer)
            run = replace(run, start=there.start, model=there.model, data=data)
        if essence(run.objective) == _as_given(essence(there.objective)):
            run = replace(run, objective=there.objective)
        names += same_result(run, there)
    path = directory / "result.json"
    if path.exists():
        carried = read_result(path).training.decided_by
        if carried is None and not known:
            return "nothing says which settings its result.json is of"
        names += differing(run, carried) if carried is not None else []
    return f"{', '.join(dict.fromkeys(names))} differ" if names else ""


def _as_given(objective: Any) -> Any:
    """Settings of an objective without the digests of the models that they name by a path.

    >>> _as_given({"type": "distil", "teacher": {"path": "here", "digest": "ab"}})
    {'type': 'distil', 'teacher': {'path': 'here'}}
    """
    if not isinstance(objective, dict):
        return objective
    names_model = "path" in objective
    return {
        name: _as_given(each)
        for name, each in objective.items()
        if not (names_model and name == "digest")
    }


def _check_same(directory: Path, name: str, now: str, then: str | None) -> None:
    """Raises UserError where a corpus or tokenizer is another than it was then, if known."""
    if then is not None and then != now:
        raise UserError(
            f"{directory}: the corpus, or the tokenizer learnt from it, has changed: {name} is"
            f" {now[:12]}, was {then[:12]}; restore it, or train in another directory"
        )


def describe_run(
    run: Run,
    directory: Path,
    tokens: Tokens,
    mesh: jax.sharding.Mesh,
    step: int,
    started: Started | None,
) -> None:
    """Writes what the run is, on what, and where and by what code it goes on from a step."""
    write_whole(directory / "config.json", dump(run))
    described: dict[str, Any] = {
        "corpus_digest": tokens.corpus_digest,
        "tokenizer_digest": tokens.tokenizer_digest,
    }
    for name, split in (("train", tokens.train), ("validation", tokens.validation)):
        described[name] = {
            "documents": len(split.ids),
            "bytes": split.text_bytes,
            "tokens": split.size,
        }
    if left_out := survey(run.data.corpus, run.data.validation).left_out:
        described["left_out"] = left_out
    if run.data.packing != "stream":
        described["row_tokens"] = tokens.row_tokens(run.data)
    if isinstance(run.data.corpus, TextMixture):
        described["components"] = _described(run, run.data.corpus, tokens)
    write_whole(directory / "data.json", json.dumps(described, indent=2) + "\n")
    write_whole(
        directory / "lengths.json", json.dumps(msgspec.to_builtins(tokens.lengths)) + "\n"
    )
    if not (directory / "tokenizer").exists():
        save_tokenizer(tokens.tokenizer, run.data.tokenizer, directory / "tokenizer")
    if started is not None:
        write_whole(directory / "start.json", dump(started))
    devices = jax.devices()
    # Environments from which no step is left, as they began no earlier, are forgotten.
    earlier = [each for each in environments(directory) if each.get("step", 0) < step]
    environment = {
        "step": step,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "cores": len(usable_cores()),
        "mesh": dict(mesh.shape),
        "hosts": jax.process_count(),
        "commit": commit(),
        "checkpoints": checkpoints_of(run, directory),
        **{name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")},
    }
    environment |= {"earlier": earlier} if earlier else {}
    write_whole(directory / "environment.json", json.dumps(environment, indent=2) + "\n")


def _described(run: Run, mixture: TextMixture, tokens: Tokens) -> dict[str, Any]:
    """What there is of each component of a mixture, and its fraction of the rows by phase."""
    turns = tokens.batches(run.data, run.seed, run.objective.copies).turns
    assert turns is not None
    supplies = tokens.supplies(run.data)
    return {
        component.name: {
            "corpus_digest": survey(component.corpus, run.data.validation).digest,
            "documents": len(tokens.train.parts[number].ids),
            "bytes": tokens.train.parts[number].text_bytes,
            "tokens": tokens.train.parts[number].size,
            "rows": supplies[number].rows,
            "of_rows": [[phase.row, str(phase.weights[number])] for phase in turns.phases],
        }
        for number, component in enumerate(mixture.components)
    }


def read_lengths(directory: Path) -> LengthModel | None:
    """How long the documents of a run are; None where its directory does not say."""
    return _parsed(LengthModel, directory / "lengths.json")


def read_start(directory: Path) -> Started | None:
    """What a run started from; None: from scratch."""
    return _parsed(Started, directory / "start.json")


def _parsed(type_: type[T], path: Path) -> T | None:
    return parse(type_, path.read_bytes(), str(path)) if path.exists() else None


def environments(directory: Path) -> list[dict[str, Any]]:
    """The environments that a run was trained in, one after the other."""
    path = directory / "environment.json"
    if not path.exists():
        return []
    newest = read_json(path)
    earlier = newest.pop("earlier", [])
    found: list[Any] = [*earlier, newest] if isinstance(earlier, list) else [earlier]
    for each in found:
        if not isinstance(each, dict) or not isinstance(each.get("step", 0), int):
            raise UserError(f"{path}: damaged: {json.dumps(each)[:60]} is no environment")
    return found


def was_member(directory: Path) -> bool:
    """Whether a run was trained as one of several, and so on a device that it had alone.

    It goes on with one: what is small enough to be a member need not divide among many.
    """
    return any(MEMBERS in each.get("mesh", {}) for each in environments(directory))


def commit() -> str | None:
    """The commit of the source that runs, with `+` and a digest of what was changed since.

    None if it is not in git.
    """

    def git(*command: str) -> bytes:
        ask = ["git", "-C", str(Path(__file__).parent), *command]
        return subprocess.run(ask, capture_output=True, check=True, timeout=10).stdout

    try:
        found = git("describe", "--always", "--abbrev=12", "--dirty=+").decode().strip()
        changes = git("diff", "HEAD") if found.endswith("+") else b""
    except (OSError, subprocess.SubprocessError):
        return None
    return found + (hashlib.sha256(changes).hexdigest()[:8] if changes else "")
