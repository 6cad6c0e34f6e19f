"""What does a model learn from a reward with a flaw, and what stops it?

    python -m experiments.benchmarks.reward_hacking

A tiny model is asked to say a token again and then to end. `recall` counts which tokens of the
right answer a sample holds, and not what else it holds: to list every token and never to end is
worth as much as to be right. From one start, that is right one time in six, it learns from
`exact`, from `recall`, and from `recall` with a beta that holds it at its start. Prints what it
was paid, how often its answers are right, and how long they are, before and after.
"""

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from lm.data import Bytes, Data
from lm.distributed import mesh
from lm.distributed.process import prepare_machine
from lm.example import Batch, Vocabulary
from lm.generate.rollout import roll_out
from lm.model import Transformer
from lm.objectives import PolicyGradient
from lm.objectives.rewards import Exact, Judged, Recall
from lm.objectives.rollout import START
from lm.optimizer import Adamw
from lm.output.console import print_table, table
from lm.run import Run
from lm.train.step import Program, State, prepare

VOCABULARY = Vocabulary(
    size=8, pad=0, mask=None, bos=1, eos=2, first_ordinary=3, begins_word=(True,) * 8
)
PROMPT = 2
"""Tokens of a prompt: one that begins it, and the one to be said again."""
RUN = Run(
    data=Data(length=10, batch=64, tokenizer=Bytes(), packing="single"),
    objective=PolicyGradient(reward=Exact(), group=16, answer=8, beta=0.01),
    model=Transformer(depth=1, width=16, heads=2),
    optimizer=Adamw(learning_rate=1e-2, weight_decay=0.0),
    tokens=200 * 64 * 10,
    precision="float32",
)
WAYS: dict[str, dict[str, Any]] = {
    "exact": {},
    "recall": {"reward": Recall()},
    "recall, beta 1": {"reward": Recall(), "beta": 1.0},
}
MEASURED = ("reward", "exact", "length", "ended", "kl")


def main(arguments: list[str] | None = None) -> None:
    """Prints a line for the start, and one a reward."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=90, help="of each reward (90)")
    given = parser.parse_args(arguments)
    prepare_machine()
    shown = table("", *MEASURED, right=MEASURED)
    for name, found in measure(given.steps).items():
        shown.add_row(name, *(f"{found[each]:.2f}" for each in MEASURED))
    print_table(shown)


def measure(steps: int) -> dict[str, dict[str, float]]:
    """What is measured of the start, and of what each reward makes of it in so many steps."""
    program = _program(RUN)
    drawn = program.init()
    state, found = _learn(program, drawn, _copy(drawn.params), 40)
    all_found = {"start": found}
    for name, changes in WAYS.items():
        objective = msgspec.structs.replace(RUN.objective, **changes)
        program = _program(msgspec.structs.replace(RUN, objective=objective))
        _, all_found[name] = _learn(program, _copy(state), _copy(state.params), steps)
    return all_found


def _program(run: Run) -> Program:
    one = mesh.Mesh(replica=1, fsdp=1, tensor=1, context=1)
    return prepare(run, VOCABULARY, mesh.make(one, jax.devices()[:1]))


def _copy(state: Any) -> Any:
    """A step donates what it is given."""
    return jax.tree.map(jnp.copy, state)


def _rows() -> Batch:
    """Four prompts, each as often as there is room, with their right answers."""
    said_B = np.repeat(np.arange(3, 7, dtype=np.int32), RUN.data.batch // 4)
    tokens_BL, loss_BL = np.zeros((2, RUN.data.batch, RUN.data.length), np.int32)
    tokens_BL[:, : PROMPT + 2] = np.stack(
        [np.ones_like(said_B), said_B, said_B, np.full_like(said_B, VOCABULARY.eos)], axis=1
    )
    loss_BL[:, PROMPT : PROMPT + 2] = 1
    return Batch(tokens_BL, (tokens_BL > 0).astype(np.int32), {"loss": loss_BL})


def _learn(
    program: Program, state: State, start: Any, steps: int
) -> tuple[State, dict[str, float]]:
    """The state after so many steps, and what is measured then."""
    program = replace(program, companions={START: start})
    rows = program.place(_rows())
    for _ in range(steps):
        state, metrics = program.step(state, rows)
    found = {name: float(metrics[name]) for name in MEASURED if name in metrics}
    return state, found | {"exact": _right(program, state.params, rows)}


def _right(program: Program, params: Any, rows: Batch) -> float:
    """How often what the model says is the right answer, whatever it was paid for."""
    sample = partial(roll_out, program.module, count=8, vocabulary=VOCABULARY)
    prompt_B = jnp.full(RUN.data.batch, PROMPT)
    end_B = jnp.full(RUN.data.batch, VOCABULARY.eos)
    drawn = jax.jit(sample)(params, rows.tokens_BL, prompt_B, end_B, jax.random.key(9))
    right_BL = rows.channels["loss"] > 0
    answers = Judged(
        drawn.tokens_BL,
        drawn.sampled_BL,
        rows.tokens_BL,
        right_BL,
        (drawn.tokens_BL > 0).astype(jnp.int32),
        VOCABULARY,
        {},
    )
    return float(Exact()(answers).mean())


if __name__ == "__main__":
    main()
