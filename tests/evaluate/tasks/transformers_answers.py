"""What transformers answers to public tasks: makes tests/golden/tasks/transformers.json.

    YARDSTICK_ASSETS=... YARDSTICK_TASKS=... \
        python tests/evaluate/tasks/transformers_answers.py tests/golden/tasks/transformers.json

Needs torch and transformers, and nothing of `lm`: an independent opinion, on a CPU in float32,
of minutes. SmolLM2 is asked for the first 100 pairs of each BLiMP paradigm and the first 500
items of ARC easy, PIQA and LAMBADA, MiniLM for the similarities of all of STS-B's dev pairs.

A text stands after one bos token, always. Spaces at a context's end belong to the continuation.
Scored are all tokens of context and continuation together from the first one on that is not
the context's own. A vector is the mean of the last states of a text's tokens, which are cut at
the model's 256.
"""

import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

try:
    import torch
    import transformers
except ImportError:  # pytest reads it for its examples, and has neither
    torch = transformers = None

PAIRS, ITEMS = 100, 500
KEPT_PARADIGMS, KEPT_PAIRS, KEPT_ITEMS = 10, 5, 20
"""Of which the log-probabilities themselves are written down."""
BATCH = 32


class Scored(NamedTuple):
    log_p: float
    likeliest: bool
    tokens: int


def main(out: Path) -> None:
    assets, tasks = (Path(os.environ[f"YARDSTICK_{name}"]) for name in ("ASSETS", "TASKS"))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    language = Language(assets / "smollm2-135m-instruct")
    found = {
        "versions": [f"{each.__name__} {each.__version__}" for each in (transformers, torch)],
        "prefix": language.tokenizer.bos_token,
        "blimp": blimp(language, files(tasks / "blimp.tar.xz")),
    }
    choice = files(tasks / "choice.tar.xz")
    for name, end in (("arc_easy", "\nAnswer:"), ("piqa", "Answer:")):
        items = json_lines(choice[f"choice/{name}.jsonl"])[:ITEMS]
        found[name] = choices(language, items, end)
    found["lambada"] = last_word(language, json_lines(choice["choice/lambada_openai.jsonl"]))
    found["sts_b"] = similarity(
        assets / "minilm", files(tasks / "glue.tar.xz")["glue/STS-B/dev.tsv"]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


class Language:
    """A causal language model that gives log-probabilities of continuations."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32
        ).eval()

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def scores(self, pairs: list[tuple[str, str]]) -> list[Scored]:
        """The scores of (context, continuation) pairs, in their order."""
        rows = [self.row(*pair) for pair in pairs]
        order = sorted(range(len(rows)), key=lambda number: len(rows[number][0]))
        found: dict[int, Scored] = {}
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            answers = self.batch([rows[number] for number in part])
            found |= dict(zip(part, answers, strict=True))
            if not start // BATCH % 10:
                print(f"{start + len(part):,} of {len(order):,}", file=sys.stderr, flush=True)
        return [found[number] for number in range(len(rows))]

    def row(self, context: str, continuation: str) -> tuple[list[int], int]:
        """The ids of a text after bos, and the place of the first that is scored."""
        whole, before = self.encode(context + continuation), self.encode(context.rstrip())
        start = 0
        while start < min(len(before), len(whole)) and before[start] == whole[start]:
            start += 1
        return [self.tokenizer.bos_token_id, *whole], 1 + start

    def batch(self, rows: list[tuple[list[int], int]]) -> list[Scored]:
        width = max(len(ids) for ids, _ in rows)
        tokens = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        used = torch.zeros(len(rows), width, dtype=torch.long)
        for number, (ids, _) in enumerate(rows):
            tokens[number, : len(ids)], used[number, : len(ids)] = torch.tensor(ids), 1
        with torch.inference_mode():
            logits = self.model(input_ids=tokens, attention_mask=used).logits[:, :-1]
            own = logits.gather(2, tokens[:, 1:, None])[..., 0]
            log_p = (own - logits.logsumexp(2)).double()
            likeliest = own == logits.amax(2)
        found = []
        for number, (ids, start) in enumerate(rows):
            scored = slice(start - 1, len(ids) - 1)
            found.append(
                Scored(
                    log_p[number, scored].sum().item(),
                    bool(likeliest[number, scored].all()),
                    len(ids) - start,
                )
            )
        return found


def files(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as opened:
        return {
            member.name.removeprefix("./"): file.read().decode()
            for member in opened
            if (file := opened.extractfile(member)) is not None
        }


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n") if line]


def right(scores: np.ndarray, gold: int) -> float:
    """1 where the right choice is the likeliest, a part of it where others are as likely."""
    best = scores == scores.max()
    return float(best[gold] / best.sum())


def blimp(language: Language, contents: dict[str, str]) -> dict[str, Any]:
    """How many pairs of each paradigm are right, and the log-probabilities of a few."""
    paradigms = {
        Path(name).stem: json_lines(text)[:PAIRS]
        for name, text in sorted(contents.items())
        if name.endswith(".jsonl") and not name.endswith("/published.jsonl")
    }
    pairs = [pair for of in paradigms.values() for pair in of]
    sentences = [("", pair[f"sentence_{which}"]) for pair in pairs for which in ("good", "bad")]
    log_p = iter(np.array([s.log_p for s in language.scores(sentences)]).reshape(-1, 2))
    found = {name: np.array([next(log_p) for _ in of]) for name, of in paradigms.items()}
    return {
        "pairs": PAIRS,
        "right": {name: sum(right(pair, 0) for pair in of) for name, of in found.items()},
        "log_p": {
            name: of[:KEPT_PAIRS].round(4).tolist()
            for name, of in list(found.items())[:KEPT_PARADIGMS]
        },
    }


def choices(language: Language, items: list[dict[str, Any]], end: str) -> dict[str, Any]:
    """How many are right by each norm, and log-probabilities of the first items' choices."""
    asked = [(item["query"] + end, f" {text}") for item in items for text in item["choices"]]
    scores = iter(language.scores(asked))
    counted = dict.fromkeys(("nothing", "tokens", "characters", "bytes"), 0.0)
    kept = []
    for item in items:
        texts = item["choices"]
        of = [next(scores) for _ in texts]
        log_p = np.array([each.log_p for each in of])
        lengths = {
            "nothing": [1] * len(of),
            "tokens": [each.tokens for each in of],
            "characters": [len(text) for text in texts],
            "bytes": [len(text.encode()) for text in texts],
        }
        for norm, by in lengths.items():
            counted[norm] += right(log_p / by, item["gold"])
        kept.append(log_p.round(4).tolist())
    return {"items": len(items), "right": counted, "log_p": kept[:KEPT_ITEMS]}


def last_word(language: Language, items: list[dict[str, Any]]) -> dict[str, Any]:
    items = items[:ITEMS]
    found = language.scores([(item["context"], f" {item['continuation']}") for item in items])
    return {
        "items": len(items),
        "right": sum(each.likeliest for each in found),
        "perplexity": float(np.exp(-np.mean([each.log_p for each in found]))),
    }


def similarity(folder: Path, table: str) -> dict[str, Any]:
    """The correlations of cosines with what people said."""
    header, *lines = [line.split("\t") for line in table.split("\n") if line]
    first, second, score = (header.index(n) for n in ("sentence1", "sentence2", "score"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [line[column] for column in (first, second) for line in lines]
    vectors = []
    for start in range(0, len(texts), BATCH):
        given = tokenizer(
            texts[start : start + BATCH],
            padding="longest",
            truncation=True,
            max_length=256,
            return_tensors="pt",
        )
        with torch.inference_mode():
            states = model(**given).last_hidden_state
        used = given["attention_mask"][..., None]
        vectors.append(((states * used).sum(1) / used.sum(1)).double().numpy())
    vectors_ND = np.concatenate(vectors)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    cosines = (vectors_ND[: len(lines)] * vectors_ND[len(lines) :]).sum(axis=1)
    said = np.array([float(line[score]) for line in lines])
    return {
        "pairs": len(lines),
        "pearson": float(np.corrcoef(cosines, said)[0, 1]),
        "spearman": float(np.corrcoef(ranks(cosines), ranks(said))[0, 1]),
    }


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, of which equal values share the mean."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
