"""Unanswerable twins of SQuAD's questions -> lines for prepare.py.

  python3 twins.py squad_train.jsonl.zst train-answerable-questions.txt train-unanswerable-questions.txt [more pairs of files] OUT.jsonl

People who wrote SQuAD 2.0's unanswerable questions had an answerable one of the same paragraph before them. Zhu et al. (ACL 2019,
arXiv 1906.06045; github.com/haichao592/UnAnsQ, folder QG) matched such pairs of its training set (15,669 in its files train-*, 1,806 in dev-*), a line each in two files: id, question (small
letters, words apart), where the answer is. Here a pair finds its paragraph by its answerable question among the rows of squad_train, and the
twin gets back the spelling it had: what both questions share as the first has it, other words as the paragraph, or else most paragraphs, write them.
Out come the rows of squad_train as they were, and the twins: rows without answers.
"""
import collections
import difflib
import json
import re
import sys

from prepare import lines, plain

TIGHT_BEFORE = re.compile(r"^(n't|'(s|m|d|re|ve|ll)?|[,.?!;:)\]%]|-)$")
TIGHT_AFTER = re.compile(r"^[(\[$£€-]$")
QUOTES = ("``", "''")


class Spelling:
    """How words are written inside sentences: the commonest form of each."""

    def __init__(self, texts):
        count = collections.Counter(w for t in texts for w in re.findall(r"(?<=[\w,;] )\w+", t))
        self.form = {}
        for w, _ in reversed(count.most_common()):
            self.form[w.lower()] = w

    def of(self, word, common):
        return self.form.get(word) or common.form.get(word, word)


def spans_of(words, text):
    """Where each of `words` (small letters, in order) stands in `text`: (start, end), or None if they are not its words."""
    low, at, out = text.lower(), 0, []
    for w in words:
        w = '"' if w in QUOTES else w
        i = low.find(w, at)
        if i < 0 or low[at:i].strip():
            return None
        out.append((i, i + len(w)))
        at = i + len(w)
    return out


def spelt(twin, words, text, own, common):
    """The twin's words as a sentence; `words` are those of the question `text`."""
    spans, out, before = spans_of(words, text), "", ""
    if spans is None:
        return None
    taken = [None] * len(twin)
    for a, b, n in difflib.SequenceMatcher(None, words, twin, autojunk=False).get_matching_blocks():
        for i in range(n):
            taken[b + i] = a + i
    for j, w in enumerate(twin):
        k = taken[j]
        word = '"' if w in QUOTES else own.of(w, common) if k is None else text[spans[k][0]:spans[k][1]]
        if k == 0 and j:
            word = own.of(w, common)            # it began the question and no longer does
        follows = k is not None and k and j and taken[j - 1] == k - 1
        tight = not out or TIGHT_BEFORE.match(w) or TIGHT_AFTER.match(before) or w.isdigit() and before == "," and out[-2:-1].isdigit()
        space = text[spans[k - 1][1]:spans[k][0]] if follows else "" if tight else " "
        out, before = out + space + word, w
    return out[:1].upper() + out[1:] if text[:1].isupper() else out


def twins(rows, pairs):
    """-> rows without answers for those (answerable, unanswerable) whose first is a question of `rows`."""
    asked, common, own = {}, Spelling(dict.fromkeys(d["context"] for d in rows)), {}
    for d in rows:
        asked.setdefault(plain(d["question"]), d)
    for old, new in pairs:
        d = asked.get(plain(old))
        if d is None:
            continue
        if d["context"] not in own:
            own[d["context"]] = Spelling([d["context"]])
        question = spelt(new.split(), old.split(), d["question"].strip(), own[d["context"]], common)
        if question and plain(question) != plain(old):
            yield {"title": d["title"], "context": d["context"], "question": question if question.endswith("?") else question + "?", "answers": []}


def main():
    squad, *files, out = sys.argv[1:]
    rows, pairs = list(lines(squad)), []
    for answerable, unanswerable in zip(files[::2], files[1::2]):
        with open(answerable, encoding="utf8") as a, open(unanswerable, encoding="utf8") as b:
            pairs += [(x.split("\t")[1], y.split("\t")[1]) for x, y in zip(a, b, strict=True)]
    made = list(twins(rows, pairs))
    with open(out, "w") as f:
        for d in rows + made:
            f.write(json.dumps(d) + "\n")
    print("%d of %d pairs found their paragraph" % (len(made), len(pairs)))


if __name__ == "__main__":
    main()
