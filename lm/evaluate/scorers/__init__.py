"""How well a model predicts text: a scorer is a frozen value that asks one question.

A new scorer: one file, one line in `SCORERS`.
"""

from lm.evaluate.scorers.any_order import AnyOrderBound
from lm.evaluate.scorers.base import Scorer
from lm.evaluate.scorers.chain_rule import ChainRule
from lm.evaluate.scorers.fixed_order import FixedOrder
from lm.evaluate.scorers.pseudo import Pseudo, PseudoOfAll
from lm.evaluate.scorers.spans import BehindSentinel

SCORERS: dict[str, Scorer] = {
    "chain_rule": ChainRule(),
    "spans": BehindSentinel(),
    "any_order": AnyOrderBound(),
    "pseudo": Pseudo(8),
    "left_to_right": FixedOrder("left to right"),
    "random_order": FixedOrder("random"),
    "confident_first": FixedOrder("most confident first"),
    "pseudo_all": PseudoOfAll(),
    "pseudo_words": PseudoOfAll(within_words=True),
}
"""By the name that results and command lines use; the first that is valid is the headline."""


def described() -> str:
    """The names, as command lines take them, and which are asked only where they are named.

    >>> described()
    'chain-rule, spans, any-order, pseudo; by name alone: left-to-right, random-order, \
confident-first, pseudo-all, pseudo-words'
    """
    usual, slow = (
        [n.replace("_", "-") for n, scorer in SCORERS.items() if scorer.only_by_name == only]
        for only in (False, True)
    )
    return f"{', '.join(usual)}; by name alone: {', '.join(slow)}"
