"""How well a reader answers.

  python3 evaluate.py MODEL_DIR squad squad_dev_a.jsonl.zst [--tier A|B|Q|PB|PQ] [--limit N] [--no-none] [--out predictions.jsonl]
  python3 evaluate.py MODEL_DIR none squad2_dev_a.jsonl.zst        AUC of "not in this passage"
  python3 evaluate.py MODEL_DIR recall TEXT.jsonl.zst --lengths 1024 2048 4096 8192 --samples 200 [--write FOLDER]

squad: the own paragraph is given, the answer held to its spans, greedily: the first token is any token of the passage
(title included) or <|none|>; each further one continues some occurrence of what was decoded so far, or is <|end|>; at
most 14; ties go to the lowest id. Tiers PB and PQ point instead: B's and Q's prompts up to the end of the passage that
was read for the question, whose tokens say where the answer starts and ends (train.py, `pointing`). The engine looks further (several first tokens, the words around a span): its figures are those of `palimpsest eval qa`. F1 and exact match as SQuAD 1.1 counts them. MODEL_DIR has config.json, tokenizer.json
and weights in any of the types checkpoint.py reads; on CUDA it runs in bf16, on a CPU in f32.
"""
import argparse
import collections
import json
import math
import os
import random
import re
import string

import numpy as np
import torch

import checkpoint
import kernels
from model import Config, Reader
from prepare import ANSWER, DOC, END, MARKS, NONE, PAD, QUESTION, lines, passage_text, tokenizer_of
from rows import Strewer

MOST_TOKENS = 14


# ---- SQuAD's measure ----

def normal(s):
    s = "".join(c for c in s.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", s).split())


def f1(prediction, gold):
    p, g = normal(prediction).split(), normal(gold).split()
    if not p or not g:
        return float(p == g)
    same = sum((collections.Counter(p) & collections.Counter(g)).values())
    return 2 * same / (len(p) + len(g))


def auc(positive, negative):
    """Chance that a positive scores above a negative."""
    x = np.concatenate([positive, negative])
    ranks = np.empty(len(x))
    order = np.argsort(x, kind="stable")
    ranks[order] = np.arange(1, len(x) + 1)
    for value in np.unique(x[np.flatnonzero(np.diff(np.sort(x)) == 0)]) if len(x) > 1 else []:
        ranks[x == value] = ranks[x == value].mean()
    n = len(positive)
    return (ranks[:n].sum() - n * (n + 1) / 2) / max(1, n * len(negative))


# ---- prompts ----

def prompt(tier, passage, question):
    """Token ids of the engine's forms."""
    if tier == "A":
        return [DOC] + passage + [QUESTION] + question + [ANSWER]
    if tier == "B":
        return ([DOC] + passage + [QUESTION] + question) * 2 + [ANSWER]
    if tier == "Q":
        return [QUESTION] + question + [DOC] + passage + [QUESTION] + question + [ANSWER]
    if tier == "PB":
        return [DOC] + passage + [QUESTION] + question + [DOC] + passage
    if tier == "PQ":
        return [QUESTION] + question + [DOC] + passage
    raise ValueError("tier is A, B, Q, PB or PQ, not " + tier)


# ---- greedy decoding held to spans, many rows at once ----

@torch.no_grad()
def hidden_of(reader, rows, dtype, most=131072):
    """Hidden states of rows packed `most` tokens at a time: [N, D] and their offsets [R+1]."""
    device, at = reader.embedding.device, 0
    while at < len(rows):
        part, n = [], 0
        while at < len(rows) and (not part or n + len(rows[at]) <= most):
            part.append(rows[at])
            n += len(rows[at])
            at += 1
        ids = torch.tensor([x for r in part for x in r], device=device)
        cu = torch.tensor(np.cumsum([0] + [len(r) for r in part]), device=device)
        pos = torch.cat([torch.arange(len(r)) for r in part]).to(device)
        yield reader.hidden(ids, pos, cu, dtype=dtype), cu


@torch.no_grad()
def last_logits(reader, rows, dtype):
    """Logits after the last token of each row, some rows at a time."""
    for h, cu in hidden_of(reader, rows, dtype):
        yield (h[cu[1:] - 1] @ reader.embedding.T.to(h.dtype)).float()


@torch.no_grad()
def point(reader, prompts, passages, dtype, none=True):
    """As `decode`, for prompts that end with `<|doc|>` and the passage: the best span of at most 14 tokens, start plus end; none
    where that is likelier than not."""
    out, scores, at = [], [], 0
    for h, cu in hidden_of(reader, prompts, dtype):
        logits = h.float() @ reader.embedding[[PAD, END]].float().T
        for end in cu[1:].tolist():
            passage = passages[at]
            at += 1
            both = logits[end - len(passage) - 1:end].T.cpu()
            start, stop = both[:, 1:]
            spans = (start[:, None] + stop[None]).triu().tril(MOST_TOKENS - 1)
            spans = spans.masked_fill(~torch.ones_like(spans, dtype=torch.bool).triu().tril(MOST_TOKENS - 1), float("-inf"))
            best = spans.flatten().argmax().item()
            i, j = divmod(best, len(passage))
            scores.append((both[:, 0].sum() - spans[i, j]).item())
            out.append([] if none and torch.log_softmax(both, 1)[:, 0].sum() > math.log(0.5) else passage[i:j + 1])
    return out, scores


class Spans:
    """What may come next: `places` are the ends of the occurrences in `passage` of what was decoded so far."""

    def __init__(self, passage, none):
        self.passage, self.none, self.places, self.out, self.done = passage, none, None, [], False

    def allowed(self):
        if self.places is None:
            return sorted(set(self.passage) - set(range(len(MARKS))) | ({NONE} if self.none else set()))
        return sorted({self.passage[p] for p in self.places if p < len(self.passage)} - set(range(len(MARKS))) | {END})

    def take(self, token):
        if token in (END, NONE):
            self.done = True
            return
        self.out.append(token)
        places = range(len(self.passage)) if self.places is None else [p for p in self.places if p < len(self.passage)]
        self.places = [p + 1 for p in places if self.passage[p] == token]
        self.done = len(self.out) >= MOST_TOKENS


def decode(reader, prompts, passages, dtype, none=True):
    """-> answers as token lists ([] = none), and log p(<|none|>) - log p(best first token of the passage) of each."""
    spans, scores = [Spans(p, none) for p in passages], [0.0] * len(prompts)
    for step in range(MOST_TOKENS):
        active = [i for i, s in enumerate(spans) if not s.done]
        if not active:
            break
        at = 0
        for logits in last_logits(reader, [prompts[i] + spans[i].out for i in active], dtype):
            part = active[at:at + len(logits)]
            at += len(logits)
            allowed = [spans[i].allowed() for i in part]
            width = max(map(len, allowed))
            ids = torch.tensor([a + [-1] * (width - len(a)) for a in allowed], device=logits.device)
            held = logits.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, float("-inf"))
            if step == 0:
                best = held.masked_fill(ids == NONE, float("-inf")).amax(1)
                for i, x in zip(part, (logits[:, NONE] - best).tolist()):
                    scores[i] = x
            choice = (held == held.amax(1, keepdim=True)).int().argmax(1)       # the first, so the lowest id
            for i, token in zip(part, ids.gather(1, choice[:, None])[:, 0].tolist()):
                spans[i].take(token)
    return [s.out for s in spans], scores


# ---- the measures ----

def squad(reader, tokenizer, data, tier, dtype, none=True):
    texts = [passage_text(d["title"], d["context"]) for d in data]
    distinct = list(dict.fromkeys(texts))
    encoded = dict(zip(distinct, (e.ids for e in tokenizer.encode_batch(distinct))))
    questions = [e.ids for e in tokenizer.encode_batch([" " + d["question"].strip() for d in data])]
    passages = [encoded[t] for t in texts]
    answers, scores = (point if tier[0] == "P" else decode)(reader, [prompt(tier, p, q) for p, q in zip(passages, questions)], passages, dtype, none)
    out = []
    for d, a, s in zip(data, answers, scores):
        text, gold = tokenizer.decode(a).strip() if a else "", [x["text"] for x in d["answers"]] or [""]
        out.append({"question": d["question"], "prediction": text, "f1": max(f1(text, g) for g in gold),
                    "em": max(float(normal(text) == normal(g)) for g in gold), "none_score": s, "answerable": bool(d["answers"])})
    return out


def summary(rows):
    n = len(rows)
    out = {"n": n, "em": round(100 * sum(r["em"] for r in rows) / n, 2), "f1": round(100 * sum(r["f1"] for r in rows) / n, 2),
           "said_none": round(sum(not r["prediction"] for r in rows) / n, 4)}
    yes, no = [r["none_score"] for r in rows if not r["answerable"]], [r["none_score"] for r in rows if r["answerable"]]
    if yes and no:
        out["none_auc"] = round(auc(np.array(yes), np.array(no)), 4)
    return out


def strewn(tokenizer, text_ids, length, samples, pairs, seed=0):
    """Passages of `length` tokens with `pairs` keys and 7-digit values strewn in, and a question for one of them:
    (passage ids, question ids, value ids) each."""
    rng = random.Random(seed)
    strewer, n = Strewer(tokenizer, rng), length - 20 * pairs
    for _ in range(samples):
        i = rng.randrange(max(1, len(text_ids) - n))
        row, chosen = strewer.row(text_ids[i:i + n], pairs, 0, digits=7)
        yield row.arrays()[0].tolist()[1:], *(x.tolist() for x in chosen[0])


def recall(reader, tokenizer, text_ids, length, samples, pairs, dtype):
    """Exact match of the value asked for, tier A."""
    passages, questions, want = zip(*strewn(tokenizer, text_ids, length, samples, pairs))
    answers, _ = decode(reader, [prompt("A", p, q) for p, q in zip(passages, questions)], passages, dtype)
    return {"length": length, "pairs": pairs, "samples": samples, "exact": round(100 * sum(a == w for a, w in zip(answers, want)) / samples, 1)}


def write_recall(path, tokenizer, text_ids, length, samples, pairs):
    """The same as questions for `palimpsest eval qa`."""
    text = lambda ids: tokenizer.decode(ids).strip()
    with open(path, "w") as f:
        for p, q, v in strewn(tokenizer, text_ids, length, samples, pairs):
            f.write(json.dumps({"title": "", "context": text(p), "question": text(q), "answers": [{"text": text(v)}]}) + "\n")


def load(folder, device=None, tokenizer=None):
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        kernels.time_shortly()          # of no effect without Triton
    reader = Reader(Config.load(os.path.join(folder, "config.json")))
    reader.load_state_dict(checkpoint.dequantize(checkpoint.load(folder)))
    return reader.to(device).eval(), tokenizer_of(tokenizer or os.path.join(folder, "tokenizer.json")), torch.bfloat16 if device == "cuda" else None


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("what", choices=["squad", "none", "recall"])
    p.add_argument("data")
    p.add_argument("--tier", default="A")
    p.add_argument("--limit", type=int)
    p.add_argument("--no-none", action="store_true", help="an answer must be given")
    p.add_argument("--out", help="predictions, a JSON line each")
    p.add_argument("--write", metavar="FOLDER", help="recall: only write the questions there, for `palimpsest eval qa`")
    p.add_argument("--lengths", type=int, nargs="*", default=[1024, 2048, 4096, 8192])
    p.add_argument("--samples", type=int, default=200)
    p.add_argument("--pairs", type=int, default=4)
    a = p.parse_args()
    reader, tokenizer, dtype = load(a.model)
    data = list(lines(a.data))[:a.limit]
    if a.what == "recall":
        ids = np.concatenate([e.ids for e in tokenizer.encode_batch([d.get("text") or d["context"] for d in data])])
        for n in a.lengths:
            if a.write:
                write_recall(os.path.join(a.write, "recall_%d.jsonl" % n), tokenizer, ids, n, a.samples, a.pairs)
                continue
            print(json.dumps(recall(reader, tokenizer, ids, n, a.samples, a.pairs, dtype)), flush=True)
        return
    rows = squad(reader, tokenizer, data, a.tier, dtype, not a.no_none)
    print(json.dumps({"tier": a.tier, **summary(rows)}))
    if a.out:
        with open(a.out, "w") as f:
            for r in rows:
                f.write(json.dumps(r) + "\n")


if __name__ == "__main__":
    main()
