"""A model that sits tasks: what it finds likely, its states, and what it writes."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import UserError, essence_text
from lm.data import Tokenizer
from lm.data.conversations import end_of_answer
from lm.distributed import hosts
from lm.distributed import mesh as _mesh
from lm.evaluate.effort import Effort
from lm.evaluate.scorers.base import ScoredRows, Scorer, TokenNats
from lm.evaluate.scoring import scorers, valid
from lm.evaluate.tasks.base import (
    Completion,
    Likelihood,
    Note,
    Query,
    Ranking,
    Task,
    TextStates,
)
from lm.evaluate.tasks.ranks import ranked_by_vectors
from lm.evaluate.tasks.rows import (
    Frame,
    TaskRow,
    TokenQuery,
    batches_of,
    encode_queries,
    rows_of,
)
from lm.evaluate.tasks.writing import WRITERS, first_span, task_writers, until_stop
from lm.example import Vocabulary
from lm.generate import Sampling, answer, generate
from lm.model import Module
from lm.objectives import Contrastive
from lm.results import Kind
from lm.run import Run
from lm.train.load import LoadedModel
from lm.train.use import hidden_states, place_rows, used_mask

USUAL = ("chain_rule", "spans", "left_to_right", "pseudo_words")
"""Scorers of tasks where none is named: those of these that are valid for a model."""
SAMPLES = 16
"""Masks drawn for a text by a scorer that draws."""
POSITIONS = 4096
"""Positions that a device computes at once."""
Pool = Literal["mean", "first", "last"]
"""Which states make a text's vector: all of its tokens', the first one's, the last one's."""


def task_scorers(run: Run, names: Sequence[str] = ()) -> list[str]:
    """The scorers that a model sits tasks with: those named, or the usual ones that are valid.

    Raises UserError for a name that is none, or is not valid for the model.
    """
    there = valid(run, Effort(block=1))
    for name in names:
        if name not in there:
            known = name in scorers(run)
            what = "not valid for this model" if known else "no such scorer"
            raise UserError(
                f"--scorer {name.replace('_', '-')}: {what}; one of"
                f" {', '.join(each.replace('_', '-') for each in there) or 'none'}"
            )
    return list(names) or [name for name in USUAL if name in there]


def ways_to_sit(
    run: Run, title: str, task: Task, names: Sequence[str] = ()
) -> list[str | None]:
    """In which ways a model sits a task, as `ModelCandidate.of` takes them.

    Names of scorers where it is asked for likelihoods, of ways to write where for text, and
    None where for states or rankings: those that are named, or the usual ones. Raises
    UserError where it cannot be asked.
    """
    match task.needs:
        case "text":
            return [*task_writers(run, names)]
        case "states" | "rankings":
            return [None]
    if not (found := task_scorers(run, names)):
        raise UserError(f"{title}: the model predicts no tokens, which the task is about")
    return [*found]


def pool_of(run: Run) -> Pool:
    """The states that a text's vector was trained to be made of; of a model whose vectors were
    not trained, their mean.
    """
    objective = run.objective.last
    return objective.pool if isinstance(objective, Contrastive) else "mean"


@dataclass(frozen=True)
class ModelCandidate:
    """A model that sits tasks by a scorer; what does not fit into a row is cut: `rows_of`."""

    run: Run
    tokenizer: Tokenizer
    module: Module
    params: Any
    mesh: jax.sharding.Mesh
    name: str | None
    """Of the scorer, or of the way to write; None: it is asked for states alone."""
    prefix: str = "bos"
    """What stands before the first token: bos, eos, none, or a token by its spelling."""
    pool: Pool = "mean"
    identity: str = ""
    """Which model it is: its digest."""
    positions: int = field(default=POSITIONS, compare=False)

    @staticmethod
    def of(
        model: LoadedModel,
        name: str | None,
        *,
        prefix: str = "bos",
        pool: Pool | None = None,
        positions: int = POSITIONS,
    ) -> "ModelCandidate":
        """A loaded model that sits tasks by the scorer, or the way to write, of a name.

        Unless given, `pool` is `pool_of` the run.
        """
        program = model.program
        return ModelCandidate(
            model.run,
            model.tokenizer,
            program.module,
            model.params,
            program.mesh,
            name,
            prefix,
            pool or pool_of(model.run),
            identity=model.digest,
            positions=positions,
        )

    @property
    def digest(self) -> str:
        run = self.run
        model, objective = essence_text(run.model), essence_text(run.objective.last)
        asked = f"{self.identity} {model} {objective} {run.precision}"
        how = f"{self.scorer} {self.around} {self.pool} {SAMPLES} {self._longest}"
        return hashlib.sha256(f"{asked} {how}".encode()).hexdigest()[:16]

    @property
    def scorer(self) -> str:
        return (self.name or "states") if self._scorer is None else self._scorer.name

    @property
    def kind(self) -> Kind:
        return "no likelihood" if self._scorer is None else self._scorer.kind

    @property
    def around(self) -> str:
        if self.name in WRITERS:
            first, last = self._source_ends if self._writes_spans else (self.before, [])
            before = f"after {self._shown(first[0])}" if first else "after nothing"
        else:
            first, last = self.before, self._behind
            before = f"after {self._shown(first[0])}" if first else "the first token unscored"
        behind = f", before {' '.join(map(self._shown, last))}" if last else ""
        return before + behind

    @property
    def sees_after(self) -> bool:
        return self._scorer is not None and self._scorer.layout_given == "ends of documents"

    def likelihoods(
        self, queries: Sequence[Query], note: Note = lambda *_: None
    ) -> list[Likelihood]:
        return self.token_likelihoods(self.encode(queries), note)

    def encode(self, queries: Sequence[Query]) -> list[TokenQuery]:
        """Queries in token ids, of all that this candidate sees: see `encode_queries`."""
        return encode_queries(queries, self.tokenizer, sees_after=self.sees_after)

    def token_likelihoods(
        self, queries: Sequence[TokenQuery], note: Note = lambda *_: None
    ) -> list[Likelihood]:
        """The log-probability of each continuation, of queries in token ids."""
        scorer = self._scorer
        if scorer is None:
            raise UserError(
                "the model is asked by no scorer: it can sit no task of likelihoods"
            )
        if not (scorer.draws or self.name == "random_order"):
            # What is drawn for an item's number is nothing: one text is one for all items.
            queries = [query._replace(number=0) for query in queries]
        distinct = list(dict.fromkeys(queries))
        rows, cut = rows_of(distinct, self.frame)
        waiting = [0] * len(distinct)
        for row in rows:
            waiting[row.query] += 1
        log_p, likeliest = np.zeros(len(distinct)), np.ones(len(distinct), bool)
        counted = np.zeros(len(distinct), int)
        found: dict[TokenQuery, Likelihood] = {}
        places: dict[TokenQuery, list[int]] = {}
        for place, query in enumerate(queries):
            places.setdefault(query, []).append(place)
        for batch, nats_BL, likeliest_BL in self._scored(rows, scorer):
            done = []
            for r, row in enumerate(batch):
                scored = slice(row.start, row.stop)
                log_p[row.query] -= nats_BL[r, scored].sum()
                likeliest[row.query] &= bool(likeliest_BL[r, scored].all())
                counted[row.query] += row.stop - row.start
                waiting[row.query] -= 1
                if not waiting[row.query]:
                    done.append(row.query)
            for number in done:
                found[distinct[number]] = Likelihood(
                    float(log_p[number]),
                    bool(likeliest[number]),
                    int(counted[number]),
                    cut[number],
                )
            told = [(place, number) for number in done for place in places[distinct[number]]]
            note([p for p, _ in told], [found[distinct[number]] for _, number in told])
        return [found[query] for query in queries]

    def states(self, texts: Sequence[str]) -> TextStates:
        """One vector for each text, of last hidden states; what does not fit is cut behind."""
        if self.run.model.reads_source:
            raise UserError("the model reads a source by an encoder: its states are of no text")
        distinct = list(dict.fromkeys(texts))
        first, last, _ = self.frame
        room, encoded = self.frame.room, self.tokenizer.encode_all(distinct)
        rows = [
            TaskRow(number, [*first, *ids[:room].tolist(), *last], 0, 0, number)
            for number, ids in enumerate(encoded)
        ]
        if not all(row.tokens for row in rows):
            raise UserError(
                "a text of no tokens has no states: take another --prefix than none"
            )
        vectors: dict[int, np.ndarray] = {}
        for batch, tokens_BL, segments_BL in self._batches(rows):
            arrays = [
                place_rows(array, self.mesh)
                for array in (tokens_BL, segments_BL, np.zeros_like(tokens_BL))
            ]
            hidden_BLD = hosts.fetch(
                hidden_states(self.module, self.params, arrays, used_mask(self.run))
            )
            for r, row in enumerate(batch):
                hidden_LD = hidden_BLD[r, : len(row.tokens)]
                vectors[row.query] = {
                    "mean": hidden_LD.mean(axis=0),
                    "first": hidden_LD[0],
                    "last": hidden_LD[-1],
                }[self.pool]
        numbers = {text: number for number, text in enumerate(distinct)}
        return TextStates(
            np.array([vectors[numbers[text]] for text in texts], np.float32),
            np.array([max(0, len(encoded[numbers[text]]) - room) for text in texts]),
        )

    def ranked(self, queries: Sequence[str], documents: Sequence[str], count: int) -> Ranking:
        """The documents whose vectors are nearest in angle to each query's."""
        states = self.states([*queries, *documents])
        query_QD, document_ND = np.split(states.vectors_ND, [len(queries)])
        found_QK = ranked_by_vectors(query_QD, document_ND, count)
        return Ranking(found_QK, *np.split(states.cut_N, [len(queries)]))

    def written(
        self,
        prompts: Sequence[str],
        *,
        count: int,
        stop: Sequence[str],
        note: Note = lambda *_: None,
    ) -> list[Completion]:
        """What it writes after each prompt: the likeliest tokens, up to `count` or a stop."""
        encoded = [ids.tolist() for ids in self.tokenizer.encode_all(list(prompts))]
        return self.continued(encoded, count=count, stop=stop, note=note)

    def answered(
        self,
        messages: Sequence[str],
        *,
        count: int,
        stop: Sequence[str],
        note: Note = lambda *_: None,
    ) -> list[Completion]:
        """What it answers to each message, up to what its chat template ends an answer with."""
        end = end_of_answer(self.tokenizer)
        asked = [
            self.tokenizer.chat([{"role": "user", "content": message}], True).tolist()
            for message in messages
        ]
        alone = dataclasses.replace(self, prefix="none")
        return alone.continued(asked, count=count, stop=stop, note=note, end=end)

    def continued(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        count: int,
        stop: Sequence[str],
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
        note: Note = lambda *_: None,
        end: int | None = None,
    ) -> list[Completion]:
        """What it writes after each prompt's ids, up to `count` tokens or a stop.

        What ends a text is the token `end`; None: the eos token. A temperature of 0 takes the
        likeliest. Of a prompt that does not fit, its beginning is
        cut. Raises UserError for a model that writes nothing, and where no prompt would fit.
        """
        task_writers(self.run)
        first, last = self._source_ends if self._writes_spans else (self.before, [])
        if count > (most := self._longest - 2):
            raise UserError(
                f"count={count}: the model sees {self._longest} positions, the prompt's among"
                f" them; at most {most}"
            )
        # An encoder's positions are its own; others must hold what is written as well.
        taken = len(first) + len(last) + (0 if self._writes_spans else count)
        room = self._longest - taken
        by_width: dict[int, list[int]] = {}
        for place in sorted(range(len(prompts)), key=lambda place: -len(prompts[place])):
            seen = min(len(prompts[place]), room)
            by_width.setdefault(1 << max(3, seen.bit_length()), []).append(place)
        found: dict[int, Completion] = {}
        for width, of in by_width.items():
            size = min(len(of), max(1, self.positions // (width + count)))
            for start in range(0, len(of), size):
                batch = of[start : start + size]
                rows = [[*first, *prompts[place][-room:], *last] for place in batch]
                if not all(rows):
                    raise UserError("a prompt of no tokens, after nothing: --prefix bos, say")
                added = self._added(rows, count, temperature, top_k, seed + start, end)
                for place, ids in zip(batch, added, strict=True):
                    text = until_stop(self.tokenizer.decode(ids), stop)
                    found[place] = Completion(text, max(0, len(prompts[place]) - room))
                note(batch, [found[place] for place in batch])
        return [found[place] for place in range(len(prompts))]

    def _added(
        self,
        rows: Sequence[list[int]],
        count: int,
        temperature: float,
        top_k: int | None,
        seed: int,
        end: int | None,
    ) -> list[list[int]]:
        """What is written after each row, or at its sentinel."""
        vocabulary = self._vocabulary
        sampling = Sampling(temperature=temperature, top_k=top_k, seed=seed)
        if not self._writes_spans:
            return generate(
                self.module,
                self.params,
                rows,
                vocabulary=vocabulary,
                length=self._longest,
                begin="given",
                count=count,
                sampling=sampling,
                ends=None if end is None else (end,),
            )
        said = answer(
            self.module,
            self.params,
            rows,
            vocabulary=vocabulary,
            # The sentinel that it begins with is none of the text.
            count=count + 1,
            sampling=sampling,
        )
        return [first_span(ids, vocabulary.sentinels)[:count] for ids in said]

    @cached_property
    def frame(self) -> Frame:
        """What stands around a text, and how long a row may be."""
        return Frame(self.before, self._behind, self._longest)

    # What is asked

    @cached_property
    def _scorer(self) -> Scorer | None:
        if self.name is None or self.name in WRITERS:
            return None
        effort = Effort(samples=SAMPLES, block=1)
        return scorers(self.run, effort)[self.name]

    @property
    def _writes_spans(self) -> bool:
        return "next" not in self.run.objective.predictions

    @property
    def _source_ends(self) -> tuple[list[int], list[int]]:
        """What stands before a prompt that an encoder reads, and behind it.

        T5's rows begin with nothing: what begins its decoder's is padding.
        """
        vocabulary = self._vocabulary
        begins = [] if self.before == [vocabulary.pad] else self.before
        gap = [] if self.name == "greedy_answer" else [vocabulary.sentinels[0]]
        return begins, gap + self._behind

    @property
    def _vocabulary(self) -> Vocabulary:
        return self.tokenizer.vocabulary

    @property
    def _longest(self) -> int:
        return self.run.data.length

    @cached_property
    def before(self) -> list[int]:
        """What stands before the first token."""
        vocabulary = self._vocabulary
        match self.prefix:
            case "bos":
                return [vocabulary.bos]
            case "eos":
                return [vocabulary.eos]
            case "none":
                if self._scorer is not None and self._scorer.prediction != "next":
                    raise UserError(
                        "--prefix none: the model masks tokens, and can score the first one;"
                        " one of bos, eos, a token"
                    )
                return []
        for token in range(vocabulary.size):
            if self.tokenizer.id_to_token(token) == self.prefix:
                return [token]
        raise UserError(
            f"--prefix {self.prefix}: no such token; one of bos, eos, none, a token"
        )

    @cached_property
    def _behind(self) -> list[int]:
        """What stands behind the last token: an encoder of others has always seen an end."""
        told = not self._vocabulary.eos_counts and "next" not in self.run.objective.predictions
        return [self._vocabulary.eos] if told else []

    def _shown(self, token: int) -> str:
        return f"{self.tokenizer.id_to_token(token)} ({token})"

    # How it is computed

    def _batches(
        self, rows: Sequence[TaskRow]
    ) -> Iterator[tuple[list[TaskRow], np.ndarray, np.ndarray]]:
        return batches_of(
            rows,
            longest=self._longest,
            pad=self._vocabulary.pad,
            positions=self.positions,
            shards=_mesh.num_shards(self.mesh, "batch"),
            along=_mesh.num_shards(self.mesh, "length"),
        )

    def _scored(
        self, rows: Sequence[TaskRow], scorer: Scorer
    ) -> Iterator[tuple[list[TaskRow], np.ndarray, np.ndarray]]:
        """Batches of rows, the nats of each token, and whether it was the likeliest."""
        for batch, tokens_BL, segments_BL in self._batches(rows):
            scored_BL = np.zeros(tokens_BL.shape, bool)
            number_B = np.zeros(len(tokens_BL), np.uint32)
            for r, row in enumerate(batch):
                scored_BL[r, row.start : row.stop] = True
                number_B[r] = row.number
            arrays = [
                place_rows(array, self.mesh)
                for array in (tokens_BL, segments_BL, scored_BL, number_B)
            ]
            given = scorer, self.module, self._vocabulary, self.params, *arrays
            found = [_nats(*given, sample) for sample in range(scorer.samples)]
            nats_SBL = np.array([hosts.fetch(each.nats_BL) for each in found], np.float64)
            likeliest_SBL = np.array([hosts.fetch(each.likeliest_BL) for each in found])
            yield batch, nats_SBL.mean(axis=0), np.logical_and.reduce(likeliest_SBL)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _nats(
    scorer: Scorer,
    module: Module,
    vocabulary: Vocabulary,
    params: Any,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    scored_BL: jax.Array,
    number_B: jax.Array,
    sample: jax.Array,
) -> TokenNats:
    """What one sample of a scorer attributes to each token of rows."""
    rows = ScoredRows(tokens_BL, segments_BL, scored_BL)
    key_B = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(number_B)
    return scorer.nats(
        module, params, rows, vocabulary=vocabulary, key_B=key_B, sample=jnp.int32(sample)
    )
