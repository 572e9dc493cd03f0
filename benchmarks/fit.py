"""The closed form of memory against the dry run (worker/dryrun.py): models of 0.1 to 70 billion numbers × length × rows × rank ×
LoRA and QLoRA × checkpointing. Promise: median error at most 5 %, worst 15 %, never "fits" where the dry run says it does not, and
an answer within a tenth of a second. Prints the worst five and one line; `-v` prints every configuration;
`--every 2` takes only those where things are worked out twice in every second layer."""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lora_ui import memory, settings  # noqa: E402
from lora_ui.machine import GIB  # noqa: E402
from lora_ui.memory import Step  # noqa: E402
from lora_ui.models import BaseModel, catalogue  # noqa: E402

MODELS = (
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "Qwen/Qwen3-0.6B",
    "meta-llama/Llama-3.2-1B-Instruct",
    "google/gemma-3-1b-it",
    "Qwen/Qwen2.5-7B",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-32B",
    "meta-llama/Llama-3.3-70B-Instruct",
)
STEPS = ((1, 512, 16, 0), (1, 4096, 16, 1), (4, 1024, 64, 1), (8, 512, 8, 0), (2, 2048, 16, 2))
"""Rows, tokens of each, rank, of every how many layers things are worked out twice."""
FEW = (2, 4)
SIZES = (8, 12, 16, 24, 40, 48, 80, 141)
"""GiB of cards that a verdict is asked for."""


def configurations() -> list[tuple[str, dict[str, Any], Step, dict[str, Any]]]:
    known = {one.name: one.config for one in catalogue() if one.config}
    found = []
    for name, (rows, length, rank, twice), four in itertools.product(MODELS, STEPS, (False, True)):
        groups: dict[str, Any] = {"adapter": {"r": rank}, "model": {"load_in_4bit": four}}
        found.append((name, known[name], Step(rows, length, twice, "cuda", "bfloat16"), groups))
    return found


def peak_bytes(config: dict[str, Any], chosen: settings.Settings, step: Step, full: bool = False) -> int:
    """Peak of the dry run; of many equal layers from two short models, since each layer adds the same (`--full`: of all layers)."""
    from lora_ui.worker import dryrun

    layers = config["num_hidden_layers"]
    if full or layers <= FEW[1]:
        return dryrun.measure(config, chosen, step)["peak"]
    short, longer = (dryrun.measure({**config, "num_hidden_layers": n}, chosen, step)["peak"] for n in FEW)
    return longer + (longer - short) * (layers - FEW[1]) // (FEW[1] - FEW[0])


def main() -> None:
    errors, wrong, times = [], [], []
    few = int(sys.argv[sys.argv.index("--every") + 1]) if "--every" in sys.argv else None
    for name, config, step, groups in configurations():
        if few not in (None, step.checkpointing):
            continue
        chosen, base = settings.parse(groups), BaseModel(name=name, kind="hub", title=name, config=config)
        began = time.perf_counter()
        needed = memory.items(base, chosen, step)
        times.append(time.perf_counter() - began)
        assert needed is not None
        peak = peak_bytes(config, chosen, step, "--full" in sys.argv)
        said = sum(needed.values()) - needed["context"] - needed["margin"]
        told = f"{name} {step.rows}×{step.length} r{groups['adapter']['r']}{('', ' twice', ' half')[step.checkpointing]}{' nf4' if groups['model']['load_in_4bit'] else ''}"
        errors.append((said / peak - 1, f"{told}: form {said / GIB:.2f}, dry run {peak / GIB:.2f} GiB, {100 * (said / peak - 1):+.1f} %"))
        wrong += [
            told for size in SIZES if memory.verdict(needed, memory.another(size * GIB)) == "fits" and peak + needed["context"] > size * GIB
        ]
        if "-v" in sys.argv:
            print(errors[-1][1], flush=True)
    errors.sort(key=lambda one: -abs(one[0]))
    print("\n".join(line for _, line in errors[:5]))
    off = [abs(error) for error, _ in errors]
    print(
        f"{len(off)} configurations: median error {100 * statistics.median(off):.1f} %, worst {100 * max(off):.1f} %; said to fit where it does "
        f"not: {len(wrong)} {wrong or ''}; the form answers in {1000 * statistics.median(times):.1f} ms (worst {1000 * max(times):.1f})"
    )


if __name__ == "__main__":
    main()
