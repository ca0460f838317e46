"""The whole recipe in under a minute on a CPU, with any PyTorch from 1.13 and nothing else: python3 test_recipe.py

Makes a few articles and questions up, prepares stores, trains two layers, goes on from the weights, evaluates, exports
to int8 and checks that what was exported answers as what was trained.
"""
import json
import os
import random
import subprocess
import sys
import tempfile

import torch

import checkpoint
import evaluate
import export
from model import Config

HERE = os.path.dirname(os.path.abspath(__file__))
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_heads": 2, "head_dim": 32, "intermediate_size": 96, "vocab_size": 262}


def invent(folder):
    """Articles of one fact a sentence, and questions on them; the last article is only measured on."""
    r, texts, asked = random.Random(0), [], []
    for n in range(12):
        town = r.choice("Bal Kor Mar Tel Vos".split()) + r.choice("din ham mere stad wick".split()) + str(n)
        year, people = r.randint(1200, 1990), r.randint(1000, 90000)
        context = ("%s was founded in %d by merchants from the northern coast. About %d people lived in the town when the bridge was built. "
                   "The old harbour of the town was closed after the great storm, and the market moved to Green Hill.") % (town, year, people)
        texts.append({"title": town, "text": "\n\n".join([context + " " + "The road to the river was paved with stone." * r.randint(1, 3)] * 4)})
        for q, a in (("When was %s founded?" % town, str(year)), ("How many people lived in the town?", str(people)), ("Where did the market move?", "Green Hill")):
            asked.append({"title": town, "context": context, "question": q, "answers": [{"text": a, "start": context.index(a)}]})
        asked.append({"title": town, "context": context, "question": "Who was the king of %s?" % town, "answers": []})
    files = {"wiki.jsonl": texts[:-1], "train.jsonl": asked[:-4], "dev.jsonl": asked[-4:]}
    for name, rows in files.items():
        with open(os.path.join(folder, name), "w") as f:
            f.writelines(json.dumps(row) + "\n" for row in rows)
    with open(os.path.join(folder, "tiny.json"), "w") as f:
        json.dump(TINY, f)


def run(folder, *words):
    done = subprocess.run([sys.executable, os.path.join(HERE, words[0])] + list(words[1:]), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def losses(folder, name):
    with open(os.path.join(folder, name, "log.csv")) as f:
        lines = f.read().split()
    return [float(line.split(",")[5]) for line in lines[1:]], lines[0].split(",")


def test_recipe():
    with tempfile.TemporaryDirectory() as folder:
        invent(folder)
        said = run(folder, "prepare.py", "--tokenizer", "bytes", "--out", "data", "--processes", "1", "--text", "wiki.jsonl", "--qa", "train.jsonl", "--never", "dev.jsonl")
        assert "lm_wiki_00" in said and "syn_wiki_00" in said and "qa_train" in said, said
        run(folder, "prepare.py", "--tokenizer", "bytes", "--out", "held", "--processes", "1", "--qa", "dev.jsonl")
        common = ["--data", "data", "--tokenizer", "bytes", "--config", "tiny.json", "--dev", "held/qa_dev", "--batch-tokens", "2048",
                  "--workers", "1", "--log-every", "3", "--dev-every", "0", "--warmup", "1", "--lr", "2e-2"]
        run(folder, "train.py", "--out", "first", "--tokens", "24000", *common)
        first, columns = losses(folder, "first")
        assert columns[5] == "loss" and first[-1] < first[0] - 0.5, first
        run(folder, "train.py", "--out", "second", "--init", "first", "--tokens", "6000", *common)
        second, _ = losses(folder, "second")
        assert Config.load(os.path.join(folder, "second", "mean", "config.json")).hidden_size == TINY["hidden_size"]
        assert second[0] < first[0] - 0.5, ("going on from weights starts where they were", first, second)

        run(folder, "rows.py", "data", "batches", "--tokenizer", "bytes", "--mixture", os.path.join(HERE, "ablation-mixture.json"), "--batches", "5", "--batch-tokens", "1024", "--processes", "2")
        said = run(folder, "ablation.py", "--data", "data", "--replay", "batches", "--tokenizer", "bytes", "--squad", "dev.jsonl", "--out", "forms", "--config", "tiny.json",
                   "--batch-tokens", "1024", "--tokens", "4096", "--forms", "gdn2", "mamba2", "softmax", "--lengths", "128", "--samples", "2", "--at-once", "2")
        with open(os.path.join(folder, "forms", "results.jsonl")) as f:
            forms = {r["form"]: r for r in map(json.loads, f)}
        assert set(forms) == {"gdn2", "mamba2", "softmax"} and all(x + " |" in said for x in forms), said
        sizes = [r["parameters"] for r in forms.values()]
        assert max(sizes) < 1.3 * min(sizes), ("what a form leaves idle is given to its MLP", sizes)

        run(folder, "export.py", "second", "model", "--tokenizer", "bytes", "--format", "int8", "--log", "second/log.csv")
        a, t, dtype = evaluate.load(os.path.join(folder, "second"), "cpu", "bytes")
        b, _, _ = evaluate.load(os.path.join(folder, "model"), "cpu", "bytes")
        with open(os.path.join(folder, "model", "config.json")) as f:
            assert json.load(f)["quantization"] == {"format": "int8-per-row"}
        assert Config.load(os.path.join(folder, "model", "config.json")).num_heads == TINY["num_heads"]
        x, y = (m.read(list(range(6, 46)), m.empty_state()) for m in (a, b))
        assert (x - y).norm() < 0.05 * x.norm(), "int8 is far from what was trained"

        questions = list(evaluate.lines(os.path.join(folder, "dev.jsonl")))
        for tier in ("A", "B", "Q", "PB", "PQ"):
            rows = evaluate.squad(b, t, questions, tier, dtype)
            assert len(rows) == 4 and all(not r["prediction"] or r["prediction"] in questions[0]["title"] + ": " + questions[0]["context"] for r in rows), rows
            assert 0 <= evaluate.summary(rows)["none_auc"] <= 1
        text = t.encode(questions[0]["context"] * 4).ids
        assert evaluate.recall(b, t, text, 256, 2, 2, dtype)["samples"] == 2
        evaluate.write_recall(os.path.join(folder, "recall.jsonl"), t, text, 256, 3, 2)
        for d in evaluate.lines(os.path.join(folder, "recall.jsonl")):
            assert d["context"].count(d["answers"][0]["text"]) == 1 and len(d["answers"][0]["text"]) == 7 and d["question"], d


def test_auc():
    import numpy as np
    assert evaluate.auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert evaluate.auc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5


def test_pointing():
    """Against a loop over rows; and a reader whose places say clearly where the answer stands is followed."""
    import types
    import numpy as np
    from prepare import DOC, END, PAD
    from rows import ENDS, INSIDE, STARTS, OFF, Row, packed
    from train import pointing
    torch.manual_seed(0)
    rows = [Row(), Row(), Row()]
    rows[0].sought([9, 7, 8, 7, 8, 9], OFF, [7, 8])
    rows[1].add([3, 4], OFF)                                # nothing to point at
    rows[2].sought([9, 7], OFF, None)
    ids, _, _, cu, marks = packed([r.arrays() for r in rows])
    reader = types.SimpleNamespace(embedding=torch.randn(16, 4))
    h = torch.randn(len(ids), 4)
    start, end = (h @ reader.embedding[[PAD, END]].T).unbind(1)
    nats = lambda x, at: torch.logsumexp(x, 0) - torch.logsumexp(x[at], 0)
    first, last = slice(0, 7), slice(9, 12)
    want = (nats(start[first], [2, 4]) + nats(end[first], [3, 5]) + nats(start[last], [0]) + nats(end[last], [0])) / 4
    inside = torch.tensor(np.flatnonzero(marks & INSIDE))
    assert (pointing(reader, h, torch.tensor(cu), torch.tensor(marks), inside) - want).abs() < 1e-5
    assert ids[0] == DOC and marks[0] == INSIDE and marks[9] == INSIDE | STARTS | ENDS


def test_worn():
    """Exchanged answers stand in their passages, in the place of the old ones."""
    import worn
    made = [{"title": "T", "context": "In %d the town of Kor%d was founded by merchants from the coast." % (1900 + n, n), "question": "When was the town of Kor%d founded then?" % n,
             "answers": [{"text": str(1900 + n), "start": 3}]} for n in range(6)] + [{"title": "T", "context": "Nothing.", "question": "Why is there nothing here?", "answers": []}]
    rows = list(worn.worn(made, random.Random(0)))
    assert len(rows) == 7 and not rows[-1]["answers"]
    for old, new in zip(made, rows[:6]):
        text = new["answers"][0]["text"]
        assert text != old["answers"][0]["text"] and new["context"] == old["context"].replace(old["answers"][0]["text"], text) and new["context"][new["answers"][0]["start"]:].startswith(text)


def test_twins():
    """A twin is spelt as its question and its paragraph are, and belongs to that paragraph."""
    import twins
    rows = [{"title": "T", "context": "The Treaty of Rome was signed in 1957. It was not liked by the Duke of Kent, who couldn't read; 12,000 people came.", "question": "When was the Treaty of Rome signed?", "answers": [{"text": "1957", "start": 33}]},
            {"title": "T", "context": "Other: the anti-war Duke wrote to the Duke. He said so.", "question": "Who wrote?", "answers": []}]
    pairs = [("when was the treaty of rome signed ?", "when was n't the treaty of kent signed by 12 , 000 ?"), ("is this known ?", "is this not known ?"),
             ("who wrote ?", "the duke wrote to who ?"), ("who wrote ?", "who wrote ?")]
    got = list(twins.twins(rows, pairs))
    assert [d["question"] for d in got] == ["When wasn't the Treaty of Kent signed by 12,000?", "The Duke wrote to who?"], got
    assert [d["context"] for d in got] == [d["context"] for d in rows] and not any(d["answers"] for d in got)


def test_mean_of_last_weights():
    import train
    reader = torch.nn.Linear(2, 1)
    mean, seen = train.Mean(reader, 0.5), []
    for step in range(1, 101):
        with torch.no_grad():
            reader.weight.fill_(step)
        mean.step(step, step / 100)
        if step >= 50 and step % 10 == 0:
            seen.append(step)
    assert abs(mean.weights[0].mean().item() - sum(seen) / len(seen)) < 1e-4 and mean.n == len(seen) == 6


def test_attention():
    """Of the ablation's transformer: each row as if it were alone, and no token sees a later one."""
    import ablation
    torch.manual_seed(0)
    cu = torch.tensor([0, 1, 8, 8, 13, 16])
    q, k, v = (torch.nn.functional.normalize(torch.randn(16, 2, 8), dim=-1) for _ in range(3))
    whole, _ = ablation.attend(q, k, v, None, None, None, cu)
    for start, end in ((0, 1), (1, 8), (8, 13), (13, 16)):
        for n in range(1, end - start + 1):
            part = slice(start, start + n)
            Q, K = (ablation.rotate(x[part], torch.arange(n)) for x in (q, k))
            score = torch.einsum("hk,shk->hs", Q[-1], K) * 8 ** 0.5
            want = torch.einsum("hs,shv->hv", score.softmax(-1), v[part])
            assert (whole[start + n - 1] - want).abs().max() < 1e-5, (start, n)


def test_mean():
    """What ships of two runs is their mean."""
    with tempfile.TemporaryDirectory() as folder:
        for name, x in (("a", 1.0), ("b", 4.0)):
            checkpoint.save(os.path.join(folder, name), {"w": torch.full((2, 3), x), "v": torch.full((2,), 2 * x)})
        got = export.mean([os.path.join(folder, name) for name in "aab"])
        assert torch.allclose(got["w"], torch.full((2, 3), 2.0)) and torch.allclose(got["v"], torch.full((2,), 4.0))


def test_shards():
    with tempfile.TemporaryDirectory() as folder:
        tensors = {"a": torch.randn(7, 5), "b": torch.randn(3).half(), "c": torch.randn(4, 2).to(torch.bfloat16), "d": torch.tensor([[1, -2]], dtype=torch.int8)}
        for limit in (1 << 30, 50):
            checkpoint.save(folder, tensors, limit)
            back = checkpoint.load(folder)
            assert all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in tensors.items()) and len(back) == 4
        assert os.path.exists(os.path.join(folder, "model.safetensors.index.json"))


if __name__ == "__main__":
    test_auc()
    test_pointing()
    test_worn()
    test_twins()
    test_attention()
    test_mean()
    test_mean_of_last_weights()
    test_shards()
    test_recipe()
    print("9 passed, 0 failed")
