"""Ours beside bm25s, on folders in BEIR's form (corpus.jsonl, queries.jsonl, qrels.tsv).

    pip install bm25s PyStemmer && python index/examples/beside_bm25s.py FOLDER...

bm25s 0.3.16: title and text in one, its own English stop words and Porter stemming (PyStemmer), BM25 as Lucene has it. The
scores are computed here alike for both: nDCG@10 with gain 2^rel-1. Ours are those of the example `retrieval`. Ends with 1 when
ours is more than 0.005 below.
"""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import bm25s
import Stemmer

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [(0.9, 0.4), (1.2, 0.75)]


def rows(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def theirs(folder, k1, b):
    corpus, queries = rows(folder / "corpus.jsonl"), rows(folder / "queries.jsonl")
    judged = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, relevance = line.split("\t")
        judged.setdefault(query, {})[document] = max(0, int(relevance))
    stemmer = Stemmer.Stemmer("porter")
    tokens = lambda texts: bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(tokens([f"{d.get('title', '')} {d['text']}" for d in corpus]), show_progress=False)
    queries = [q for q in queries if q["_id"] in judged]
    found, _ = index.retrieve(tokens([q["text"] for q in queries]), k=10, show_progress=False)
    gain = lambda relevances: sum((2**r - 1) / math.log2(i + 2) for i, r in enumerate(relevances[:10]))
    total = 0.0
    for query, documents in zip(queries, found):
        relevance = judged[query["_id"]]
        ideal = gain(sorted(relevance.values(), reverse=True))
        total += gain([relevance.get(corpus[d]["_id"], 0) for d in documents]) / ideal if ideal else 0.0
    return total / len(queries)


def ours(folder, k1, b):
    command = ["cargo", "run", "--quiet", "--release", "-p", "palimpsest-index", "--example", "retrieval", "--"]
    said = subprocess.run(
        [*command, f"k1={k1}", f"b={b}", str(folder.resolve())], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return float(re.search(r"ndcg_at_10: ([0-9.]+)", said)[1])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    worst = 0.0
    for folder in map(Path, sys.argv[1:]):
        for k1, b in SETTINGS:
            reference, found = theirs(folder, k1, b), ours(folder, k1, b)
            worst = min(worst, found - reference)
            print(f"{folder.name}: k1 {k1}, b {b}: bm25s {reference:.4f}, ours {found:.4f} ({found - reference:+.4f})", flush=True)
    sys.exit(worst < -0.005)
