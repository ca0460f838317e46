"""Token stores -> packed batches of training rows, in the engine's own forms.

  python3 rows.py DATA OUT --tokenizer tokenizer.json --mixture mixture.json --batches 1000 --batch-tokens 32768 --processes 4

writes batches down, for runs that must see the same ones (train.py --replay); else training makes its own as it goes.

A row is what one reader state lives through. Marks: <|doc|> passage, <|q|> question, <|a|> answer <|end|>.
  lm      a slice of documents, 256 to 4,096 tokens
  qa/syn  a     passage, then one to six questions with their answers (tier A; several questions a reading)
          b     passage, question, passage, question, answer (tier B)
          q     question, passage, question, answer
          multi two to five passages, then questions on any of them
          g     passage, then answers with the questions they answer: a reader that can ask makes questions for the next
          an answer is a span of the passage or <|none|>: a neighbour that lacks it, a question bent by people or by rule
  recall  text with "The code of KEY is 1234567." strewn in, then questions for some of the keys; some in forms b and q

Every token has a kind, which says what predicting it is for; train.py gives each kind its weight in the loss. Where the
question came before the passage (forms b and q) the passage's tokens are also marked for pointing: the reader learns
to say of each token whether the answer starts or ends there (train.py, `pointing`).
"""
import argparse
import glob
import json
import math
import multiprocessing
import os
import random

import numpy as np

from prepare import ANSWER, DOC, END, NONE, QUESTION, tokenizer_of

KINDS = ["off", "text", "passage", "question", "answer", "none", "cloze", "recall", "close", "asking"]
OFF, TEXT, PASSAGE, ASKED, SPAN, NOWHERE, CLOZE, RECALL, CLOSE, ASKING = range(len(KINDS))
MADE_LEFT_OUT = 0.8                 # of the questions bent by rule, more than there are of all others: people bend better (twins.py)
INSIDE, STARTS, ENDS = 1, 2, 4      # marks for pointing: a place that could be pointed at; where the answer starts and ends


class Store:
    def __init__(self, folder):
        self.folder, self.name = folder, os.path.basename(folder)
        for path in glob.glob(os.path.join(folder, "*.npy")):
            setattr(self, os.path.basename(path)[:-4], np.load(path, mmap_mode="r"))
        self.size = len(self.tok) if self.name.startswith("lm_") else len(self.q)

    def passage(self, c):
        return self.tok[self.ctx[c][0]:self.ctx[c][1]]

    def question(self, k):
        return self.tok[self.q[k][0]:self.q[k][1]]

    def of_question(self, k):
        return int(np.searchsorted(self.first, k, side="right")) - 1

    def answer(self, k, c):
        a, b = self.a[k]
        return None if a < 0 else self.passage(c)[a:b]


class Row:
    def __init__(self):
        self.ids, self.kinds, self.marks, self.n = [], [], [], 0

    def add(self, ids, kind, marks=None):
        self.ids.append(ids)
        self.kinds.append(np.full(len(ids), kind, np.uint8))
        self.marks.append(np.zeros(len(ids), np.uint8) if marks is None else marks)
        self.n += len(ids)

    def doc(self, ids, kind):
        self.add([DOC], OFF)
        self.add(ids, kind)

    def sought(self, ids, kind, answer):
        """A passage read for a question that is known: marked where the answer stands (None: at `<|doc|>`)."""
        marks = np.full(len(ids) + 1, INSIDE, np.uint8)
        if answer is None:
            marks[0] |= STARTS | ENDS
        else:
            at = places(answer, np.asarray(ids)) + 1
            marks[at] |= STARTS
            marks[at + len(answer) - 1] |= ENDS
        self.add([DOC], OFF, marks[:1])
        self.add(ids, kind, marks[1:])

    def ask(self, ids, kind):
        self.add([QUESTION], OFF)
        self.add(ids, kind)

    def answer(self, ids, kind):
        self.add([ANSWER], OFF)
        self.add([NONE] if ids is None else ids, NOWHERE if ids is None else kind)
        self.add([END], CLOSE)

    def arrays(self):
        kinds = np.concatenate(self.kinds)
        kinds[0] = OFF
        return np.concatenate([np.asarray(x, np.int32) for x in self.ids]), kinds, np.concatenate(self.marks)


def places(part, whole):
    """Where the tokens `part` occur in `whole`."""
    n = len(whole) - len(part) + 1
    if n <= 0 or len(part) == 0:
        return np.zeros(0, np.int64)
    hit = whole[:n] == part[0]
    for i in range(1, len(part)):
        hit = hit & (whole[i:n + i] == part[i])
    return np.flatnonzero(hit)


def within(answer, passage):
    return len(places(np.asarray(answer), np.asarray(passage))) > 0


class Sorts:
    """What sort of word a token starts: (digit 1, capital 2, small 3, other 0) + 4 if a space comes first."""

    def __init__(self, tokenizer):
        self.table = np.zeros(tokenizer.get_vocab_size(), np.uint8)
        for token, i in tokenizer.get_vocab().items():
            word = token.lstrip("Ġ")[:1]
            self.table[i] = (1 if word.isdigit() else 2 if word.isupper() else 3 if word.islower() else 0) + (4 if token[0] == "Ġ" else 0)


class Renaming:
    """One answer put for another all through a row, so that what a passage says can't be known by heart.
    (Longpre et al., arXiv 2109.05052, measure with this; here it is trained on.)"""

    def __init__(self, old, new, sorts):
        self.old, self.new, self.sorts = old, new, sorts
        self.number = sorts.table[old[0]] == 1 or sorts.table[old[-1]] == 1

    def __call__(self, ids):
        ids = np.asarray(ids)
        at, out, last = places(self.old, ids), [], 0
        for i in at:
            end = i + len(self.old)
            if i < last:
                continue
            if self.number and (i > 0 and self.sorts.table[ids[i - 1]] == 1 or end < len(ids) and self.sorts.table[ids[end]] == 1):
                continue            # part of a longer number
            out += [ids[last:i], self.new]
            last = end
        return np.concatenate(out + [ids[last:]]) if out else ids


class Asker:
    """Rows of questions from one store."""

    def __init__(self, store, rng, sorts=None, elsewhere=0.12):
        """`elsewhere`: share of questions put to a neighbour that lacks the answer."""
        self.s, self.rng, self.sorts, self.elsewhere, self.renamings = store, rng, sorts, elsewhere, []
        self.synthetic = store.name.startswith("syn_")
        self.span = CLOZE if self.synthetic else SPAN
        self.text = TEXT if self.synthetic else PASSAGE

    def worn(self, q):
        """Now and then a question that lost words, so that none is learnt by heart; and the kind of its tokens."""
        r = self.rng
        kind = OFF if self.synthetic else ASKED
        if r.random() < 0.2:
            kept = [x for x in q if r.random() > 0.12]
            return (np.array(kept, np.uint16) if kept else q), OFF
        return q, kind

    def rename(self, c, k, chance):
        """Now and then puts another answer of the same sort for that of question k, and for one more of the passage."""
        s, r = self.s, self.rng
        self.renamings = []
        if self.sorts is None or r.random() >= chance:
            return
        ks = [k] + ([r.randrange(s.first[c], s.first[c + 1])] if r.random() < 0.4 else [])
        for k in ks:
            old = s.answer(k, c)
            if old is None or len(old) > 6:
                continue
            for _ in range(12):
                j = r.randrange(len(s.q))
                if s.a[j][0] < 0:
                    continue
                new = s.answer(j, s.of_question(j))
                if len(new) <= 6 and self.sorts.table[new[0]] == self.sorts.table[old[0]] and not np.array_equal(new, old) and not within(new, s.passage(c)):
                    self.renamings.append(Renaming(np.array(old), np.array(new), self.sorts))
                    break

    def renamed(self, ids):
        for f in self.renamings:
            ids = f(ids)
        return ids

    def qa(self, k, c, passage):
        """Question and answer after renaming; None if the answer is no longer a span."""
        s = self.s
        answer = s.answer(k, c)
        if answer is not None and self.renamings:
            answer = self.renamed(answer)
            if not within(answer, passage):
                return None
        return self.renamed(s.question(k)), answer

    def foreign(self, c):
        """A question on a paragraph nearby whose answer isn't in this one."""
        s, r = self.s, self.rng
        for _ in range(3):
            d = c + r.choice((-1, 1)) * r.randint(1, 6)
            if 0 <= d < len(s.ctx) and s.art[d] == s.art[c] and s.first[d] < s.first[d + 1]:
                k = r.randrange(s.first[d], s.first[d + 1])
                if s.a[k][0] >= 0 and not within(s.answer(k, d), s.passage(c)):
                    return k
        return None

    def asked_of(self, c, most, passage=None):
        """Up to `most` (question, answer) on context c, in random order."""
        s, r, out = self.s, self.rng, []
        passage = s.passage(c) if passage is None else passage
        ks = list(range(s.first[c], s.first[c + 1]))
        r.shuffle(ks)
        for k in ks:
            if s.made[k] and r.random() < MADE_LEFT_OUT:
                continue
            pair = self.qa(k, c, passage)
            if pair is None:
                continue
            out.append(pair)
            if len(out) >= most:
                break
        if not self.synthetic and r.random() < 0.3:
            k = self.foreign(c)
            if k is not None:
                out.insert(r.randint(0, len(out)), (s.question(k), None))
        return out

    def row(self, form):
        s, r, row = self.s, self.rng, Row()
        k = r.randrange(len(s.q))
        while s.made[k] and r.random() < MADE_LEFT_OUT:
            k = r.randrange(len(s.q))
        c = s.of_question(k)
        if form != "multi":
            self.rename(c, k, 0.15 if self.synthetic else 0.45)
        if form == "a":
            passage = self.renamed(s.passage(c))
            row.doc(passage, self.text)
            for q, answer in self.asked_of(c, r.randint(1, 6), passage):
                row.ask(*self.worn(q))
                row.answer(answer, self.span)
            return row
        if form == "g":
            passage = self.renamed(s.passage(c))
            row.doc(passage, self.text)
            for q, answer in self.asked_of(c, 4, passage):
                if answer is not None:
                    row.add([ANSWER], OFF)
                    row.add(answer, OFF)
                    row.ask(q, ASKING)
                    row.add([END], CLOSE)
            return row
        if form == "multi":
            near = [int(m) for m in s.near[k] if m >= 0]
            pool = [c] + near[:r.randint(0, 3)]
            while len(pool) < r.randint(2, 5):
                pool.append(r.randrange(len(s.ctx)))
            pool = list(dict.fromkeys(pool))
            answer = s.answer(k, c)
            if r.random() < 0.12 and answer is not None and len(pool) > 1 and not any(within(answer, s.passage(m)) for m in pool[1:]):
                pool, answer = pool[1:], None
            r.shuffle(pool)
            for m in pool:
                row.doc(s.passage(m), self.text)
            asked = [(s.question(k), answer)]
            for m in pool[:2]:
                asked += [x for x in self.asked_of(m, 2) if x[1] is not None]
            r.shuffle(asked)
            for q, answer in asked:
                row.ask(*self.worn(q))
                row.answer(answer, self.span)
            return row
        passage, near = self.renamed(s.passage(c)), [int(m) for m in s.near[k] if m >= 0]
        pair = self.qa(k, c, passage)
        if pair is None:
            return row              # empty: another is drawn
        question, answer = pair
        if near and answer is not None and r.random() < self.elsewhere:
            other = self.renamed(s.passage(r.choice(near)))
            if not within(answer, other):
                passage, answer = other, None
        q, kind = self.worn(question)
        if form == "q":
            row.ask(q, OFF)
            row.sought(passage, self.text, answer)
        else:
            row.doc(passage, self.text)
            row.ask(q, kind)
            row.sought(passage, OFF, answer)
        row.ask(q, OFF)
        row.answer(answer, self.span)
        return row


# ---- recall of a value by its key ----

THINGS = ["code", "number", "secret number", "access code", "serial number", "value", "magic number", "account number", "registration number"]
SAID = [(" The {t} of {k} is {v}.", " What is the {t} of {k}?"), (" The {t} for {k} is {v}.", " What is the {t} for {k}?"),
        (" {K}: {v}.", " What is the value of {k}?"), (" Remember that the {t} for {k} is {v}.", " What is the {t} for {k}?"),
        (" One of the special magic numbers for {k} is: {v}.", " What is the special magic number for {k}?"),
        (" {K} has the {t} {v}.", " What {t} does {k} have?"), (" {k} = {v};", " {k} =")]


class Strewer:
    def __init__(self, tokenizer, rng):
        self.t, self.rng = tokenizer, rng
        self.words = sorted(w[1:] for w in tokenizer.get_vocab() if w[:1] == "Ġ" and w[1:].isascii() and w[1:].isalpha() and w[1:].islower() and 4 <= len(w) <= 10)
        self.words = self.words or "amber lantern copper willow harbour signal meadow granite".split()

    def key(self):
        r = self.rng
        words = [r.choice(self.words) for _ in range(r.choice((1, 2, 2, 2, 3)))]
        style = r.random()
        if style < 0.15:
            return "%s-%d" % (words[0].upper()[:4], r.randint(10, 9999))
        return "-".join(words) if style < 0.25 else " ".join(w.title() for w in words) if style < 0.5 else " ".join(words)

    def row(self, text, pairs, asked, digits=None, said=None):
        """`text` (token ids) as a passage with `pairs` keys strewn in, `asked` of them asked for.
        -> row, [(question ids, value ids)] with the row ending before the first question if asked == 0"""
        r = self.rng
        said = said or r.choice(SAID)
        thing = r.choice(THINGS)
        keys = list(dict.fromkeys(self.key() for _ in range(pairs)))
        values = ["".join(r.choice("0123456789") for _ in range(digits or r.choice((7, 7, 7, 7, 4, 5, 6, 8)))) for _ in keys]
        fill = lambda form, k, v: form.format(t=thing, k=k, K=k[:1].upper() + k[1:], v=v)
        at = sorted(r.randrange(1, len(text) + 1) for _ in keys)
        pieces, last = [], 0
        for i, k, v in zip(at, keys, values):
            pieces += [np.asarray(text[last:i], np.int64), np.array(self.t.encode(fill(said[0], k, v)).ids)]
            last = i
        pieces.append(np.asarray(text[last:], np.int64))
        row = Row()
        row.doc(np.concatenate(pieces), PASSAGE)
        # digits are single tokens, so a value is the same tokens wherever it stands
        chosen = [(np.array(self.t.encode(fill(said[1], k, "")).ids), np.array(self.t.encode(v).ids)) for k, v in zip(keys, values)]
        r.shuffle(chosen)
        for q, v in chosen[:asked]:
            row.ask(q, OFF)
            row.answer(v, RECALL)
        return row, chosen


# ---- batches ----

def packed(rows):
    """[Row.arrays()] -> ids, kinds, pos, cu, marks, as `Rows.batch` gives them."""
    ids, kinds, marks = (np.concatenate([r[i] for r in rows]) for i in range(3))
    sizes = np.array([len(r[0]) for r in rows])
    pos = np.concatenate([np.arange(m, dtype=np.int32) for m in sizes])
    return ids, kinds, pos, np.concatenate([[0], sizes.cumsum()]).astype(np.int64), marks


class Rows:
    """Batches of exactly n tokens; the mixture is read from a file that may change while training."""

    def __init__(self, data, mixture, tokenizer, seed):
        self.data, self.path, self.rng, self.stores = data, mixture, random.Random(seed), {}
        self.stamp, self.held, self.given, self.batches = 0, {}, {}, 0
        self.strewer, self.sorts = Strewer(tokenizer, self.rng), Sorts(tokenizer)
        self.refresh()

    def refresh(self):
        for folder in sorted(glob.glob(os.path.join(self.data, "*_*"))):
            if folder not in self.stores and not folder.endswith(".part"):
                self.stores[folder] = Store(folder)
        stamp = os.stat(self.path).st_mtime_ns
        if stamp != self.stamp:
            with open(self.path) as f:
                self.mixture = json.load(f)
            self.stamp = stamp
        self.kinds = {}
        for kind in ("lm", "qa", "syn"):
            stores = [s for s in self.stores.values() if s.name.startswith(kind + "_")]
            scale = lambda s: next((x for part, x in self.mixture.get("stores", {}).items() if part in s.name), 1.0)
            self.kinds[kind] = (stores, [s.size * scale(s) for s in stores])

    def phase(self, progress):
        return next((p for p in self.mixture["phases"] if progress < p["until"]), self.mixture["phases"][-1])

    def pick(self, kind):
        stores, sizes = self.kinds[kind]
        return self.rng.choices(stores, sizes)[0] if stores else None

    def slice_of_text(self, n):
        s = self.pick("lm")
        i = self.rng.randrange(max(1, len(s.tok) - n))
        return s.tok[i:i + n]

    def make(self, source, phase):
        r, row = self.rng, Row()
        if source == "recall":
            # Mostly short where it is decoded: what is hard is copying the digits, not the distance, and a short row has more of them a
            # token. A second reading, which points, is what finds a value far away: its length is uniform in the logarithm.
            octaves, again = phase.get("recall_octaves", 6), r.random() < phase.get("recall_again", 0.0)
            far = again or r.random() < phase.get("recall_far", 1.0)
            n = int(64 * 2 ** r.uniform(0.5, octaves if far else min(4, octaves)))
            pairs = round(math.exp(r.uniform(0, math.log(max(1, min(32, n // 20))))))       # few as often as many
            text = self.slice_of_text(n)
            row, chosen = self.strewer.row(text[text != DOC], pairs, pairs)
            if again:
                passage, (q, v), first = row.ids[1], chosen[0], r.random() < 0.5
                row = Row()
                if first:               # form b; else q, which is half as long
                    row.doc(passage, PASSAGE)
                row.ask(q, OFF)
                row.sought(passage, OFF if first else PASSAGE, v)
                row.ask(q, OFF)
                row.answer(v, RECALL)
            return row
        store = self.pick(source) if source != "lm" else None
        if store is None:
            row.add(self.slice_of_text(r.choice((256, 512, 1024, 2048, 2048, 2048, 4096))), TEXT)
            return row
        forms = phase["forms"] if source == "qa" else phase.get("syn_forms", phase["forms"])
        return Asker(store, r, self.sorts, phase.get("elsewhere", 0.12)).row(r.choices(list(forms), list(forms.values()))[0])

    def batch(self, n, progress):
        """-> ids [n] int32, kinds [n] uint8, pos [n] int32, cu [rows+1] int64, marks [n] uint8"""
        if self.batches % 40 == 0:
            self.refresh()
        self.batches += 1
        phase, rows, left = self.phase(progress), [], n
        share = {k: v for k, v in phase["share"].items() if v > 0}
        given = {k: 0 for k in share}
        while left > 0:
            source = max(share, key=lambda k: share[k] * (n - left + 500) - given[k] + self.rng.random() * 800)
            row = self.held.pop(source, None) or self.make(source, phase)
            if row.n == 0 or row.n > n:         # none was made, or no batch of this size can hold it
                continue
            if row.n > left:
                self.held[source] = row
                row = Row()
                row.add(self.slice_of_text(left), TEXT)
                source = None
            if source:
                given[source] += row.n
            rows.append(row.arrays())
            left -= row.n
        return packed(rows)


def write_down(share, a):
    """Every so-manyth batch, in the files train.py --replay takes in the order of their names."""
    rows = Rows(a.data, a.mixture, tokenizer_of(a.tokenizer), a.seed * 1000 + share)
    for n in range(share, a.batches, a.processes):
        path = os.path.join(a.out, "%06d.npz" % n)
        with open(path + ".part", "wb") as f:
            np.savez(f, *rows.batch(a.batch_tokens, n / a.batches))
        os.rename(path + ".part", path)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("data")
    p.add_argument("out")
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--mixture", required=True)
    p.add_argument("--batches", type=int, required=True)
    p.add_argument("--batch-tokens", type=int, default=32768)
    p.add_argument("--processes", type=int, default=1)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    work = [multiprocessing.get_context("spawn").Process(target=write_down, args=(i, a)) for i in range(a.processes)]
    for w in work:
        w.start()
    for w in work:
        w.join()
    if any(w.exitcode for w in work):
        raise SystemExit("a process failed")


if __name__ == "__main__":
    main()
