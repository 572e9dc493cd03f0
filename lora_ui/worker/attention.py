"""Attention of rows that lie end to end in one sequence, each for itself: nothing padded, and no mask as large as the square of
the sequence.

TRL's collator says where each row begins (`cu_seq_lens_q`). An NVIDIA GPU takes that as it is: FlashAttention
(Dao 2023, arXiv:2307.08691) through `torch.nn.attention.varlen`. A CPU goes through the rows one by one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from lora_ui.memory import VARLEN


def register() -> None:
    """Make `attn_implementation="varlen"` known to transformers."""
    AttentionInterface.register(VARLEN, _varlen)
    AttentionMaskInterface.register(VARLEN, no_mask)


def no_mask(*_: Any, **__: Any) -> None:
    return None


def _varlen(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    *,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query (1, heads, tokens, size), key and value (1, key heads, tokens, size), `cu_seq_lens_q` (rows + 1), without which it is one row;
    gives (1, tokens, heads, size). A row sees itself up to each token, and of that the last `sliding_window` tokens."""
    if query.shape[0] != 1:
        raise ValueError(f"{query.shape[0]} rows beside each other: here they lie end to end")
    if cu_seq_lens_q is None or max_length_q is None:
        max_length_q = query.shape[2]
        cu_seq_lens_q = torch.tensor([0, max_length_q], dtype=torch.int32, device=query.device)
    if query.is_cuda:
        dtype = torch.get_autocast_dtype("cuda") if query.dtype == torch.float32 else query.dtype
        q, k, v = (one[0].transpose(0, 1).to(dtype) for one in (query, key, value))
        window = (sliding_window - 1 if sliding_window else -1, 0)
        known = {"scale": scaling, "window_size": window, "enable_gqa": True}
        return varlen_attn(q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, **known)[None], None
    lengths = [end - start for start, end in pairwise(cu_seq_lens_q.tolist())]
    rows = zip(*(one.split(lengths, dim=2) for one in (query, key, value)), strict=True)
    return torch.cat([_row(q, k, v, scaling, sliding_window) for q, k, v in rows], dim=2).transpose(1, 2).contiguous(), None


def _row(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int | None) -> torch.Tensor:
    length = query.shape[2]
    mask = None
    if window and length > window:
        mask = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - window)
    q, k = query.to(value.dtype), key.to(value.dtype)
    with torch.autocast("cpu", enabled=False):
        return scaled_dot_product_attention(q, k, value, mask, is_causal=mask is None, scale=scaling, enable_gqa=True)
