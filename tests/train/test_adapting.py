"""Every way to adapt, really trained: only what should learns, it starts as the base, saves, loads in stock PEFT to the same answers, goes
on to the same bits, and is merged. What presets/methods.yaml refuses is refused before the start and by the worker, in its words.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.trainer
from datasets import Dataset
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.vera.layer import VeraLayer
from safetensors.torch import load_file
from transformers import TrainerCallback

from lora_ui import errors, fit, machine, methods, preflight, runs, settings
from lora_ui.data import prepared
from lora_ui.home import Home, read_json, write_json
from lora_ui.models import BaseModel
from lora_ui.worker import load, merge, prepare
from lora_ui.worker import methods as worker_methods
from lora_ui.worker import train as train_module
from lora_ui.worker.job import Job, Stopped
from tests.running import tiny_settings
from tests.train.inside import folder_of, train

pytestmark = pytest.mark.train
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
BASES: dict[str, dict[str, Any]] = {"fp": {}, "4-bit": {"load_in_4bit": True}, "8-bit": {"load_in_8bit": True}}
FAST = {"vera": 5e-2, "ia3": 5e-2, "hira": 5e-2, "loha": 2e-2, "lokr": 2e-2}
"""Learning rates of those that want high ones."""
OFFERED = list(methods.all_methods())


def logits(model: Any) -> torch.Tensor:
    was = model.training
    short = next(model.parameters()).dtype == torch.bfloat16
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=short):
        found = model.eval()(input_ids=IDS).logits.float()
    model.train(was)
    return found


class Seen(TrainerCallback):
    """The model as the trainer has it before the first and after the last step."""

    last: Seen

    def __init__(self) -> None:
        Seen.last = self

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.before = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.learns = {name for name, p in model.named_parameters() if p.requires_grad}
        self.first = logits(model)

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        self.groups = [(group["lr"], len(group["params"])) for group in optimizer.param_groups]

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.model = model
        self.last_logits = logits(model)
        self.moved = {name for name, p in model.named_parameters() if not torch.equal(p.detach(), self.before[name])}


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.trainer, "DEFAULT_CALLBACKS", [*transformers.trainer.DEFAULT_CALLBACKS, Seen])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module")
def home(place: Path) -> Home:
    return Home.open(place / "home")


@pytest.fixture(scope="module")
def raw(place: Path) -> Callable[..., dict[str, Any]]:
    """`raw(method, base, **groups)`: 8 steps of the tiny model, a save point after the fourth."""
    plain = tiny_settings(place)

    def made(key: str, base: str = "fp", **groups: dict[str, Any]) -> dict[str, Any]:
        start = plain(model=BASES[base], max_steps=8, save_steps=4, activation_checkpointing=False)
        chosen = methods.choose(key, start, settings.Settings().model_dump())
        return settings.merge(
            chosen,
            {"adapter": {"r": 4, "block_size": 16}, "training": {"learning_rate": FAST.get(key, 5e-3)}, "model": BASES[base]},
            groups,
        )

    return made


def base_of(raw: dict[str, Any], dtype: str) -> Any:
    model = settings.parse(raw).model
    base = load.load_model(Path(model.base_model), getattr(torch, dtype), model.load_in_4bit, model.load_in_8bit, device="cpu")
    load.keep_gradients(base)
    return base


def decided(folder: Path, dtype: str) -> None:
    """What the machine decides, as one that calculates in `dtype` would."""
    job = Job(folder)
    chosen, asked = settings.parse(job.params["settings"]), job.params["prepare"]
    summary = prepared.summary(job.home, asked) or prepare.make(job, asked)
    here = replace(machine.look(), device="cpu", bf16_is_fast=dtype == "bfloat16")
    config = read_json(Path(chosen.model.base_model) / "config.json")
    train_module._decide(job, chosen, summary, here, BaseModel(name="tiny", kind="folder", title="", config=config), True)


def without_its_end(folder: Path) -> Path:
    """A copy of a finished run that was killed after its save point of step 4."""
    copy = folder.with_name(f"{folder.name}-again")
    shutil.copytree(folder, copy)
    for name in ("checkpoints/step-000008", "adapter"):
        shutil.rmtree(copy / name)
    return copy


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def whole_way(home: Home, raw: dict[str, Any], id: str, dtype: str = "float32") -> tuple[Path, dict[str, Any], Seen]:
    """Train, and look at all that is true of every method, whatever the base."""
    exact = 1e-3 if dtype == "float32" else 1.0  # of logits up to 5; in bfloat16 the base without OLoRA's part is itself rounded
    base = base_of(raw, dtype)
    plain = logits(base)
    folder = folder_of(home, raw, id)
    decided(folder, dtype)
    result = train(folder)
    seen = Seen.last
    assert result["eval_loss"]["last"] < result["eval_loss"]["base"]
    assert (seen.first - plain).abs().max() < exact
    still = seen.learns - seen.moved
    assert seen.moved <= seen.learns and all("lora_E" in name for name in still)  # of weights that AdaLoRA left without rank
    assert (seen.last_logits - plain).abs().max() > 0.01

    with torch.no_grad():
        again = logits(PeftModel.from_pretrained(base, folder / "adapter"))
    assert (again - seen.last_logits).abs().max() < exact

    copy = without_its_end(folder)
    assert train(copy)["resumed_from"] == "step-000004"
    assert same_weights(folder / "adapter", copy / "adapter")
    return folder, result, seen


def merged(home: Home, folder: Path) -> dict[str, Any]:
    write_json(
        folder / "outcome.json",
        {"state": "finished", "result": {"base_model_path": read_json(folder / "job.json")["params"]["settings"]["model"]["base_model"]}},
    )
    place = home.job("merge", f"merge-{folder.name}", folder.name)
    place.mkdir(parents=True)
    params = {"run_id": folder.name, "dtype": None}
    write_json(place / "job.json", {"id": place.name, "kind": "merge", "run_id": folder.name, "home": str(home.root), "params": params})
    return merge.run(Job(place))


@pytest.mark.parametrize("key", OFFERED)
def test_the_whole_way(home: Home, raw: Any, key: str) -> None:
    chosen = raw(key, "4-bit" if key == "qlora" else "fp")
    parsed = settings.parse(chosen)
    folder, result, _ = whole_way(home, chosen, key)
    assert methods.applied(parsed)[-1].key == key
    counts = fit.parameters(read_json(Path(parsed.model.base_model) / "config.json"), parsed.adapter)
    assert counts and (counts["trainable_parameters"], result["all_parameters"]) == (
        result["trainable_parameters"],
        counts["all_parameters"],
    )
    size = (folder / "adapter" / "adapter_model.safetensors").stat().st_size
    assert abs(preflight.saved_bytes(parsed, counts, "float32") - size) < 0.1 * size + 10_000  # names of the weights are in the file too
    assert merged(home, folder)["check"]["ok"]


# What is particular


def test_rslora_divides_by_the_root_of_the_rank(home: Home, raw: Any) -> None:
    train(folder_of(home, raw("rslora", adapter={"lora_alpha": 6}), "scale"))
    assert {layer.scaling["default"] for layer in Seen.last.model.modules() if isinstance(layer, LoraLayer)} == {6 / 4**0.5}


def test_of_lora_fa_only_the_second_matrix_learns(home: Home, raw: Any) -> None:
    train(folder_of(home, raw("lorafa"), "still"))
    matrices = {name for name in Seen.last.before if "lora_" in name}
    assert Seen.last.moved == {name for name in matrices if "lora_B" in name} and len(matrices) == 2 * len(Seen.last.moved)


def test_the_second_matrix_of_lora_plus_learns_faster_by_the_ratio_also_when_it_goes_on(home: Home, raw: Any) -> None:
    folder = folder_of(home, raw("loraplus", training={"loraplus_lr_ratio": 7}), "ratio")
    train(folder)
    at_once = Seen.last.groups
    (first, count), (second, others) = at_once[0], at_once[2]
    assert second == pytest.approx(7 * first) and first > 0 and count == others > 0
    train(without_its_end(folder))
    assert Seen.last.groups == at_once


def test_the_lengths_of_dora_move(home: Home, raw: Any) -> None:
    train(folder_of(home, raw("dora"), "lengths"))
    lengths = {name for name in Seen.last.before if "lora_magnitude_vector" in name}
    assert lengths and lengths <= Seen.last.moved


def test_adalora_takes_rank_away_until_the_budget_is_kept(home: Home, raw: Any) -> None:
    folder = folder_of(home, raw("adalora"), "budget")
    tested = train(folder)["eval_loss"]["base"]
    assert tested == pytest.approx(train(folder_of(home, raw("lora"), "no-penalty"))["eval_loss"]["base"], abs=1e-3)
    left = [sum(kept) for kept in read_json(folder / "adapter" / "adapter_config.json")["rank_pattern"].values()]
    assert sum(left) == 4 * len(left) and len(set(left)) > 1
    rows = {name: len(one) for name, one in load_file(folder / "adapter" / "adapter_model.safetensors").items() if "lora_A" in name}
    assert sorted(rows.values()) == sorted(left)


def test_vera_shares_two_matrices_that_stay_still(home: Home, raw: Any) -> None:
    folder = folder_of(home, raw("vera"), "shared")
    train(folder)
    layers = [module for module in Seen.last.model.modules() if isinstance(module, VeraLayer)]
    assert len(layers) == 14 and len({layer.vera_A["default"].data_ptr() for layer in layers}) == 1
    saved = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert [name for name in saved if name.endswith(("vera_A", "vera_B"))] == ["base_model.vera_A", "base_model.vera_B"]
    assert all("vera_lambda" in name for name in Seen.last.learns)


@pytest.mark.parametrize("key", ["pissa", "olora", "loraga"])
def test_first_values_come_out_of_the_base(home: Home, raw: Any, key: str) -> None:
    chosen = raw(key)
    folder = folder_of(home, chosen, f"{key}-base")
    decided(folder, "float32")
    train(folder)
    stored = load_file(Path(chosen["model"]["base_model"]) / "model.safetensors")
    there = {name: p for name, p in Seen.last.before.items() if ".base_layer.weight" in name}
    for name, left in there.items():
        plain = stored[name.removeprefix("base_model.model.").replace(".base_layer", "")]
        a, b = (Seen.last.before[name.replace("base_layer", f"lora_{side}.default")] for side in "AB")
        assert (left - plain).abs().max() > 0.01
        assert torch.allclose(left + 32 / 4 * b @ a, plain, atol=1e-5)
    told = read_json(folder / "adapter" / "adapter_config.json")
    assert (told["r"], told["lora_alpha"], told["init_lora_weights"]) == (8, 64, True)
    assert not (folder / "adapter" / "live.safetensors").exists()


def adapted(home: Home, chosen: dict[str, Any], id: str, rows: Any = ..., point: Path | None = None, stop: bool = False) -> Any:
    """The tiny model with its adapter as `train` has it before the first step; `rows`: those of the run unless given."""
    folder = folder_of(home, chosen, id)
    decided(folder, "float32")
    job, parsed = Job(folder), settings.parse(chosen)
    if rows is ...:
        rows = train_module._rows(prepared.folder(home, job.params["prepare"]) / "train.parquet", folder / ".cache")
    torch.manual_seed(1)
    job.stopping.set() if stop else None
    return worker_methods.adapt(job, base_of(chosen, "float32"), parsed, rows, 8, point)[0]


def first_matrices(model: Any) -> list[torch.Tensor]:
    return [p for name, p in model.named_parameters() if "lora_A" in name]


@pytest.mark.parametrize("key", ["eva", "loraga"])
def test_first_values_come_from_the_rows_once(home: Home, raw: Any, key: str) -> None:
    chosen = raw(key)
    plain, ours = (first_matrices(adapted(home, one, f"{key}-rows")) for one in (raw("lora"), chosen))
    assert all((a - b).abs().max() > 0.01 for a, b in zip(plain, ours))
    folder = folder_of(home, chosen, f"{key}-once")
    decided(folder, "float32")
    train(folder)
    adapted(home, chosen, f"{key}-again", rows=None, point=folder / "checkpoints" / "step-000004")
    with pytest.raises(Stopped):
        adapted(home, chosen, f"{key}-stop", stop=True)


def test_rows_that_are_too_few_for_eva_are_said(home: Home, raw: Any) -> None:
    chosen = raw("eva")
    with pytest.raises(errors.MethodUnsuitable, match="do not settle"):
        adapted(home, chosen, "eva-few", rows=Dataset.from_list([{"input_ids": [5, 6, 7]}]))


COMBINED = {
    "pissa, dora": ("pissa", {"adapter": {"use_dora": True}}),
    "olora, rslora, lora+": ("olora", {"adapter": {"use_rslora": True}, "training": {"loraplus_lr_ratio": 4}}),
    "lora-fa, pissa, rslora": ("lorafa", {"adapter": {"use_rslora": True, "init_lora_weights": "pissa"}}),
    "lora-fa, all biases": ("lorafa", {"adapter": {"bias": "lora_only"}}),
}


@pytest.mark.parametrize("key, groups", COMBINED.values(), ids=COMBINED)
def test_methods_that_go_together(home: Home, raw: Any, key: str, groups: dict[str, Any]) -> None:
    folder, _, _ = whole_way(home, raw(key, **groups), "-".join([key, "with", *groups["adapter"]]).replace("_", "-"))
    assert merged(home, folder)["check"]["ok"]


# What does not go together


refusals_seen = itertools.count().__next__


def refusals() -> list[Any]:
    found = [(method.key, rule) for method in methods.all_methods().values() for rule in method.refused]
    return [pytest.param(*one, id=f"{one[0]} {list(one[1].when)}") for one in found]


def against(raw: Any, key: str, rule: methods.Rule) -> dict[str, Any]:
    """Settings of the tiny model that break this rule."""
    broken = {
        "adapter.r": {"odd": 3, "wide": 64, "twice wide": 32, "deep": 100},
        "adapter.block_size": {"uneven": 24},
        "training.loraplus_lr_ratio": {"set": 4},
        "adapter.init_lora_weights": {"set": "gaussian"},
        "adapter.bias": {"set": "all"},
    }
    groups: dict[str, Any] = {}
    for place, wanted in rule.when.items():
        if place != "model_type":
            group, name = place.split(".")
            groups[group] = {name: broken[place][wanted] if isinstance(wanted, str) else wanted[0]}
    return raw(key, **groups)


@pytest.mark.parametrize("key, rule", refusals())
def test_what_is_refused_is_refused_in_the_same_words_everywhere_and_mended(home: Home, raw: Any, key: str, rule: methods.Rule) -> None:
    broken = against(raw, key, rule)
    if "model_type" in rule.when:
        config = {**read_json(Path(broken["model"]["base_model"]) / "config.json"), "model_type": rule.when["model_type"][0]}
        assert rule.why in [str(one.values["why"]) for one in methods.problems(settings.parse(broken), config)]
        return
    with pytest.raises(errors.MethodUnsuitable) as refused:
        runs.startable(home, broken)
    assert (refused.value.cause, refused.value.fix) == (rule.why, rule.instead)

    folder = folder_of(home, raw(key), f"refused-{refusals_seen()}")
    spec = read_json(folder / "job.json")
    spec["params"]["settings"] = settings.parse(broken).model_dump()
    write_json(folder / "job.json", spec)
    with pytest.raises(errors.MethodUnsuitable) as by_worker:
        train(folder)
    assert by_worker.value.as_dict() == refused.value.as_dict()
    if rule.change:
        runs.startable(home, settings.merge(broken, rule.change))


def legal() -> Iterator[Any]:
    for key, method in methods.all_methods().items():
        for base, model in BASES.items():
            not_with = [{f"model.{name}": [True]} for name in model]
            if any(rule.when in not_with for rule in method.refused) or (key == "qlora" and base != "4-bit"):
                continue
            yield from (pytest.param(key, base, dtype, id=f"{key} {base} {dtype}") for dtype in ("float32", "bfloat16"))


@pytest.mark.matrix
@pytest.mark.parametrize("key, base, dtype", legal())
def test_every_method_on_every_base(home: Home, raw: Any, key: str, base: str, dtype: str) -> None:
    whole_way(home, raw(key, base), f"{key}-{base}-{dtype}", dtype)
