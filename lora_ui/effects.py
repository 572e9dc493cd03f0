"""Settings that change nothing while others are as they are: said once, for the form, the plan and the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lora_ui import methods, settings
from lora_ui.errors import Say
from lora_ui.models import BaseModel
from lora_ui.settings import Settings


@dataclass(frozen=True)
class Idle:
    """`keys` have no effect when `holds`, for this `reason`. What is not known of a base model is None."""

    keys: tuple[str, ...]
    holds: Callable[[Settings, BaseModel | None], bool]
    reason: Say


def _no_test(chosen: Settings, base: BaseModel | None) -> bool:
    return chosen.data.held_out_rows == 0 and not chosen.data.held_out_source


IDLE = (
    Idle(
        ("training.warmup_steps",),
        lambda chosen, base: chosen.training.lr_scheduler_type == "constant",
        Say("the learning-rate curve is constant, which has no warm-up"),
    ),
    Idle(("training.num_train_epochs",), lambda chosen, base: chosen.training.max_steps > 0, Say("the step limit ends the run")),
    Idle(("evaluation.eval_steps", "evaluation.early_stopping_patience"), _no_test, Say("no rows are held out, so there is no test")),
    Idle(("data.held_out_rows",), lambda chosen, base: bool(chosen.data.held_out_source), Say("the test has rows of its own")),
    Idle(
        ("data.split_seed",),
        lambda chosen, base: (chosen.data.held_out_rows == 0 or bool(chosen.data.held_out_source)) and chosen.data.row_limit is None,
        Say("no rows are picked by chance"),
    ),
    Idle(
        ("data.template_for_base",),
        lambda chosen, base: base is not None and base.chat_template is True,
        Say("this base model has a layout of its own"),
    ),
    Idle(("adapter.block_size",), lambda chosen, base: chosen.adapter.method != "oft", Say("only OFT cuts weights into blocks")),
    Idle(
        ("model.revision",),
        lambda chosen, base: base is not None and base.kind != "hub",
        Say("only models on the Hub have revisions"),
    ),
)


def idle(chosen: Settings, base: BaseModel | None) -> dict[str, Say]:
    """Key → why it changes nothing now."""
    return {key: one.reason for one in IDLE if one.holds(chosen, base) for key in one.keys} | methods.idle(chosen)


def in_vain(chosen: Settings, base: BaseModel | None) -> dict[str, Say]:
    """Those of `idle` that were set all the same: their value is not the default."""
    values = chosen.model_dump()
    without = idle(chosen, base)
    return {
        field.key: without[field.key]
        for field in settings.fields()
        if field.key in without and values[field.group][field.name] != field.default
    }
