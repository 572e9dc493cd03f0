"""The judge of lora_ui/memory.py: two real training steps over tensors that have shapes and no numbers (FakeTensorMode), with
every live byte counted. Needs no weights and no GPU. On a GPU the loss is worked out in place by Triton; here its three
functions are left out instead, which allocates the same."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM
from trl.kernels import chunked_logprob
from trl.trainer.utils import add_fused_lm_head

from lora_ui.settings import Settings


class Live(TorchDispatchMode):
    """Bytes of all storages made or shown to it that still live, and the most there were; rounded as CUDA's allocator does."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def add(self, tensor: Any) -> None:
        if not isinstance(tensor, torch.Tensor) or (storage := tensor.untyped_storage()) in self._known:
            return
        size = -(-storage.nbytes() // 512) * 512
        self._known[storage] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            self.add(leaf)
        return out


class _Squeezed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, packed: Any, shape: tuple[int, int]) -> Any:
        ctx.packed, ctx.shape = packed, shape
        return x.to(torch.bfloat16) @ torch.empty(shape, dtype=torch.bfloat16).t()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad @ torch.empty(ctx.shape, dtype=torch.bfloat16), None, None


class FourBit(nn.Module):
    """Memory of a bitsandbytes 4-bit weight: packed numbers, and the whole weight in bf16 for a moment whenever it is used."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.shape = (linear.out_features, linear.in_features)
        self.packed = nn.Parameter(torch.empty(int(linear.weight.numel() * 0.516), dtype=torch.uint8, device="meta"), requires_grad=False)

    def forward(self, x: Any) -> Any:
        return _Squeezed.apply(x, self.packed, self.shape)


def peak_bytes(config: dict[str, Any], chosen: Settings, rows: int, length: int, checkpointing: bool, dtype: torch.dtype) -> int:
    """Most bytes of two steps over `rows` × `length` tokens as `worker/train.py` would make them, libraries and CUDA itself aside."""
    with torch.device("meta"):
        torch.set_default_dtype(dtype)
        try:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="sdpa")
        finally:
            torch.set_default_dtype(torch.float32)
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **chosen.adapter.model_dump()))
    if chosen.model.load_in_4bit:
        for module in model.modules():
            if hasattr(module, "base_layer"):
                module.base_layer = FourBit(module.base_layer)
    mixed = dtype != torch.float32
    adapters = dtype if chosen.model.load_in_4bit else torch.float32
    left_out = (
        [mock.patch.object(chunked_logprob, name, lambda *a, **k: None) for name in ("_forward_tile", "_backward_tile", "_addmm_fp32")]
        if mixed
        else []
    )
    with FakeTensorMode(allow_non_fake_inputs=True), contextlib.ExitStack() as stack:
        for patch in left_out:
            stack.enter_context(patch)
        _fill(model, adapters)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        add_fused_lm_head(model.get_base_model(), outputs=("log_probs", "entropy", "is_top1"))
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], foreach=False)
        live = Live()
        for tensor in (*model.parameters(), *model.buffers()):
            live.add(tensor)
        ids = torch.zeros(rows, length, dtype=torch.long)
        with live:
            for _ in range(2):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
                    loss = model(input_ids=ids, labels=ids, fused_lm_head=True, use_cache=False).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                del loss
    return live.peak


def _fill(model: nn.Module, adapters: torch.dtype) -> None:
    """Fake tensors for meta ones; tied weights stay one."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, p in list(module._parameters.items()):
            if p is not None:
                dtype = adapters if p.requires_grad else p.dtype
                made.setdefault(id(p), nn.Parameter(torch.zeros(p.shape, dtype=dtype), requires_grad=p.requires_grad))
                module._parameters[name] = made[id(p)]
        for name, b in list(module._buffers.items()):
            if b is not None:
                module._buffers[name] = torch.ones(b.shape, dtype=b.dtype)
