"""Weights on disk: a small reader and writer of safetensors (numpy and torch only), in one file or in shards.

Types kept: F32, F16, BF16, I8. A shard is at most 50 MB; more than one come with model.safetensors.index.json.
"""
import glob
import json
import os
import struct

import numpy as np
import torch

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I8": torch.int8, "I32": torch.int32, "I64": torch.int64}
NAMES = {t: n for n, t in TYPES.items()}
SHARD_BYTES = 50_000_000


def read_file(path):
    """-> {name: tensor}, metadata"""
    with open(path, "rb") as f:
        n, = struct.unpack("<Q", f.read(8))
        head = json.loads(f.read(n))
        body = bytearray(f.read())
    meta = head.pop("__metadata__", {})
    out = {}
    for name, h in head.items():
        a, b = h["data_offsets"]
        dtype = TYPES[h["dtype"]]
        out[name] = torch.frombuffer(body, dtype=dtype, count=(b - a) // torch.empty(0, dtype=dtype).element_size(), offset=a).reshape(h["shape"]) if b > a else torch.empty(h["shape"], dtype=dtype)
    return out, meta


def raw(t):
    t = t.detach().contiguous().cpu()
    return (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tobytes()


def write_file(path, tensors, meta=None):
    head, at, blobs = {"__metadata__": {"format": "pt", **(meta or {})}}, 0, []
    for name in sorted(tensors, key=lambda n: (-tensors[n].element_size(), n)):     # widest first keeps all aligned
        blob = raw(tensors[name])
        head[name] = {"dtype": NAMES[tensors[name].dtype], "shape": list(tensors[name].shape), "data_offsets": [at, at + len(blob)]}
        at += len(blob)
        blobs.append(blob)
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".part", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for blob in blobs:
            f.write(blob)
    os.replace(path + ".part", path)


def load(folder):
    """All tensors of a folder: model.safetensors, or the shards beside it."""
    out = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
        out.update(read_file(path)[0])
    return out


def save(folder, tensors, shard_bytes=SHARD_BYTES):
    os.makedirs(folder, exist_ok=True)
    for old in glob.glob(os.path.join(folder, "*.safetensors*")):
        os.remove(old)
    shards, size = [{}], 0
    for name in sorted(tensors):
        n = tensors[name].numel() * tensors[name].element_size()
        if size + n > shard_bytes and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensors[name]
        size += n
    if len(shards) == 1:
        return write_file(os.path.join(folder, "model.safetensors"), shards[0])
    index = {"metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())}, "weight_map": {}}
    for i, shard in enumerate(shards):
        file = "model-%05d-of-%05d.safetensors" % (i + 1, len(shards))
        write_file(os.path.join(folder, file), shard)
        index["weight_map"].update({name: file for name in shard})
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump(index, f, indent=1)


def to_bf16(state_dict):
    """Matrices in bf16, vectors and convolutions in f32: what training keeps."""
    return {k: v.to(torch.bfloat16) if v.ndim == 2 else v.float() for k, v in state_dict.items()}


def quantize(tensors):
    """Each matrix X [N, K] as int8 with an f32 scale per row in X_scale [N]; vectors in f32."""
    out = {}
    for name, t in tensors.items():
        t = t.float()
        if t.ndim == 2:
            scale = t.abs().amax(1).clamp(min=1e-12) / 127
            out[name] = torch.round(t / scale[:, None]).clamp(-127, 127).to(torch.int8)
            out[name + "_scale"] = scale
        else:
            out[name] = t
    return out


def dequantize(tensors):
    out = {}
    for name, t in tensors.items():
        if name.endswith("_scale"):
            continue
        out[name] = t.float() * tensors[name + "_scale"][:, None] if t.dtype == torch.int8 else t.float()
    return out
