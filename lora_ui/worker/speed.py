"""How fast a run would be if this machine did nothing but multiply: what its speed is measured against."""

from __future__ import annotations

import time
from typing import Any

import torch

from lora_ui import fit, memory
from lora_ui.home import Home, read_json, write_json
from lora_ui.models import BaseModel


def full(home: Home, name: str, decided: dict[str, Any], base: BaseModel, trainable: int, lengths: list[int]) -> float | None:
    """Tokens per second at the fastest matrix product ever seen on this machine in this number format; None for an unknown family.
    `lengths`: tokens of each row."""
    context = sum(n * n for n in lengths) / max(1, sum(lengths)) / 2
    every = memory.EVERY[decided[memory.CHECKPOINTING]]
    flops = fit.step_flops(base, trainable, context, 1 / every if every else 0)
    return peak(home, name, decided["machine.device"], decided["machine.dtype"]) / flops if flops else None


def peak(home: Home, name: str, device: str, dtype: str) -> float:
    """Operations per second, the most of all measurements so far: other work makes one smaller, nothing makes one larger."""
    known = read_json(home.peaks) or {}
    key = f"{name}, {torch.get_num_threads()} threads, {dtype}" if device == "cpu" else f"{name}, {dtype}"
    found = max(known.get(key, 0.0), _measure(device, getattr(torch, dtype)))
    write_json(home.peaks, {**known, key: found})
    return found


def _measure(device: str, dtype: torch.dtype) -> float:
    size, times = (1024, 1) if device == "cpu" else (4096, 20)
    a = torch.rand(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(times):
            product = a @ a
        product[0, 0].item()  # waits for it
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 * times / best
