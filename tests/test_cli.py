"""The command line as a person meets it: a process, its exit code, what it prints where."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import end_processes
from tests.tiny import tiny_model

ROOT = Path(__file__).parent.parent
GOOD = "".join(json.dumps({"question": f"What is {n}?", "answer": f"It is the number {n}."}) + "\n" for n in range(12))


@pytest.fixture
def run(tmp_path):
    """`run(*args)` -> (exit code, stdout, stderr) of `python -m lora_ui` with a home of its own and no Hub."""
    home = tmp_path / "home"

    def call(*args, env=None):
        environment = {
            **os.environ,
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "HF_HOME": str(tmp_path / "hf"),
            "LORA_UI_HOME": str(home),
            **(env or {}),
        }
        environment.pop("HF_TOKEN", None)
        environment |= env or {}
        done = subprocess.run(
            [sys.executable, "-m", "lora_ui", *map(str, args)], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
        )
        return done.returncode, done.stdout, done.stderr

    yield call
    from lora_ui.home import Home

    end_processes(Home(home))


@pytest.fixture
def file(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


PNG = b"\x89PNG\r\n\x1a\n" + bytes(200)
REFUSED = {
    "empty": ("a.jsonl", "", ["a.jsonl is empty"]),
    "only blank lines": ("a.jsonl", "\n\n \n", ["a.jsonl is empty"]),
    "png": ("photo.jsonl", PNG, ["photo.jsonl", "PNG"]),
    "broken line 7": ("a.jsonl", GOOD.replace('{"question": "What is 6?"', '{"question: "What is 6?"'), ["Line 7", "1 of 12 lines"]),
    "unknown columns": ("a.csv", "colour,weight\nred,3\nblue,4\n", ["colour", "weight", "--map"]),
    "no answers": ("a.csv", "question,answer\nWhat?,\nWho?,  \n", ["No row", "2"]),
    "unreadable": ("a.csv", bytes(range(128, 256)) * 40 + b"\x00\x01\xff\xfe\x00" * 40, ["a.csv"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_data_is_refused_with_what_where_and_what_to_do(run, file, case):
    name, content, said = REFUSED[case]
    code, out, err = run("check", file(name, content))
    assert code == 1 and out == ""
    assert all(words in err for words in said), err
    assert len(err.strip().splitlines()) >= 3 and "Traceback" not in err
    code, out, _ = run("check", file(name, content), "--json")
    assert code == 1 and json.loads(out)["error"]["message"] in err


def test_a_row_without_an_answer_is_left_out_counted_and_told(run, file):
    path = file("a.jsonl", GOOD + '{"question": "And this?", "answer": null}\n')
    code, out, _ = run("check", path, "--json")
    report = json.loads(out)
    assert code == 0 and (report["ok"], report["rows"], report["kept"], report["dropped"]) == (True, 13, 12, 1)
    assert report["tokens"] is None and report["truncated"] is None
    (finding,) = [f for f in report["findings"] if f["severity"] == "drop"]
    assert finding["count"] == 1 and finding["rows"] == [13] and finding["code"] in ("null_field", "empty_answer")
    code, out, _ = run("check", path)
    assert code == 0 and "12 ready, 1 left out" in out and "13" in out


def test_a_recipe_trims_the_same_rows_again(run, file):
    path = file("a.jsonl", GOOD + '{"question": "And this?", "answer": "  A bill.\\n\\n"}\n')
    found = [json.loads(run("check", path, "--json", *more)[1]) for more in ((), ("--set", "data.trim=whitespace"))]
    recipe = file("recipe.yaml", "data: {trim: [whitespace]}\n")
    code, out, _ = run("check", path, "--settings", recipe, "--json")
    assert code == 0 and json.loads(out) == found[1]
    assert [(f["code"], f["action"], f["rows"]) for report in found for f in report["findings"]] == [
        ("whitespace", "drop", [13]),
        ("whitespace", "undo", [13]),
    ]
    assert found[0]["digest"] != found[1]["digest"] and found[0]["kept"] == found[1]["kept"] == 13
    assert "1 row was trimmed, as chosen" in run("check", path, "--settings", recipe)[1]
    code, _, err = run("check", path, "--set", "data.trim=blanks")
    assert code == 1 and "data.trim" in err and "whitespace, last_turn" in err


def test_columns_can_be_named_by_hand(run, file):
    path = file("a.csv", "colour,weight\nred,3 kg\nblue,4 kg\n")
    code, out, _ = run("check", path, "--map", "user=colour", "--map", "assistant=weight", "--json")
    assert code == 0 and json.loads(out)["kept"] == 2
    code, _, err = run("check", path, "--map", "user=colour", "--map", "assistant=wait")
    assert code == 1 and "no column wait" in err and "weight" in err


def test_wrong_settings_are_named_all_at_once(run, file):
    recipe = file("recipe.yaml", "adapter: {r: -1, rang: 3}\ntraining: {learning_rate: fast}\n")
    code, _, err = run("train", "--settings", recipe, "--data", file("a.jsonl", GOOD), "--base-model", "starter")
    assert code == 1
    assert "adapter.r: -1" in err and "training.learning_rate: 'fast'" in err and "adapter.rang" in err and "did you mean adapter.r" in err
    code, _, err = run("train", "--preset", "cpuu", "--data", "a", "--base-model", "starter")
    assert code == 1 and "no preset named cpuu" in err and "quick-check" in err


def test_wrong_usage_is_exit_code_2(run, file):
    assert run("train", "--preset", "cpu")[0] == 2
    assert run("train", "--preset", "cpu", "--settings", file("r.yaml", "{}"), "--data", "x")[0] == 2
    assert run("fit")[0] == 2
    assert run("fit", "--base-model", "starter", "--gpu-memory", "lots")[0] == 2


def test_a_base_model_that_does_not_exist_and_a_hub_out_of_reach_are_told_apart(run, file, standin_hub):
    data = file("a.jsonl", GOOD)
    code, _, err = run("train", "--data", data, "--base-model", "nobody/nothing", env={"HF_ENDPOINT": standin_hub.url})
    assert code == 1 and "no model nobody/nothing" in err
    code, _, err = run("train", "--data", data, "--base-model", "nobody/nothing")
    assert code == 1 and "cannot be reached" in err and "starter" in err
    code, _, err = run("train", "--data", data, "--base-model", data.parent)
    assert code == 1 and "holds no model" in err


def test_a_run_that_would_fill_the_disk_is_refused_before_it_starts(run, file, standin_hub):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 65536, "intermediate_size": 262144}
    config |= {"num_hidden_layers": 400, "num_attention_heads": 64, "num_key_value_heads": 64, "vocab_size": 32000}
    standin_hub.add_model("user-a/huge", {"config.json": json.dumps(config).encode(), "model.safetensors": b"x", "tokenizer.json": b"{}"})
    code, out, err = run("train", "--data", file("a.jsonl", GOOD), "--base-model", "user-a/huge", env={"HF_ENDPOINT": standin_hub.url})
    assert code == 1 and out == "" and "not enough space on the disk" in err
    assert run("runs", "--json")[1] == ""


def test_the_shape_of_gpt2_gives_the_published_count(run):
    code, out, _ = run(
        "fit", "--base-model", "openai-community/gpt2", "--set", "adapter.r=8", "--set", "adapter.target_modules=c_attn", "--json"
    )
    said = json.loads(out)
    assert code == 0 and (said["trainable_parameters"], said["all_parameters"]) == (294_912, 124_734_720)
    assert round(said["share"], 4) == 0.2364 and said["verdict"] in ("fits", "tight") and "r·(in + out)" in said["explanation"]


def test_fit_checks_exactly(run, tmp_path):
    code, out, err = run("fit", "--base-model", tiny_model(tmp_path / "base"), "--gpu-memory", "8GiB", "--exact", "--json")
    exact = json.loads(out)["exact"]
    assert code == 0 and "checking exactly 5/5" in err
    assert exact["verdict"] == "fits" and exact["exact_bytes"] == sum(found for _, found in exact["items"].values())


def test_fit_says_whether_it_fits_and_what_to_change(run):
    asked = ("fit", "--base-model", "Qwen/Qwen3-8B", "--gpu-memory")
    code, out, _ = run(*asked, "12GiB")
    assert code == 0 and "A GPU with 12.0 GB: does not fit" in out and "--set model.load_in_4bit=true" in out
    said = json.loads(run(*asked, "12GiB", "--json")[1])
    assert said["verdict"] == "no" and said["predicted_bytes"] == sum(said["items"].values()) > said["available_bytes"] == 12 * 2**30
    assert set(said["items"]) == {"weights", "adapter", "gradients", "optimizer", "activations", "logits", "context", "margin"}
    (way,) = [way for way in said["advice"] if way["change"].get("model", {}).get("load_in_4bit")]
    taken = json.loads(run(*asked, "12GiB", "--set", "model.load_in_4bit=true", "--json")[1])
    assert taken["verdict"] == way["verdict"] == "fits" and taken["predicted_bytes"] == way["needs"]
    assert json.loads(run(*asked, "24GiB", "--json")[1])["verdict"] == "fits"
    _, out, _ = run(*asked, "12GiB", "--preset", "balanced")
    assert "model.load_in_4bit = true: on, because even at its leanest" in out and "A GPU with 12.0 GB: fits" in out


def test_runs_that_are_not_there(run):
    for verb in ("show", "stop", "resume", "delete", "logs"):
        code, _, err = run(verb, "no-such-run")
        assert code == 1 and "no run no-such-run" in err
    assert run("show", "../../etc/passwd")[0] == 1


def test_doctor_says_what_works_here(run):
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert code == 0 and report["versions"]["trl"] == "1.16.0" and report["notes"]
    assert report["machine"]["device"] in ("cpu", "cuda", "mps")


@pytest.mark.train
def test_the_whole_way_from_the_terminal(run, file, standin_hub, tmp_path):
    data = file("<b>${alert(1)}<b>.jsonl", GOOD)
    small = ["--set", "training.max_steps=3", "--set", "training.max_length=64", "--set", "data.held_out_rows=2"]
    hub = {"HF_ENDPOINT": standin_hub.url, "HF_HUB_DISABLE_XET": "1"}
    base = tiny_model(tmp_path / "tiny")
    standin_hub.add_model("user-a/tiny", base)
    code, out, err = run("train", "--data", data, "--base-model", "user-a/tiny", *small, "--key", "k1", "--name", "<i>x</i>", env=hub)
    assert code == 0, err
    id = out.splitlines()[0]
    assert out == f"{id}\n" and "rows are learned" in err
    assert (
        run("train", "--data", data, "--base-model", "user-a/tiny", *small, "--key", "k1", "--detach", "--json", env=hub)[1]
        == json.dumps({"id": id}) + "\n"
    )

    shown = json.loads(run("show", id, "--json")[1])
    contract = [
        "id",
        "kind",
        "state",
        "base_model",
        "preset",
        "step",
        "total_steps",
        "train_loss",
        "eval_loss",
        "tokens_per_second",
        "peak_share",
        "seconds",
        "phases",
        "memory",
        "trainable_parameters",
        "all_parameters",
        "adapter_path",
        "base_model_path",
        "pid",
        "error",
    ]
    assert set(contract) <= shown.keys() and (shown["state"], shown["step"], shown["name"]) == ("finished", 3, "<i>x</i>")
    assert {"queue", "import", "load", "prepare", "first_step", "train", "save"} <= shown["phases"].keys()
    assert [json.loads(line)["id"] for line in run("runs", "--json")[1].splitlines()] == [id]
    assert run("logs", id)[0] == 0

    code, out, err = run("chat", id, "--prompt", "What is 3?", "--compare", "--max-tokens", "8", "--temperature", "0", env=hub)
    assert code == 0 and "[base]" in out and f"[{id}]" in out, err
    code, out, err = run("merge", id, tmp_path / "merged", "--json", env=hub)
    assert code == 0 and {"path", "seconds", "check"} <= json.loads(out).keys(), err
    assert run("merge", id, tmp_path / "merged", env=hub)[0] == 1

    code, out, err = run("push", id, f"{standin_hub.user}/mine", "--json", env={**hub, "HF_TOKEN": standin_hub.write_token})
    assert code == 0 and {"url", "seconds", "check"} <= json.loads(out).keys(), err
    assert (
        standin_hub.files(f"{standin_hub.user}/mine")["adapter_model.safetensors"]
        == (Path(shown["adapter_path"]) / "adapter_model.safetensors").read_bytes()
    )
    code, _, err = run("push", id, f"{standin_hub.user}/mine", env=hub)
    assert code == 1 and "needs a Hugging Face token" in err

    assert run("delete", id)[0] == 0 and run("runs", "--json")[1] == ""
    leaked = [p for p in tmp_path.rglob("*") if p.is_file() and standin_hub.write_token.encode() in p.read_bytes()]
    assert leaked == []
