"""Tuning flash-linear-attention's kernels in seconds instead of minutes.

Its kernels come with some hundred configurations, compiled one after another at the first step. Here several processes
compile a share each into Triton's cache; training then only has to time them, and shortly:

  for i in 0 1 2 3 4 5 6 7; do python3 kernels.py $i 8 reader-small.json & done; wait
  python3 kernels.py check                      the kernel against model.py's own recurrence
  python3 kernels.py time 65536 reader-small.json    milliseconds of a layer's recurrence and convolution, forward and backward
"""
import functools
import sys


def time_shortly():
    """Call before fla is imported: fewer candidates, timed for 15 ms instead of 100."""
    try:
        import triton.runtime.autotuner as autotuner
        import triton.testing
    except ImportError as e:
        print("no Triton here: %s" % e, flush=True)
        return
    triton.testing.do_bench = functools.partial(triton.testing.do_bench, warmup=3, rep=15)
    init = autotuner.Autotuner.__init__

    def fewer(self, fn, arg_names, configs, *rest, **named):
        init(self, fn, arg_names, [c for c in configs if c.num_stages in (2, 3) and c.num_warps in (2, 4, 8)] or configs, *rest, **named)

    autotuner.Autotuner.__init__ = fewer


def compile_share(i, n, config):
    import torch
    import triton.runtime.autotuner as autotuner
    time_shortly()

    def run(self, *args, **kwargs):
        """Instead of tuning: this process's share of the candidates, then others until one has run."""
        self.nargs, ran, out = dict(zip(self.arg_names, args)), False, None
        mine = self.configs[i::n]
        for c in mine + [c for c in self.configs if c not in mine]:
            if ran and c not in mine:
                break
            try:
                out, ran = self.fn.run(*args, **kwargs, **c.all_kwargs()), True
            except Exception:
                pass
        return out

    autotuner.Autotuner.run = run
    from fla.ops.utils import cache
    if "run" in cache.CachedAutotuner.__dict__:
        cache.CachedAutotuner.run = run
    step = layer_step(1024, [0, 500, 1024], config)
    for safe in (False, True):
        step(safe)
    from fla.ops.gdn2 import chunk_gdn2
    with torch.no_grad():
        x = [torch.rand(1, 1024, config["num_heads"], config["head_dim"], device="cuda", dtype=torch.bfloat16) for _ in range(6)]
        for safe in (False, True):      # without an initial state, as evaluation and the loss on held-out questions run it
            chunk_gdn2(*x[:3], -x[3].float(), *x[4:], cu_seqlens=torch.tensor([0, 500, 1024], device="cuda"), safe_gate=safe)
    torch.cuda.synchronize()


def layer_step(n, cu, config):
    """-> a function that runs a layer's convolution and recurrence over n tokens, forward and backward, as train.py does."""
    import torch
    from fla.modules.causal_conv1d import causal_conv1d
    from fla.ops.gdn2 import chunk_gdn2
    torch.manual_seed(0)
    heads, width = config["num_heads"], config["head_dim"]
    x = lambda: torch.randn(1, n, heads, width, device="cuda", dtype=torch.bfloat16)
    unit = lambda x: x / x.norm(dim=-1, keepdim=True)
    cu = torch.tensor(cu, device="cuda")
    ins = [unit(x()), unit(x()), x(), -torch.rand(1, n, heads, width, device="cuda"), torch.sigmoid(x()), torch.sigmoid(x())]
    ins = [y.requires_grad_() for y in ins]
    s0 = torch.zeros(len(cu) - 1, heads, width, width, device="cuda")
    wide = torch.randn(n, 5 * heads * width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    taps = torch.randn(3 * heads * width, 4, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    held = torch.zeros(len(cu) - 1, 3 * heads * width, 4, device="cuda", dtype=torch.bfloat16)

    def step(safe, parts=("conv", "recurrence")):
        if "conv" in parts:
            causal_conv1d(wide[:, :3 * heads * width][None], taps, initial_state=held, activation="silu", cu_seqlens=cu)[0].sum().backward()
        if "recurrence" in parts:
            o, _ = chunk_gdn2(*ins, initial_state=s0, output_final_state=True, cu_seqlens=cu, disable_recompute=True, safe_gate=safe)
            o.sum().backward()
    return step


def time_layer(n, config):
    import json
    import torch
    time_shortly()
    step = layer_step(n, list(range(0, n + 1, 256)), config)
    out = {}
    for name, safe, parts in (("conv", False, ("conv",)), ("recurrence", False, ("recurrence",)), ("recurrence_bounded", True, ("recurrence",))):
        try:
            for _ in range(3):
                step(safe, parts)
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            a.record()
            for _ in range(20):
                step(safe, parts)
            b.record()
            torch.cuda.synchronize()
            out[name + "_ms"] = round(a.elapsed_time(b) / 20, 3)
        except Exception as e:
            out[name + "_error"] = repr(e)[:300]
    print(json.dumps(out), flush=True)


def check():
    """The kernels against the plain recurrence and convolution, forward and backward."""
    import torch
    import model
    torch.manual_seed(0)
    cu = torch.tensor([0, 1, 66, 300], device="cuda")
    unit = lambda x: x / x.norm(dim=-1, keepdim=True)
    ins = [unit(torch.randn(300, 2, 128)), unit(torch.randn(300, 2, 128)), torch.randn(300, 2, 128), -torch.rand(300, 2, 128) * 3,
           torch.rand(300, 2, 128), torch.rand(300, 2, 128)]
    ins = [x.cuda() if i == 3 else x.cuda().bfloat16() for i, x in enumerate(ins)]
    s0 = torch.randn(3, 2, 128, 128, device="cuda") * 0.3
    far = lambda x, y: ((x.float() - y.float()).norm() / y.float().norm()).item()
    d = torch.randn(300, 2, 128, device="cuda")
    for model.safe_decay in (False, True):
        a, b = ([x.clone().requires_grad_() for x in ins] for _ in range(2))
        o, s = model.mix(*a, cu, s0)
        plain = [model.chunked(*(x[cu[r]:cu[r + 1]].float() for x in b), s0[r]) for r in range(3)]
        o.float().backward(d)
        torch.cat([x for x, _ in plain]).backward(d)
        print("kernel against plain%s: out %.4f, states %.4f, gradients q k v g b w %s" % (
            " (bounded decay)" if model.safe_decay else "", far(o, torch.cat([x for x, _ in plain])), far(s, torch.stack([x for _, x in plain])),
            " ".join("%.4f" % far(x.grad, y.grad) for x, y in zip(a, b))))
    x, taps, before = torch.randn(300, 64, device="cuda"), torch.randn(64, 4, device="cuda"), torch.randn(3, 3, 64, device="cuda")
    pos = torch.cat([torch.arange(n) for n in (cu[1:] - cu[:-1]).tolist()]).cuda()
    pieces = model.Pieces()
    pieces.fla_conv = model.fla_convolution()
    row = model.row_of(pos, cu)
    print("convolution against plain: %.5f" % far(pieces.conv(x, pos, taps, before, row, cu), model.short_conv(x, pos, taps, before, row)))


if __name__ == "__main__":
    import json
    if sys.argv[1] == "check":
        check()
        sys.exit()
    if sys.argv[1] == "time":
        with open(sys.argv[3]) as f:
            time_layer(int(sys.argv[2]), json.load(f))
        sys.exit()
    with open(sys.argv[3]) as f:
        compile_share(int(sys.argv[1]), int(sys.argv[2]), json.load(f))
