"""The reader: a Gated DeltaNet-2 language model (arXiv 2605.22791), the twin of engine/src/model.rs.

In:   token ids, several rows laid end to end ("packed"): ids [N], row offsets cu [R+1]
Out:  hidden states [N, D] (logits are hidden @ embedding^T), and for one row its State
Names of parameters are those of flash-linear-attention; see `Config` for the sizes.

Three ways to run the recurrence, all the same function of their inputs:
  recurrence  one token at a time: the definition
  chunked     a tile of tokens at a time, section 3.3 of the paper: what runs where there is no GPU
  fla's chunk_gdn2, a Triton kernel, on CUDA when flash-linear-attention is installed
"""
import json
import math
from dataclasses import asdict, dataclass, field

import torch
import torch.nn as nn
import torch.nn.functional as F

TILE = 16      # the differences of decays inside a tile take TILE floats a token and channel


@dataclass
class Config:
    hidden_size: int = 512
    num_hidden_layers: int = 10
    num_heads: int = 4
    head_dim: int = 128
    intermediate_size: int = 1408
    vocab_size: int = 16384
    conv_size: int = 4
    norm_eps: float = 1e-5
    form: str = "gdn2"      # an ablation ties gates: gdn2 | kda | gdn | mamba2

    @staticmethod
    def load(path):
        with open(path) as f:
            c = json.load(f)
        return Config(**{k: c[k] for k in asdict(Config()) if k in c})

    def json(self):
        """config.json as the engine reads it."""
        return {"architectures": ["GatedDeltaNet2ForCausalLM"], "model_type": "gdn2", "hidden_size": self.hidden_size,
                "num_hidden_layers": self.num_hidden_layers, "num_heads": self.num_heads, "head_dim": self.head_dim,
                "expand_v": 1.0, "num_v_heads": None, "intermediate_size": self.intermediate_size,
                "vocab_size": self.vocab_size, "conv_size": self.conv_size, "use_short_conv": True, "conv_bias": False,
                "allow_neg_eigval": False, "norm_eps": self.norm_eps, "hidden_act": "swish", "output_gate": "sigmoid",
                "tie_word_embeddings": True}


@dataclass
class State:
    """What R rows leave behind: per layer S [R, H, K, V] (f32) and the last conv_size-1 inputs of the convolution."""
    seen: int = 0
    s: list = field(default_factory=list)
    conv: list = field(default_factory=list)     # [R, conv_size-1, 3*H*K]: q, k, v side by side


# ---- the recurrence: q, k, g, b [T, H, K]; v, w [T, H, V]; s0 [H, K, V]; q and k are L2-normalised ----

def recurrence(q, k, v, g, b, w, s0):
    """S_t = (I - k_t (b_t*k_t)^T) Diag(exp g_t) S_{t-1} + k_t (w_t*v_t)^T;  o_t = S_t^T q_t / sqrt(K)."""
    s, out = s0, []
    for t in range(q.shape[0]):
        s = torch.exp(g[t])[:, :, None] * s
        erased = torch.einsum("hk,hkv->hv", b[t] * k[t], s)
        s = s + k[t][:, :, None] * (w[t] * v[t] - erased)[:, None, :]
        out.append(torch.einsum("hkv,hk->hv", s, q[t]) * q.shape[-1] ** -0.5)
    return (torch.stack(out) if out else torch.zeros_like(v)), s


def chunked(q, k, v, g, b, w, s0, tile=TILE):
    """The same, a tile of tokens at a time (paper, section 3.3). Decays stay in log space: G is the running sum of g
    inside the tile and only differences G_r - G_s <= 0 are exponentiated, so that a strong decay cannot overflow."""
    scale, out, s = q.shape[-1] ** -0.5, [], s0
    for t in range(0, q.shape[0], tile):
        Q, Kk, V, G, Bk, W = (x[t:t + tile].transpose(0, 1) for x in (q, k, v, g, b, w))   # [H, C, .]
        G = G.cumsum(1)
        C = G.shape[1]
        lower = torch.ones(C, C, dtype=torch.bool, device=q.device).tril()
        D = torch.exp((G[:, :, None] - G[:, None]).masked_fill(~lower[None, :, :, None], float("-inf")))  # [H, C, C, K]
        T = torch.einsum("hrk,hrsk,hsk->hrs", Bk * Kk, D, Kk).tril(-1)
        eye = torch.eye(C, dtype=T.dtype, device=T.device).expand_as(T)
        gamma = torch.exp(G)
        R = torch.linalg.solve_triangular(eye + T, W * V - (gamma * Bk * Kk) @ s, upper=False, unitriangular=True)
        P = torch.einsum("hrk,hrsk,hsk->hrs", Q, D, Kk)
        out.append((((gamma * Q) @ s + P @ R) * scale).transpose(0, 1))
        last = G[:, -1:]
        s = torch.exp(last).transpose(1, 2) * s + (torch.exp(last - G) * Kk).transpose(1, 2) @ R
    return (torch.cat(out) if out else torch.zeros_like(v)), s


_kernel = None      # fla's chunk_gdn2 once found; False where there is none


def fla_kernel():
    global _kernel
    if _kernel is None:
        try:
            from fla.ops.gdn2 import chunk_gdn2
            _kernel = chunk_gdn2
        except Exception:
            _kernel = False
    return _kernel


SAFE_DECAY = -5.0      # 16 tokens of it are still within f32's range: what fla's tensor-core path inside a tile asks for
safe_decay = False     # set by train.py where that path is faster; the engine's decay has no such bound


def fla_convolution():
    """fla's short convolution, or None."""
    try:
        from fla.modules.causal_conv1d import causal_conv1d
        return causal_conv1d
    except Exception:
        return None


def tiles_of(cu):
    """The tables of tiles that fla's kernels make for the rows `cu`, which it keeps by the identity of that tensor."""
    if not fla_kernel():
        return []
    from fla.ops.utils import prepare_chunk_indices
    return [prepare_chunk_indices(cu, 64), prepare_chunk_indices(cu, 64, cu_seqlens_cpu=None)]


def mix(q, k, v, g, b, w, cu, s0=None):
    """Packed rows through the recurrence. `cu` [R+1]; `s0` [R, H, K, V] or None for empty states. Gives o, states."""
    if q.is_cuda and fla_kernel():
        g = g.clamp(min=SAFE_DECAY) if safe_decay else g
        o, s = fla_kernel()(q[None], k[None], v[None], g[None], b[None], w[None], initial_state=s0, cu_seqlens=cu, safe_gate=safe_decay,
                            output_final_state=s0 is not None, disable_recompute=torch.is_grad_enabled())
        return o[0], s
    o, s = [], []
    at = cu.tolist()
    empty = q.new_zeros(q.shape[1], q.shape[2], v.shape[2], dtype=g.dtype)
    for r in range(len(at) - 1):
        x = [y[at[r]:at[r + 1]].to(g.dtype) for y in (q, k, v, g, b, w)]
        a, z = chunked(*x, empty if s0 is None else s0[r].to(g.dtype))
        o.append(a)
        s.append(z)
    return torch.cat(o).to(v.dtype), torch.stack(s)


# ---- the pieces around it: plain functions of tensors, so that one compiled copy serves every layer ----

def rms_norm(x, weight, eps):
    x32 = x.to(torch.promote_types(x.dtype, torch.float32))
    return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def unit(x):
    """L2 norm per head, over the last axis."""
    x32 = x.to(torch.promote_types(x.dtype, torch.float32))
    return (x32 * torch.rsqrt(x32.pow(2).sum(-1, keepdim=True) + 1e-6)).to(x.dtype)


def row_of(pos, cu):
    """The row of each token, [N]: from the offsets alone."""
    return torch.searchsorted(cu, torch.arange(pos.shape[0], device=pos.device), right=True) - 1


def short_conv(x, pos, taps, before=None, row=None):
    """Causal depthwise convolution within rows, then SiLU: x [N, C], pos [N] (place in the row), taps [C, W]; `before`
    [R, W-1, C] is what rows saw earlier, `row` [N] says whose it is."""
    width, n = taps.shape[1], x.shape[0]
    past = F.pad(x, (0, 0, width - 1, 0))
    y = 0
    for j in range(width):      # the last tap is the current token
        held = torch.zeros_like(x)
        if before is not None and j:
            held = before.to(x.dtype)[row, (width - 1 - j + pos).clamp(max=width - 2).long()]
        y = y + torch.where((pos >= j)[:, None], past[width - 1 - j:width - 1 - j + n], held) * taps[:, width - 1 - j]
    return F.silu(y)


def last_inputs(x, before, cu):
    """The last W-1 inputs of each row, [R, W-1, C]: those of `before` where the row is shorter."""
    back = before.shape[1]
    at = cu[1:, None] - torch.arange(back, 0, -1, device=cu.device)             # [R, W-1]
    there = at >= cu[:-1, None]
    older = (at - cu[:-1, None] + back).clamp(0, back - 1)
    old = before.gather(1, older[:, :, None].expand(-1, -1, x.shape[1])).to(x.dtype)
    return torch.where(there[:, :, None], x[at.clamp(min=0)], old)


def mixer_project(x, norm, wq, wk, wv, wb, ww, f0, g0, eps):
    """x [N, D] -> all projections side by side: q, k, v before their convolution, b, w, and two low-rank halves."""
    return F.linear(rms_norm(x, norm, eps), torch.cat([wq, wk, wv, wb, ww, f0, g0]).to(x.dtype))


def mixer_gates(conv, rest, f1, a_log, dt_bias, heads, form):
    """conv [N, 3*H*K] and the other projections -> what the recurrence takes, and the low-rank half of the output gate."""
    n, wide = conv.shape[0], conv.shape[1] // 3
    conv = conv.view(n, 3, heads, wide // heads)
    q, k, v = unit(conv[:, 0]), unit(conv[:, 1]), conv[:, 2].contiguous()
    low = (rest.shape[1] - 2 * wide) // 2
    b, w, low_f, low_g = rest.split([wide, wide, low, low], 1)
    f = F.linear(low_f, f1.to(conv.dtype)).to(a_log.dtype) + dt_bias
    g = -torch.exp(a_log)[:, None] * F.softplus(f).view(n, heads, -1)
    b, w = torch.sigmoid(b).view(n, heads, -1), torch.sigmoid(w).view(n, heads, -1)
    if form != "gdn2":          # the family's tied forms, for the ablation
        b = b.mean(-1, keepdim=True).expand_as(b).contiguous()
        w = b
        if form in ("gdn", "mamba2"):
            g = g.mean(-1, keepdim=True).expand_as(g).contiguous()
        if form == "mamba2":
            b = torch.zeros_like(b)
    return q, k, v, g, b, w, low_g


def dropped(x, drop):
    """`drop` is a share of elements set to zero, as a tensor (one compiled copy serves all shares), or None."""
    return x if drop is None else x * ((torch.rand_like(x, dtype=torch.float32) >= drop) / (1 - drop)).to(x.dtype)


def mixer_out(x, o, low_g, o_norm, g1, g1_bias, wo, mlp_norm, gate, up, down, eps, drop=None):
    """The recurrence's output o [N, H, V] -> gated, projected, added to x; then the MLP."""
    out_gate = torch.sigmoid(F.linear(low_g, g1.to(x.dtype), g1_bias.to(x.dtype))).view_as(o)
    x = x + dropped(F.linear((rms_norm(o, o_norm, eps) * out_gate).flatten(1), wo.to(x.dtype)), drop)
    h = F.linear(rms_norm(x, mlp_norm, eps), torch.cat([gate, up]).to(x.dtype))
    a, b = h.chunk(2, 1)
    return x + dropped(F.linear(F.silu(a) * b, down.to(x.dtype)), drop)


# ---- the loss: logits are never held whole ----

def head_chunk(logits, target, weight):
    """logits [n, V] -> cross-entropy [n] and the gradient of sum(weight * ce) by the logits."""
    l32 = logits.to(torch.promote_types(logits.dtype, torch.float32))
    norm = torch.logsumexp(l32, 1, keepdim=True)
    ce = norm.squeeze(1) - l32.gather(1, target[:, None]).squeeze(1)
    hot = torch.arange(logits.shape[1], device=logits.device)[None] == target[:, None]
    grad = (torch.exp(l32 - norm) - hot.to(l32.dtype)) * weight[:, None]
    return ce, grad.to(logits.dtype)


# ---- the network ----

class Mixer(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, wide = c.hidden_size, c.num_heads * c.head_dim
        linear = lambda i, o, bias=False: nn.Linear(i, o, bias=bias)
        self.q_proj, self.k_proj, self.v_proj, self.b_proj, self.w_proj = (linear(d, wide) for _ in range(5))
        self.q_conv1d, self.k_conv1d, self.v_conv1d = (nn.Conv1d(wide, wide, c.conv_size, groups=wide, bias=False) for _ in range(3))
        self.f_proj = nn.Sequential(linear(d, c.head_dim), linear(c.head_dim, wide))
        self.g_proj = nn.Sequential(linear(d, c.head_dim), linear(c.head_dim, wide, True))
        self.o_norm = nn.Module()
        self.o_norm.weight = nn.Parameter(torch.ones(c.head_dim))
        self.o_proj = linear(wide, d)
        self.A_log = nn.Parameter(torch.log(torch.empty(c.num_heads).uniform_(1, 16)))
        dt = torch.exp(torch.rand(wide) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))      # softplus(dt_bias) = dt


class Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.attn_norm, self.attn, self.mlp_norm, self.mlp = Norm(c.hidden_size), Mixer(c), Norm(c.hidden_size), Mlp(c)

    def forward(self, x, pos, cu, row, fns, state=None, layer=0, drop=None):
        a, c = self.attn, self.c
        y = fns.mixer_project(x, self.attn_norm.weight, a.q_proj.weight, a.k_proj.weight, a.v_proj.weight, a.b_proj.weight,
                              a.w_proj.weight, a.f_proj[0].weight, a.g_proj[0].weight, c.norm_eps)
        qkv, rest = y.split([3 * c.num_heads * c.head_dim, y.shape[1] - 3 * c.num_heads * c.head_dim], 1)
        before = None if state is None else state.conv[layer]
        conv = fns.conv(qkv, pos, torch.cat([a.q_conv1d.weight, a.k_conv1d.weight, a.v_conv1d.weight]).squeeze(1), before, row, cu)
        q, k, v, g, b, w, low_g = fns.mixer_gates(conv, rest, a.f_proj[1].weight, a.A_log, a.dt_bias, c.num_heads, c.form)
        o, s = mix(q, k, v, g, b, w, cu, None if state is None else state.s[layer])
        if state is not None:
            state.s[layer] = s.detach()
            state.conv[layer] = last_inputs(qkv.detach(), before, cu)
        return fns.mixer_out(x, o, low_g, a.o_norm.weight, a.g_proj[1].weight, a.g_proj[1].bias, a.o_proj.weight,
                             self.mlp_norm.weight, self.mlp.gate_proj.weight, self.mlp.up_proj.weight, self.mlp.down_proj.weight, c.norm_eps, drop)


class Pieces:
    """The functions a forward pass is made of, plain or compiled."""

    def __init__(self, compiled=False):
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self.mixer_project, self.mixer_gates, self.mixer_out, self.rms_norm, self.head_chunk = map(
            wrap, (mixer_project, mixer_gates, mixer_out, rms_norm, head_chunk))
        self.plain_conv = wrap(short_conv)
        self.fla_conv = fla_convolution() if compiled else None

    def conv(self, x, pos, taps, before, row, cu):
        """The short convolution, x [N, C]: fla's kernel where there is one (its gradient by the taps costs a tenth), else `short_conv`."""
        if self.fla_conv is None:
            return self.plain_conv(x, pos, taps.to(x.dtype), before, row)
        held = None if before is None else F.pad(before.to(x.dtype).transpose(1, 2), (1, 0))       # [R, C, W], oldest first
        return self.fla_conv(x[None], taps.to(x.dtype), initial_state=held, activation="silu", cu_seqlens=cu)[0][0]


PLAIN = Pieces()


class Reader(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.model = nn.Module()
        self.model.embeddings = nn.Embedding(c.vocab_size, c.hidden_size)
        self.model.layers = nn.ModuleList(Block(c) for _ in range(c.num_hidden_layers))
        self.model.norm = Norm(c.hidden_size)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                last = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * c.num_hidden_layers) if last else 1))

    @property
    def embedding(self):
        return self.model.embeddings.weight

    def hidden(self, ids, pos, cu, dtype=None, fns=PLAIN, state=None, drop=None):
        """ids, pos [N], cu [R+1] -> normed hidden states [N, D] in `dtype` (default: the embedding's). `state`: what the rows
        go on from, replaced in place by what they leave; no gradient goes through it. `pos` counts within the row."""
        x = F.embedding(ids, self.embedding)
        x = x if dtype is None else x.to(dtype)
        row = None if state is None else row_of(pos, cu)
        for i, block in enumerate(self.model.layers):
            x = block(x, pos, cu, row, fns, state, i, drop)
        return fns.rms_norm(x, self.model.norm.weight, self.c.norm_eps)

    def empty_state(self, rows=1):
        c, p = self.c, self.embedding
        wide = c.num_heads * c.head_dim
        return State(0, [p.new_zeros(rows, c.num_heads, c.head_dim, c.head_dim) for _ in range(c.num_hidden_layers)],
                     [p.new_zeros(rows, c.conv_size - 1, 3 * wide) for _ in range(c.num_hidden_layers)])

    @torch.no_grad()
    def read(self, ids, state):
        """Goes on from `state` (changed in place) through ids [T]; logits [T, vocab]: what the engine does."""
        ids = torch.as_tensor(ids, device=self.embedding.device).long()
        pos = torch.arange(len(ids), device=ids.device)
        cu = torch.tensor([0, len(ids)], device=ids.device)
        h = self.hidden(ids, pos, cu, state=state)
        state.seen += len(ids)
        return h @ self.embedding.T


class HeadLoss(torch.autograd.Function):
    """sum(weight * ce) / sum(weight), a slice of rows at a time, gradients made in the forward pass."""

    @staticmethod
    def forward(ctx, h, emb, target, weight, fns, rows):
        share = weight / weight.sum()
        e = emb.to(h.dtype)
        dh, de, ces = torch.empty_like(h), torch.zeros_like(emb), []
        for i in range(0, h.shape[0], rows):
            part = h[i:i + rows]
            # an enlarged gradient keeps small shares out of bf16's coarse end; undone below
            ce, grad = fns.head_chunk(part @ e.T, target[i:i + rows], share[i:i + rows] * h.shape[0])
            dh[i:i + rows] = grad @ e
            de += grad.T @ part
            ces.append(ce)
        ce = torch.cat(ces)
        ctx.save_for_backward(dh, de)
        ctx.undo = 1.0 / h.shape[0]
        ctx.mark_non_differentiable(ce)
        return (ce * share).sum(), ce

    @staticmethod
    def backward(ctx, d, _):
        dh, de = ctx.saved_tensors
        return dh * (d * ctx.undo).to(dh.dtype), de * (d * ctx.undo), None, None, None, None


def head_loss(h, emb, target, weight, fns=PLAIN, rows=8192):
    return HeadLoss.apply(h, emb, target, weight, fns, rows)
