"""First values of LoRA that come from the base's own weights or from how the run's rows pass through it.

PEFT works them out; here it is made to look at the run's rows, to say how far it is and to stop. The base is left whole: what is taken
out of it, worker/methods.py takes out, the same way when a run goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, LoraGAConfig, PeftModel, initialize_lora_eva_weights
from peft.tuners.lora.config import EvaConfig
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.loraga import preprocess_loraga
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

from lora_ui import errors
from lora_ui.errors import Say
from lora_ui.settings import AdapterSettings
from lora_ui.worker.job import Job

LOOKED_AT = 128
"""Rows, the first of those that learn."""
WINDOW = 128
"""Tokens that EVA sees together, rows laid end to end; twice the rank where that is more."""
PATIENCE = 300
"""How often EVA may see all windows before its directions have to stand still."""
GRADIENTS = LoraGAConfig()


def look(job: Job, model: Any, adapter: AdapterSettings, rows: Any) -> None:
    """Leave on the weights of the bare `model` the gradients over `rows` that LoRA-GA needs. Raises Stopped."""
    if adapter.init_lora_weights != "lora_ga":
        return
    told = LoraConfig(r=adapter.r, target_modules=adapter.target_modules, lora_ga_config=GRADIENTS)

    def backward() -> None:
        for row in _rows(job, model, rows):
            model(**row).loss.backward()

    preprocess_loraga(model, _maybe_include_all_linear_layers(told, model), backward)


def _rows(job: Job, model: Any, rows: Any) -> Iterator[dict[str, torch.Tensor]]:
    several = rows.select(range(min(LOOKED_AT, len(rows))))
    for done, row in enumerate(several):
        job.check()
        yield {name: torch.tensor([row[name]], device=model.device) for name in ("input_ids", "labels")}
        job.progress(done + 1, len(several), "rows")


def eva(job: Job, model: PeftModel, rows: Any) -> None:
    """The directions along which the inputs of each weight vary most, over `rows`. Raises MethodUnsuitable where they do not settle, Stopped."""
    told = model.peft_config["default"]
    told.init_lora_weights, told.eva_config = "eva", EvaConfig(rho=1.0)
    ids = [id for row in rows.select(range(min(LOOKED_AT, len(rows)))) for id in row["input_ids"]]
    size = max(WINDOW, 2 * told.r)
    windows = [ids[at : at + size] for at in range(0, len(ids), size)]
    batches = [{"input_ids": torch.tensor([window], device=model.device)} for window in windows]
    seen = 0

    def forward(model: Any, inputs: Any) -> None:
        nonlocal seen
        job.check()
        if seen > PATIENCE * len(batches):
            why = Say("The directions in which these rows vary do not settle: there are too few rows for this rank.")
            raise errors.MethodUnsuitable(method="EVA", why=why, instead=Say("Choose a smaller rank."), change={})
        model(**inputs)
        seen += 1

    initialize_lora_eva_weights(model, batches, forward_fn=forward, show_progress_bar=False)
    told.init_lora_weights, told.eva_config = True, None


def of(layer: LoraLayer, init: str) -> None:
    """PEFT's own first values, which are not rounded to the format of the base when they come after the adapter was made. The base stays."""
    base = layer.get_base_layer()
    before = base.weight.data
    base.weight.data = before.clone()  # some of them work in it
    match init:
        case "pissa":
            layer.pissa_init("default", init)
        case "olora":
            layer.olora_init("default")
        case "lora_ga":
            layer.lora_ga_init("default", GRADIENTS)
            layer.lora_A["default"].float()  # it is rounded to the format of the base
            layer.lora_B["default"].float()
    base.weight.data = before
