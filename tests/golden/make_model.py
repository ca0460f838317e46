"""Makes nvidia_small/ and nvidia_hybrid/: a tiny random network with its float64 reference, and one that must be refused.

    python3 tests/golden/make_model.py        (numpy; writes beside itself; the same bytes every time)

The forward pass is written from arXiv 2605.22791 and the model's description alone, one token at a time, and shares no code
with the engine. Grouped value heads, V != K, a head of its own, NVIDIA's names, SiLU output gate, norm eps 1e-5.
"""
import json
import struct
from pathlib import Path

import numpy as np

L, D, H, HV, K, V, I, VOCAB, RANK, EPS = 2, 24, 2, 4, 8, 12, 32, 120, 6, 1e-5
HERE = Path(__file__).parent


def write(path, tensors, metadata):
    """safetensors: header length, JSON header, data."""
    header, data = {"__metadata__": metadata}, b""
    for name in sorted(tensors):
        a = np.ascontiguousarray(tensors[name])
        kind = {"float32": "F32", "int32": "I32"}[a.dtype.name]
        header[name] = {"dtype": kind, "shape": list(a.shape), "data_offsets": [len(data), len(data) + a.nbytes]}
        data += a.tobytes()
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def weights(rng):
    def noise(*shape, scale=1.0, offset=0.0):
        return (rng.standard_normal(shape) * scale + offset).astype(np.float32)

    hk, hv = H * K, HV * V
    w = {"transformer.wte.weight": noise(VOCAB, D), "lm_head.weight": noise(VOCAB, D, scale=0.3),
         "transformer.ln_f.weight": noise(D, scale=0.1, offset=1)}
    for i in range(L):
        p, s = f"transformer.h.{i}.", D**-0.5
        w |= {p + "norm_1.weight": noise(D, scale=0.1, offset=1), p + "norm_2.weight": noise(D, scale=0.1, offset=1),
              p + "attn.A_log": noise(H, scale=0.5), p + "attn.dt_bias": noise(hk, offset=-2),
              p + "attn.o_norm.weight": noise(V, scale=0.1, offset=1), p + "attn.o_proj.weight": noise(D, hv, scale=0.2),
              p + "attn.f_proj.0.weight": noise(RANK, D, scale=s), p + "attn.f_proj.1.weight": noise(hk, RANK, scale=0.4),
              p + "attn.g_proj.0.weight": noise(RANK, D, scale=s), p + "attn.g_proj.1.weight": noise(hv, RANK, scale=0.4),
              p + "attn.g_proj.1.bias": noise(hv, scale=0.3),
              p + "mlp.swiglu.w1.weight": noise(I, D, scale=s), p + "mlp.swiglu.w2.weight": noise(I, D, scale=s),
              p + "mlp.swiglu.w3.weight": noise(D, I, scale=0.2)}
        for name, rows in (("q", hk), ("k", hk), ("v", hv), ("b", hk), ("w", hv)):
            w[p + f"attn.{name}_proj.weight"] = noise(rows, D, scale=s)
        for name, rows in (("q", hk), ("k", hk), ("v", hv)):
            w[p + f"attn.{name}_conv1d.weight"] = noise(rows, 1, 4, scale=0.5)
    return w


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def forward(w, ids):
    """ids [T] -> logits [T, VOCAB], states [L, HV, K, V], last three conv inputs of q and v [L, 3, .], all float64."""
    w = {name: a.astype(np.float64) for name, a in w.items()}
    x = w["transformer.wte.weight"][ids]
    states, conv_q, conv_v = [], [], []
    for i in range(L):
        p = f"transformer.h.{i}."

        def conv(name, y):
            padded = np.concatenate([np.zeros((3, y.shape[1])), y])
            taps = w[p + f"attn.{name}_conv1d.weight"][:, 0]
            return silu(sum(padded[j : j + len(y)] * taps[:, j] for j in range(4))), padded[-3:]

        h = norm(x, w[p + "norm_1.weight"])
        project = {n: h @ w[p + f"attn.{n}_proj.weight"].T for n in "qkvbw"}
        q, last_q = conv("q", project["q"])
        k, _ = conv("k", project["k"])
        v, last_v = conv("v", project["v"])
        conv_q.append(last_q)
        conv_v.append(last_v)
        heads = lambda y: np.repeat(y.reshape(len(ids), H, K), HV // H, axis=1)
        l2 = lambda y: y / np.sqrt((y * y).sum(-1, keepdims=True) + 1e-6)
        q, k, b = l2(heads(q)), l2(heads(k)), heads(sigmoid(project["b"]))
        v, write_gate = v.reshape(-1, HV, V), sigmoid(project["w"]).reshape(-1, HV, V)
        f = h @ w[p + "attn.f_proj.0.weight"].T @ w[p + "attn.f_proj.1.weight"].T + w[p + "attn.dt_bias"]
        g = heads((np.logaddexp(0, f).reshape(-1, H, K) * -np.exp(w[p + "attn.A_log"])[:, None]).reshape(len(ids), -1))
        s, out = np.zeros((HV, K, V)), []
        for t in range(len(ids)):
            s = s * np.exp(g[t])[:, :, None]
            erased = np.einsum("hkv,hk->hv", s, b[t] * k[t])
            s = s + k[t][:, :, None] * (write_gate[t] * v[t] - erased)[:, None, :]
            out.append(np.einsum("hkv,hk->hv", s, q[t]) / np.sqrt(K))
        states.append(s)
        gate = h @ w[p + "attn.g_proj.0.weight"].T @ w[p + "attn.g_proj.1.weight"].T + w[p + "attn.g_proj.1.bias"]
        o = norm(np.array(out), w[p + "attn.o_norm.weight"]) * silu(gate).reshape(-1, HV, V)
        x = x + o.reshape(len(ids), -1) @ w[p + "attn.o_proj.weight"].T
        h = norm(x, w[p + "norm_2.weight"])
        x = x + (silu(h @ w[p + "mlp.swiglu.w1.weight"].T) * (h @ w[p + "mlp.swiglu.w2.weight"].T)) @ w[p + "mlp.swiglu.w3.weight"].T
    logits = norm(x, w["transformer.ln_f.weight"]) @ w["lm_head.weight"].T
    return logits, np.array(states), np.array(conv_q), np.array(conv_v)


def main():
    rng = np.random.default_rng(20261124)
    w = weights(rng)
    ids = rng.integers(0, VOCAB, 75)
    logits, states, conv_q, conv_v = forward(w, ids)
    f32 = lambda a: a.astype(np.float32)
    write(HERE / "nvidia_small/model.safetensors", w, {"note": "NVIDIA names, no config.json: shapes are read off the tensors"})
    write(HERE / "nvidia_small/golden.safetensors",
          {"ids": ids.astype(np.int32), "logits_every8": f32(logits[::8]), "logits_last": f32(logits[-1]),
           "states": f32(states), "conv_q": f32(conv_q), "conv_v": f32(conv_v)},
          {"layout": "states [L,HV,K,V]; conv_* [L,3,dim], oldest first", "source": "float64, tests/golden/make_model.py"})
    hybrid = {name: a for name, a in w.items() if not name.startswith("transformer.h.1.attn")}
    hybrid["transformer.h.1.attn.attn.weight"] = np.zeros((4, D), np.float32)
    write(HERE / "nvidia_hybrid/model.safetensors", hybrid, {"note": "the second layer is attention: to be refused by name"})


if __name__ == "__main__":
    main()
