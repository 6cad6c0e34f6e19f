"""What a tokenizer owes: text to ids and back, and the bytes that each id stands for."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from lm.config import Config, UserError
from lm.data.templates import as_kept, missing, text_of
from lm.data.words import begins_word
from lm.distributed.process import usable_cores
from lm.example import Vocabulary

PAD, MASK, BOS, EOS, ORDINARY = range(5)
SPECIAL = ("<pad>", "<mask>", "<bos>", "<eos>")
"""How the special tokens are written where an id is shown; no text is read as one."""
MODEL = "tokenizer.model"
"""The file of a tokenizer that is learnt here."""

THREADS = "RAYON_NUM_THREADS"
"""The variable that says how many threads tokenize: the name is that of Hugging Face's library,
which reads it too."""


def usable_threads() -> int:
    """How many threads tokenize: as the variable says, or as many as cores may be used."""
    said = os.environ.get(THREADS, "")
    return int(said) if said.isdecimal() and int(said) else len(usable_cores())


Sentinels = Annotated[
    int,
    Meta(ge=0, le=4096, description="further special tokens, each for a removed span (T5)"),
]


class Tokenizer:
    """`decode(encode(text)) == text` for every text that UTF-8 can hold, unless it is `lossy`.

    `tokens[id]` is the bytes that an id stands for (none, for the special tokens). A word may
    begin with any token whose first character begins one (`lm.data.words`): `▁the` does,
    `self` in `(self` does not. A byte from 128 up is a part of a character, which the bytes
    after it decide.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        digest: str,
        encode_ordinary: Callable[[Sequence[str]], list[np.ndarray]],
        sentinels: int = 0,
        model: bytes | None = None,
        vocabulary: Vocabulary | None = None,
        added: Sequence[str] = (),
        chat_template: str | None = None,
    ) -> None:
        """Special tokens and sentinels are put before `tokens`, unless a vocabulary is given:
        then these are all there are, and what is encoded are their ids. `added` come last.
        `chat_template` is the text of one in Jinja.
        """
        first = 0 if vocabulary else ORDINARY + sentinels
        end = first + len(tokens)
        self.tokens = (b"",) * first + tuple(tokens) + (b"",) * len(added)
        digest = sha(f"{digest} {sentinels}".encode()) if sentinels else digest
        digest = sha(digest.encode() + msgspec.json.encode(added)) if added else digest
        if chat_template is not None:
            digest = sha(digest.encode() + msgspec.json.encode({"chat": chat_template}))
        self.digest = digest
        self.model = model
        """Its own file, if it has one."""
        self.added = {name: end + number for number, name in enumerate(added)}
        """Ids of the tokens that were added, by name: for whoever builds rows by ids. A text
        that spells a name is encoded as any other."""
        self.lossy: str | None = None
        """Why the text need not be what `decode` gives back, in words; None: it always is."""
        self.chat_template = chat_template
        """How messages become one text, in Jinja; None: it has no such template."""
        self._encode_ordinary = encode_ordinary
        new = tuple(range(end, len(self.tokens)))
        if vocabulary and added:
            vocabulary = replace(
                vocabulary,
                size=len(self.tokens),
                begins_word=(*vocabulary.begins_word, *(True for _ in new)),
                special=(*vocabulary.special, *new),
            )
        self.vocabulary = vocabulary or Vocabulary(
            size=len(self.tokens),
            pad=PAD,
            mask=MASK,
            bos=BOS,
            eos=EOS,
            first_ordinary=first,
            begins_word=tuple(map(begins_a_word, self.tokens)),
            character_bytes=character_bytes(self.tokens),
            sentinels=tuple(range(ORDINARY, first)),
            special=new,
        )

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, int32[n], without special tokens.

        >>> from lm.data.tokenizers import Bytes
        >>> Bytes().open().encode("hé").tolist()
        [108, 199, 173]
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int32[n] each, on all cores."""
        first = self.vocabulary.first_ordinary
        return [ids.astype(np.int32) + first for ids in self._encode_ordinary(texts)]

    def encode_parts(self, parts: Sequence[str | int]) -> np.ndarray:
        """The ids of stretches of text and special ids that make up one text together.

        >>> from lm.data.tokenizers import Bytes
        >>> Bytes().open().encode_parts([BOS, "h"]).tolist()
        [2, 108]
        """
        found = [
            self.encode(part) if isinstance(part, str) else np.array([part], np.int32)
            for part in parts
        ]
        return np.concatenate([np.zeros(0, np.int32), *found])

    def encode_with_bytes(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids of `text`, int32[n], and how many of its bytes each stands for, int32[n].

        The bytes sum to those of the text, unless it has no token at all. What lies between two
        tokens counts with the second, and what follows the last one with the last.

        >>> from lm.data.tokenizers import Bytes
        >>> [array.tolist() for array in Bytes().open().encode_with_bytes("hé")]
        [[108, 199, 173], [1, 1, 1]]
        """
        ids = self.encode(text)
        return ids, self._sizes[ids]

    def id_to_token(self, id: int) -> str:
        """What an id is called where it is shown.

        >>> from lm.data.tokenizers import Bytes
        >>> tokenizer = Bytes(sentinels=1).open()
        >>> [tokenizer.id_to_token(id) for id in (2, 4, 109)]
        ['<bos>', '<extra_id_0>', 'h']
        """
        if id < ORDINARY:
            return SPECIAL[id]
        if id in self.vocabulary.sentinels:
            return f"<extra_id_{id - ORDINARY}>"
        return self.tokens[id].decode(errors="replace")

    def chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
    ) -> np.ndarray:
        """The ids of a conversation, int32[n], by the chat template.

        A message has a `role` and a `content`, which is text: whatever it spells, no special
        token comes of it. With `add_generation_prompt` the answer's beginning is added. Raises
        UserError where there is no template, or it refuses the messages.
        """
        return self.encode_parts(self.chat_parts(messages, add_generation_prompt))

    def chat_parts(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
    ) -> list[str | int]:
        """A conversation as `chat` encodes it: stretches of text, and ids of special tokens."""
        if self.chat_template is None:
            raise UserError(
                "the tokenizer has no chat template: give the model text, or train it with one"
                " (start.chat_template=chatml or plain)"
            )
        # Jinja takes a fifth of a second, and nothing else here has a use for it.
        from lm.data.chat import render

        ids = self.special_ids
        parts = render(
            self.chat_template,
            messages,
            add_generation_prompt=add_generation_prompt,
            special=tuple(ids),
            variables=self.special_roles,
        )
        return [ids[text] if marked else text for text, marked in parts]

    @property
    def special_ids(self) -> dict[str, int]:
        """The special tokens that a chat template may write, by their spelling."""
        return {self.id_to_token(id): id for id in range(self.vocabulary.first_ordinary)} | (
            self.added
        )

    @property
    def special_roles(self) -> dict[str, str]:
        """How special tokens are spelled, by the names that chat templates have for them."""
        return {f"{name[1:-1]}_token": name for name in SPECIAL}

    @property
    def files(self) -> dict[str, bytes]:
        """Its own files by name, byte for byte; none where its settings are all there is."""
        return {} if self.model is None else {MODEL: self.model}

    @cached_property
    def _sizes(self) -> np.ndarray:
        """Bytes of each token, int32[V]."""
        return np.array([len(token) for token in self.tokens], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; special tokens vanish, bytes that are no UTF-8 become U+FFFD.

        >>> from lm.data.tokenizers import Bytes
        >>> Bytes().open().decode([BOS, 108, 199, 173, EOS])
        'hé'
        """
        array = np.asarray(ids, np.int64)
        parts = (array[at : at + 4096].tolist() for at in range(0, len(array), 4096))
        text = b"".join(b"".join(map(self.tokens.__getitem__, part)) for part in parts)
        return text.decode(errors="replace")


class Base(Config):
    """A kind of tokenizer: a frozen value that learns one from text, or reads one from a file.

    `sentinels` is a field of every kind, and both count in its vocabulary and are given to its
    `Tokenizer`.
    """

    byte_a_token: ClassVar[bool] = False
    """Whether each byte is a token, whatever the text."""
    added: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(description="names of further special tokens, whose ids come after all others"),
    ] = ()
    chat_template: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="how messages become text: chatml, plain, or a file of one's own in"
            " Jinja, whose text is kept; null: as the tokenizer's own files say, if they do"
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.chat_template is not None:
            msgspec.structs.force_setattr(self, "chat_template", as_kept(self.chat_template))

    @property
    def template_text(self) -> str | None:
        """The text of the chat template."""
        return text_of(self.chat_template)

    def check(self) -> str | None:
        """What is wrong with the fields, in one line that begins with one; None if nothing.

        >>> from lm.data.tokenizers import Bytes
        >>> Bytes(added=("<user>", "<user>")).check()
        'added: <user> is there twice'
        """
        twice = [name for name, times in Counter(self.added).items() if times > 1]
        if twice:
            return f"added: {twice[0]} is there twice"
        if lacking := missing(self.chat_template, self.added):
            return (
                f"added: chat_template={self.chat_template} writes {' and '.join(lacking)} too"
            )
        return None

    @property
    def vocabulary_size(self) -> int:
        """How many ids a tokenizer will have, known before it has learnt them."""
        raise NotImplementedError

    def kept(self, corpus_digest: str, validation: float) -> Tokenizer | None:
        """The tokenizer, if nothing is to be learnt for it; else None."""
        raise NotImplementedError

    def open(
        self,
        corpus_digest: str = "",
        validation: float = 0.0,
        train_bytes: int = 0,
        train_texts: Callable[[], Iterator[str]] = lambda: iter(()),
    ) -> Tokenizer:
        """The tokenizer; a learnt one is kept by the digest of what it learnt from.

        `train_texts` is only called when there is something to learn. Raises `UserError` if
        they cannot give as many tokens as are asked for.
        """
        raise NotImplementedError

    def read(self, model: bytes | None) -> Tokenizer:
        """The tokenizer of which `model` is the own file; None: it has none.

        Raises `UserError` where it is no such file.
        """
        raise NotImplementedError

    def read_files(self, files: Mapping[str, bytes]) -> Tokenizer:
        """The tokenizer whose own files these are, by name; raises `UserError` like `read`."""
        return self.read(files.get(MODEL))

    def read_folder(self, folder: Path) -> Tokenizer:
        """The tokenizer whose own files lie in a folder; raises `UserError` like `read`."""
        file = folder / MODEL
        return self.read(file.read_bytes() if file.exists() else None)


def begins_a_word(token: bytes) -> bool:
    """Whether a word may begin with a token of these bytes; with a special one it does.

    >>> [begins_a_word(token) for token in (b" the", b"self", b"")]
    [True, False, True]
    """
    first = token.decode(errors="ignore")[:1]
    return begins_word(first) if first else not token


def character_bytes(tokens: Sequence[bytes]) -> tuple[int, ...]:
    r"""Of each token that is a part of a character its byte, else 0.

    >>> character_bytes((b"a", b"\xc3", "é".encode()))
    (0, 195, 0)
    """
    return tuple(token[0] if len(token) == 1 and token[0] >= 128 else 0 for token in tokens)


def sha(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
