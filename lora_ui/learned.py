"""How many numbers each kind of adapter learns, as PEFT makes it: from the sides of the weights alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lora_ui.errors import Say
from lora_ui.settings import AdapterSettings

if TYPE_CHECKING:
    from lora_ui.fit import Linear, Shape


def numbers(adapter: AdapterSettings, model: Shape, targets: tuple[Linear, ...]) -> tuple[int, int, Say]:
    """(numbers that learn, those of the adapter that stay still, the sum in words), of all layers; biases aside."""
    rank, block, count = adapter.r, adapter.block_size, len(targets)
    inputs, outputs = sum(one.inputs for one in targets), sum(one.outputs for one in targets)
    first = first_rank(rank)
    learns, still = {
        "lora": (rank * (inputs + outputs) + outputs * adapter.use_dora, 0),
        "lorafa": (rank * outputs, rank * inputs),
        "adalora": (first * (inputs + outputs + count), count),
        "vera": (rank * count + outputs, 0),
        "oft": (inputs * (block - 1) // 2, 0),
        "loha": (2 * rank * (inputs + outputs), 0),
        "lokr": (sum(_kronecker(one, rank) for one in targets), 0),
        "ia3": (sum(one.outputs for one in ia3(model)[:-1]) + ia3(model)[-1].inputs, 0),
        "hira": (rank * (inputs + outputs), 0),
        "miss": (rank * outputs, 0),
    }[adapter.method]
    known = {"rank": rank, "block": block, "first": first, "layers": model.layers, "lora": model.layers * learns}
    known |= {"inputs": inputs, "outputs": outputs, "edges": inputs + outputs}
    return model.layers * learns, model.layers * still, _said(adapter, known)


def _said(adapter: AdapterSettings, known: dict[str, int]) -> Say:
    match adapter.method:
        case "lorafa":
            return Say(
                "A weight of in × out numbers learns r·out: {rank} × {outputs:,} in each of {layers} layers = {lora:,}; the other matrix stays still.",
                **known,
            )
        case "adalora":
            return Say(
                "A weight of in × out numbers starts with {first}·(in + out + 1), in {layers} layers = {lora:,}; two thirds of them are left at the end.",
                **known,
            )
        case "vera":
            return Say(
                "A weight of in × out numbers learns r + out: {outputs:,} and {rank} for each weight, in {layers} layers = {lora:,}.",
                **known,
            )
        case "oft":
            return Say(
                "A weight of in × out numbers learns in·(b - 1) ÷ 2 with blocks of b = {block}: {inputs:,} inputs in each of {layers} layers = {lora:,}.",
                **known,
            )
        case "loha":
            return Say(
                "A weight of in × out numbers learns 2·r·(in + out): 2 × {rank} × {edges:,} in each of {layers} layers = {lora:,}.", **known
            )
        case "lokr":
            return Say(
                "A weight learns a small matrix and a larger one of rank {rank}, whose sides multiply to its own: {lora:,} in {layers} layers.",
                **known,
            )
        case "ia3":
            return Say("A number for each key, each value and each input of the last weight, in {layers} layers = {lora:,}.", **known)
        case "miss":
            return Say("A weight of in × out numbers learns r·out: {rank} × {outputs:,} in each of {layers} layers = {lora:,}.", **known)
    if adapter.use_dora:
        return Say(
            "A weight of in × out numbers learns r·(in + out): {rank} × {edges:,}, and {outputs:,} lengths, in each of {layers} layers = {lora:,}.",
            **known,
        )
    return Say("A weight of in × out numbers learns r·(in + out): {rank} × {edges:,} in each of {layers} layers = {lora:,}.", **known)


def shared(adapter: AdapterSettings, targets: tuple[Linear, ...]) -> int:
    """Numbers that all weights share and that PEFT counts nowhere."""
    if adapter.method != "vera":
        return 0
    return adapter.r * (max(one.inputs for one in targets) + max(one.outputs for one in targets))


# what it takes besides


def whole(adapter: AdapterSettings, targets: tuple[Linear, ...], size: int) -> int:
    """Bytes of a layer that do not grow with the tokens: weights that a method works out whole and keeps for its gradients. `size`: bytes
    of a number."""
    numbers = sum(one.inputs * one.outputs for one in targets)
    edges = sum(one.inputs + one.outputs for one in targets)
    return size * numbers * (adapter.method in ("hira", "loha", "lokr")) + size * adapter.r * edges * (adapter.method == "vera")


def remembered(adapter: AdapterSettings, size: int) -> int:
    """Bytes that AdaLoRA remembers about the use of each number that learns."""
    return 3 * size if adapter.method == "adalora" else 0


def preparing(adapter: AdapterSettings, model: Shape, targets: tuple[Linear, ...], size: int) -> int:
    """Bytes beside the weights while LoRA-GA works out the gradient of every weight."""
    return model.layers * size * sum(one.inputs * one.outputs for one in targets) if adapter.init_lora_weights == "lora_ga" else 0


def first_rank(rank: int) -> int:
    """AdaLoRA starts above its budget, by half."""
    return math.ceil(1.5 * rank)


def ia3(model: Shape) -> tuple[Linear, ...]:
    """Keys and values (or the weight that makes them together with the queries), and last the last weight of the feed-forward."""
    apart = tuple(one for one in model.linears if one.name.endswith((".k_proj", ".v_proj")))
    return (*(apart or model.linears[:1]), model.linears[-1])


def _kronecker(one: Linear, rank: int) -> int:
    """The smaller sides whole; the larger ones of low rank, where that is fewer."""
    (small_in, large_in), (small_out, large_out) = _sides(one.inputs), _sides(one.outputs)
    low = rank < max(large_in, large_out) / 2
    return small_in * small_out + (rank * (large_in + large_out) if low else large_in * large_out)


def _sides(size: int) -> tuple[int, int]:
    """The two factors of a size that are nearest to each other, the smaller first."""
    small = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
    return small, size // small
