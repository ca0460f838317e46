"""Do separate erase and write gates pay? GDN2 against its tied forms, and a softmax transformer, on equal terms.

  python3 rows.py DATA BATCHES --tokenizer tokenizer.json --mixture ablation-mixture.json --batches 1900 --processes 4
  python3 ablation.py --data DATA --replay BATCHES --tokenizer tokenizer.json --squad squad_dev_a.jsonl.xz --out ABLATION
                      --tokens 6e7 [--forms gdn2 kda gdn mamba2 softmax] [--at-once 5]

The same tokens in the same order, batch size, rates and number of parameters in use: what a tied form leaves idle (the
write gate's projection; in the transformer all gates and the decay) it gets back as width of the MLP. The transformer
keeps the block (short convolutions, normalised q and k, output gate) and attends, with rotary positions, within each row.
Measures after each run: text loss on the passages of --squad, recall of a value by key at 1k, 2k and 4k tokens, F1 of
tier A. Writes results.jsonl, table.md and ablation.svg into --out; finished runs are not run again.
"""
import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

import evaluate
import model
import train
from prepare import lines, passage_text, tokenizer_of

FORMS = ["gdn2", "kda", "gdn", "mamba2", "softmax"]


def rotate(x, pos):
    """Rotary positions: x [T, H, K]."""
    half = x.shape[-1] // 2
    angle = pos[:, None].float() * 10000.0 ** (-torch.arange(half, device=x.device) / half)
    c, s = angle.cos()[:, None].to(x.dtype), angle.sin()[:, None].to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * c - b * s, a * s + b * c], -1)


def attend(q, k, v, g, b, w, cu, s0=None):
    """In place of the recurrence: causal softmax attention in each row; q and k have norm 1, hence the temperature. Rows are
    gathered with others whose length has the same next power of two, so that there are few calls: what pads a row comes after its
    tokens, which therefore don't see it."""
    at = cu.tolist()
    groups = {}
    for start, end in zip(at, at[1:]):
        if end > start:
            groups.setdefault(1 << (end - start - 1).bit_length(), []).append((start, end))
    out = torch.empty_like(v)
    for length, rows in groups.items():
        pos = torch.arange(length, device=q.device)
        starts, ends = (torch.tensor(x, device=q.device)[:, None] for x in zip(*rows))
        place = torch.minimum(starts + pos, ends - 1)                                       # [rows, length]
        inside = starts + pos < ends
        Q, K, V = (x[place.flatten()] for x in (q, k, v))
        turn = lambda x: rotate(x, pos.repeat(len(rows)))
        Q, K, V = (x.view(len(rows), length, *x.shape[1:]).transpose(1, 2) for x in (turn(Q), turn(K), V))      # [rows, H, length, K]
        if hasattr(F, "scaled_dot_product_attention"):
            o = F.scaled_dot_product_attention(Q * q.shape[-1], K, V, is_causal=True)
        else:
            score = Q @ K.transpose(2, 3) * q.shape[-1] ** 0.5
            o = score.masked_fill(~torch.ones_like(score, dtype=torch.bool).tril(), float("-inf")).softmax(-1) @ V
        out = out.index_put((place[inside],), o.transpose(1, 2)[inside])
    return out, s0


def config_of(base, form):
    """The base configuration with the idle projections' parameters given to the MLP."""
    c = dict(base)
    d, wide, low = c["hidden_size"], c["num_heads"] * c["head_dim"], c["head_dim"]
    idle = {"gdn2": 0, "softmax": 2 * d * wide + low * (d + wide)}.get(form, d * wide)
    c["intermediate_size"] += round(idle / (3 * d))
    c["form"] = form
    return c


@torch.no_grad()
def text_loss(reader, tokenizer, data, dtype):
    """Mean cross-entropy a token of the passages."""
    texts = list(dict.fromkeys(passage_text(d["title"], d["context"]) for d in data))[:200]
    total = n = 0.0
    for e in tokenizer.encode_batch(texts):
        ids = torch.tensor([0] + e.ids, device=reader.embedding.device)
        h = reader.hidden(ids, torch.arange(len(ids), device=ids.device), torch.tensor([0, len(ids)], device=ids.device), dtype=dtype)
        logits = (h[:-1] @ reader.embedding.T.to(h.dtype)).float()
        total += F.cross_entropy(logits, ids[1:], reduction="sum").item()
        n += len(ids) - 1
    return total / n


def one(a, form, seed):
    if form == "softmax":
        model.mix = attend
        if hasattr(torch.backends.cuda, "enable_cudnn_sdp"):
            torch.backends.cuda.enable_cudnn_sdp(False)         # its backward pass fails for some of these shapes (PyTorch 2.11)
    run = os.path.join(a.out, "%s-%d" % (form, seed))
    os.makedirs(run, exist_ok=True)
    with open(a.config) as f:
        base = json.load(f)
    config = os.path.join(run, "form.json")
    with open(config, "w") as f:
        json.dump(config_of(base, form), f)
    args = train.arguments(["--data", a.data, "--tokenizer", a.tokenizer, "--config", config, "--out", run, "--tokens", str(a.tokens),
                            "--batch-tokens", str(a.batch_tokens), "--warmup", "10", "--seed", str(seed), "--mixture", a.mixture, "--replay", a.replay, "--lr", str(a.lr)])
    reader = train.train(args).eval()
    dtype = torch.bfloat16 if reader.embedding.is_cuda else None
    tokenizer, data = tokenizer_of(a.tokenizer), list(lines(a.squad))[:a.limit]
    ids = np.concatenate([e.ids for e in tokenizer.encode_batch(list(dict.fromkeys(d["context"] for d in data)))])
    got = {"form": form, "seed": seed, "tokens": a.tokens, "parameters": sum(p.numel() for p in reader.parameters()),
           "text_loss": round(text_loss(reader, tokenizer, data, dtype), 4)}
    for n in a.lengths:
        got["recall_%d" % n] = evaluate.recall(reader, tokenizer, ids, n, a.samples, 4, dtype)["exact"]
    got["f1"] = evaluate.summary(evaluate.squad(reader, tokenizer, data, "A", dtype))["f1"]
    with open(os.path.join(a.out, "results.jsonl"), "a") as f:
        f.write(json.dumps(got) + "\n")
    print(json.dumps(got), flush=True)


def report(a):
    """Table and plot, favourable or not."""
    with open(os.path.join(a.out, "results.jsonl")) as f:
        rows = [json.loads(line) for line in f]
    keys = ["text_loss"] + ["recall_%d" % n for n in a.lengths] + ["f1"]
    forms = [f for f in FORMS if any(r["form"] == f for r in rows)]
    cell = lambda form, k: [r[k] for r in rows if r["form"] == form and k in r]
    table = ["| form | " + " | ".join(keys) + " | runs |", "|---" * (len(keys) + 2) + "|"]
    for form in forms:
        table.append("| %s | %s | %d |" % (form, " | ".join("%.2f ± %.2f" % (np.mean(cell(form, k)), np.std(cell(form, k))) for k in keys), len(cell(form, "f1"))))
    with open(os.path.join(a.out, "table.md"), "w") as f:
        f.write("\n".join(table) + "\n")
    out, wide = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d 260" font-family="sans-serif" font-size="12"><rect width="100%%" height="100%%" fill="white"/>' % (160 * len(keys))], 110
    for i, k in enumerate(keys):
        top = max(np.mean(cell(f, k)) for f in forms) or 1
        out.append('<text x="%d" y="20">%s</text>' % (160 * i + 20, k))
        for j, form in enumerate(forms):
            x = np.mean(cell(form, k))
            out.append('<rect x="%d" y="%d" width="%.1f" height="26" fill="#3366cc"/><text x="%d" y="%d">%s %.2f</text>' % (160 * i + 20, 36 + 42 * j, wide * x / top, 160 * i + 20, 74 + 42 * j, form, x))
    with open(os.path.join(a.out, "ablation.svg"), "w") as f:
        f.write("\n".join(out + ["</svg>\n"]))
    print("\n".join(table))


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser()
    p.add_argument("--data", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--squad", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--config", default=os.path.join(here, "ablation.json"))
    p.add_argument("--mixture", default=os.path.join(here, "ablation-mixture.json"), help="for its weights; the rows are those of --replay")
    p.add_argument("--replay", required=True, help="batches that rows.py wrote: every form sees the same ones in the same order")
    p.add_argument("--tokens", type=float, default=6e7)
    p.add_argument("--batch-tokens", type=int, default=32768, help="those of the batches")
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--forms", nargs="*", default=FORMS, choices=FORMS)
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--lengths", type=int, nargs="*", default=[1024, 2048, 4096])
    p.add_argument("--samples", type=int, default=100)
    p.add_argument("--limit", type=int, default=1000)
    p.add_argument("--at-once", type=int, default=1, help="runs beside each other")
    p.add_argument("--one", nargs=2, metavar=("FORM", "SEED"), help=argparse.SUPPRESS)
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    if a.one:
        return one(a, a.one[0], int(a.one[1]))
    results = os.path.join(a.out, "results.jsonl")
    done = {(r["form"], r["seed"]) for r in map(json.loads, open(results))} if os.path.exists(results) else set()
    wanted = [(form, seed) for seed in range(1, a.seeds + 1) for form in a.forms if (form, seed) not in done]
    command = lambda form, seed: [sys.executable, os.path.abspath(__file__)] + sys.argv[1:] + ["--one", form, str(seed)]
    with ThreadPoolExecutor(a.at_once) as pool:
        runs = [pool.submit(subprocess.run, command(form, seed)) for form, seed in wanted]
    failed = [x for x, run in zip(wanted, runs) if run.result().returncode]
    if os.path.exists(results):
        report(a)           # of the others all the same
    if failed:
        raise SystemExit("failed: %s" % ", ".join("%s-%d" % x for x in failed))


if __name__ == "__main__":
    main()
