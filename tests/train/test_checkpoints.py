"""Save points: what is damaged is left out by name, and what goes on from a good one ends where it would have ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from lora_ui import errors
from lora_ui.home import REPOSITORY, Home, read_json, write_json
from lora_ui.worker import checkpoints, load
from tests.running import ROWS
from tests.tiny import tiny_model, tiny_run
from tests.train.inside import folder_of, losses, train
from tests.train.killed import contents

pytestmark = pytest.mark.train
STEPS = {"max_steps": 8, "save_steps": 4, "logging_steps": 1, "learning_rate": 5e-3, "max_length": 64, "global_batch_size": 4}


def settings(place: Path, adapter: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    data = place / "rivers.csv"
    data.write_text("question,answer\n" + "\n".join(f'"{q}","{a}"' for q, a in ROWS))
    return {
        "model": {"base_model": str(tiny_model(place / "tiny")), **(model or {})},
        "data": {"source": str(data), "held_out_rows": 4},
        "adapter": {"r": 4, "lora_dropout": 0.1, **(adapter or {})},
        "training": {**STEPS, **training},
        "evaluation": {"eval_steps": 4},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished run of 8 steps and the save points 4 and 8."""
    place = tmp_path_factory.mktemp("finished")
    folder = folder_of(Home.open(place / "home"), settings(place), "reference")
    result = train(folder)
    assert (result["step"], result["resumed_from"]) == (8, None)
    return folder


def again(finished: Path, id: str) -> Path:
    """A copy of the finished run as one that was killed after its last save."""
    folder = finished.parent / id
    shutil.copytree(finished, folder)
    spec = read_json(folder / "job.json")
    write_json(folder / "job.json", {**spec, "id": id})
    shutil.rmtree(folder / "adapter")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def assert_same_end(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) and mine[name].dtype == theirs[name].dtype for name in mine)


def cut(name: str) -> Callable[[Path], None]:
    return lambda point: os.truncate(point / name, (point / name).stat().st_size // 2)


def gone(name: str) -> Callable[[Path], None]:
    return lambda point: (point / name).unlink()


def torn(point: Path) -> None:
    cut("optimizer.pt")(point)
    (point / "manifest.json").unlink()


def zero_tail(point: Path) -> None:
    file = point / "adapter_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-4096] + b"\0" * 4096)


def empty(point: Path) -> None:
    shutil.rmtree(point)
    point.mkdir()


def foreign(point: Path) -> None:
    torch.save({"scale": 1.0}, point / "scaler.pt")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "adapter cut short": (cut("adapter_model.safetensors"), "adapter_model.safetensors is damaged"),
    "adapter missing": (gone("adapter_model.safetensors"), "adapter_model.safetensors is missing"),
    "empty folder": (empty, "it has no list of its files"),
    "optimizer cut short": (cut("optimizer.pt"), "optimizer.pt is damaged"),
    "state missing": (gone("trainer_state.json"), "trainer_state.json is missing"),
    "state cut short": (cut("trainer_state.json"), "trainer_state.json is damaged"),
    "adapter's tail zeroed": (zero_tail, "adapter_model.safetensors is damaged"),
    "optimizer missing": (gone("optimizer.pt"), "optimizer.pt is missing"),
    "scheduler missing": (gone("scheduler.pt"), "scheduler.pt is missing"),
    "random numbers missing": (gone("rng_state.pth"), "rng_state.pth is missing"),
    "torn by a full disk": (torn, "it has no list of its files"),
    "list cut short": (cut("manifest.json"), "manifest.json is damaged"),
    "a file that is not ours": (foreign, "scaler.pt does not belong to it"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_save_point_is_left_out_by_name_and_the_end_is_the_same(
    finished: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm, said = DAMAGE[case]
    folder = again(finished, "damaged-" + str(list(DAMAGE).index(case)))
    harm(folder / "checkpoints" / "step-000008")
    result = train(folder)
    assert result["resumed_from"] == "step-000004"
    assert [(one["name"], one["why"]["text"]) for one in result["skipped_save_points"]] == [("step-000008", said)]
    assert f"Left out the save point step-000008: {said}." in capsys.readouterr().out
    decided = read_json(folder / "decided.json")["machine.resumed_from"]
    assert (decided["value"], said in decided["reason"]) == ("step-000004", True)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["damaged-step-000008", "step-000004", "step-000008"]
    assert_same_end(folder, finished)
    shutil.rmtree(folder)


def test_an_intact_save_point_is_taken(finished: Path) -> None:
    folder = again(finished, "intact")
    assert train(folder)["resumed_from"] == "step-000008"
    assert_same_end(folder, finished)


def test_with_every_save_point_damaged_the_run_begins_anew(finished: Path) -> None:
    folder = again(finished, "all-damaged")
    for point in checkpoints.points(folder / "checkpoints"):
        zero_tail(point)
    result = train(folder)
    assert (result["resumed_from"], len(result["skipped_save_points"])) == (None, 2)
    assert_same_end(folder, finished)


def test_a_save_point_of_other_settings_is_refused_and_kept(finished: Path) -> None:
    folder = again(finished, "other")
    spec = json.loads((folder / "job.json").read_text())
    spec["params"]["settings"]["training"]["learning_rate"] = 1e-4
    write_json(folder / "job.json", spec)
    with pytest.raises(errors.OtherSettings, match="step-000008"):
        train(folder)
    assert [p.name for p in checkpoints.points(folder / "checkpoints")] == ["step-000008", "step-000004"]


def test_a_save_point_that_was_not_verified_is_never_unpickled(finished: Path, tmp_path: Path) -> None:
    folder, canary = again(finished, "hostile"), tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (canary,)

    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save(Evil(), folder / "checkpoints" / "step-000008" / name)
    assert train(folder)["resumed_from"] == "step-000004"
    assert not canary.exists()
    assert_same_end(folder, finished)


@pytest.mark.parametrize(
    "chosen",
    [
        {"packing": True, "max_length": 128, "global_batch_size": 6, "num_train_epochs": 4, "max_steps": -1},
        {"logging_steps": 3, "num_train_epochs": 3, "max_steps": -1, "global_batch_size": 8, "per_device_train_batch_size": 2},
        {"model": {"load_in_4bit": True}},
        {"model": {"load_in_8bit": True}},
        {"adapter": {"use_dora": True}},
    ],
    ids=["packed", "points apart from saves", "4-bit", "8-bit", "dora"],
)
def test_going_on_from_any_save_point_gives_the_same_bits(tmp_path: Path, chosen: dict[str, Any]) -> None:
    raw = settings(tmp_path, **{"save_steps": 2, "save_total_limit": 10, **chosen})
    reference = folder_of(Home.open(tmp_path / "home"), raw, "reference")
    train(reference)
    there = checkpoints.points(reference / "checkpoints")
    assert len(there) >= 3
    for newest in there[1:]:
        folder = again(reference, f"from-{newest.name}")
        for later in checkpoints.points(folder / "checkpoints"):
            if checkpoints.step_of(later) > checkpoints.step_of(newest):
                shutil.rmtree(later)
        assert train(folder)["resumed_from"] == newest.name
        assert_same_end(folder, reference)


EVERY = int(os.environ.get("KILL_EVERY", "7"))


def kills(template: Path, every: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What each kill left behind, and the end of the one that was not killed."""
    command = [sys.executable, "-m", "tests.train.killed", str(template), str(every)]
    swept = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    *killed, last = [json.loads(line) for line in swept.stdout.splitlines()]
    assert (last["at"], last["killed"]) == (None, 0), swept.stderr[-2000:]
    assert all(one["killed"] == signal.SIGKILL for one in killed)
    return killed, last


def test_killed_at_any_write_of_a_save_nothing_torn_is_accepted_and_the_end_is_the_same(tmp_path: Path) -> None:
    home, raw = Home.open(tmp_path / "home"), settings(tmp_path, max_steps=4, save_steps=2, save_total_limit=1)
    reference = folder_of(home, settings(tmp_path, max_steps=4, save_steps=2, save_total_limit=2), "reference")
    train(reference)
    adapters = set()
    for point in checkpoints.points(reference / "checkpoints"):
        checkpoints.publish_adapter(point, tmp_path / point.name, None)
        adapters.add(contents(tmp_path / point.name))
    assert len(adapters) == 2
    killed, last = kills(folder_of(home, raw, "template"), EVERY)
    assert len(killed) >= 50 / EVERY and last["folders"]["adapter"] in adapters
    for one in killed:
        assert (one["damaged"], one["resumed"]) == ([], 0), one
        assert one["points"] >= 1, one
        assert one["folders"]["adapter"] in (None, *adapters), one
        assert_same_end(Path(one["folder"]), reference)


def test_a_merge_killed_at_any_write_leaves_the_merged_model_before_or_the_new_one(tmp_path: Path) -> None:
    home, base = Home.open(tmp_path / "home"), tiny_model(tmp_path / "base")
    run = tiny_run(home, "quiet-otter-000001", base)
    (run / "merged").mkdir()
    (run / "merged" / "model.safetensors").write_text("of the merge before")
    asked = {"id": "merge", "kind": "merge", "home": str(home.root), "params": {"run_id": run.name, "dtype": None}}
    (run / "jobs" / "merge").mkdir(parents=True)
    write_json(run / "jobs" / "merge" / "job.json", {**asked, "run_id": run.name})
    killed, last = kills(run, 1)
    assert len(killed) >= 15
    left = {one["folders"]["merged"] for one in killed}
    assert left == {contents(run / "merged"), last["folders"]["merged"]}
    assert len(left) == 2


def test_a_test_in_between_changes_no_gradient_of_a_4bit_model(tmp_path: Path) -> None:
    model = load.load_model(tiny_model(tmp_path), torch.bfloat16, load_in_4bit=True)
    load.keep_gradients(model)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    ids = torch.arange(40).view(2, 20)

    def gradients() -> list[torch.Tensor]:
        model.train().zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    before = gradients()
    with torch.no_grad():
        model.eval()(input_ids=ids)
    after = gradients()
    assert len(before) == len(after) == 28
    assert all(torch.equal(a, b) for a, b in zip(before, after))


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step in (2, 4, 6, 8):
        staged = folder / checkpoints.STAGING / "one"
        staged.mkdir(parents=True)
        (staged / "a").write_text(str(step))
        checkpoints.commit(staged, folder, step, "x")
        checkpoints.rotate(folder, 2, best_step=2)
    assert [p.name for p in checkpoints.points(folder)] == ["step-000008", "step-000006", "step-000002"]
    assert all(checkpoints.damage(p) is None for p in checkpoints.points(folder))
