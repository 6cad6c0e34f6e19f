"""Small tokenizers made with other people's code, and their ids: tests/golden/hub/tokenizers.

`python -m tests.hub.make_golden_tokenizers` encodes all texts anew. It trains only what is not
there, on this repository's own pages: a trainer gives another vocabulary each time.
"""

import base64
import io
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.hub.make_golden import FOLDER as MODELS
from tests.hub.make_golden import write_json

ROOT = Path(__file__).parents[2]
FOLDER = MODELS / "tokenizers"
TEXTS = (
    "",
    "Hello world! 12345 naïve café\n",
    "  two  spaces, a\ttab \r\n\r\n",
    " one before and one after ",
    "Ünïcödé ﬁne ½ ＡＢＣ ① e\u0301 \u1100\u1161 İstanbul",
    "日本語のテキスト русский текст العربية हिन्दी 한국어",
    "👩‍👩‍👧 🇩🇪 😀😀 \U0010ffff",
    "a\x00b\x04c\x1f\x7f d\u200be\u2028f\ufeffg\u00a0h",
    "<|endoftext|> [MASK] [CLS]x[SEP] </s><s> <extra_id_0> <|im_start|>user\nHi<|im_end|>",
    "don't I'LL we've 3.14159 1,000,000 2026-11-28",
    "a" * 110,  # longer than any word that WordPiece looks at
    "def square(x):\n    return x**2  # fine\n\n\n",
    "▁token▁ ĠĊ ##ing <0x41> Â©",
)
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou measure models.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set told = '<<SYS>>\n' + (messages[0]['content'] | trim) + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}"
    "{% else %}{% set told = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate: user, assistant, user') }}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (told if loop.first else '') + (message['content'] | trim) }}"
    "{{ ' [/INST]' }}"
    "{% else %}{{ ' ' + (message['content'] | trim) + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
TALKS = (
    [{"role": "user", "content": "What is a bit?"}],
    [
        {"role": "system", "content": "Answer in one word.\n"},
        {"role": "user", "content": "  Which model is larger?  "},
        {"role": "assistant", "content": "Yours."},
        {"role": "user", "content": "Naïve café, 12345 👩‍👩‍👧?"},
    ],
    [{"role": "user", "content": "<|im_end|></s>[INST] <|im_start|>system"}],
)
"""The last spells special tokens: only its rendered text is kept, not ids."""
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DROPPED = (0x04, 0x06, 0x13, 0xF5)
"""Bytes that the tokenizer after SmolLM2's has no token for."""


def main() -> None:
    """Trains what is missing, and writes every reference.json anew."""
    for name, train in TRAINERS.items():
        folder = FOLDER / name
        if not folder.is_dir():
            folder.mkdir(parents=True)
            train(folder)
        reference = REFERENCES.get(name, of_transformers)(folder)
        packages = ("sentencepiece", "tiktoken", "tokenizers", "transformers")
        versions = {"versions": {package: version(package) for package in packages}}
        write_json(folder / "reference.json", versions | reference)
        print(name, sum(path.stat().st_size for path in folder.iterdir()), flush=True)


def corpus() -> list[str]:
    """The paragraphs of this repository's pages, and some words of other scripts."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [*"\n\n".join(p.read_text() for p in pages).split("\n\n"), *TEXTS[4:6]]


def train_gpt2(folder: Path) -> None:
    """Byte-level BPE as GPT-2's: its one special token has the last id."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=True)])
    end = "<|endoftext|>"
    save(tokenizer, folder, bos_token=end, eos_token=end, unk_token=end)
    tokenizer.model.save(str(folder))


def train_smollm(folder: Path) -> None:
    """Byte-level BPE as SmolLM2's: digits one by one, and bytes without a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE())
    levels = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), levels]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    dropped = {printable(byte) for byte in DROPPED}
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = BpeTrainer(
        vocab_size=400,
        initial_alphabet=sorted(set(pre_tokenizers.ByteLevel.alphabet()) - dropped),
        special_tokens=specials,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    save(
        tokenizer,
        folder,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    # Versions before 5 kept the template here, and most published folders have it here still.
    add_settings(folder / "tokenizer_config.json", chat_template=CHATML)


def train_bert(folder: Path) -> None:
    """WordPiece as BERT's, lower-casing; its file truncates and pads, as MiniLM's does."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import WordPieceTrainer

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = WordPieceTrainer(vocab_size=400, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in vocabulary))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    special = dict(zip(names, specials, strict=True))
    save(tokenizer, folder, **special)
    published = {"tokenizer_class": "BertTokenizer", "model_max_length": 512}
    add_settings(folder / "tokenizer_config.json", do_lower_case=True, **published)
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    tokenizer.enable_truncation(12)
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(folder / "tokenizer.json"))


def train_t5(folder: Path) -> None:
    """Unigram with metaspaces as T5's: extra ids at the end, downwards."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )
    from tokenizers.trainers import UnigramTrainer

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = UnigramTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    extra = [f"<extra_id_{n}>" for n in reversed(range(4))]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in extra])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    save(
        tokenizer,
        folder,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=extra[::-1],
    )


def train_llama(folder: Path) -> None:
    """sentencepiece BPE with byte fallback as Llama 2's, in both kinds of file."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    written = io.BytesIO()  # a file name would be kept in the model
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(corpus()).split("\n")),
        model_writer=written,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        max_sentence_length=100_000,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    vocabulary = {pieces.id_to_piece(n): n for n in range(pieces.vocab_size())}
    merges = sorted(
        (n, piece[:cut], piece[cut:])
        for piece, n in vocabulary.items()
        for cut in range(1, len(piece))
        if not pieces.is_byte(n) and {piece[:cut], piece[cut:]} <= vocabulary.keys()
    )
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            [(left, right) for _, left, right in merges],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    specials = [AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")]
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    save(
        tokenizer,
        folder,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=LLAMA,
    )


def train_tiktoken(folder: Path) -> None:
    """A file of ranks as tiktoken's, split by Llama 3's pattern."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE())
    levels = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, levels])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    byte_of = {printable(byte): byte for byte in range(256)}
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    lines = [
        f"{base64.b64encode(bytes(byte_of[c] for c in token)).decode()} {rank}\n"
        for token, rank in tokens
    ]
    (folder / "ranks.tiktoken").write_text("".join(lines))


def printable(byte: int) -> str:
    """The character that byte-level tokenizers write for a byte.

    Source: openai/gpt-2, src/encoder.py, bytes_to_unicode.
    """
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [n for n in range(256) if n not in kept]
    return chr(byte) if byte in kept else chr(256 + others.index(byte))


def save(tokenizer: Any, folder: Path, **names: Any) -> None:
    """Writes tokenizer.json and all that transformers puts beside it."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def add_settings(path: Path, **settings: Any) -> None:
    """Adds fields to a file of settings."""
    fields = json.loads(path.read_text()) | settings
    path.write_text(json.dumps(fields, indent=2) + "\n")


def of_transformers(folder: Path) -> dict[str, Any]:
    """Ids by `tokenizers`, which parses no special token, and by transformers as it is."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True
    parsed = PreTrainedTokenizerFast.from_pretrained(folder)
    encodings = []
    for text in TEXTS:
        found = plain.encode(text, add_special_tokens=False)
        encodings.append(
            {
                "text": text,
                "ids": found.ids,
                "offsets": found.offsets,
                "decoded": plain.decode(found.ids, skip_special_tokens=False),
                "parsed_ids": parsed(text, truncation=False, padding=False)["input_ids"],
            }
        )
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "unk_token_id")
    special = {name: getattr(parsed, name) for name in (*names, "cls_token_id", "sep_token_id")}
    reference = {"size": len(parsed), **special, "encodings": encodings}
    return reference | ({"chats": chats(parsed)} if parsed.chat_template else {})


def chats(tokenizer: Any) -> list[dict[str, Any]]:
    """Talks as apply_chat_template renders them, with and without a prompt to answer."""
    found = []
    for messages in TALKS:
        for prompt in (False, True):
            options = {"add_generation_prompt": prompt}
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
            ids = tokenizer.apply_chat_template(messages, return_dict=False, **options)
            kept = {} if messages is TALKS[-1] else {"ids": ids}
            found.append({"messages": messages, **options, "text": text, **kept})
    return found


def of_sentencepiece(folder: Path) -> dict[str, Any]:
    """Ids by both libraries, of tokenizer.model and of tokenizer.json."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    names = ("bos_id", "eos_id", "pad_id", "unk_id")
    by_sentencepiece = {
        **{name: getattr(pieces, name)() for name in names},
        "encodings": [
            {"text": text, "ids": (ids := pieces.encode(text)), "decoded": pieces.decode(ids)}
            for text in TEXTS
        ],
    }
    return of_transformers(folder) | {"sentencepiece": by_sentencepiece}


def of_tiktoken(folder: Path) -> dict[str, Any]:
    """Ids by tiktoken, which parses no special token; two special ids follow the ranks."""
    import tiktoken

    lines = [line.split() for line in (folder / "ranks.tiktoken").read_text().splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    special = {"<|begin_of_text|>": len(ranks), "<|end_of_text|>": len(ranks) + 1}
    encoding = tiktoken.Encoding(
        "golden", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens=special
    )
    encodings = []
    for text in TEXTS:
        ids = encoding.encode_ordinary(text)
        sizes = [len(encoding.decode_single_token_bytes(n)) for n in ids]
        encodings.append({"text": text, "ids": ids, "bytes": sizes})
    return {"pattern": LLAMA3, "special_tokens": special, "encodings": encodings}


TRAINERS = {
    "gpt2": train_gpt2,
    "smollm": train_smollm,
    "bert": train_bert,
    "t5": train_t5,
    "llama": train_llama,
    "tiktoken": train_tiktoken,
}
REFERENCES = {"llama": of_sentencepiece, "tiktoken": of_tiktoken}

if __name__ == "__main__":
    main()
