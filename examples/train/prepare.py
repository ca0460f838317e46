"""Text and questions -> token stores that rows.py draws from.

  python3 prepare.py --tokenizer tokenizer.json --out DATA --text wiki.jsonl.xz ... --qa squad_train.jsonl.zst ...
                     --never squad_dev_a.jsonl.zst --processes 16
  python3 prepare.py --train-tokenizer tokenizer.json --text ...        (a 16384-token byte-level BPE of our own)

Text: {"title","text"} a line. Questions: {"title","context","question","answers":[{"text","start"}]} a line, no answers =
unanswerable, start -1 = not a span (left out). Files plain, .gz, .xz or .zst (with the zstandard module).
Questions of `--never` files' titles or contexts never get in, nor do texts of those titles.

A store is a folder of .npy arrays, renamed into place when complete (a training run picks up new ones as they come):
  lm_*   tok [N] u16: documents end to end, each `<|doc|> TITLE: TEXT`
  qa_*   tok [N] u16; ctx [C,2]; art [C] article; first [C+1] questions of a context; q [Q,2] token range of the question;
         a [Q,2] answer as token range inside the context, -1 -1 = unanswerable; near [Q,3] contexts of the same
         article that share words with the question and lack the answer, -1 = none; made [Q] 1 = unanswerable by rule
  syn_*  the same arrays, made by cloze.py
"""
import argparse
import gzip
import io
import json
import lzma
import math
import multiprocessing
import os
import random
import re

import numpy as np

import cloze

DOC, QUESTION, ANSWER, END, NONE, PAD = range(6)
MARKS = ["<|doc|>", "<|q|>", "<|a|>", "<|end|>", "<|none|>", "<|pad|>"]


def lines(path):
    if path.endswith(".zst"):
        import zstandard
        raw = zstandard.ZstdDecompressor().stream_reader(open(path, "rb"))
    elif path.endswith(".xz"):
        raw = lzma.open(path)
    elif path.endswith(".gz"):
        raw = gzip.open(path)
    else:
        raw = open(path, "rb")
    with io.TextIOWrapper(raw, encoding="utf8") as f:
        for line in f:
            yield json.loads(line)


def plain(text):
    return "".join(c for c in text.lower() if c.isalnum())


class Forbidden:
    """What is only for measuring."""

    def __init__(self, paths):
        self.titles, self.starts = set(), set()
        for path in paths:
            for d in lines(path):
                self.titles.add(plain(d["title"]))
                self.starts.add(plain(d["context"])[:80])

    def __contains__(self, d):
        return plain(d["title"]) in self.titles or plain(d.get("context", ""))[:80] in self.starts and "context" in d


def passage_text(title, passage):
    """As the engine writes it after <|doc|>."""
    return " " + (title + ": " if title else "") + passage


def token_span(offsets, start, end):
    """The tokens that cover characters [start, end)."""
    i = next((k for k, (x, y) in enumerate(offsets) if y > start), None)
    j = next((k for k in range(len(offsets) - 1, -1, -1) if offsets[k][0] < end), None)
    return None if i is None or j is None or j < i else (i, j + 1)


class Builder:
    """Gathers contexts with their questions and writes a store."""

    def __init__(self, tokenizer):
        self.t, self.tok, self.n = tokenizer, [], 0
        self.ctx, self.art, self.first, self.q, self.a, self.near, self.made = [], [], [], [], [], [], []

    def put(self, ids):
        self.tok.append(np.array(ids, np.uint16))
        self.n += len(ids)
        return [self.n - len(ids), self.n]

    def add(self, article, title, passage, asked, max_tokens=1200):
        """asked: [(question, start or -1, end, made, near)]; start and end are characters of the passage.
        Gives the number of the context, -1 if it is too long."""
        text = passage_text(title, passage)
        shift = len(text) - len(passage)
        both = self.t.encode_batch([text] + [" " + x[0] for x in asked])
        if len(both[0].ids) > max_tokens:
            return -1
        self.ctx.append(self.put(both[0].ids))
        self.art.append(article)
        self.first.append(len(self.q))
        for e, (_, start, end, made, near) in zip(both[1:], asked):
            span = token_span(both[0].offsets, start + shift, end + shift) if start >= 0 else (-1, -1)
            if span is None or span[1] - span[0] > 40 or not e.ids or len(e.ids) > 80:
                continue
            self.q.append(self.put(e.ids))
            self.a.append(span)
            self.near.append(near)
            self.made.append(made)
        return len(self.ctx) - 1

    def write(self, folder):
        arrays = {"tok": np.concatenate(self.tok), "ctx": np.array(self.ctx, np.int32), "art": np.array(self.art, np.int32),
                  "first": np.array(self.first + [len(self.q)], np.int32), "q": np.array(self.q, np.int32).reshape(-1, 2),
                  "a": np.array(self.a, np.int16).reshape(-1, 2), "near": np.array(self.near, np.int32).reshape(-1, 3),
                  "made": np.array(self.made, np.uint8)}
        write_store(folder, arrays)
        return "%s: %d tokens, %d contexts, %d questions" % (os.path.basename(folder), self.n, len(self.ctx), len(self.q))


def write_store(folder, arrays):
    os.makedirs(folder + ".part", exist_ok=True)
    for name, a in arrays.items():
        np.save(os.path.join(folder + ".part", name + ".npy"), a)
    os.rename(folder + ".part", folder)


class Bytes:
    """Each byte a token after the marks: for tests, where the tokenizers package is not needed."""

    class Encoding:
        def __init__(self, text):
            self.ids, self.offsets = [], []
            for i, c in enumerate(text):
                for b in c.encode():
                    self.ids.append(len(MARKS) + b)
                    self.offsets.append((i, i + 1))

    def encode(self, text):
        return Bytes.Encoding(text)

    def encode_batch(self, texts):
        return [Bytes.Encoding(t) for t in texts]

    def decode(self, ids):
        return bytes(i - len(MARKS) for i in ids if i >= len(MARKS)).decode(errors="replace")

    def get_vocab(self):
        return {**{m: i for i, m in enumerate(MARKS)}, **{chr(b): len(MARKS) + b for b in range(256)}}

    def get_vocab_size(self):
        return len(MARKS) + 256


def tokenizer_of(path):
    """A tokenizer.json, or "bytes"."""
    if path == "bytes":
        return Bytes()
    from tokenizers import Tokenizer
    return Tokenizer.from_file(path)


# ---- text ----

def text_shard(job):
    """One worker's share of the documents: an lm_ store and, for articles, a syn_ store."""
    name, tokenizer, docs, out, synthetic, seed = job
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    t, rng, tok = tokenizer_of(tokenizer), random.Random(seed), []
    for i in range(0, len(docs), 32):
        for e in t.encode_batch([passage_text(d["title"], d["text"]) for d in docs[i:i + 32]]):
            tok.append(np.array([DOC] + e.ids, np.uint16))
    write_store(os.path.join(out, "lm_" + name), {"tok": np.concatenate(tok)})
    report = "lm_%s: %d tokens" % (name, sum(map(len, tok)))
    if not synthetic:
        return report
    b = Builder(t)
    for n, d in enumerate(docs):
        for passage, asked, foreign in cloze.article(d["title"], d["text"], rng):
            b.add(n, d["title"], passage, [(q, s, e, 0, [-1] * 3) for q, s, e in asked] + [(q, -1, -1, 1, [-1] * 3) for q in foreign[:2]], 600)
    return report + "; " + b.write(os.path.join(out, "syn_" + name)) if b.q else report


def prepare_text(path, a, forbidden, pool):
    name = re.sub(r"\W", "_", os.path.basename(path).split(".")[0])
    docs = [d for d in lines(path) if d not in forbidden]
    if a.limit:
        docs = docs[:a.limit]
    synthetic = any(w in name for w in a.synthetic)
    size = max(1, math.ceil(len(docs) / max(1, min(3 * a.processes, len(docs) // 50 + 1))))
    jobs = [("%s_%02d" % (name, i // size), a.tokenizer, docs[i:i + size], a.out, synthetic, i) for i in range(0, len(docs), size)]
    return pool.imap_unordered(text_shard, jobs)


# ---- questions ----

def words(text):
    return set(re.findall(r"\w+", text.lower())) - cloze.STOP


def qa_article(job):
    """The questions of one article, with neighbours and made-up unanswerable ones."""
    title, contexts, seed = job
    rng, out = random.Random(seed), []
    bags = [words(c) for c, _ in contexts]
    lower = [c.lower() for c, _ in contexts]
    count = {}
    for bag in bags:
        for w in bag:
            count[w] = count.get(w, 0) + 1
    names = list({m.group() for c, _ in contexts for m in cloze.NAME.finditer(c) if m.start() > 0 and len(m.group()) < 40})
    names = rng.sample(names, min(len(names), 300))
    for n, (context, questions) in enumerate(contexts):
        asked = []
        for text, start, end in questions:
            near = [-1] * 3
            if start >= 0:
                bag, answer = words(text), context[start:end].lower()
                score = [(sum(math.log(1 + len(bags) / count[w]) for w in bag & bags[m]), m) for m in range(len(bags)) if m != n and answer not in lower[m]]
                best = [m for s, m in sorted(score, reverse=True)[:3] if s > 0]
                near[:len(best)] = best
            asked.append((text, start, end, 0, near))
            if start >= 0 and rng.random() < 0.6:
                odd = cloze.unanswerable(text, names, rng, context)
                if odd:
                    asked.append((odd, -1, -1, 1, [-1] * 3))
        out.append((context, asked))
    return title, out


def prepare_qa(path, a, forbidden, pool):
    name = re.sub(r"\W", "_", os.path.basename(path).split(".")[0])
    articles, seen, left_out = {}, set(), 0
    for i, d in enumerate(lines(path)):
        if a.limit and i >= a.limit:
            break
        context, question = d["context"], d["question"].strip()
        start = d["answers"][0].get("start", -1) if d["answers"] else -1
        end = start + len(d["answers"][0]["text"]) if d["answers"] else -1
        unsound = d["answers"] and (start is None or start < 0 or context[start:end] != d["answers"][0]["text"])
        if d in forbidden or unsound or not question or (plain(context)[:200], plain(question)) in seen:
            left_out += 1
            continue
        seen.add((plain(context)[:200], plain(question)))
        articles.setdefault(d["title"], {}).setdefault(context, []).append((question, start, end))
    b = Builder(tokenizer_of(a.tokenizer))
    jobs = [(title, list(contexts.items()), n) for n, (title, contexts) in enumerate(articles.items())]
    for n, (title, contexts) in enumerate(pool.imap(qa_article, jobs)):
        fresh, number = len(b.q), []
        for context, asked in contexts:
            number.append(b.add(n, title, context, asked, a.max_context))
        for k in range(fresh, len(b.near)):
            b.near[k] = [number[m] if m >= 0 else -1 for m in b.near[k]]
    return [b.write(os.path.join(a.out, "qa_" + name)) + ", %d left out" % left_out]


def train_tokenizer(a):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    rng = random.Random(0)
    sample = (d["text"] for path in a.text for d in lines(path) if rng.random() < a.sample)
    t.train_from_iterator(sample, trainers.BpeTrainer(vocab_size=a.vocab, special_tokens=MARKS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.save(a.train_tokenizer)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tokenizer")
    p.add_argument("--train-tokenizer")
    p.add_argument("--vocab", type=int, default=16384)
    p.add_argument("--sample", type=float, default=0.13, help="share of the documents the tokenizer is trained on")
    p.add_argument("--text", nargs="*", default=[])
    p.add_argument("--qa", nargs="*", default=[])
    p.add_argument("--never", nargs="*", default=[])
    p.add_argument("--synthetic", nargs="*", default=["wiki", "factbook", "openstax"], help="text files (by part of their name) that cloze questions are made from")
    p.add_argument("--out", default="data")
    p.add_argument("--limit", type=int, default=0, help="documents or questions per file, for a trial")
    p.add_argument("--max-context", type=int, default=700, help="tokens; longer contexts are left out")
    p.add_argument("--processes", type=int, default=os.cpu_count())
    a = p.parse_args()
    if a.train_tokenizer:
        return train_tokenizer(a)
    os.makedirs(a.out, exist_ok=True)
    forbidden = Forbidden(a.never)
    with multiprocessing.Pool(a.processes) as pool:
        for path in a.qa:
            for line in prepare_qa(path, a, forbidden, pool):
                print(line, flush=True)
        for path in a.text:
            for line in prepare_text(path, a, forbidden, pool):
                print(line, flush=True)


if __name__ == "__main__":
    main()
