#!/usr/bin/env python3
"""Makes the op_*.safetensors beside it: the recurrence of Gated DeltaNet-2 (arXiv 2605.22791, eq. 9) in float64.

    python3 tests/golden/make.py

Plain Python, no packages; the same bytes every time. Inputs are rounded to f32 before anything is computed, so that the
expected outputs belong to exactly the inputs in the file.
"""

import json
import math
import random
import struct
from pathlib import Path

LAYOUT = "q,k,g,b [T,H,K]; v,w,o [T,H,V]; s0,s [H,K,V]; scale 1/sqrt(K); q,k already L2-normalised"


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def step(S, q, k, g, b, v, w):
    """S_t = (I - k (b * k)^T) Diag(exp g) S + k (w * v)^T; o = S_t^T q / sqrt(K). S is changed in place."""
    K, V = len(k), len(v)
    for i in range(K):
        decay = math.exp(g[i])
        S[i] = [decay * s for s in S[i]]
    for c in range(V):
        erased = sum(b[i] * k[i] * S[i][c] for i in range(K))
        for i in range(K):
            S[i][c] += k[i] * (w[c] * v[c] - erased)
    return [sum(S[i][c] * q[i] for i in range(K)) / math.sqrt(K) for c in range(V)]


def make(name, T, H, K, V, low, high, tied, neg=False):
    """`low..high`: the range of ln(-g). Tied: b = w = one number a token and head."""
    r = random.Random(name)

    def numbers(n, draw):
        return [f32(draw()) for _ in range(n)]

    def unit(n):
        x = [r.gauss(0, 1) for _ in range(n)]
        norm = math.sqrt(sum(y * y for y in x))
        return [f32(y / norm) for y in x]

    t = {n: [] for n in "qkgbvwo"}
    S = [[numbers(V, lambda: r.gauss(0, 0.3)) for _ in range(K)] for _ in range(H)]
    s0 = [s for head in S for row in head for s in row]
    for _ in range(T):
        for h in range(H):
            q, k = unit(K), unit(K)
            g = numbers(K, lambda: -math.exp(r.uniform(low, high)))
            v = numbers(V, lambda: r.gauss(0, 1))
            if tied:
                beta = f32(r.random())
                b, w = [beta] * K, [beta] * V
            else:
                b = numbers(K, lambda: r.random() * (2 if neg else 1))
                w = numbers(V, r.random)
            o = step(S[h], q, k, g, b, v, w)
            for key, x in zip("qkgbvwo", (q, k, g, b, v, w, o)):
                t[key] += x
    t["s0"], t["s"] = s0, [s for head in S for row in head for s in row]

    header, data = {"__metadata__": {"layout": LAYOUT, "source": "arXiv 2605.22791 eq. 9, float64; make.py"}}, b""
    shapes = {"o": [T, H, V], "v": [T, H, V], "w": [T, H, V], "s0": [H, K, V], "s": [H, K, V]}
    for key in sorted(t):
        raw = struct.pack(f"<{len(t[key])}f", *t[key])
        header[key] = {"dtype": "F32", "shape": shapes.get(key, [T, H, K]), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = Path(__file__).parent / f"op_{name}.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    make("small", T=21, H=2, K=16, V=32, low=-6, high=0, tied=False)
    make("tied", T=21, H=2, K=16, V=32, low=-6, high=0, tied=True)
    make("strong_decay", T=37, H=2, K=16, V=32, low=0, high=3, tied=False)
    make("negative_eigenvalues", T=21, H=1, K=24, V=16, low=-8, high=-3, tied=False, neg=True)
    make("odd", T=17, H=3, K=13, V=7, low=-8, high=1, tied=False)
