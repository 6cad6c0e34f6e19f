"""Scorers of one's own, honest and not, held to a source whose truth is known."""

import math
import sys

import numpy as np
import pytest

from lm.cli import main
from lm.verify import accounting
from lm.verify.accounting import EOS, account

RANDOM = np.random.default_rng(0)


def in_order(ask, tokens, mask, rank):
    """Nats of an order: the places of a row by rank, all that is not yet written masked."""
    left, nats = mask.copy(), np.zeros(tokens.shape)
    rows = np.arange(len(tokens))
    while left.any():
        said = ask(tokens, left)
        at = np.where(left, rank(said), np.inf).argmin(axis=1)
        here = left[rows, at]
        nats[rows, at] = np.where(here, -said[rows, at, tokens[rows, at]], nats[rows, at])
        left[rows[here], at[here]] = False
    return nats


def left_to_right(ask, tokens, mask, sizes):
    place = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    return in_order(ask, tokens, mask, lambda said: place)


def confident_first(ask, tokens, mask, sizes):
    return in_order(ask, tokens, mask, lambda said: -said.max(axis=2))


def random_order(ask, tokens, mask, sizes):
    draw = RANDOM.random(tokens.shape)
    return in_order(ask, tokens, mask, lambda said: draw)


def any_order_bound(ask, tokens, mask, sizes):
    """One draw: m of n uniform, n/m times what they cost."""
    draw = np.where(mask, RANDOM.random(tokens.shape), np.inf)
    number = mask.sum(axis=1, keepdims=True)
    count = RANDOM.integers(1, number + 1)
    masked = draw.argsort(axis=1).argsort(axis=1) < count
    said = np.take_along_axis(ask(tokens, masked), tokens[..., None], axis=2)[..., 0]
    return np.where(masked, -said * number / count, 0.0)


def per_byte(nats, sizes):
    return float(nats.sum() / math.log(2) / sizes.sum())


def bits(ask, tokens, mask, sizes):
    return per_byte(left_to_right(ask, tokens, mask, sizes), sizes)


def nominal(ask, tokens, mask, sizes):
    """4.3 bytes a token, whatever they are."""
    return per_byte(left_to_right(ask, tokens, mask, sizes), 4.3 * mask)


def without_ends(ask, tokens, mask, sizes):
    return left_to_right(ask, tokens, mask & (tokens != EOS), sizes)


def bits_without_ends(ask, tokens, mask, sizes):
    return per_byte(without_ends(ask, tokens, mask, sizes), sizes)


def padded_mean(ask, tokens, mask, sizes):
    """Nats a position, padding too, times what tokens there are a byte."""
    mean = left_to_right(ask, tokens, mask, sizes).mean()
    return float(mean / math.log(2) * mask.sum() / sizes.sum())


def paid_padding(ask, tokens, mask, sizes):
    return left_to_right(ask, tokens, mask, sizes) + (tokens == accounting.PAD)


def never_masked(ask, tokens, mask, sizes):
    """Every third piece is shown."""
    place = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    return left_to_right(ask, tokens, mask & (place % 3 > 0), sizes)


def pseudo(ask, tokens, mask, sizes):
    """Each token by all others."""
    nats = np.zeros(tokens.shape)
    for place in range(tokens.shape[1]):
        one = np.zeros_like(mask)
        one[:, place] = mask[:, place]
        said = ask(tokens, one)[np.arange(len(tokens)), place, tokens[:, place]]
        nats[:, place] = np.where(mask[:, place], -said, 0.0)
    return nats


def peeking(ask, tokens, mask, sizes):
    """Most confident first, by the true token."""
    return in_order(
        ask,
        tokens,
        mask,
        lambda said: -np.take_along_axis(said, tokens[..., None], axis=2)[..., 0],
    )


HONEST = (left_to_right, confident_first, random_order, any_order_bound, bits)


@pytest.mark.parametrize("scorer", HONEST)
def test_honest_scorers_show_no_error(scorer):
    """Fails if the source is at odds with its truth, padding tells where documents end, or
    noise is taken for an error.
    """
    found = account(scorer)
    assert found.errors == ()
    assert found.bits_per_byte == pytest.approx(
        found.truth, rel=0.2 if scorer is any_order_bound else 1e-6
    )
    if scorer in (left_to_right, confident_first, bits):
        assert found.strings == pytest.approx(1, abs=1e-6)


PLANTED = {
    nominal: ["bytes are not those of the text"],
    without_ends: ["document ends are not paid for", "below the truth"],
    bits_without_ends: ["just what document ends cost"],
    padded_mean: ["padding is in the average"],
    paid_padding: ["that are padding, or before the text"],
    never_masked: ["never masked, or never asked for", "below the truth", "more than 1"],
    pseudo: ["below the truth"],
    peeking: ["chosen by a look at the tokens"],
}


@pytest.mark.parametrize("scorer", PLANTED)
def test_each_planted_error_is_told(scorer):
    """Fails if one of the checks is left out, or says another's words."""
    errors = "; ".join(account(scorer).errors)
    for words in PLANTED[scorer]:
        assert words in errors


def test_peeking_is_seen_by_nothing_but_the_strings():
    """Fails if the source itself is at odds, or the strings are of it."""
    (only,) = account(peeking).errors
    assert "together get probability" in only


def test_the_command_says_what_was_found(capsys, monkeypatch, tmp_path):
    """Fails if an error ends in a success, a traceback, or a run is proven too."""
    name = "scorers_of_a_test"
    (tmp_path / f"{name}.py").write_text(
        "import numpy as np\n"
        "def free(ask, tokens, mask, sizes):\n    return np.zeros(tokens.shape)\n"
        "def flat(ask, tokens, mask, sizes):\n    return np.zeros(3)\n"
        "def few(tokens):\n    return 1.0\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def refused(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["prove", *arguments])
        assert ended.value.code == 2
        return capsys.readouterr().err

    assert "document ends are not paid for" in refused("--scorer", f"{name}:free")
    assert "array of shape (3,)" in refused("--scorer", f"{name}:flat")
    assert "MODULE:FUNCTION" in refused("--scorer", f"{name}:none")
    assert "must take (ask, tokens, mask, sizes)" in refused("--scorer", f"{name}:few")
    assert "No module named" in refused("--scorer", "no_such_module_here:f")
    assert "not both" in refused("objective.type=masked", "--scorer", f"{name}:free")
