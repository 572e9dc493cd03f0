"""The loss of a step on a processor: what TRL's fused head gives, with a third of its work.

TRL multiplies with the vocabulary three times (the last in float32) and passes over the result about thirty times, which on a GPU
its kernels do in one. Here the gradient is made together with the loss, in pieces that stay in the cache, and only for tokens that
are learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import trl.trainer.utils as fused
from trl.kernels import ChunkedLogProbFunction

from lora_ui.memory import LOGITS

IN_CACHE = 2**18
"""Logits that one core works on together."""


@contextmanager
def here(device: str) -> Iterator[None]:
    """On a cpu, TRL's fused head is this one for as long as it lasts."""
    theirs = fused._ChunkedLogProbFunction, fused._use_triton
    if device == "cpu":  # the second is asked there only whether tokens that are not learned are left out
        fused._ChunkedLogProbFunction, fused._use_triton = Head, lambda device: True
    try:
        yield
    finally:
        fused._ChunkedLogProbFunction, fused._use_triton = theirs


class Head:
    """Called as TRL's function is; a head that learns itself is TRL's matter."""

    @staticmethod
    def apply(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *more: Any) -> Any:
        learns = weight.requires_grad or (bias is not None and bias.requires_grad)
        return (ChunkedLogProbFunction if learns else LogProbs).apply(hidden, weight, bias, *more)


class LogProbs(torch.autograd.Function):
    """(log-probability of each target, entropy, None, None, whether the target is the likeliest), of which the first has a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        chunk_size: int,
        softcap: float | None = None,
        scale: float = 1.0,
        outputs: tuple[str, ...] = (),
    ) -> Any:
        count, words = hidden.shape[0], weight.shape[0]
        number = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
        weight, learning = weight.to(number), ctx.needs_input_grad[0]
        together, piece = max(1, LOGITS // words), max(1, torch.get_num_threads() * IN_CACHE // words)
        found = torch.empty(2, count)
        likeliest = torch.empty(count, dtype=torch.bool)
        slope = torch.empty_like(hidden, dtype=number) if learning else None
        for start in range(0, count, together):
            part = slice(start, min(start + together, count))
            tile = torch.nn.functional.linear(hidden[part].to(number), weight, None if bias is None else bias.to(number))
            for at in range(0, tile.shape[0], piece):
                rows = slice(start + at, min(start + at + piece, part.stop))
                found[:, rows], likeliest[rows] = _fold(tile[at : at + piece], targets[rows], temperature, softcap, scale, learning)
            if slope is not None:
                torch.mm(tile, weight, out=slope[part])
            del tile  # before the next one is made
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(found[1], likeliest)
        return found[0], found[1], None, None, likeliest

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> Any:
        (slope,) = ctx.saved_tensors
        return (slope * grad.unsqueeze(-1)).to(slope.dtype), *[None] * 8


def _fold(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float, softcap: float | None, scale: float, learning: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities and entropies, whether the target is the likeliest) of these rows; `learning` puts the gradient of the
    log-probabilities in the place of the logits."""
    z, targets = logits.float(), targets.unsqueeze(-1)
    if scale != 1:
        z = z * scale
    bent = torch.tanh(z / softcap) if softcap else None
    if bent is not None:
        z = softcap * bent
    if temperature != 1:
        z = z / temperature
    top, at = z.max(-1, keepdim=True)
    e = torch.exp(z - top)
    total = e.sum(-1, keepdim=True)
    log_z = top + total.log()
    log_p = z.gather(-1, targets) - log_z
    entropy = log_z - (e * z).sum(-1, keepdim=True) / total
    if learning:
        e.mul_(-1 / total).scatter_(-1, targets, -torch.expm1(log_p))
        if bent is not None:
            e *= 1 - bent * bent
        if scale / temperature != 1:
            e *= scale / temperature
        logits.copy_(e)
    return torch.cat([log_p, entropy], -1).t(), (at == targets).squeeze(-1)
