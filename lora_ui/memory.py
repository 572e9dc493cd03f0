"""How much memory a run takes, from a model's config.json alone, and whether it fits.

A closed form of one training step as `worker/train.py` makes it: what PyTorch keeps for the gradients of each layer, counted
in numbers of a token, and what the loss and the backward pass hold for a moment. `worker/dryrun.py` holds it against real steps.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lora_ui import fit, learned
from lora_ui.errors import Say
from lora_ui.fit import Linear, Shape
from lora_ui.machine import GIB, Machine
from lora_ui.models import BaseModel
from lora_ui.presets import Decision
from lora_ui.settings import Settings

CUDA_CONTEXT = 600_000_000
"""CUDA itself with its libraries' kernels and workspaces, before the first tensor."""
LIBRARIES = 1_100_000_000
"""torch, transformers, trl and peft in a process without a GPU (measured: SmolLM2-135M, three runs, 0.9 to 1.2 GB)."""
TILE = (4096, 32_768)
"""Tokens × words of the vocabulary that TRL's loss works out together on a GPU."""
LOGITS = 2**25
"""As many of the two together on a CPU (worker/head.py)."""
VERDICTS = ("fits", "tight", "no")
CHECKPOINTING = "training.activation_checkpointing"
VARLEN = "varlen"
BY_ITSELF = {"llama", "mistral", "granite", "smollm3", "qwen2", "qwen3", "olmo2", "phi3", "gemma", "gemma3_text"}
"""Families whose rows are read each by itself; held against the padded calculation in tests/worker/test_attention.py."""
EVERY: dict[Any, int] = {False: 0, "half": 2, True: 1}
"""Which layers' things are worked out twice by each value of it, the fastest first: none, every second, every one."""
PRECISION = "model.load_in_4bit"
FOUR_BIT = 0.516
"""Bytes of a number in NF4 with doubly quantised constants."""


@dataclass(frozen=True)
class Rows:
    """The rows as far as they are counted: how many learn and test, tokens of the middle one, of the longest, of all that learn, and
    of each of them."""

    train: int
    held_out: int
    median: int | None = None
    longest: int | None = None
    tokens: int | None = None
    lengths: Sequence[int] | None = None

    @classmethod
    def of(cls, summary: dict[str, Any]) -> Rows:
        """As `prepare` counted them."""
        longest = max(summary["train_lengths"], default=None)
        known = summary["median_tokens"], longest, summary["train_tokens"], summary["train_lengths"]
        return cls(summary["train_rows"], summary["held_out_rows"], *known)

    def rough(self) -> Rows:
        """The same for questions that are asked many times over: packing is counted by tokens, not row by row."""
        return replace(self, lengths=None)


@dataclass(frozen=True)
class Place:
    """Where a run would be: `whole` bytes of memory, `free` of them now."""

    name: str
    device: str
    dtype: str
    whole: int
    free: int
    factor: float = 1.0
    """How many times what the form says runs have really used there (lora_ui/calibration.py)."""


@dataclass(frozen=True)
class Step:
    """What is in memory together: `rows` of `length` tokens (packed: sequences), numbers as `dtype` on a cpu, cuda or mps device."""

    rows: int
    length: int
    checkpointing: int
    """The things of every n-th layer are worked out twice; 0: none."""
    device: str
    dtype: str
    factor: float = 1.0
    """As of its place."""
    attention: str = VARLEN
    packed: bool = False

    @property
    def mask(self) -> int:
        """Tokens that the mask of one token covers."""
        return 0 if self.attention == VARLEN else self.tokens if self.packed else self.length

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def bytes(self) -> int:
        return 4 if self.dtype == "float32" else 2


def here(machine: Machine) -> list[Place]:
    """Each kind of GPU found here, the smallest first, or the machine itself."""
    found = {(gpu.name, gpu.memory_bytes): gpu.free_bytes for gpu in machine.gpus}
    of_gpus = [Place(name, "cuda", machine.dtype, whole, free) for (name, whole), free in found.items()]
    whole = Place(machine.name, machine.device, machine.dtype, machine.memory_bytes, machine.free_bytes)
    return sorted(of_gpus, key=lambda place: place.whole) or [whole]


def another(size: int) -> Place:
    """A GPU that is not here, of `size` bytes."""
    return Place("", "cuda", "bfloat16", size, size)


def attention(config: dict[str, Any] | None, device: str, dtype: str) -> Decision:
    """How rows in memory together are kept apart: varlen where that is exact and fast, which needs neither padding nor a mask."""
    name = (config or {}).get("model_type", "")
    if name == "gemma2":
        return Decision("eager", Say("this family limits its attention scores, which only the plain calculation does"))
    if name not in BY_ITSELF or (config or {}).get("attention_dropout") or device == "mps":
        return Decision("sdpa", Say("it ships with torch and keeps packed rows apart"))
    if device == "cpu":
        return Decision(VARLEN, Say("each row is read by itself: nothing is padded"))
    if dtype == "bfloat16":
        return Decision(VARLEN, Say("FlashAttention, which ships with torch, reads each row by itself: nothing is padded"))
    return Decision("sdpa", Say("this GPU is too old for FlashAttention; packed rows are kept apart by a mask"))


def step_of(base: BaseModel, chosen: Settings, decided: dict[str, Decision], rows: Rows, place: Place) -> Step:
    """What is in memory together by these decisions: packed sequences are full, rows are as long as the longest."""
    longest = None if decided["training.packing"].value else rows.longest
    length = min(longest or chosen.training.max_length, chosen.training.max_length)
    return Step(
        decided["training.per_device_train_batch_size"].value,
        length,
        EVERY[decided[CHECKPOINTING].value],
        place.device,
        place.dtype,
        place.factor,
        attention(base.config, place.device, place.dtype).value,
        bool(decided["training.packing"].value),
    )


def read_size(text: str) -> int | None:
    """`24GiB`, `24 GB` or plain `24` (GiB) in bytes; None if it is no size."""
    units = {"": GIB, "g": GIB, "gib": GIB, "gb": 10**9, "mib": 2**20, "mb": 10**6}
    found = re.fullmatch(r"(\d{1,6}(?:[.,]\d+)?)\s*([a-z]*)", unicodedata.normalize("NFKC", text).strip().lower())
    if not found or found[2] not in units:
        return None
    return int(float(found[1].replace(",", ".")) * units[found[2]]) or None


def gigabytes(count: float) -> str:
    """Memory as cards are sold: 24 GB is 24 × 1024³ bytes."""
    return f"{count / GIB:,.1f} GB"


def items(base: BaseModel, chosen: Settings, step: Step) -> dict[str, int] | None:
    """Bytes of weights, adapter, gradients, optimizer, activations, logits, context and margin at the peak of a training step,
    `preparing` where what comes before it takes more, and `calibration` where runs have shown that it is more or less; None for a family whose shape is not known here."""
    model = fit.shape(base.config) if base.config else None
    counts = fit.parameters(base.config, chosen.adapter) if base.config else None
    if model is None or counts is None:
        return None
    trainable = counts["trainable_parameters"]
    number = _adapter_bytes(chosen, step)
    activations, logits = _working(model, chosen, step)
    found = {
        "weights": _weights(model, chosen, step),
        "adapter": counts["adapter_parameters"] * (number + (2 if _mixed(chosen, step) else 0)),
        "gradients": trainable * number,
        "optimizer": round(trainable * (state_bytes(optimizer(chosen), number) + learned.remembered(chosen.adapter, number))),
        "activations": activations,
        "logits": logits,
        "context": CUDA_CONTEXT if step.device == "cuda" else LIBRARIES,
    }
    if more := learned.preparing(chosen.adapter, model, _targets(model, chosen), step.bytes) - sum(
        found[name] for name in ("adapter", "gradients", "optimizer", "activations")
    ):
        found |= {"preparing": more} if more > 0 else {}
    if step.factor != 1:
        found["calibration"] = round((step.factor - 1) * measurable(found, step.device))
    return {**found, "margin": 100_000_000 + sum(found.values()) // 25}


def verdict(needed: dict[str, int], place: Place) -> str:
    """fits, tight (if nobody else held any of it, or without a margin) or no."""
    total = sum(needed.values())
    if total <= min(place.whole, place.free):
        return "fits"
    return "tight" if total - needed["margin"] <= place.whole else "no"


def measurable(needed: dict[str, int], device: str) -> int:
    """What a run measures of it: torch's own tensors on a GPU, the whole process elsewhere."""
    aside = {"margin"} | ({"context"} if device == "cuda" else set())
    return sum(size for name, size in needed.items() if name not in aside)


def quantised(chosen: Settings) -> bool:
    return chosen.model.load_in_4bit is True or chosen.model.load_in_8bit


def each_number(chosen: Settings) -> float:
    """Bytes of a number of a squeezed base."""
    return FOUR_BIT if chosen.model.load_in_4bit is True else 1


def narrow(chosen: Settings) -> bool:
    """Whether the adapter of a squeezed base is left in bfloat16, as TRL makes it."""
    return quantised(chosen) and chosen.adapter.method in ("lora", "lorafa")


def _adapter_bytes(chosen: Settings, step: Step) -> int:
    return 2 if narrow(chosen) and step.dtype == "bfloat16" else 4


def _mixed(chosen: Settings, step: Step) -> bool:
    """Whether adapters are in another format than what they read, so that each keeps a copy of its own."""
    return step.bytes != _adapter_bytes(chosen, step)


def optimizer(chosen: Settings) -> str:
    """LoRA-FA has one of its own, which keeps as much as Adam."""
    return "adamw_torch" if chosen.adapter.method == "lorafa" else chosen.training.optim


def state_bytes(optimizer: str, number: int) -> float:
    """Bytes of the optimizer's memory for each number that learns."""
    return 2 if "8bit" in optimizer else 0.1 if optimizer == "adafactor" else 2 * number


def _weights(model: Shape, chosen: Settings, step: Step) -> int:
    inside = model.layers * sum(one.inputs * one.outputs for one in model.linears)
    each = each_number(chosen) if quantised(chosen) else step.bytes
    return round(inside * each + (model.parameters - inside) * step.bytes)


def _working(model: Shape, chosen: Settings, step: Step) -> tuple[int, int]:
    """(bytes kept for the gradients and held for a moment beside them, bytes of the loss) at the worst moment."""
    layer = _layer(model, chosen, step)
    at_once = _backward(model, chosen, step)
    words, width = min(model.head // model.width, TILE[1]), model.width
    tile = min(step.tokens, TILE[0]) * words if step.device == "cuda" else min(model.head // model.width * step.tokens, LOGITS)
    head = tile * step.bytes + step.tokens * width * (4 + step.bytes)
    twice = -(-model.layers // step.checkpointing) if step.checkpointing else 0
    kept = twice * step.bytes * width * step.tokens + (model.layers - twice) * layer
    if twice and (model.layers - 1) % step.checkpointing == 0:  # the last layer, where all is kept that is kept, is worked out again
        at_once += layer
    kept += 4 * width * step.tokens
    return kept + max(0, at_once - head), head


def _targets(model: Shape, chosen: Settings) -> tuple[Linear, ...]:
    return fit.adapted(model, chosen.adapter.target_modules) or model.linears


def _layer(model: Shape, chosen: Settings, step: Step) -> int:
    """Bytes that one layer keeps for its gradients: what its norms read, queries, keys, values and result of attention and its
    mask, what the feed-forward works out, and what each adapted weight reads."""
    adapter, size = chosen.adapter, step.bytes
    targets = _targets(model, chosen)
    apart = adapter.lora_dropout > 0 or (adapter.use_dora and _mixed(chosen, step)) or adapter.method == "oft"
    read = sum(one.inputs for one in targets) if apart else sum(_shared_inputs(model, targets))
    if adapter.method in ("lorafa", "miss"):  # what learns reads only what comes after it
        read = 0
    masks = (1 if step.device == "cuda" else 4) * sum(one.inputs for one in targets) if adapter.lora_dropout > 0 else 0
    of_token = 4 * model.normed + size * (_of_attention(model, step) + model.kept + read + adapter.r * len(targets)) + masks
    if adapter.use_dora:
        of_token += sum(one.outputs for one in targets) * (size + 2)
    return of_token * step.tokens + learned.whole(adapter, targets, size)


def _of_attention(model: Shape, step: Step) -> int:
    """Numbers of a token: queries, keys, values and result. A mask is kept too, and keys and values once for every head; a CPU
    keeps the result row by row and together."""
    behind = _attention(model)
    if step.attention != VARLEN:
        return 4 * behind.inputs + step.mask
    read = model.linears[: model.linears.index(behind)]
    return sum(one.outputs for one in read) + behind.inputs * (2 if step.device == "cpu" else 1)


def _attention(model: Shape) -> Linear:
    """The weight behind attention."""
    start = model.linears[0].name.split(".")[0]
    return [one for one in model.linears if one.name.startswith(start)][-1]


def _shared_inputs(model: Shape, targets: tuple[Linear, ...]) -> list[int]:
    """What adapted weights read, where those beside each other read the same: before attention (its result is kept anyway), before
    the feed-forward, and inside it."""
    behind, last = _attention(model), model.linears[-1]
    before = model.linears[: model.linears.index(behind)]
    into = [one for one in model.linears if one not in before and one not in (behind, last)]
    return [group[0].inputs for group in (before, into, [last]) if any(one in targets for one in group)]


def _backward(model: Shape, chosen: Settings, step: Step) -> int:
    """Bytes that going back through one layer holds for a moment."""
    inner = model.linears[-1].inputs
    copied = chosen.adapter.use_dora and _mixed(chosen, step)
    moment = 6 * inner + 10 * model.width if copied else step.bytes * (inner * 2 + model.width * 2)
    moment += {"oft": 8, "ia3": 4}.get(chosen.adapter.method, 0) * inner
    biggest = max(one.inputs * one.outputs for one in model.linears)  # of a squeezed base: made whole while it is used
    return moment * step.tokens + biggest * (4 * quantised(chosen) + 16 * chosen.adapter.use_dora)
