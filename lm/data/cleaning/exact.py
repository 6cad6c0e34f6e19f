"""Documents, paragraphs or lines that stand in the text twice."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from lm.data.cleaning.base import AcrossDocuments, Verdict
from lm.data.cleaning.observed import Observed
from lm.data.cleaning.words import hash_of, plain_words, split_words

_BREAK = {"paragraph": re.compile(r"\n[^\S\n]*\n\s*"), "line": re.compile(r"\n+")}


class ExactCopies(AcrossDocuments, frozen=True, tag="exact"):
    """Keeps the first of equal documents, paragraphs or lines; the first is by source and id.

    Texts are equal if their words are, in lower case without punctuation. Which stays depends
    on nothing else: sources come in the recipe's order, ids in an order of their hashes.
    """

    rules: ClassVar = {
        "same document": "another document has the same words (Lee et al. 2022,"
        " arXiv:2107.06499, removes exact copies alike)",
        "same part": "paragraphs or lines that stood before are cut (CCNet, Wenzek et al. 2019,"
        " arXiv:1911.00359, section 3, by 64-bit hashes of lines, digits as they are)",
        "nothing else": "documents all of whose parts stood before",
    }
    row: ClassVar = "documents"
    judged_by: ClassVar = ("documents", "places")
    apart: ClassVar = True

    by: Annotated[
        Literal["document", "paragraph", "line"],
        Meta(description="what is compared; paragraphs end at a blank line"),
    ] = "document"
    words: Annotated[
        int, Meta(ge=1, description="of a paragraph or line that may be cut, at least")
    ] = 1

    def applied(self) -> Mapping[str, str]:
        return {
            rule: about
            for rule, about in self.rules.items()
            if (rule == "same document") == (self.by == "document")
        }

    def observe(self, texts: Sequence[str], seed: int) -> Mapping[str, np.ndarray]:
        """`keys`, uint64, of all parts; of which of the `documents` each is, at which place."""
        keys, documents, places = [], [], []
        for number, text in enumerate(texts):
            for place, part in enumerate(self._parts(text)):
                words = plain_words(part) if part is text else split_words(part)
                if len(words) >= self.words:
                    keys.append(hash_of(" ".join(words).encode("utf-8", "surrogatepass")))
                    documents.append(number)
                    places.append(place)
        return {
            "keys": np.array(keys, np.uint64),
            "documents": np.array(documents, np.int32),
            "places": np.array(places, np.int32),
        }

    def _parts(self, text: str) -> list[str]:
        """What is compared, and what stands between, in turns.

        >>> ExactCopies(by="paragraph")._parts("a\\n\\nb")
        ['a', '\\n\\n', 'b']
        """
        if self.by == "document":
            return [text]
        parts, end = [], 0
        for found in _BREAK[self.by].finditer(text):
            parts += [text[end : found.start()], found[0]]
            end = found.end()
        return [*parts, text[end:]]

    def hashes(self, observed: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Those of all parts."""
        return observed["keys"], np.arange(len(observed["keys"]))

    def some(
        self, observed: Mapping[str, np.ndarray], rows: np.ndarray
    ) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        """The parts of these numbers, and the documents that have them."""
        documents, of = np.unique(observed["documents"][rows], return_inverse=True)
        arrays = {
            "keys": observed["keys"][rows],
            "documents": of.astype(np.int32),
            "ranks": observed["ranks"][documents],
            "held": observed["held"][documents],
        }
        return arrays, documents

    def decide(self, observed: Observed) -> None:
        """`twin`: the number of the document that has each part first; -1 for itself."""
        documents = observed.joined("documents")
        rows = observed.row_documents(documents)
        twin = observed.decision("twin", np.int64, -1, len(rows))
        across = observed.decision("across", np.bool_, False, len(rows))
        for run in observed.equal("keys", observed.ranks, rows):
            first = np.repeat(run.rows[run.starts], run.sizes)
            later = np.flatnonzero(first != run.rows)
            twin[run.rows[later]] = rows[first[later]]
            held = observed.held
            across[run.rows[later]] = held[rows[first[later]]] != held[rows[run.rows[later]]]

    def judge(self, texts: Sequence[str], decided: Mapping[str, np.ndarray]) -> list[Verdict]:
        found = [Verdict(text) for text in texts]
        rows = np.flatnonzero(decided["twin"] >= 0)
        documents = decided["documents"][rows]
        starts = np.flatnonzero(np.diff(documents, prepend=-1))
        for mine in np.split(rows, starts[1:]) if len(rows) else ():
            number = int(decided["documents"][mine[0]])
            twin, across = int(decided["twin"][mine[0]]), bool(decided["across"][mine[0]])
            found[number] = self._without(
                texts[number], set(decided["places"][mine].tolist()), twin, across
            )
        return found

    def _without(self, text: str, places: set[int], twin: int, across: bool) -> Verdict:
        r"""A text without some of its parts.

        >>> ExactCopies(by="line")._without("a\nb\nc", {2}, 7, False)[0::3]
        ('a\nc', {'same part': 1})
        """
        if self.by == "document":
            return Verdict(text, "same document", twin=twin, across=across)
        parts = enumerate(self._parts(text))
        left = "".join(part for place, part in parts if place not in places).strip("\n")
        if not left.strip():
            return Verdict(text, "nothing else", twin=twin, across=across)
        left = (
            re.sub(r"\n{3,}", "\n\n", left)
            if self.by == "paragraph"
            else re.sub(r"\n{2,}", "\n", left)
        )
        return Verdict(left, changes={"same part": len(places)}, twin=twin, across=across)
