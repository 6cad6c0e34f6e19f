"""What proofs of leaks run under."""

import pytest

from lm.model.attention import xla
from lm.verify.leaks import forget


@pytest.fixture(scope="module")
def blocks_of_four():
    """Causal rows are so short that they would be one block of queries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xla, "BLOCK", 4)
        forget()
        yield
    forget()


@pytest.fixture
def mutated(monkeypatch):
    """A place for a mutation: nothing that was compiled before or with it is used again."""
    forget()
    yield monkeypatch
    monkeypatch.undo()
    forget()
