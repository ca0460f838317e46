"""The model against float64 golden vectors: python3 test_model.py GOLDEN_DIR [PILOT_READER_DIR]"""
import glob
import os
import sys

import torch

import checkpoint
from model import Config, Reader, chunked, head_loss, recurrence


def error(a, b):
    return (a - b).norm().item() / max(b.norm().item(), 1e-30)


def test_ops(golden):
    files = sorted(glob.glob(os.path.join(golden, "op_*.safetensors")))
    assert files, "no op_*.safetensors in " + golden
    for path in files:
        t, _ = checkpoint.read_file(path)
        t = {k: v.double() for k, v in t.items()}
        for f in (recurrence, chunked):
            o, s = f(*(t[x] for x in ("q", "k", "v", "g", "b", "w", "s0")))
            assert error(o, t["o"]) < 1e-6 and error(s, t["s"]) < 1e-6, (path, f.__name__, error(o, t["o"]), error(s, t["s"]))
        print("ok", os.path.basename(path))


def test_model(golden, pilot):
    reader = Reader(Config.load(os.path.join(pilot, "config.json"))).double()
    reader.load_state_dict({k: v.double() for k, v in checkpoint.dequantize(checkpoint.load(pilot)).items()})
    for path in sorted(glob.glob(os.path.join(golden, "model_*.safetensors"))):
        t, _ = checkpoint.read_file(path)
        for cuts in ([len(t["ids"])], [1, 2, 30], [17, 3]):     # however it is cut, the same
            state, at, logits = reader.empty_state(), 0, []
            for n in cuts + [len(t["ids"]) - sum(cuts)]:
                if n:
                    logits.append(reader.read(t["ids"][at:at + n], state))
                    at += n
            logits = torch.cat(logits)
            states = torch.cat(state.s)
            errors = error(logits[-1], t["logits_last"].double()), error(states, t["states"].double())
            assert max(errors) < 1e-5, (path, cuts, errors)
        print("ok", os.path.basename(path), errors)


def test_loss():
    torch.manual_seed(0)
    h, e = torch.randn(37, 16, dtype=torch.double, requires_grad=True), torch.randn(50, 16, dtype=torch.double, requires_grad=True)
    target, weight = torch.randint(50, (37,)), torch.rand(37).double()
    loss, _ = head_loss(h, e, target, weight, rows=10)
    loss.backward()
    got = h.grad.clone(), e.grad.clone()
    h.grad = e.grad = None
    plain = (torch.nn.functional.cross_entropy(h @ e.T, target, reduction="none") * weight).sum() / weight.sum()
    plain.backward()
    assert error(loss, plain) < 1e-9 and error(got[0], h.grad) < 1e-9 and error(got[1], e.grad) < 1e-9
    print("ok head_loss")


def test_packing():
    """Packed rows give what each row gives alone."""
    torch.manual_seed(0)
    c = Config(hidden_size=32, num_hidden_layers=2, num_heads=2, head_dim=16, intermediate_size=48, vocab_size=64)
    reader = Reader(c).double()
    rows = [torch.randint(64, (n,)) for n in (1, 65, 3, 130)]
    cu = torch.tensor([0] + [len(r) for r in rows]).cumsum(0)
    pos = torch.cat([torch.arange(len(r)) for r in rows])
    packed = reader.hidden(torch.cat(rows), pos, cu)
    alone = torch.cat([reader.hidden(r, torch.arange(len(r)), torch.tensor([0, len(r)])) for r in rows])
    assert error(packed, alone) < 1e-12
    print("ok packing")

    # cut in two at odd places, rows of the second half going on from what those of the first left
    cuts, state = (1, 2, 3, 67), reader.empty_state(4)
    for part in ([r[:n] for r, n in zip(rows, cuts)], [r[n:] for r, n in zip(rows, cuts)]):
        cu = torch.tensor([0] + [len(r) for r in part]).cumsum(0)
        got = reader.hidden(torch.cat(part), torch.cat([torch.arange(len(r)) for r in part]), cu, state=state)
    whole = torch.cat([a[n:] for a, n in zip(alone.split([len(r) for r in rows]), cuts)])
    assert error(got, whole) < 1e-12, error(got, whole)
    print("ok carried states")


if __name__ == "__main__":
    test_loss()
    test_packing()
    if len(sys.argv) > 1:
        test_ops(sys.argv[1])
    if len(sys.argv) > 2:
        test_model(sys.argv[1], sys.argv[2])
