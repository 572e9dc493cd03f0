"""`python -m lora_ui.worker.dryrun`: the judge of lora_ui/memory.py, and what the page calls "check exactly".

Two real training steps over tensors that have shapes and no numbers (FakeTensorMode), with every live byte counted. Needs no
weights and no GPU. On a GPU the loss is worked out in place by Triton; here its three functions are left out instead, which
allocates the same. Asked on standard input: JSON with `config`, `settings`, `step`; answers on standard output with one JSON
object per line: `{"done", "total"}` as it goes, last `{"result"}`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from peft.tuners.adalora import AdaLoraModel
from peft.tuners.lycoris_utils import LycorisLayer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from trl.kernels import chunked_logprob
from trl.trainer import utils as fused

from lora_ui import memory, settings
from lora_ui.memory import Step
from lora_ui.settings import Settings
from lora_ui.worker import attention, head, load, methods

STAGES = 5


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


class Packed(nn.Module):
    """Memory of a bitsandbytes weight: packed numbers, and the whole weight in bf16 for a moment whenever it is used."""

    def __init__(self, weight: nn.Parameter, each: float):
        super().__init__()
        self.shape = tuple(weight.shape)
        self.packed = nn.Parameter(torch.empty(int(weight.numel() * each), dtype=torch.uint8, device="meta"), requires_grad=False)

    def forward(self, x: Any) -> Any:
        return _Squeezed.apply(x, self.packed, self.shape)


class Frugal(torch.optim.Optimizer):
    """An optimizer whose memory is smaller than Adam's: `each` bytes for every number that learns, from its first step on."""

    def __init__(self, parameters: list[nn.Parameter], each: float):
        super().__init__(parameters, {})
        self.each = each

    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            if p not in self.state:
                self.state[p]["kept"] = torch.zeros(round(self.each * p.numel()), dtype=torch.uint8)


def measure(config: dict[str, Any], chosen: Settings, step: Step, tell: Callable[[int], None] = lambda done: None) -> dict[str, int]:
    """Bytes of `weights`, `adapter`, `gradients` and `optimizer`, and the `peak` of two steps as `worker/train.py` would make them,
    libraries and CUDA itself aside. `tell` hears how many of `STAGES` are done."""
    dtype = getattr(torch, step.dtype)
    model = _model(config, chosen, dtype, step)
    mixed = dtype != torch.float32
    adapters = dtype if memory.narrow(chosen) and mixed else torch.float32
    names = ("_forward_tile", "_backward_tile", "_addmm_fp32") if step.device == "cuda" else ()
    ends = torch.arange(0, step.tokens + 1, step.length, dtype=torch.int32)
    known = {"cu_seq_lens_q": ends, "max_length_q": step.length} if step.attention == memory.VARLEN else {}
    with FakeTensorMode(allow_non_fake_inputs=True), contextlib.ExitStack() as stack:
        if step.device == "cpu":
            stack.enter_context(mock.patch.object(fused, "_ChunkedLogProbFunction", head.Head))
        for name in names:
            stack.enter_context(mock.patch.object(chunked_logprob, name, lambda *a, **k: None))
        _fill(model, adapters)
        if step.checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=step.checkpointing)
            model.enable_input_require_grads()
        fused.add_fused_lm_head(model.get_base_model(), outputs=("log_probs", "entropy", "is_top1"))
        model.train()
        for module in model.modules():
            if isinstance(module, LycorisLayer):
                module.training = False  # it would draw a number to see whether it is dropped, which is never
        learning = [p for p in model.parameters() if p.requires_grad]
        optimizer = _optimizer(learning, memory.optimizer(chosen))
        live = Live()
        for tensor in (*model.parameters(), *model.buffers()):
            live.add(tensor)
        adapter = sum(p.nbytes for name, p in model.named_parameters() if p.requires_grad or "lora_A" in name)
        weights, gradients = live.now - adapter, 0
        shape = (1, step.tokens) if step.packed or step.attention == memory.VARLEN else (step.rows, step.length)
        ids = torch.zeros(shape, dtype=torch.long)
        tell(1)
        with live:
            for turn in (0, 1):
                with torch.autocast("cpu", dtype=dtype if mixed else torch.bfloat16, enabled=mixed):
                    loss = model(input_ids=ids, labels=ids, fused_lm_head=True, use_cache=False, **known).loss
                tell(2 + 2 * turn)
                loss.backward()
                gradients = sum(p.grad.nbytes for p in learning if p.grad is not None)
                optimizer.step()
                if isinstance(model.base_model, AdaLoraModel):
                    model.base_model.rankallocator.update_ipt(model.base_model.model)
                optimizer.zero_grad()
                del loss
                tell(3 + 2 * turn)
        states = sum(one.nbytes for state in optimizer.state.values() for one in state.values())
    return {"weights": weights, "adapter": adapter, "gradients": gradients, "optimizer": states, "peak": live.peak}


def _model(config: dict[str, Any], chosen: Settings, dtype: torch.dtype, step: Step) -> Any:
    """The model with its adapter, without memory of its own."""
    attention.register()
    if step.device == "cuda":  # FlashAttention keeps what PyTorch's own keeps for one row
        AttentionInterface.register(memory.VARLEN, sdpa_attention_forward)
    with torch.device("meta"):
        torch.set_default_dtype(dtype)
        try:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation=step.attention)
        finally:
            torch.set_default_dtype(torch.float32)
        model = methods.wrap(model, chosen.adapter, 10)
    load.spare_casts(model)
    if memory.quantised(chosen):
        head = model.get_output_embeddings()
        for module in [*model.modules()]:
            for name, inner in module.named_children():
                if isinstance(inner, nn.Linear) and inner is not head and not _of_adapter(module):
                    setattr(module, name, Packed(inner.weight, memory.each_number(chosen)))
    return model


def _of_adapter(module: nn.Module) -> bool:
    """PEFT keeps the weights of adapters in dictionaries of modules."""
    return isinstance(module, nn.ModuleDict)


def _optimizer(learning: list[nn.Parameter], name: str) -> torch.optim.Optimizer:
    each = memory.state_bytes(name, learning[0].element_size())
    return torch.optim.AdamW(learning, foreach=False) if each == 2 * learning[0].element_size() else Frugal(learning, each)


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


def main() -> None:
    asked = json.loads(sys.stdin.read())

    def say(**told: Any) -> None:
        print(json.dumps(told), flush=True)

    step = Step(**asked["step"])
    say(done=0, total=STAGES)
    say(result=measure(asked["config"], settings.parse(asked["settings"]), step, lambda done: say(done=done, total=STAGES)))


if __name__ == "__main__":
    main()
