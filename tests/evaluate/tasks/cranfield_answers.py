"""What MiniLM and BM25 find of Cranfield: makes tests/golden/tasks/cranfield.json.

    YARDSTICK_ASSETS=... YARDSTICK_TASKS=... \
        python tests/evaluate/tasks/cranfield_answers.py tests/golden/tasks/cranfield.json

Needs torch and transformers, and nothing of `lm`: an independent opinion, on a CPU in float32,
of minutes. A vector is the mean of the last states of a text's tokens, which are cut at the
model's 256, [CLS] and [SEP] among them; documents are ranked by the cosine, each text computed
alone, and in batches that are padded. A document is its text (.W), which begins with its title.

Relevant are grades 1 to 4, of which 1 is a complete answer: their gains are 4 to 1. Queries
count from 1 in the order of their file. BM25 is Lucene's, with k1 = 1.5 and b = 0.75.
"""

import json
import math
import os
import re
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
    import transformers
except ImportError:  # pytest reads it for its examples, and has neither
    torch = transformers = None

BATCH, LONGEST = 32, 256
KEPT, COMPONENTS = 20, 8
"""Queries of which the first documents are written down, and numbers of three vectors."""
STOP = re.findall(
    r"\w+",
    "a an and are as at be but by for if in into is it no not of on or such that the their then"
    " there these they this to was will with",
)


def main(out: Path) -> None:
    assets, tasks = (Path(os.environ[f"YARDSTICK_{name}"]) for name in ("ASSETS", "TASKS"))
    with tarfile.open(tasks / "retrieval.tar.xz") as archive:
        contents = {
            Path(member.name).name: file.read().decode().replace("\r\n", "\n")
            for member in archive
            if member.isfile() and (file := archive.extractfile(member))
        }
    documents = texts_of(contents["cran.all.1400"])
    queries = list(texts_of(contents["cran.qry"]).values())
    names = list(documents)
    gains: list[dict[str, int]] = [{} for _ in queries]
    for line in contents["cranqrel"].splitlines():
        query, document, grade = line.split()
        if grade in "1234":
            gains[int(query) - 1][document] = 5 - int(grade)
    found: dict[str, Any] = {
        "versions": [f"{each.__name__} {each.__version__}" for each in (transformers, torch)]
    }
    texts = list(documents.values())
    for name, batch in (("alone", 1), ("padded", BATCH)):
        vectors = vectors_of(assets / "minilm", queries + texts, batch)
        cosines = vectors[: len(queries)] @ vectors[len(queries) :].T
        found[name] = measured(cosines, names, gains)
    longest = max(documents, key=lambda name: len(documents[name]))
    found["vectors"] = {
        name: vectors[len(queries) + names.index(name)][:COMPONENTS].round(6).tolist()
        for name in ("1", "2", longest)
    }
    found["bm25"] = measured(bm25(queries, texts), names, gains)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


def texts_of(content: str) -> dict[str, str]:
    """The text of each record, by its id; records stand in the order of their ids."""
    found = {}
    for record in re.split(r"^\.I ", content, flags=re.M)[1:]:
        id, _, rest = record.partition("\n")
        text = rest.partition(".W\n")[2]
        # Three texts have marks of fields in them, which are no words.
        found[id.strip()] = " ".join(re.sub(r"^\.[A-Z]$", "", text, flags=re.M).split())
    return found


def vectors_of(folder: Path, texts: list[str], batch: int) -> np.ndarray:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    vectors = np.zeros((len(texts), model.config.hidden_size))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        given = tokenizer(
            [texts[number] for number in part],
            padding="longest",
            truncation=True,
            max_length=LONGEST,
            return_tensors="pt",
        )
        with torch.inference_mode():
            states = model(**given).last_hidden_state
        used = given["attention_mask"][..., None]
        vectors[part] = ((states * used).sum(1) / used.sum(1)).double().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def bm25(queries: list[str], texts: list[str], k1: float = 1.5, b: float = 0.75) -> np.ndarray:
    """The score of each text for each query; minus infinity where no word is common."""
    bags = [Counter(words(text)) for text in texts]
    length = np.array([sum(bag.values()) for bag in bags])
    norm = k1 * (1 - b + b * length / length.mean())
    scores = np.full((len(queries), len(texts)), -math.inf)
    for number, query in enumerate(queries):
        for word in words(query):
            count = np.array([bag[word] for bag in bags])
            there = count > 0
            n = there.sum()
            weight = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
            before = np.where(np.isinf(scores[number]), 0, scores[number])
            scores[number] = np.where(
                there, before + weight * count / (count + norm), scores[number]
            )
    return scores


def words(text: str) -> list[str]:
    return [word for word in re.findall(r"\b\w\w+\b", text.lower()) if word not in STOP]


def measured(
    scores: np.ndarray, names: list[str], gains: list[dict[str, int]]
) -> dict[str, Any]:
    rows = []
    firsts = []
    for row, gain in zip(scores, gains, strict=True):
        ranked = [names[n] for n in np.argsort(-row, kind="stable")[:100] if row[n] > -math.inf]
        hits = [rank for rank, name in enumerate(ranked, 1) if name in gain]
        rows.append(
            [
                discounted([gain.get(name, 0) for name in ranked[:10]])
                / discounted(sorted(gain.values(), reverse=True)[:10]),
                discounted([float(name in gain) for name in ranked[:10]])
                / discounted([1.0] * min(10, len(gain))),
                sum(rank <= 10 for rank in hits) / len(gain),
                len(hits) / len(gain),
                1 / hits[0] if hits else 0.0,
            ]
        )
        firsts.append(ranked[:5])
    measures = ("ndcg_10", "ndcg_10_binary", "recall_10", "recall_100", "mrr")
    means = np.mean(rows, axis=0).tolist()
    return dict(zip(measures, means, strict=True)) | {"first": firsts[:KEPT]}


def discounted(gains: list[float]) -> float:
    return sum(gain / math.log2(1 + rank) for rank, gain in enumerate(gains, 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
