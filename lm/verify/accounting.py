"""Anybody's scorer, held to a source whose truth is known: which errors its accounts show.

A scorer is a function of token ids and a mask that asks a masked model and says what a text
costs:

    def scorer(ask, tokens, mask, sizes):
        ...

`tokens`, int[R, L], are rows: a begin token, a document's tokens, its end token unless the row
cuts it, padding. `mask`, bool[R, L], is what is to be paid for: tokens and ends. `sizes`,
int[R, L], are the UTF-8 bytes of each token. `ask(tokens, masked)` is the model: log p,
float64[N, L, V], of what stands at each place, given the tokens that are not masked, where what
is shown is known, and padding is never seen. The scorer returns the nats of each token,
float[R, L], or the bits per byte of all rows, one number.

It is held to four things, by models that answer exactly:

- Of a hidden Markov source, whose probability of every text is known, no honest number lies
  below the truth: as its conditionals agree with each other, each order gives the truth itself.
- Of a model whose conditionals do not agree, as those of trained ones do not, the probabilities
  of all strings sum to at most one (Kraft's inequality). An order that is chosen by a look at
  the tokens is no code, though each of its terms is honest.
- More padding changes nothing.
- Of tokens of twice the bytes, bits per byte are half.

Dimension letters: R rows, N rows that are asked, L positions, V tokens, X strings.
"""

import importlib
import inspect
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.config import UserError
from lm.data.sources.hmm import HmmSource, stationary

PAD, MASK, BOS, EOS, FIRST = range(5)
"""Ids of tokens; those from FIRST on are ordinary. No row holds MASK: `ask` is given masks."""
ENDS = 1 / 8
"""The chance that a document ends after a token."""
SIZES = np.array([0, 0, 0, 0, 1, 2, 3, 5, 1, 2])
"""Bytes of each token."""
ROWS, LENGTH, GROUPS = 256, 14, 8
"""Rows of the known source, their positions, and how many parts of them give an error."""
STRING, LETTERS, REPEATS = 4, 3, 8
"""Tokens of a string, how many different ones, and how often each string is scored."""
DRAWS = 32
"""How often a scorer is asked before a token is said to cost nothing."""
ERRORS = 4.0
"""Standard errors by which a number must lie beyond what is allowed, to be an error."""

Ask = Callable[[np.ndarray, np.ndarray], np.ndarray]
Scoring = Callable[[Ask, np.ndarray, np.ndarray, np.ndarray], Any]
"""A scorer, as it is given."""


class PaidRows(NamedTuple):
    """Rows with what is to be paid for, and the bytes of each token."""

    tokens_RL: np.ndarray
    mask_RL: np.ndarray
    sizes_RL: np.ndarray

    @staticmethod
    def of(tokens_RL: np.ndarray) -> "PaidRows":
        return PaidRows(tokens_RL, (tokens_RL != PAD) & (tokens_RL != BOS), SIZES[tokens_RL])

    def part(self, rows: Any) -> "PaidRows":
        return PaidRows(*(array[rows] for array in self))


@dataclass(frozen=True)
class Account:
    """What a scorer was found to do, in sentences."""

    errors: tuple[str, ...]
    bits_per_byte: float
    """Of the known source, by the scorer."""
    truth: float
    strings: float
    """What the probabilities of all strings sum to."""

    def raise_if_wrong(self) -> None:
        """Raises UserError with all errors in one line."""
        if self.errors:
            raise UserError("; ".join(self.errors))


def find_scorer(name: str) -> Scoring:
    """The function that MODULE:FUNCTION names; UserError where there is none."""
    module, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), function, None)
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(f"--scorer {name}: {error}") from None
    if not inspect.isfunction(found):
        raise UserError(f"--scorer {name}: give MODULE:FUNCTION, a function of that module")
    try:
        inspect.signature(found).bind("ask", "tokens", "mask", "sizes")
    except TypeError:
        raise UserError(f"--scorer {name}: it must take (ask, tokens, mask, sizes)") from None
    return found


def account(scorer: Scoring) -> Account:
    """Holds a scorer to what is known; UserError where it returns what is no score."""
    source = known_source()
    text, ask = drawn_text(source), asked_of(source)
    before_RT = source.prediction_nats(text.tokens_RL[:, 1:])
    truth_RL = np.where(text.mask_RL, np.pad(before_RT, ((0, 0), (1, 0))), 0.0)

    said = scorer(ask, *text)
    per_token = np.ndim(said) > 0
    nats = _nats(said, text)
    errors: list[str] = []
    if per_token:
        most_RL = np.asarray(said, np.float64)
        for _ in range(DRAWS):  # a scorer that draws masks asks for others next time
            most_RL = np.maximum(most_RL, np.asarray(scorer(ask, *text), np.float64))
        errors += _of_tokens(most_RL, text, truth_RL)
    else:
        errors += _of_number(float(said), scorer, ask, text)
    errors += _below_truth(scorer, ask, text, truth_RL, paid=not errors)
    strings, error = _strings(scorer)
    if strings - ERRORS * error > 1.005:
        errors.append(
            f"all strings of {STRING} tokens together get probability {strings:.3f}, and no"
            " code gives more than 1: the terms do not chain, as those of a pseudo-likelihood,"
            " or the order is chosen by a look at the tokens that are to be predicted"
        )
    bits = np.log(2) * text.sizes_RL.sum()
    return Account(tuple(errors), nats / bits, float(truth_RL.sum() / bits), strings)


def _of_tokens(said_RL: np.ndarray, text: PaidRows, truth_RL: np.ndarray) -> list[str]:
    """What the most nats that were ever said of tokens show by themselves."""
    errors = []
    if (outside := said_RL[~text.mask_RL]).any():
        errors.append(
            f"{np.count_nonzero(outside):,} places that are padding, or before the text, are"
            " paid for"
        )
    ends_RL = text.tokens_RL == EOS
    if said_RL[ends_RL].sum() < 0.1 * truth_RL[ends_RL].sum():
        errors.append("document ends are not paid for")
    inner_RL = text.mask_RL & ~ends_RL & (truth_RL > 0.05)
    if free := np.count_nonzero(said_RL[inner_RL] < 1e-6):
        errors.append(
            f"{free:,} of {np.count_nonzero(inner_RL):,} tokens cost nothing: they are never"
            " masked, or never asked for"
        )
    return errors


def _of_number(said: float, scorer: Scoring, ask: Ask, text: PaidRows) -> list[str]:
    """What bits per byte show where what they must not depend on, or must, is changed."""
    errors = []
    width = ((0, 0), (0, text.tokens_RL.shape[1]))
    padded = float(scorer(ask, *(np.pad(array, width) for array in text)))
    if abs(padded - said) > 0.15 * said:
        errors.append(
            f"with as much padding again, {said:.3f} bits per byte become {padded:.3f}: padding"
            " is in the average"
        )
    doubled = float(scorer(ask, *text._replace(sizes_RL=2 * text.sizes_RL)))
    if abs(doubled - said / 2) > 0.15 * said:
        errors.append(
            f"with twice the bytes of each token, {said:.3f} bits per byte become"
            f" {doubled:.3f} and not half: bytes are not those of the text, but nominal ones"
        )
    return errors


def _below_truth(
    scorer: Scoring, ask: Ask, text: PaidRows, truth_RL: np.ndarray, *, paid: bool
) -> list[str]:
    """Whether the rows cost less than the source itself needs, and what that may be."""
    groups = [text.part(rows) for rows in np.array_split(np.arange(len(truth_RL)), GROUPS)]
    said_G = np.array([_nats(scorer(ask, *group), group) for group in groups])
    truth_G = np.array([of.sum() for of in np.array_split(truth_RL, GROUPS)])
    error = (said_G - truth_G).std(ddof=1) * np.sqrt(GROUPS)
    gap, bits = float((said_G - truth_G).sum()), np.log(2) * text.sizes_RL.sum()
    if gap > -ERRORS * error - 1e-3 * len(truth_RL):
        return []
    ends_RL = text.tokens_RL == EOS
    goes_on = np.count_nonzero((text.mask_RL & ~ends_RL)[ends_RL.any(axis=1), 2:])
    # Their own tokens; and where they are shown, that no document of these ends before.
    layouts = (
        truth_RL[ends_RL].sum(),
        -np.log(ENDS) * ends_RL.sum() - np.log1p(-ENDS) * goes_on,
    )
    near = any(abs(gap + layout) < 0.01 * truth_G.sum() for layout in layouts)
    why = ": just what document ends cost, which are not paid for" if near and paid else ""
    return [
        f"{(truth_G.sum() + gap) / bits:.3f} bits per byte lie below the truth,"
        f" {truth_G.sum() / bits:.3f}, which no likelihood does{why}"
    ]


def _strings(scorer: Scoring) -> tuple[float, float]:
    """The sum of the probabilities of all strings by a model at odds with itself, and its
    error.
    """
    letters = itertools.product(range(FIRST, FIRST + LETTERS), repeat=STRING)
    text = PaidRows.of(np.array([(BOS, *string) for string in letters]))
    ask = asked_at_odds()
    nats_KX = np.array(
        [
            [_nats(scorer(ask, *one), one) for x in range(len(text.tokens_RL))
             for one in [text.part([x])]]
            for _ in range(REPEATS)
        ]
    )  # fmt: skip
    variance_X = nats_KX.var(axis=0, ddof=1) / REPEATS
    fraction_X = np.exp(-nats_KX.mean(axis=0))
    # Noise in what is exponentiated makes more of it on average.
    total = float((fraction_X * (1 - variance_X / 2)).sum())
    return total, float(np.sqrt((fraction_X**2 * variance_X).sum()))


def _nats(said: Any, text: PaidRows) -> float:
    """What the rows cost, of nats by token or of bits per byte."""
    found = np.asarray(said, np.float64)
    if found.ndim and found.shape != text.tokens_RL.shape:
        raise UserError(
            f"the scorer returned an array of shape {found.shape}; nats of tokens are"
            f" {text.tokens_RL.shape}, as the tokens are, and bits per byte are one number"
        )
    if not np.isfinite(found).all():
        raise UserError("the scorer returned what is no finite number")
    scale = 1.0 if found.ndim else np.log(2) * text.sizes_RL.sum()
    return float(found.sum() * scale)


# The models that answer


def known_source() -> HmmSource:
    """A hidden Markov source of documents that end: two states behind it emit ends, padding."""
    states, tokens = 4, len(SIZES) - FIRST
    draw = np.random.RandomState(0)
    inner_SS = draw.dirichlet([0.3] * states, states)
    transition_SS = np.zeros((states + 2, states + 2))
    transition_SS[:states, :states] = (1 - ENDS) * inner_SS
    transition_SS[:states, states] = ENDS
    transition_SS[states:, states + 1] = 1.0
    emission_SV = np.zeros((states + 2, len(SIZES)))
    emission_SV[:states, FIRST:] = draw.dirichlet([0.3] * tokens, states)
    emission_SV[states, EOS] = emission_SV[states + 1, PAD] = 1.0
    initial_S = np.append(stationary(inner_SS), [0.0, 0.0])
    return HmmSource(initial_S, transition_SS, emission_SV)


def drawn_text(source: HmmSource) -> PaidRows:
    """Rows of the source, each with its documents' end or cut before it."""
    uniform_NT2 = np.random.RandomState(1).random_sample((ROWS, LENGTH - 1, 2))
    return PaidRows.of(
        np.pad(source.draw(uniform_NT2)[1], ((0, 0), (1, 0)), constant_values=BOS)
    )


def asked_of(source: HmmSource) -> Ask:
    """The source as the model: exact, of any mask; padding is not seen."""

    def ask(tokens_NL: np.ndarray, masked_NL: np.ndarray) -> np.ndarray:
        hidden_NT = np.asarray(masked_NL[:, 1:], bool) | (tokens_NL[:, 1:] == PAD)
        said_NTV = source.conditionals(tokens_NL[:, 1:], hidden_NT)
        return _shown(said_NTV, tokens_NL, masked_NL)

    return ask


def asked_at_odds() -> Ask:
    """A model whose conditionals agree with no distribution, of `LETTERS` tokens."""
    shape = STRING + 1, STRING + 1, len(SIZES), len(SIZES)
    pull_LLVV = 1.5 * np.random.RandomState(2).normal(size=shape)

    def ask(tokens_NL: np.ndarray, masked_NL: np.ndarray) -> np.ndarray:
        number, length = tokens_NL.shape
        logits_NLV = np.zeros((number, length, len(SIZES)))
        for place in range(1, length):
            seen_N = ~np.asarray(masked_NL[:, place], bool) & (tokens_NL[:, place] != PAD)
            pulled_NLV = pull_LLVV[place, :length].transpose(1, 0, 2)[tokens_NL[:, place]]
            logits_NLV += np.where(seen_N[:, None, None], pulled_NLV, 0.0)
        weight_NTV = np.exp(logits_NLV[:, 1:])
        weight_NTV[..., :FIRST] = weight_NTV[..., FIRST + LETTERS :] = 0.0
        fraction_NTV = weight_NTV / weight_NTV.sum(axis=-1, keepdims=True)
        return _shown(fraction_NTV, tokens_NL, masked_NL)

    return ask


def _shown(
    fraction_NTV: np.ndarray, tokens_NL: np.ndarray, masked_NL: np.ndarray
) -> np.ndarray:
    """Log p at all positions, where what is shown is known for certain."""
    itself_NLV = np.eye(len(SIZES))[tokens_NL]
    said_NLV = np.concatenate([itself_NLV[:, :1], fraction_NTV], axis=1)
    masked_NL1 = np.asarray(masked_NL, bool)[..., None]
    return np.log(np.maximum(np.where(masked_NL1, said_NLV, itself_NLV), 1e-30))
