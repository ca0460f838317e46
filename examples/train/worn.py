"""Training questions made strange again, so that a reader's confidence can be fitted on them (`palimpsest eval calibrate`).

  python3 worn.py squad2_train_phong.jsonl.zst worn.jsonl

A reader knows its training questions by heart and is surer of them than of new ones. So each answer is exchanged, all through
its passage, for one of the same sort (number, name, other) from another passage of its article (arXiv 2109.05052), and one word in
eight of each question is lost. Rows whose answer can't be exchanged, and those without an answer, stay; all are one line each.
"""
import argparse
import json
import random
import re

from prepare import lines


def sort_of(answer):
    return "number" if re.search(r"\d", answer) else "name" if answer[:1].isupper() else "other"


def worn(rows, rng):
    answers = {}
    for d in rows:
        for a in d["answers"][:1]:
            answers.setdefault((d["title"], sort_of(a["text"])), []).append((d["context"], a["text"]))
    new_of = {}         # (context, answer) -> what stands there instead: the same for all questions on it
    for d in rows:
        for a in d["answers"][:1]:
            old, others = a["text"], answers[d["title"], sort_of(a["text"])]
            for _ in range(12):
                context, new = rng.choice(others)
                if context != d["context"] and new.lower() not in d["context"].lower() and abs(len(new) - len(old)) < 20:
                    new_of.setdefault((d["context"], old), new)
                    break
    for d in rows:
        exchanged = [(old, new) for (context, old), new in new_of.items() if context == d["context"]]
        exchanged = sorted(exchanged, key=lambda x: -len(x[0]))         # a name inside a longer one goes after it
        pattern = re.compile("|".join(r"(?<!\w)%s(?!\w)" % re.escape(old) for old, _ in exchanged)) if exchanged else None
        instead = dict(exchanged)
        put = lambda text: pattern.sub(lambda m: instead[m.group()], text) if pattern else text
        context, kept = put(d["context"]), [w for w in put(d["question"]).split() if rng.random() > 0.125]
        texts = [instead.get(a["text"], a["text"]) for a in d["answers"]]
        if len(kept) > 2 and all(t in context for t in texts):
            yield {"title": d["title"], "context": context, "question": " ".join(kept), "answers": [{"text": t, "start": context.index(t)} for t in texts]}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("questions")
    p.add_argument("out")
    a = p.parse_args()
    rows, n = list(lines(a.questions)), 0
    with open(a.out, "w") as f:
        for d in worn(rows, random.Random(0)):
            f.write(json.dumps(d) + "\n")
            n += 1
    print("%d of %d questions" % (n, len(rows)))


if __name__ == "__main__":
    main()
