"""Publishing through the real huggingface_hub client to a stand-in Hub: what arrives, what never leaves, what is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_ui.home import REPOSITORY, Home
from tests.standin_hub import StandinHub
from tests.tiny import tiny_model, tiny_run
from tests.worker.working import start, until, work

RUN, OTHER = "quiet-otter-000001", "calm-heron-000002"
BIG = ("model.safetensors", "tokenizer.json")
"""Of a merged model: what goes up before the commit, in this order."""
EVIL = "<b>${alert(1)}</b> [x](javascript:1) | `y`\n# z"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home, base = Home.open(tmp_path / "home"), tiny_model(tmp_path / "base")
    run = tiny_run(home, RUN, base, data={"system_prompt": "Be ``` brief"})
    for secret in ("training_args.bin", "optimizer.pt", "notes.txt"):
        (run / "adapter" / secret).write_bytes(b"stays at home")
    job = json.loads((run / "job.json").read_text())
    job["params"]["data"]["name"] = EVIL
    (run / "job.json").write_text(json.dumps(job))
    return home


def push(
    home: Home, hub: StandinHub, repo: str = "user-a/river", token: str | None = None, run_id: str = RUN, **params: Any
) -> dict[str, Any]:
    asked = {"run_id": run_id, "repo": repo, "merged": False, "public": False, **params}
    return work(home, "push", asked, run_id, token or hub.write_token)


def card(hub: StandinHub, repo: str = "user-a/river") -> tuple[dict[str, Any], str]:
    text = hub.files(repo)["README.md"].decode()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_an_adapter_arrives_byte_equal_private_and_loads_in_stock_peft(home: Home, standin_hub: StandinHub, tmp_path: Path) -> None:
    outcome = push(home, standin_hub)
    assert outcome["state"] == "finished", outcome
    check = outcome["result"]["check"]
    files = standin_hub.files("user-a/river")
    adapter = home.run(RUN) / "adapter"
    kept = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert set(files) - {".gitattributes"} == kept | {"README.md"}
    for name in kept - {"adapter_config.json"}:
        assert files[name] == (adapter / name).read_bytes()
    assert outcome["result"]["url"] == f"{standin_hub.url}/user-a/river"
    assert (check["files"], check["private"], check["verified"]) == (6, True, True)
    assert check["commit"] == standin_hub.repos["model", "user-a/river"].sha
    assert standin_hub.repos["model", "user-a/river"].private

    everything = b"".join(files.values())
    assert str(tmp_path).encode() not in everything, "a path of this machine was published"
    pulled = HfApi(endpoint=standin_hub.url, token=standin_hub.write_token).snapshot_download("user-a/river", cache_dir=tmp_path / "cache")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert PeftModel.from_pretrained(base, pulled).peft_config["default"].r == 4
    assert AutoTokenizer.from_pretrained(pulled).chat_template


def test_a_merged_model_arrives_and_loads_and_replaces_the_adapter(home: Home, standin_hub: StandinHub, tmp_path: Path) -> None:
    assert push(home, standin_hub, merged=True)["error"]["kind"] == "NotMergedYet"
    assert work(home, "merge", {"run_id": RUN, "dtype": None}, RUN)["state"] == "finished"
    assert push(home, standin_hub)["state"] == "finished"
    outcome = push(home, standin_hub, merged=True)
    assert outcome["state"] == "finished", outcome
    files = standin_hub.files("user-a/river")
    merged = home.run(RUN) / "merged"
    assert "adapter_model.safetensors" not in files
    assert "adapter_config.json" not in files
    for name in ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"):
        assert files[name] == (merged / name).read_bytes(), name
    assert str(tmp_path).encode() not in b"".join(files.values())
    api = HfApi(endpoint=standin_hub.url, token=standin_hub.write_token)
    assert AutoModelForCausalLM.from_pretrained(api.snapshot_download("user-a/river", cache_dir=tmp_path / "cache"))
    assert card(standin_hub)[0]["library_name"] == "transformers"


def test_the_card_says_where_it_comes_from_and_takes_nobody_elses_markup(home: Home, standin_hub: StandinHub) -> None:
    push(home, standin_hub)
    told, body = card(standin_hub)
    assert told["lora_ui_run"] == RUN
    assert (told["library_name"], told["license"], told["pipeline_tag"]) == ("peft", "apache-2.0", "text-generation")
    assert "<b>" not in body
    assert r"\[x\]\(javascript\:1\) \| \`y\` \# z" in body
    assert "8 rows to learn from and 2 kept aside" in body
    assert "| loss on the rows kept aside | 3 | 1.5 | 1.5 |" in body
    assert "| `training.num_train_epochs` | 3 |" in body
    assert "````python" in body, "the system prompt's own fence must not end the code block"
    assert "rows.jsonl" not in body


def test_the_starter_is_named_by_its_hub_id(home: Home, standin_hub: StandinHub, tmp_path: Path) -> None:
    tiny_run(home, OTHER, tmp_path / "base", base_model="starter")
    push(home, standin_hub, "team-b/river", run_id=OTHER)
    config = json.loads(standin_hub.files("team-b/river")["adapter_config.json"])
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card(standin_hub, "team-b/river")[0]["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_only_what_was_made_from_this_run_is_overwritten(home: Home, standin_hub: StandinHub, tmp_path: Path) -> None:
    standin_hub.add_model("user-a/mine", {"README.md": b"# Mine", "model.safetensors": b"x"})
    assert push(home, standin_hub, "user-a/mine")["error"]["kind"] == "RepoExists"
    assert standin_hub.files("user-a/mine")["README.md"] == b"# Mine"
    assert push(home, standin_hub)["state"] == "finished"
    assert push(home, standin_hub)["state"] == "finished"
    tiny_run(home, OTHER, tmp_path / "base")
    assert push(home, standin_hub, run_id=OTHER)["error"]["kind"] == "RepoExists"


def test_public_is_public_from_the_start_and_never_by_a_tick_alone(home: Home, standin_hub: StandinHub) -> None:
    assert push(home, standin_hub, "user-a/seen", public=True)["result"]["check"]["private"] is False
    assert not standin_hub.repos["model", "user-a/seen"].private
    assert push(home, standin_hub, "user-a/seen")["error"]["kind"] == "RepoVisibility"
    assert push(home, standin_hub)["state"] == "finished"
    assert push(home, standin_hub, public=True)["error"]["kind"] == "RepoVisibility"
    assert standin_hub.repos["model", "user-a/river"].private


@pytest.mark.parametrize(
    ("repo", "token", "kind"),
    [
        ("user-a/river", "hf_unknownToken0123456789", "TokenRejected"),
        ("user-a/river", "read", "HubRefused"),
        ("somebody-else/river", "write", "HubRefused"),
        ("user-a/no/such", "write", "InvalidRepoName"),
        ("user-a/..river", "write", "InvalidRepoName"),
    ],
)
def test_refusals_have_names(home: Home, standin_hub: StandinHub, repo: str, token: str, kind: str) -> None:
    token = {"read": standin_hub.read_token, "write": standin_hub.write_token}.get(token, token)
    outcome = push(home, standin_hub, repo, token)
    assert (outcome["state"], outcome["error"]["kind"]) == ("failed", kind)
    assert not standin_hub.repos


def test_without_a_token_it_asks_for_one(home: Home, standin_hub: StandinHub) -> None:
    outcome = work(home, "push", {"run_id": RUN, "repo": "user-a/river", "merged": False, "public": False}, RUN, None)
    assert outcome["error"]["kind"] == "TokenMissing"


def test_a_push_that_breaks_off_leaves_no_half_repository_and_can_be_repeated(home: Home, standin_hub: StandinHub) -> None:
    standin_hub.refuse["/commit/"] = 403
    assert push(home, standin_hub)["error"]["kind"] == "HubRefused"
    assert "adapter_model.safetensors" not in standin_hub.files("user-a/river")
    standin_hub.refuse.clear()
    assert push(home, standin_hub)["state"] == "finished"
    uploads = [entry for entry in standin_hub.log if entry.method == "PUT"]
    assert len(uploads) == len({entry.path for entry in uploads}), "a file that had arrived was sent again"


def test_the_token_is_on_no_disk_and_in_no_command_line(home: Home, standin_hub: StandinHub, tmp_path: Path) -> None:
    asked = {"run_id": RUN, "repo": "user-a/river", "merged": False, "public": False}
    folder, worker = start(home, "push", asked, RUN, standin_hub.write_token)
    process = Path(f"/proc/{worker.pid}")
    seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    worker.wait(60)
    assert json.loads((folder / "outcome.json").read_text())["state"] == "finished"
    token = standin_hub.write_token.encode()
    assert token not in seen
    searched = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(searched) > 15
    assert [path for path in searched if token in path.read_bytes()] == []


def test_publishing_needs_no_torch() -> None:
    asked = "import sys, lora_ui.worker.push; sys.exit(bool({'torch', 'transformers', 'peft'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", asked], check=True, cwd=REPOSITORY)


def test_a_push_killed_between_two_files_goes_on_with_the_second(home: Home, standin_hub: StandinHub) -> None:
    assert work(home, "merge", {"run_id": RUN, "dtype": None}, RUN)["state"] == "finished"
    first, second = (hashlib.sha256((home.run(RUN) / "merged" / name).read_bytes()).hexdigest() for name in BIG)
    standin_hub.refuse[second] = 503  # the client tries again and again
    asked = {"run_id": RUN, "repo": "user-a/river", "merged": True, "public": False}
    _, worker = start(home, "push", asked, RUN, standin_hub.write_token)
    until(lambda: any(entry.method == "PUT" and second in entry.path for entry in standin_hub.log))
    worker.kill()
    worker.wait()
    assert set(standin_hub.files("user-a/river")) <= {".gitattributes"}
    standin_hub.refuse.clear()
    before = len(standin_hub.log)
    assert push(home, standin_hub, merged=True)["state"] == "finished"
    sent = [entry.path for entry in standin_hub.log[before:] if entry.method == "PUT"]
    assert sent == [f"/lfs/{second}"]
    assert first in standin_hub.lfs
