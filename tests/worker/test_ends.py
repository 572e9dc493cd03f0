"""Stops at any phase end the real worker with what was learned and leave nothing running; failures of the outside have names."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from lora_ui import data, metrics
from lora_ui.home import Home, read_json
from lora_ui.worker import checkpoints
from tests.standin_hub import Repo, StandinHub
from tests.tiny import CHATML, tiny_model, tiny_run
from tests.train.inside import folder_of, interposed, outcome, worker
from tests.train.test_checkpoints import settings
from tests.worker.working import start, until, work

pytestmark = pytest.mark.train
RUN = "quiet-otter-000001"
STOP = "os.kill(os.getpid(), 15)"
NOTHING = Repo("model", "")


def left_over(folder: Path) -> list[str]:
    """Processes that name this folder, and half-made folders."""
    running = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if str(folder) in (p.info["cmdline"] or [])]
    return [*map(str, running), *(str(p) for p in folder.rglob("*") if p.name.startswith((".tmp", "checkpoint-", ".reserve")))]


@pytest.mark.parametrize(
    ("event", "suffix", "step"),
    [
        ("import", "trl", None),
        ("os.rename", "decided.json", None),
        ("os.mkdir", "checkpoint-4", 5),
        ("os.rename", "step-000008", 8),
    ],
    ids=["import", "load", "save", "last save"],
)
def test_a_stop_at_any_phase_of_a_training(tmp_path: Path, event: str, suffix: str, step: int | None) -> None:
    folder = folder_of(Home.open(tmp_path / "home"), settings(tmp_path), "run-1")
    process = worker(folder, PYTHONPATH=interposed(tmp_path / "path", event, suffix, STOP))
    assert process.wait(120) == 0, (folder / "log.txt").read_text()
    told = outcome(folder)
    assert (told["state"], told["error"]) == ("stopped", None), told
    assert (told["result"] or {}).get("step") == step
    assert (folder / "adapter").exists() == (step is not None)
    assert all(checkpoints.damage(p) is None for p in checkpoints.points(folder / "checkpoints"))
    assert left_over(folder) == []


def test_a_stop_asked_for_twice_in_a_long_test_loses_only_the_test(tmp_path: Path) -> None:
    raw, held_out = settings(tmp_path), tmp_path / "held_out.csv"
    held_out.write_text("question,answer\n" + "\n".join(f'"{n} a?","{n} b."' for n in range(3000)))
    raw["data"]["held_out_source"], raw["evaluation"]["eval_steps"] = str(held_out), 2
    folder = folder_of(Home.open(tmp_path / "home"), raw, "run-1")
    process = worker(folder)
    until(lambda: any(row["step"] == 2 for row in metrics.read(folder / "metrics.jsonl")))
    until(lambda: process.terminate() or process.poll() is not None)
    assert process.returncode == 0, (folder / "log.txt").read_text()
    told = outcome(folder)
    assert (told["state"], told["error"], told["result"]["step"], told["result"]["saved_step"]) == ("stopped", None, 2, 2), told
    assert [row["step"] for row in metrics.read(folder / "metrics.jsonl") if "eval_loss" in row] == [0]
    assert (folder / "adapter").exists() and left_over(folder) == []


def test_a_stop_while_rows_are_tokenised(tmp_path: Path) -> None:
    raw = settings(tmp_path)
    Path(raw["data"]["source"]).write_text("question,answer\n" + "\n".join(f'"{n} a?","{n} b."' for n in range(20_000)))
    folder = folder_of(Home.open(tmp_path / "home"), raw, "run-1")
    process = worker(folder)
    until(
        lambda: (
            ((read_json(folder / "heartbeat") or {}).get("phase"), (read_json(folder / "heartbeat") or {}).get("unit"))
            == ("prepare", "rows")
        )
    )
    process.terminate()
    assert process.wait(60) == 0
    assert outcome(folder)["state"] == "stopped"
    assert left_over(tmp_path / "home") == []


def test_a_prepare_that_was_killed_leaves_nothing_for_long(tmp_path: Path) -> None:
    home, rows = Home.open(tmp_path / "home"), tmp_path / "rows.csv"
    rows.write_text("question,answer\n" + "\n".join(f'"{n} a?","{n} b."' for n in range(20_000)))
    base = str(tiny_model(tmp_path / "base"))
    _, process = preparing(home, base, source=str(rows))
    until(lambda: any(home.datasets.rglob(".tmp-*")))
    process.kill()
    process.wait()
    assert any(home.datasets.rglob(".tmp-*"))
    assert prepare(home, base, source=str(rows))["state"] == "finished"
    assert not any(home.datasets.rglob(".tmp-*"))


@pytest.mark.parametrize(("event", "suffix"), [("open", "config.json"), ("os.mkdir", ".tmp-merged")], ids=["load", "save"])
def test_a_stop_while_merging_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str, suffix: str) -> None:
    home, base = Home.open(tmp_path / "home"), tiny_model(tmp_path / "base")
    run = tiny_run(home, RUN, base)
    monkeypatch.setenv("PYTHONPATH", interposed(tmp_path / "path", event, suffix, STOP))
    assert work(home, "merge", {"run_id": RUN, "dtype": None}, RUN)["state"] == "stopped"
    assert not (run / "merged").exists()
    assert left_over(run) == []


def test_a_stop_between_two_files_of_a_push_leaves_the_repository_as_it_was(
    tmp_path: Path, standin_hub: StandinHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, base = Home.open(tmp_path / "home"), tiny_model(tmp_path / "base")
    tiny_run(home, RUN, base)
    monkeypatch.setenv("PYTHONPATH", interposed(tmp_path / "path", "open", "adapter_model.safetensors", STOP))
    asked = {"run_id": RUN, "repo": "user-a/river", "merged": False, "public": False}
    assert work(home, "push", asked, RUN, standin_hub.write_token)["state"] == "stopped"
    assert "adapter_model.safetensors" not in standin_hub.files("user-a/river")


@pytest.mark.parametrize(
    ("kind", "silent"),
    [
        ("prepare", "/api/models/user-a/base"),
        ("prepare", "GET /user-a/base/resolve/{sha}/tokenizer.json"),
        ("push", "/api/whoami-v2"),
        ("push", "/api/repos/create"),
        ("push", "/preupload/"),
        ("push", "/lfs/"),
    ],
)
def test_a_stop_does_not_wait_for_a_hub_that_says_nothing(
    tmp_path: Path, standin_hub: StandinHub, monkeypatch: pytest.MonkeyPatch, kind: str, silent: str
) -> None:
    """One request is enough, also for a client that would wait for ten minutes."""
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "600")
    home, base = Home.open(tmp_path / "home"), tiny_model(tmp_path / "base")
    tiny_run(home, RUN, base)
    standin_hub.refuse[silent.format(sha=standin_hub.add_model("user-a/base", base).sha)] = 0
    if kind == "push":
        asked = {"run_id": RUN, "repo": "user-a/river", "merged": False, "public": False}
        folder, process = start(home, "push", asked, RUN, standin_hub.write_token)
    else:
        folder, process = preparing(home, "user-a/base")
    until(lambda: any(entry.status == 0 for entry in standin_hub.log))
    process.terminate()
    assert process.wait(60) == 0
    assert outcome(folder)["state"] == "stopped", outcome(folder)
    assert left_over(home.root) == []
    assert all("adapter_model.safetensors" not in files for _, files in standin_hub.repos.get(("model", "user-a/river"), NOTHING).commits)


def preparing(home: Home, base: str, token: str | None = None, source: str = "example") -> tuple[Path, subprocess.Popen[bytes]]:
    rows = data.load(home, source)
    asked = {"digest": rows.digest, "base_model": base, "revision": None, "max_length": 256, "held_out_rows": 4, "split_seed": 7}
    return start(home, "prepare", {**asked, "system_prompt": "", "learn": "all"}, None, token, rows.digest)


def prepare(home: Home, base: str, token: str | None = None, source: str = "example") -> dict[str, Any]:
    folder, process = preparing(home, base, token, source)
    process.wait(60)
    return outcome(folder)


@pytest.mark.parametrize(
    ("base", "refused", "kind"),
    [
        ("team-b/missing", None, "ModelNotFound"),
        ("team-b/closed", None, "GatedModel"),
        ("team-b/closed", 503, "HubUnwell"),
        ("offline", None, "HubOffline"),
    ],
)
def test_the_hubs_refusals_have_names(
    tmp_path: Path, standin_hub: StandinHub, monkeypatch: pytest.MonkeyPatch, base: str, refused: int | None, kind: str
) -> None:
    standin_hub.add_model("team-b/closed", tiny_model(tmp_path / "base"), gated=True)
    if refused:
        standin_hub.refuse["/api/models"] = refused
    if base == "offline":
        base = "team-b/closed"
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    told = prepare(Home.open(tmp_path / "home"), base, standin_hub.read_token)
    assert (told["state"], told["error"]["kind"]) == ("failed", kind)
    assert all(told["error"][part] for part in ("message", "cause", "fix"))


def test_a_template_that_fails_names_the_row(tmp_path: Path) -> None:
    template = CHATML.replace(
        "{{ '<|im_start|>'", "{% if 'river 6?' in message['content'] %}{{ message.nothing.at_all }}{% endif %}{{ '<|im_start|>'", 1
    )
    base = tiny_model(tmp_path / "base", template=template)
    rows = settings(tmp_path)["data"]["source"]
    told = prepare(Home.open(tmp_path / "home"), str(base), source=rows)
    assert (told["state"], told["error"]["kind"]) == ("failed", "TemplateFailed"), told
    assert told["error"]["values"]["row"] == 7
    assert "7" in told["error"]["message"]


def test_rows_that_are_gone_are_named(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    folder = folder_of(home, settings(tmp_path), "run-1")
    digest = read_json(folder / "job.json")["params"]["prepare"]["digest"]
    home.dataset(digest).rename(tmp_path / "elsewhere")
    worker(folder).wait(60)
    told = outcome(folder)
    assert told["state"] == "failed"
    assert told["error"]["kind"] != "Bug", told
