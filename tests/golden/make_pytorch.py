"""Makes pytorch/: nvidia_small's weights as PyTorch itself saves them, for the test that reads such files.

    python3 tests/golden/make_pytorch.py        (needs torch and numpy; run make_model.py first)

trainer.pth: as NVIDIA's trainer saves, `model` beside optimiser entries; plain.bin: the tensors at the top, one in bf16.
"""
import json
import struct
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
raw = (HERE / "nvidia_small/model.safetensors").read_bytes()
(length,) = struct.unpack("<Q", raw[:8])
header = json.loads(raw[8 : 8 + length])
header.pop("__metadata__")
tensors = {}
for name, entry in header.items():
    start, end = (8 + length + at for at in entry["data_offsets"])
    tensors[name] = torch.from_numpy(np.frombuffer(raw[start:end], np.float32).reshape(entry["shape"]).copy())

model = torch.nn.Linear(3, 2)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 3)).sum().backward()
optimizer.step()
out = HERE / "pytorch"
out.mkdir(exist_ok=True)
torch.save({"model": tensors, "optimizer": optimizer.state_dict(), "iter_num": 7, "step_count": 7}, out / "trainer.pth")
half = dict(tensors)
half["lm_head.weight"] = half["lm_head.weight"].bfloat16()
half["transformer.ln_f.weight"] = torch.nn.Parameter(half["transformer.ln_f.weight"])
torch.save(half, out / "plain.bin")
