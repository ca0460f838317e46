"""Trains the reader on the stores prepare.py made.

  python3 train.py --data DATA --tokenizer tokenizer.json --config config.json --out RUN --seconds 1400
                   [--init MODEL_DIR] [--mixture mixture.json] [--dev DEV_DATA] [--plain]

Starts from scratch or from weights (--init); warms up, holds, then decays the learning rate over the last part of the
budget (--seconds, or --tokens). Matrices of the blocks learn by Muon, the rest by AdamW. Writes RUN/log.csv and, every
--save-every seconds and at the end, RUN/model.safetensors (bf16) with config.json; RUN/mean holds the mean of the last weights. On CUDA with flash-linear-attention
the recurrence runs in its kernel and everything around it in torch.compile (--plain: eager); elsewhere all is plain
PyTorch >= 1.13. New stores in DATA and changes of the mixture file are picked up while training goes on.
"""
import argparse
import csv
import glob
import json
import math
import multiprocessing
import os
import time

import numpy as np
import torch

import checkpoint
import model
from model import PLAIN, Config, Pieces, Reader, State, fla_kernel, head_loss
from prepare import ANSWER, END, PAD, tokenizer_of
from rows import CLOZE, ENDS, INSIDE, KINDS, NOWHERE, OFF, RECALL, SPAN, STARTS, TEXT, Row, Rows, Store, packed


# ---- Muon: matrices of one shape are orthogonalised together ----

def orthogonal(m):
    """Newton-Schulz towards the nearest semi-orthogonal matrix, for a stack [n, r, c] (quintic of K. Jordan)."""
    flip = m.shape[1] > m.shape[2]
    x = m.transpose(1, 2) if flip else m
    x = x.to(torch.bfloat16 if x.is_cuda else torch.float32)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.transpose(1, 2) if flip else x


class Muon:
    def __init__(self, params, momentum=0.95, decay=0.1):
        self.momentum, self.decay, self.groups = momentum, decay, {}
        for p in params:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.average = {}

    @torch.no_grad()
    def step(self, lr):
        for shape, params in self.groups.items():
            g = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in params])     # a tied form leaves some idle
            m = self.average.setdefault(shape, torch.zeros_like(g))
            m.lerp_(g, 1 - self.momentum)
            u = orthogonal(torch.lerp(g, m, self.momentum)).to(g.dtype)
            scale = 0.2 * max(shape) ** 0.5          # the size of an AdamW step
            torch._foreach_mul_(params, 1 - lr * self.decay)
            torch._foreach_add_(params, list(u.unbind(0)), alpha=-lr * scale)


def optimizers(reader, args):
    muon = [p for n, p in reader.named_parameters() if p.ndim == 2 and "embeddings" not in n]
    rest = [p for n, p in reader.named_parameters() if p.ndim != 2 or "embeddings" in n]
    fused = {"fused": True} if reader.embedding.is_cuda else {}
    return Muon(muon, decay=args.decay), torch.optim.AdamW(rest, lr=args.lr, betas=(0.9, 0.97), eps=1e-10, weight_decay=0.0, **fused)


def schedule(progress, seconds_in, args):
    """Warm up, hold, decay to a fiftieth."""
    up = min(1.0, (seconds_in + 0.01) / max(args.warmup, 1e-9)) if args.warmup else 1.0
    hold = 1 - args.decay_share
    down = 1.0 if progress < hold else max(0.02, (1 - progress) / args.decay_share)
    return up * down


# ---- batches come from processes of their own ----

def produce(seed, args, progress, queue):
    torch.set_num_threads(1)
    if args.replay:
        for path in sorted(glob.glob(os.path.join(args.replay, "*.npz"))):
            with np.load(path) as batch:
                queue.put([batch[k] for k in batch.files])
        raise SystemExit("%s holds no more batches: the budget is larger" % args.replay)
    rows = Rows(args.data, args.mixture, tokenizer_of(args.tokenizer), seed)
    while True:
        queue.put(rows.batch(args.batch_tokens, progress.value))


def to_device(batch, device):
    """A batch of `rows.packed` as tensors, and the places inside marked passages [P]."""
    out = []
    for a in (*batch, np.flatnonzero(batch[4] & INSIDE)):
        t = torch.from_numpy(np.ascontiguousarray(a))
        out.append(t.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else t)
    return out


class Feed:
    """Batches on the device. On CUDA each is made ready on a stream of its own while the one before is being trained on: the
    kernels' tables of tiles need numbers on the host, and on the main stream the wait for them would empty it. The stream goes
    first (priority -1), so that the host does not wait for a free place among the step's kernels."""

    def __init__(self, queue, device):
        self.queue, self.device = queue, device
        self.side = torch.cuda.Stream(priority=-1) if device.type == "cuda" else None

    def next(self):
        batch = self.queue.get()
        if self.side is None:
            return to_device(batch, self.device)
        main = torch.cuda.current_stream()
        with torch.cuda.stream(self.side):
            batch = to_device(batch, self.device)
            tiles = model.tiles_of(batch[3])            # kept by fla by the identity of cu
        main.wait_stream(self.side)
        for t in batch + tiles:
            t.record_stream(main)
        return batch


def phase_of(mixture, progress, device):
    """-> what each kind of token weighs [KINDS]; the phase, with its share of dropout as a tensor"""
    phase = next((p for p in mixture["phases"] if progress < p["until"]), mixture["phases"][-1])
    w = {**mixture["weights"], **phase.get("weights", {})}
    table = torch.tensor([w.get(k, 0.0) for k in KINDS], device=device)
    return table, {"carry": 0.0, "point": 0.0, **phase, "drop": torch.tensor(phase.get("drop", 0.0), device=device)}


def pointing(reader, h, cu, marks, inside):
    """Mean cross-entropy of pointing, over the rows that have marks: of all places inside, those where the answer starts
    (the row of the embedding of <|pad|>, which means nothing else) and those where it ends (that of <|end|>)."""
    if inside.numel() == 0:
        return h.sum() * 0
    row = torch.searchsorted(cu, inside, right=True) - 1
    logits = h[inside].float() @ reader.embedding[[PAD, END]].float().T                    # [P, 2]
    wanted = torch.stack([(marks[inside] & bit) != 0 for bit in (STARTS, ENDS)], 1)
    rows = cu.shape[0] - 1
    high = torch.full((rows, 2), -1e30, device=h.device).scatter_reduce(0, row[:, None].expand(-1, 2), logits.detach(), "amax")
    e = torch.exp(logits - high[row])
    both = [torch.zeros(rows, 2, device=h.device).index_add(0, row, x) for x in (e, e * wanted)]
    there = both[0][:, :1] > 0
    nats = torch.log(both[0].clamp(min=1e-9)) - torch.log(both[1] + 1e-9)
    return torch.where(there, nats, torch.zeros_like(nats)).sum() / (2 * there.sum())


def loss_of(reader, batch, table, dtype, fns, rows=8192, state=None, drop=None, point=0.0):
    """-> weighted loss; cross-entropy and kind of every target; cross-entropy of pointing (0 where `point`, its weight, is)"""
    ids, kinds, pos, cu, marks, inside = batch
    ids = ids.long()
    h = reader.hidden(ids, pos, cu, dtype=dtype, fns=fns, state=state, drop=drop)
    kind = torch.cat([kinds[1:], kinds[:1]]).long()      # a row's first token is of kind off, so no row predicts the next
    loss, ce = head_loss(h, reader.embedding, torch.cat([ids[1:], ids[:1]]), table[kind], fns, rows)
    pointed = pointing(reader, h, cu, marks, inside) if point else loss.new_zeros(())
    return loss + point * pointed, ce, kind, pointed.detach()


def carried(reader, state, rows, share, generator):
    """States for `rows` new rows: a share of them goes on from what some row of the last batch left, the others from nothing."""
    device = state.s[0].device
    chosen = torch.randint(state.s[0].shape[0], (rows,), generator=generator)
    kept = (torch.rand(rows, generator=generator) < share).to(device)
    chosen = chosen.to(device)
    return State(0, [s[chosen] * kept[:, None, None, None] for s in state.s], [c[chosen] * kept[:, None, None] for c in state.conv])


def dev_batches(folder, batch_tokens, most=400):
    """Fixed rows of one question each, in the forms of tier A and B."""
    s, out = Store(folder), {}
    for tier in "AB":
        rows, n = [], 0
        for k in range(0, len(s.q), max(1, len(s.q) // most)):
            c = s.of_question(k)
            if s.a[k][0] < 0 or s.made[k]:
                continue
            row = Row()
            for again in range(2 if tier == "B" else 1):
                row.sought(s.passage(c), OFF, s.answer(k, c)) if again else row.doc(s.passage(c), OFF)
                row.ask(s.question(k), OFF)
            row.add([ANSWER], OFF)
            row.add(s.answer(k, c), SPAN)
            if n + row.n > batch_tokens:
                break
            rows.append(row.arrays())
            n += row.n
        out[tier] = packed(rows)
    return out


@torch.no_grad()
def dev_loss(reader, batches, dtype, device):
    """Mean cross-entropy of answer tokens on questions never trained on."""
    out = {}
    for tier, batch in batches.items():
        batch = to_device(batch, device)
        table = torch.zeros(len(KINDS), device=device)
        table[SPAN] = 1
        loss, _, _, pointed = loss_of(reader, batch, table, dtype, PLAIN, point=1e-9 if tier == "B" else 0)
        out["dev_" + tier.lower()] = loss.item()
        if tier == "B":
            out["dev_pointing"] = pointed.item()
    return out


def pieces(reader, args, device, dtype):
    """Compiled pieces if they work here, else the plain ones."""
    if args.plain or device.type != "cuda" or not hasattr(torch, "compile"):
        return PLAIN
    try:
        torch._dynamo.config.specialize_float = True
        fns, n, rows = Pieces(compiled=True), args.batch_tokens, args.batch_tokens // 512
        marks = torch.full((n,), INSIDE | STARTS | ENDS, dtype=torch.uint8, device=device)
        batch = [torch.randint(6, reader.c.vocab_size, (n,), device=device), torch.ones(n, dtype=torch.uint8, device=device),
                 torch.arange(n, device=device, dtype=torch.int32) % 512, torch.arange(0, n + 1, 512, device=device), marks,
                 torch.arange(n, device=device)]
        table, still = torch.ones(len(KINDS), device=device), torch.tensor(0.0, device=device)
        for _ in range(2):
            loss = loss_of(reader, batch, table, dtype, fns, state=reader.empty_state(rows), drop=still, point=1.0)[0]
            loss.backward()
        if not math.isfinite(loss.item()):
            raise ArithmeticError("the compiled loss is %r" % loss.item())
        with torch.no_grad():
            plain = loss_of(reader, batch, table, dtype, PLAIN, point=1.0)[0].item()
        print("compiled loss %.4f, plain %.4f" % (loss.item(), plain), flush=True)
        if abs(plain - loss.item()) > 0.02:
            raise ArithmeticError("compiled and plain losses differ")
        return fns
    except Exception as e:
        print("torch.compile failed, going on in eager mode: %s: %s" % (type(e).__name__, str(e)[:2000]), flush=True)
        return PLAIN
    finally:
        reader.zero_grad(set_to_none=True)


def warm(args):
    """Compiles the pieces into the cache on disk, with a stand-in for the recurrence (kernels.py compiles that)."""
    device = torch.device("cuda")
    model.mix = lambda q, k, v, g, b, w, cu, s0=None: (q + k + v + g.to(q.dtype) + b + w, s0)
    pieces(Reader(Config.load(args.config)).to(device), args, device, torch.bfloat16)


def save(reader, folder, weights=None):
    checkpoint.save(folder, checkpoint.to_bf16(weights or reader.state_dict()), 1 << 40)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(reader.c.json(), f, indent=1)


class Mean:
    """The mean of the weights over the last part of a run, taken every 10 steps (arXiv 1803.05407)."""

    def __init__(self, reader, begins):
        self.reader, self.begins, self.n, self.weights = reader, begins, 0, None

    @torch.no_grad()
    def step(self, step, progress):
        if progress < self.begins or step % 10:
            return
        now = list(self.reader.state_dict().values())
        if self.weights is None:
            self.weights = [x.detach().float().clone() for x in now]
        else:
            torch._foreach_mul_(self.weights, self.n / (self.n + 1))
            torch._foreach_add_(self.weights, [x.float() for x in now], alpha=1 / (self.n + 1))
        self.n += 1

    def save(self, folder):
        if self.weights is None:        # a run of less than 10 steps
            self.step(0, 1)
        save(self.reader, folder, dict(zip(self.reader.state_dict(), self.weights)))


COLUMNS = ["step", "seconds", "tokens", "tokens_per_s", "lr", "loss", "text", "answer", "none", "cloze", "recall", "pointing", "dev_a", "dev_b", "dev_pointing"]


def train(args):
    os.makedirs(args.out, exist_ok=True)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else None
    context = multiprocessing.get_context("spawn")
    args.workers = 1 if args.replay else args.workers
    progress, queue = context.Value("d", 0.0), context.Queue(3 * args.workers)
    workers = [context.Process(target=produce, args=(args.seed * 1000 + i, args, progress, queue), daemon=True) for i in range(args.workers)]
    for w in workers:
        w.start()

    if device.type == "cuda":
        try:
            import kernels
            kernels.time_shortly()
        except ImportError as e:
            print("no Triton here: %s" % e, flush=True)
        model.safe_decay = args.safe_decay
        print("recurrence: %s" % ("fla's kernel" if fla_kernel() else "plain PyTorch"), "with decay bounded" if args.safe_decay else "", flush=True)
    reader = Reader(Config.load(args.config)).to(device)
    print("%.1fM parameters on %s" % (sum(p.numel() for p in reader.parameters()) / 1e6, device), flush=True)
    fns = pieces(reader, args, device, dtype)
    if args.init:
        reader.load_state_dict(checkpoint.dequantize(checkpoint.load(args.init)))
    muon, adam = optimizers(reader, args)
    dev = dev_batches(args.dev, args.batch_tokens) if args.dev else {}

    new = not os.path.exists(os.path.join(args.out, "log.csv"))
    log = open(os.path.join(args.out, "log.csv"), "a", newline="")
    out = csv.DictWriter(log, COLUMNS)
    if new:
        out.writeheader()
    step = tokens = 0
    feed = Feed(queue, device)
    batch = feed.next()
    sums, pointings, chance = torch.zeros(2, len(KINDS), device=device), torch.zeros(2, device=device), torch.Generator().manual_seed(args.seed)
    state, average = reader.empty_state(), Mean(reader, 1 - args.mean_share)
    start = last = saved = devved = time.time()
    seconds = args.deadline - start if args.deadline else args.seconds
    last_tokens, spent, table = 0, 0.0, None
    while True:
        spent = time.time() - start
        p = max(spent / seconds if seconds else 0, tokens / args.tokens if args.tokens else 0)
        if p >= 1:
            break
        progress.value = p
        if step % 20 == 0:
            with open(args.mixture) as f:
                mixture = json.load(f)
            table, phase = phase_of(mixture, p, device)
        factor = schedule(p, spent, args)
        state = carried(reader, state, len(batch[3]) - 1, phase["carry"], chance)
        loss, ce, kind, pointed = loss_of(reader, batch, table, dtype, fns, state=state, drop=phase["drop"], point=phase["point"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_([x for g in adam.param_groups for x in g["params"]], 1.0)
        muon.step(args.lr * factor)
        for g in adam.param_groups:
            g["lr"] = args.lr * factor
        adam.step()
        reader.zero_grad(set_to_none=True)
        sums[0].index_add_(0, kind, ce.float())
        sums[1].index_add_(0, kind, torch.ones_like(ce, dtype=torch.float32))
        pointings += torch.stack([pointed, torch.ones_like(pointed)])
        done, batch = batch, feed.next()
        step += 1
        tokens += len(kind)
        average.step(step, p)
        if args.profile and step == 30:
            profile(reader, done, table, dtype, fns, muon, state)
        if step % args.log_every == 0 or step == 10:
            mean = (sums[0] / sums[1].clamp(min=1)).tolist()
            now = time.time()
            row = {"step": step, "seconds": round(now - start, 1), "tokens": tokens, "tokens_per_s": round((tokens - last_tokens) / (now - last)),
                   "lr": "%.2e" % (args.lr * factor), "loss": round(loss.item(), 4), "text": round(mean[TEXT], 4), "answer": round(mean[SPAN], 4),
                   "none": round(mean[NOWHERE], 4), "cloze": round(mean[CLOZE], 4), "recall": round(mean[RECALL], 4),
                   "pointing": round((pointings[0] / pointings[1]).item(), 4)}
            if dev and now - devved > args.dev_every:
                row.update({k: round(v, 4) for k, v in dev_loss(reader, dev, dtype, device).items()})
                devved = time.time()
            if not math.isfinite(row["loss"]):
                raise ArithmeticError("the loss is %r at step %d" % (row["loss"], step))
            out.writerow(row)
            log.flush()
            print(json.dumps(row), "queue", queue.qsize(), flush=True)
            sums.zero_()
            pointings.zero_()
            last, last_tokens = time.time(), tokens
        if time.time() - saved > args.save_every:
            save(reader, args.out)
            saved = time.time()
    save(reader, args.out)
    average.save(os.path.join(args.out, "mean"))
    for w in workers:
        w.terminate()
    summary = {"steps": step, "tokens": tokens, "seconds": round(spent, 1), "tokens_per_s": round(tokens / max(spent, 1e-9)), **dev_loss(reader, dev, dtype, device)}
    print("done", json.dumps(summary), flush=True)
    with open(os.path.join(args.out, "done.json"), "w") as f:
        json.dump(summary, f)
    return reader


def profile(reader, batch, table, dtype, fns, muon, state):
    """Where a step's time goes, by kernel."""
    try:
        from torch.profiler import ProfilerActivity
        with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as p:
            drop = torch.tensor(0.0, device=table.device)
            loss_of(reader, batch, table, dtype, fns, state=State(0, list(state.s), list(state.conv)), drop=drop, point=1.0)[0].backward()
            muon.step(0.0)
            torch.cuda.synchronize()
        reader.zero_grad(set_to_none=True)
        kernels = sorted((e for e in p.key_averages() if e.self_device_time_total and str(e.device_type).endswith("CUDA")), key=lambda e: -e.self_device_time_total)
        print("profile: %.1f ms on the device" % (sum(e.self_device_time_total for e in kernels) / 1e3))
        for e in kernels[:45]:
            print("  %8.2f ms %5d x %s" % (e.self_device_time_total / 1e3, e.count, e.key[:110]))
    except Exception as e:
        print("no profile: %r" % e)


def arguments(argv=None):
    p = argparse.ArgumentParser()
    here = os.path.dirname(os.path.abspath(__file__))
    p.add_argument("--data", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--config", default=os.path.join(here, "reader-small.json"))
    p.add_argument("--mixture", default=os.path.join(here, "mixture.json"))
    p.add_argument("--init")
    p.add_argument("--dev", help="a qa_ store that is only measured on")
    p.add_argument("--seconds", type=float, default=0)
    p.add_argument("--deadline", type=float, default=0, help="instead of --seconds: stop at this Unix time")
    p.add_argument("--tokens", type=float, default=0)
    p.add_argument("--batch-tokens", type=int, default=98304)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--decay", type=float, default=0.1, help="weight decay of the matrices")
    p.add_argument("--warmup", type=float, default=30, help="seconds")
    p.add_argument("--decay-share", type=float, default=0.4, help="last part of the budget over which the rate falls")
    p.add_argument("--mean-share", type=float, default=0.3, help="last part of the budget over which the weights in OUT/mean are a mean")
    p.add_argument("--replay", help="a folder of batches that rows.py wrote, taken in their order")
    p.add_argument("--workers", type=int, default=max(1, min(8, (os.cpu_count() or 2) - 1)))
    p.add_argument("--log-every", type=int, default=50)
    p.add_argument("--save-every", type=float, default=120)
    p.add_argument("--dev-every", type=float, default=60)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--plain", action="store_true")
    p.add_argument("--safe-decay", action="store_true", help="bound the decay of a token by exp(-5), for fla's faster path")
    p.add_argument("--profile", action="store_true", help="print the kernels of one step")
    p.add_argument("--warm", action="store_true", help="only fill torch.compile's cache")
    a = p.parse_args(argv)
    if not (a.seconds or a.tokens or a.deadline or a.warm):
        p.error("say --seconds, --tokens or --deadline")
    return a


if __name__ == "__main__":
    a = arguments()
    warm(a) if a.warm else train(a)
