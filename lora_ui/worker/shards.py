"""Safetensors files written weight after weight, so that memory holds two weights at most.

The format: eight bytes say how long the head is, the head is JSON with each weight's number format, shape and place, and then
come the numbers. `safetensors` itself writes only what is in memory all at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from lora_ui.home import write_json
from lora_ui.worker.job import Job

MOST = 5_000_000_000
"""Bytes of a file, unless one weight alone is larger."""
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write(weights: dict[str, torch.Tensor], make: Callable[[str], torch.Tensor], folder: Path, job: Job) -> None:
    """`make(name)` for each of `weights`, which only say how large each will be, into `folder` as transformers lays a model out: one
    file, or several with an index. Raises Stopped, and what `make` raises."""
    parts = _parts(weights)
    total = sum(weight.nbytes for weight in weights.values())
    places: dict[str, str] = {}
    done = 0
    for number, names in enumerate(parts, 1):
        file = "model.safetensors" if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        places |= dict.fromkeys(names, file)
        with open(folder / file, "wb") as f, ThreadPoolExecutor(1) as beside:
            written = beside.submit(f.write, _head(weights, names))
            for name in names:  # one is made while the one before is written
                job.check()
                numbers = make(name).contiguous().flatten().view(torch.uint8).numpy()
                written.result()
                written = beside.submit(f.write, numbers)
                done += weights[name].nbytes
                job.progress(done, total, "bytes")
            written.result()
    if len(parts) > 1:
        numbers = sum(weight.numel() for weight in weights.values())
        about = {"total_parameters": numbers, "total_size": total}
        write_json(folder / "model.safetensors.index.json", {"metadata": about, "weight_map": dict(sorted(places.items()))})


def _parts(weights: dict[str, torch.Tensor]) -> list[list[str]]:
    """Names file by file; within a file formats of more bytes come first, so that every number lies where processors like it."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, weight in weights.items():
        if parts[-1] and size + weight.nbytes > MOST:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += weight.nbytes
    return [sorted(names, key=lambda name: -weights[name].element_size()) for names in parts]


def _head(weights: dict[str, torch.Tensor], names: list[str]) -> bytes:
    told: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        weight = weights[name]
        told[name] = {"dtype": DTYPES[weight.dtype], "shape": list(weight.shape), "data_offsets": [at, at + weight.nbytes]}
        at += weight.nbytes
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
