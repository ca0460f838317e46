"""Makes kda_small/ and gated_delta_small/: tiny random networks in flash-linear-attention's names with their float64 reference.

    python3 tests/golden/make_tied.py        (numpy; writes beside itself; the same bytes every time)

Each recurrence is the one of its own paper, one token at a time, with one number a head where the engine has a gate a channel:

    Kimi Delta Attention (arXiv 2510.26692):   S <- (I - beta k k^T) Diag(exp g) S + beta k v^T
    Gated DeltaNet       (arXiv 2412.06464):   S <- exp(g) (I - beta k k^T) S + beta k v^T        o = S^T q / sqrt(K)

Both with grouped value heads (queries and keys are repeated for them), V != K, beta in [0, 2] (allow_neg_eigval), a head of its
own. Names, shapes and the order of operations are those of the layers of flash-linear-attention; none of its code is here.
"""
import json
from pathlib import Path

import numpy as np

from make_model import sigmoid, silu, write

L, D, H, HV, K, V, I, VOCAB, EPS = 2, 24, 2, 4, 8, 12, 32, 120, 1e-5
HERE = Path(__file__).parent


def weights(rng, kda):
    def noise(*shape, scale=1.0, offset=0.0):
        return (rng.standard_normal(shape) * scale + offset).astype(np.float32)

    hk, hv, s = H * K, HV * V, D**-0.5
    w = {"model.embeddings.weight": noise(VOCAB, D), "lm_head.weight": noise(VOCAB, D, scale=0.3),
         "model.norm.weight": noise(D, scale=0.1, offset=1)}
    for i in range(L):
        p = f"model.layers.{i}."
        w |= {p + "attn_norm.weight": noise(D, scale=0.1, offset=1), p + "mlp_norm.weight": noise(D, scale=0.1, offset=1),
              p + "attn.o_norm.weight": noise(V, scale=0.1, offset=1), p + "attn.o_proj.weight": noise(D, hv, scale=0.2),
              p + "mlp.gate_proj.weight": noise(I, D, scale=s), p + "mlp.up_proj.weight": noise(I, D, scale=s),
              p + "mlp.down_proj.weight": noise(D, I, scale=0.2)}
        for name, rows in (("q", hk), ("k", hk), ("v", hv)):
            w[p + f"attn.{name}_proj.weight"] = noise(rows, D, scale=s)
            w[p + f"attn.{name}_conv1d.weight"] = noise(rows, 1, 4, scale=0.5)
        if kda:
            w |= {p + "attn.b_proj.weight": noise(H, D, scale=s), p + "attn.A_log": noise(H, scale=0.5),
                  p + "attn.dt_bias": noise(hk, offset=-2),
                  p + "attn.f_proj.0.weight": noise(V, D, scale=s), p + "attn.f_proj.1.weight": noise(hk, V, scale=0.4),
                  p + "attn.g_proj.0.weight": noise(V, D, scale=s), p + "attn.g_proj.1.weight": noise(hv, V, scale=0.4),
                  p + "attn.g_proj.1.bias": noise(hv, scale=0.3)}
        else:
            w |= {p + "attn.b_proj.weight": noise(HV, D, scale=s), p + "attn.a_proj.weight": noise(HV, D, scale=s),
                  p + "attn.A_log": noise(HV, scale=0.5), p + "attn.dt_bias": noise(HV, offset=-2),
                  p + "attn.g_proj.weight": noise(hv, D, scale=s)}
    return w


def norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def forward(w, ids, kda):
    """ids [T] -> logits [T, VOCAB], states [L, HV, K, V], last three conv inputs of q and v [L, 3, .], all float64."""
    w = {name: a.astype(np.float64) for name, a in w.items()}
    x = w["model.embeddings.weight"][ids]
    T = len(ids)
    states, conv_q, conv_v = [], [], []
    for i in range(L):
        p = f"model.layers.{i}."

        def conv(name, y):
            padded = np.concatenate([np.zeros((3, y.shape[1])), y])
            taps = w[p + f"attn.{name}_conv1d.weight"][:, 0]
            return silu(sum(padded[j : j + T] * taps[:, j] for j in range(4))), padded[-3:]

        def grouped(y):  # [T, H, .] -> [T, HV, .]
            return np.repeat(y, HV // H, axis=1)

        y = norm(x, w[p + "attn_norm.weight"])
        lin = lambda name: y @ w[p + f"attn.{name}.weight"].T
        q, last_q = conv("q", lin("q_proj"))
        k, _ = conv("k", lin("k_proj"))
        v, last_v = conv("v", lin("v_proj"))
        q, k = (grouped(z.reshape(T, H, K)) for z in (q, k))
        q, k = (z / np.sqrt((z * z).sum(-1, keepdims=True) + 1e-6) for z in (q, k))
        v = v.reshape(T, HV, V)
        beta = 2 * sigmoid(lin("b_proj"))
        if kda:
            beta = grouped(beta[..., None])[..., 0]
            f = lin("f_proj.0") @ w[p + "attn.f_proj.1.weight"].T + w[p + "attn.dt_bias"]
            g = grouped(-np.exp(w[p + "attn.A_log"])[:, None] * np.log1p(np.exp(f)).reshape(T, H, K))
            gate = sigmoid(lin("g_proj.0") @ w[p + "attn.g_proj.1.weight"].T + w[p + "attn.g_proj.1.bias"])
        else:
            g = -np.exp(w[p + "attn.A_log"]) * np.log1p(np.exp(lin("a_proj") + w[p + "attn.dt_bias"]))
            g = np.broadcast_to(g[..., None], (T, HV, K))
            gate = silu(lin("g_proj"))
        S, out = np.zeros((HV, K, V)), np.zeros((T, HV, V))
        for t in range(T):
            S = np.exp(g[t])[..., None] * S
            new = beta[t][:, None] * (v[t] - np.einsum("hkv,hk->hv", S, k[t]))
            S = S + k[t][..., None] * new[:, None]
            out[t] = np.einsum("hkv,hk->hv", S, q[t]) / np.sqrt(K)
        out = norm(out, w[p + "attn.o_norm.weight"]) * gate.reshape(T, HV, V)
        x = x + out.reshape(T, HV * V) @ w[p + "attn.o_proj.weight"].T
        y = norm(x, w[p + "mlp_norm.weight"])
        x = x + (silu(y @ w[p + "mlp.gate_proj.weight"].T) * (y @ w[p + "mlp.up_proj.weight"].T)) @ w[p + "mlp.down_proj.weight"].T
        states.append(S)
        # Gated DeltaNet's queries have a head for each value head in the engine.
        conv_q.append(last_q if kda else np.repeat(last_q.reshape(3, H, K), HV // H, axis=1).reshape(3, HV * K))
        conv_v.append(last_v)
    return norm(x, w["model.norm.weight"]) @ w["lm_head.weight"].T, np.stack(states), np.stack(conv_q), np.stack(conv_v)


def main():
    for kda, folder, kind in ((True, "kda_small", "kda"), (False, "gated_delta_small", "gated_deltanet")):
        rng = np.random.default_rng(11)
        w = weights(rng, kda)
        ids = rng.integers(0, VOCAB, 75).astype(np.int32)
        logits, states, conv_q, conv_v = forward(w, ids, kda)
        f32 = np.float32
        write(HERE / folder / "model.safetensors", w, {"note": "random, tests/golden/make_tied.py"})
        write(HERE / folder / "golden.safetensors",
              {"ids": ids, "logits_every8": logits[::8].astype(f32), "logits_last": logits[-1].astype(f32),
               "states": states.astype(f32), "conv_q": conv_q.astype(f32), "conv_v": conv_v.astype(f32)},
              {"layout": "states [L,HV,K,V]; conv_* [L,3,dim], oldest first", "source": "float64, tests/golden/make_tied.py"})
        config = {"model_type": kind, "hidden_size": D, "num_hidden_layers": L, "num_heads": H, "num_v_heads": HV, "head_dim": K,
                  "expand_v": V / K, "intermediate_size": None, "vocab_size": VOCAB, "conv_size": 4, "use_short_conv": True,
                  "use_gate": True, "allow_neg_eigval": True, "norm_eps": EPS, "attn": None, "tie_word_embeddings": False}
        (HERE / folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    main()
