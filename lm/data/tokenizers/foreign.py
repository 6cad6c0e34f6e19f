"""Other people's tokenizers: what those of every file format have in common.

Their files come with a published model and are kept byte for byte. Special tokens may stand
anywhere among the ids, may be written in text, and are never read from it: what spells one is
text like any other.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from lm.config import UserError
from lm.data.tokenizers.base import (
    Base,
    Tokenizer,
    begins_a_word,
    character_bytes,
    sha,
)
from lm.example import Vocabulary

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.model",
)
"""What a Hugging Face folder may hold of a tokenizer, but for tiktoken's ranks."""

Id = Annotated[int, Meta(ge=0)]


class Foreign(Base, kw_only=True):
    """What is known of a foreign tokenizer besides its files."""

    size: Annotated[int, Meta(ge=1, description="ids: rows of the model's table of tokens")]
    bos: Annotated[int, Meta(ge=0, description="id that stands before the first token")]
    eos: Annotated[int, Meta(ge=0, description="id that stands after the last token")]
    pad: Annotated[int, Meta(ge=0, description="id that fills a row")]
    mask: Annotated[int, Meta(ge=0, description="id of a masked token")] | None = None
    special: Annotated[
        tuple[Id, ...], Meta(description="ids that are never read from text")
    ] = ()
    removed_spans: Annotated[
        tuple[Id, ...], Meta(description="ids that stand for removed spans, in order (T5)")
    ] = ()

    path: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="a folder of its files; null: they come with the model of start.path"),
    ] = None

    @property
    def sentinels(self) -> int:
        """How many ids stand for removed spans."""
        return len(self.removed_spans)

    @property
    def vocabulary_size(self) -> int:
        return self.size + len(self.added)

    def check(self) -> str | None:
        """What a chat template writes may be in the files."""
        return Base.check(msgspec.structs.replace(self, chat_template=None))

    def kept(self, corpus_digest: str, validation: float) -> Tokenizer | None:
        return None if self.path is None else self.open()

    def open(
        self,
        corpus_digest: str = "",
        validation: float = 0.0,
        train_bytes: int = 0,
        train_texts: Callable[[], Iterator[str]] = lambda: iter(()),
    ) -> Tokenizer:
        if self.path is None:
            raise UserError(
                "data.tokenizer: one of a published model is not learnt but comes with the"
                " model: give start.path, or a model's folder as data.tokenizer.path"
            )
        try:
            return self.read_folder(Path(self.path).expanduser())
        except UserError as error:
            raise UserError(f"data.tokenizer.path: {self.path}: {error}") from None

    def read_files(self, files: Mapping[str, bytes]) -> "ForeignTokenizer":
        """The tokenizer of these files, by name; raises `UserError` where they hold none."""
        raise NotImplementedError

    def read_folder(self, folder: Path) -> Tokenizer:
        return self.read_files(files_of(folder))


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder that belong to its tokenizer, by name."""
    there = [folder / name for name in FILES] + sorted(folder.glob("*.tiktoken"))
    return {path.name: path.read_bytes() for path in there if path.is_file()}


class ForeignTokenizer(Tokenizer):
    """A tokenizer of foreign files: see `Tokenizer` and `Foreign`."""

    def __init__(
        self,
        config: Foreign,
        files: Mapping[str, bytes],
        *,
        names: Mapping[int, str],
        tokens: Mapping[int, bytes],
        continues: Iterable[int] = (),
        special: Iterable[int],
        lossy: str | None,
    ) -> None:
        """Takes each id's name and bytes; `continues`: ids with which no word begins."""
        size = config.size
        if beyond := sorted(id for id in tokens if id >= size and id not in set(special)):
            raise UserError(
                f"the tokenizer's token {names[beyond[0]]!r} is id {beyond[0]}, and the model's"
                f" table has {size} rows"
            )
        without = set(range(size)) - set(names)
        of_config = {config.bos, config.eos, config.pad, *config.special, *config.removed_spans}
        of_config |= set() if config.mask is None else {config.mask}
        if beyond := sorted(id for id in of_config if id >= size):
            raise UserError(
                f"the tokenizer's special token {names.get(beyond[0], '')!r} is id {beyond[0]},"
                f" and the model's table has {size} rows"
            )
        never = {id for id in {*special, *without, *of_config} if id < size}
        by_id = tuple(b"" if id in never else tokens[id] for id in range(size))
        begins = [begins_a_word(token) for token in by_id]
        for id in set(continues) - never:
            begins[id] = False
        vocabulary = Vocabulary(
            size=size,
            pad=config.pad,
            mask=config.mask,
            bos=config.bos,
            eos=config.eos,
            first_ordinary=0,
            begins_word=tuple(begins),
            character_bytes=character_bytes(by_id),
            sentinels=config.removed_spans,
            special=tuple(sorted(never)),
            eos_counts=False,
        )
        content = b"".join(b"%s %d " % (n.encode(), len(c)) + c for n, c in files.items())
        plain = msgspec.to_builtins(msgspec.structs.replace(config, added=()))
        del plain["chat_template"]  # which, like those that were added, has a part of its own
        digest = sha(b"foreign 1 " + msgspec.json.encode(plain) + content)
        super().__init__(
            by_id,
            digest,
            self.encode_texts,
            vocabulary=vocabulary,
            added=config.added,
            chat_template=config.template_text,
        )
        self.config, self.lossy = config, lossy
        self.names = dict(names)
        """What each id is called in the files."""
        if self.chat_template is None:
            self.chat_template = chat_template_of(files)
        self._files = dict(files)

    def encode_texts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, without special tokens."""
        raise NotImplementedError

    def ends_of(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a text, and the number of its characters up to each token's end."""
        raise NotImplementedError

    def encode_with_bytes(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        ids, ends = self.ends_of(text)
        if not len(ids):
            return ids, ids
        # Where tokens spell the text, their own bytes are finer than its characters.
        sizes, whole = self._sizes[ids], text.encode()
        spelled = b"".join([self.tokens[id] for id in ids.tolist()])
        if spelled == whole:
            return ids, sizes
        if spelled == b" " + whole and sizes[0]:
            return ids, np.concatenate([[sizes[0] - 1], sizes[1:]]).astype(np.int32)
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        widths = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
        bytes_before = np.concatenate([[0], np.cumsum(widths)])
        ends = np.maximum.accumulate(ends)
        ends[-1] = len(points)
        sizes = np.diff(bytes_before[ends], prepend=0)
        return ids, sizes.astype(np.int32)

    def id_to_token(self, id: int) -> str:
        return self.names.get(id, f"<no token {id}>")

    @property
    def special_ids(self) -> dict[str, int]:
        ids = {self.names[id]: id for id in self.vocabulary.special if id in self.names}
        return ids | self.added

    @property
    def special_roles(self) -> dict[str, str]:
        found = special_names(self._files)
        if self.config.chat_template is None:
            return found
        usual = {"bos_token": self.config.bos, "eos_token": self.config.eos}
        return {role: self.id_to_token(id) for role, id in usual.items()} | found

    @property
    def files(self) -> dict[str, bytes]:
        return dict(self._files)


def losing(reasons: Iterable[str]) -> str | None:
    """What is said of a tokenizer that loses text for these reasons, if there are any.

    >>> losing(["letters are lower-cased"])
    'letters are lower-cased: a number of bits is no code length of the text as given'
    """
    words = "; ".join(dict.fromkeys(reasons))
    return (
        f"{words}: a number of bits is no code length of the text as given" if words else None
    )


def settings_in(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """What a JSON file among these says; nothing where it is missing."""
    if name not in files:
        return {}
    try:
        found = json.loads(files[name])
    except ValueError as error:
        raise UserError(f"{name}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{name}: holds no settings by name")
    return found


def special_names(files: Mapping[str, bytes]) -> dict[str, str]:
    """The special tokens by role (`bos_token`, `cls_token`, ...), as the files name them."""
    found = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for role, value in settings_in(files, file).items():
            name = value.get("content") if isinstance(value, dict) else value
            if role.endswith("_token") and isinstance(name, str):
                found[role] = name
    return found


def chat_template_of(files: Mapping[str, bytes]) -> str | None:
    """The chat template among a tokenizer's files; of several the one called default."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode()
    for file in ("chat_template.json", "tokenizer_config.json"):
        found = settings_in(files, file).get("chat_template")
        if isinstance(found, list):
            named = {each.get("name"): each.get("template") for each in found}
            found = named.get("default")
        if isinstance(found, str):
            return found
    return None
