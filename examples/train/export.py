"""A trained run -> the folder that ships.

  python3 export.py RUN [RUN ...] MODEL_DIR --tokenizer tokenizer.json [--format int8|f16|bf16] [--log RUN/log.csv]
                    [--measures measures.json]

Of several runs that went on from each other, or copies of one taken on its way, their mean ships: it does for them what a falling
rate does (stochastic weight averaging, arXiv 1803.05407). Writes model.safetensors (or shards of at most 50 MB with their index), config.json, reader.json, tokenizer.json,
loss.svg from the log and MODEL_CARD.md from card.md. int8: each matrix X as int8 with an f32 scale per row in X_scale
(value = int8 * scale), vectors in f32, and "quantization": {"format": "int8-per-row"} in config.json.
"""
import argparse
import csv
import json
import os
import shutil

import torch

import checkpoint
from model import Config, Reader

HERE = os.path.dirname(os.path.abspath(__file__))
READER = {"prompt": {"passage": "<|doc|> {title}: {passage}", "question": "<|q|> {question}", "answer": "<|a|>",
                     "none": "<|none|>", "end": "<|end|>", "start": "<|pad|>"}}     # start: see train.py, `pointing`
CURVES = [("text", "text, training", "#3366cc"), ("answer", "answers, training", "#dc3912"), ("cloze", "cloze answers, training", "#ff9900"),
          ("recall", "recalled values, training", "#109618"), ("pointing", "pointing, training", "#66aa00"),
          ("dev_a", "answers, held out, tier A", "#990099"), ("dev_b", "answers, held out, tier B", "#0099c6"), ("dev_pointing", "pointing, held out", "#dd4477")]


def curve(log):
    """The log as a picture: loss (nats a token, log scale) over millions of tokens."""
    import math
    with open(log) as f:
        rows = list(csv.DictReader(f))
    points = {k: [(int(r["tokens"]) / 1e6, float(r[k])) for r in rows if r[k] and float(r[k]) > 0] for k, _, _ in CURVES}
    wide, high, left, top = 720, 400, 50, 20
    far = max(x for p in points.values() for x, _ in p)
    low, up = math.log(0.3), math.log(10)
    X = lambda x: left + x / far * (wide - left - 20)
    Y = lambda y: top + (up - min(max(math.log(y), low), up)) / (up - low) * (high - top - 40)
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">' % (wide, high),
           '<rect width="100%" height="100%" fill="white"/>']
    for y in (0.3, 0.5, 1, 2, 3, 5, 10):
        out.append('<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="8" y="%.1f">%g</text>' % (left, wide - 20, Y(y), Y(y), Y(y) + 4, y))
    for i in range(6):
        out.append('<text x="%.1f" y="%d" text-anchor="middle">%.0f</text>' % (X(far * i / 5), high - 22, far * i / 5))
    out.append('<text x="%d" y="%d" text-anchor="middle">million tokens; loss in nats a token</text>' % (wide // 2, high - 5))
    for n, (key, name, colour) in enumerate(CURVES):
        if points[key]:
            out.append('<polyline fill="none" stroke="%s" stroke-width="1.5" points="%s"/>' % (colour, " ".join("%.1f,%.1f" % (X(x), Y(y)) for x, y in points[key])))
            out.append('<text x="%d" y="%d" fill="%s">%s</text>' % (wide - 190, top + 14 + 16 * n, colour, name))
    return "\n".join(out + ["</svg>\n"])


def mean(runs):
    """The mean of their weights, in f32."""
    total = {}
    for run in runs:
        for k, v in checkpoint.dequantize(checkpoint.load(run)).items():
            total[k] = total.get(k, 0) + v / len(runs)
    return total


def export(runs, folder, tokenizer, form, log=None, measures=None):
    config = Config.load(os.path.join(runs[0], "config.json"))
    reader = Reader(config)
    reader.load_state_dict(mean(runs))      # every name present and of the right shape
    plain = {k: v.float() for k, v in reader.state_dict().items()}
    if form == "int8":
        out = checkpoint.quantize(plain)
    else:
        out = {k: v.to({"f16": torch.float16, "bf16": torch.bfloat16}[form]) if v.ndim == 2 else v for k, v in plain.items()}
    checkpoint.save(folder, out)
    described = {**config.json(), "torch_dtype": "float16" if form == "f16" else "bfloat16" if form == "bf16" else "int8"}
    if form == "int8":
        described["quantization"] = {"format": "int8-per-row"}
    for name, value in (("config.json", described), ("reader.json", READER)):
        with open(os.path.join(folder, name), "w") as f:
            json.dump(value, f, indent=2)
            f.write("\n")
    if os.path.isfile(tokenizer) and os.path.abspath(tokenizer) != os.path.abspath(os.path.join(folder, "tokenizer.json")):
        shutil.copyfile(tokenizer, os.path.join(folder, "tokenizer.json"))
    if log:
        with open(os.path.join(folder, "loss.svg"), "w") as f:
            f.write(curve(log))
    if measures:
        with open(measures) as f:
            m = json.load(f)
        with open(os.path.join(HERE, "card.md")) as f:
            card = f.read()
        table = "\n".join("| %s | %s | `%s` |" % (r["what"], r["figure"], r["command"]) for r in m["table"])
        for key, value in {**m, "table": table, "parameters": "%.1f" % (sum(v.numel() for v in plain.values()) / 1e6)}.items():
            card = card.replace("{%s}" % key, str(value))
        with open(os.path.join(folder, "MODEL_CARD.md"), "w") as f:
            f.write(card)
    far = {k: ((checkpoint.dequantize(out)[k] - v).norm() / v.norm().clamp(min=1e-12)).item() for k, v in plain.items()}
    worst = max(far, key=far.get)
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder) if f.endswith(".safetensors"))
    print("%s: %.1f MB of weights, %s; furthest from the run: %s by %.4f" % (folder, size / 1e6, form, worst, far[worst]))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("run", nargs="+")
    p.add_argument("folder")
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--format", choices=["int8", "f16", "bf16"], default="int8")
    p.add_argument("--log")
    p.add_argument("--measures", help="JSON for card.md: table and the other words in braces")
    a = p.parse_args()
    export(a.run, a.folder, a.tokenizer, a.format, a.log, a.measures)


if __name__ == "__main__":
    main()
