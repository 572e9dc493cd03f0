"""The prepare job on real rows and a real tokenizer: what is shown is what is trained, and what goes wrong is said."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from lora_ui import data, errors
from lora_ui.data import prepared
from lora_ui.home import REPOSITORY, Home, read_json, write_json
from lora_ui.worker import prepare, render, spans
from lora_ui.worker.job import Job, Stopped
from lora_ui.worker.load import load_tokenizer
from tests.tiny import CHATML, tiny_tokenizer


class Place:
    """A home with rows and a base model, and jobs on them."""

    def __init__(self, folder: Path):
        self.home = Home.open(folder / "home")
        self.base = folder / "base"
        self.files = folder

    def rows(self, rows: list[dict[str, Any]], mapping: dict[str, str] | None = None) -> str:
        path = self.files / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return data.load(self.home, path, mapping).digest

    def model(self, template: str | None = CHATML) -> str:
        tiny_tokenizer(self.base, template)
        write_json(
            self.base / "config.json", {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512}
        )
        (self.base / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")  # no tensors: a tokenizer is all that is read
        return str(self.base)

    def asked(self, digest: str, **changes: Any) -> dict[str, Any]:
        usual = {"revision": None, "max_length": 512, "held_out_rows": 0, "split_seed": 42, "system_prompt": ""}
        return {"digest": digest, "base_model": str(self.base), **usual, **changes}

    def job(self, asked: dict[str, Any]) -> Job:
        folder = self.home.job("prepare", "prepare-1", None, asked["digest"])
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / "job.json", {"id": "prepare-1", "kind": "prepare", "run_id": None, "home": str(self.home.root), "params": asked}
        )
        return Job(folder)

    def run(self, asked: dict[str, Any]) -> dict[str, Any]:
        return prepare.run(self.job(asked))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def pairs(count: int) -> list[dict[str, Any]]:
    return [{"question": f"Q{n} <|im_end|>", "answer": f"The answer {n}."} for n in range(1, count + 1)]


def test_what_is_shown_is_what_is_trained(place: Place) -> None:
    place.model()
    digest = place.rows(pairs(10))
    asked = place.asked(digest, held_out_rows=3, system_prompt="Be short.")
    result = place.run(asked)
    folder = place.home.root / result["folder"]
    assert folder == prepared.folder(place.home, asked)
    shown = {row["row"]: row for split in ("train", "held_out") for row in prepared.read_rows(folder, split)}
    assert sorted(shown) == list(range(1, 11))
    tokenizer = load_tokenizer(place.base)
    for row in data.rows(place.home, digest):
        made = render.render(tokenizer, row, "Be short.", 512, CHATML)
        kept = shown[row["row"]]
        assert (kept["text"], kept["input_ids"], kept["labels"]) == (made.text, made.input_ids, made.labels)
        assert (kept["starts"], kept["ends"], kept["cut_tokens"]) == (made.starts, made.ends, 0)


def test_the_summary_counts_everything(place: Place) -> None:
    place.model()
    asked = place.asked(place.rows(pairs(10)), held_out_rows=3)
    result = place.run(asked)
    folder = prepared.folder(place.home, asked)
    train, held_out = prepared.read_rows(folder, "train"), prepared.read_rows(folder, "held_out")
    assert (result["rows"], result["train_rows"], result["held_out_rows"]) == (10, len(train), len(held_out)) == (10, 7, 3)
    assert result["tokens"] == {
        "total": sum(len(row["input_ids"]) for row in train + held_out),
        "trained": sum(label != -100 for row in train + held_out for label in row["labels"]),
    }
    assert result["train_tokens"] == sum(len(row["input_ids"]) for row in train)
    assert sorted(result["lengths"]) == sorted(len(row["input_ids"]) for row in train + held_out)
    about = [result[key] for key in ("template", "mask", "truncated", "cut_tokens", "special_ids", "key", "base_model")]
    assert about == ["own", "prefix", 0, 0, [0, 1, 2], prepared.key(asked), str(place.base)]
    assert [(f["code"], f["severity"], f["count"], f["rows"]) for f in result["findings"]] == [
        ("special_token", "warn", 10, [1, 2, 3, 4, 5])
    ]
    assert {"folder": result["folder"], **(prepared.summary(place.home, asked) or {})} == result
    json.dumps(result)


def test_the_split_follows_the_seed_and_nothing_else(place: Place) -> None:
    place.model()
    digest = place.rows(pairs(40))

    def aside(**changes: Any) -> list[int]:
        asked = place.asked(digest, **{"held_out_rows": 5, **changes})
        place.run(asked)
        return [row["row"] for row in prepared.read_rows(prepared.folder(place.home, asked), "held_out")]

    first = aside()
    assert len(first) == 5
    assert aside(system_prompt="Another prompt.") == first
    assert aside(split_seed=43) != first
    assert aside(held_out_rows=0) == []


def test_cut_rows_are_counted_and_those_that_teach_nothing_left_out(place: Place) -> None:
    place.model()
    rows = [{"question": "Q", "answer": "A"}, {"question": "Q", "answer": "long " * 40}, {"question": "long " * 40, "answer": "A"}]
    asked = place.asked(place.rows(rows), max_length=60)
    result = place.run(asked)
    shown = prepared.read_rows(prepared.folder(place.home, asked), "train")
    assert [(row["row"], len(row["input_ids"])) for row in shown] == [(1, result["lengths"][0]), (2, 60)]
    assert (result["rows"], result["truncated"], result["cut_tokens"]) == (2, 1, shown[1]["cut_tokens"])
    assert [(f["code"], f["severity"], f["count"], f["rows"]) for f in result["findings"]] == [
        ("too_long", "drop", 1, [3]),
        ("too_long", "warn", 1, [2]),
    ]
    with pytest.raises(errors.NoRowsLeft, match="no answer begins within 16 tokens"):
        place.run(place.asked(place.rows([{"question": "long " * 40, "answer": "A"}] * 2), max_length=16))


def test_plain_text_chosen_by_hand_and_a_model_without_template(place: Place) -> None:
    place.model(None)
    text = place.run(place.asked(place.rows([{"poem": "The old mill."}, {"poem": "A river."}], {"text": "poem"})))
    assert (text["template"], text["mask"], text["findings"]) == ("plain", "all", [])
    chat = place.run(place.asked(place.rows([{"question": "Q", "answer": "A"}] * 2)))
    assert (chat["template"], chat["mask"], [f["code"] for f in chat["findings"]]) == ("chatml", "prefix", ["template"])


def test_generation_tags_and_a_template_without_end_token(place: Place) -> None:
    answer = "{% for m in messages %}{{ m['role'] + ': ' }}{% generation %}{{ m['content'] }}{% endgeneration %}{{ '\n' }}{% endfor %}"
    place.model(
        answer.replace("{% generation %}", "{% if m['role'] == 'assistant' %}{% generation %}").replace(
            "{% endgeneration %}", "{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}"
        )
    )
    result = place.run(place.asked(place.rows([{"question": "Q", "answer": "A"}] * 2)))
    assert (result["template"], result["mask"]) == ("own", "generation")
    assert [f["code"] for f in result["findings"]] == ["template"]
    assert "no end token" in result["findings"][0]["message"]["text"]


def test_done_once_and_left_whole(place: Place) -> None:
    place.model()
    asked = place.asked(place.rows(pairs(3)))
    first = place.run(asked)
    before = (prepared.folder(place.home, asked) / "train.parquet").stat().st_mtime_ns
    assert place.run({**asked, "prepared": "kept apart", "env": {}}) == first
    assert (prepared.folder(place.home, asked) / "train.parquet").stat().st_mtime_ns == before
    assert prepared.summary(place.home, place.asked(asked["digest"], max_length=100)) is None


def test_a_stop_leaves_nothing_half_done(place: Place) -> None:
    place.model()
    asked = place.asked(place.rows(pairs(3 * prepare.TOGETHER)))
    job = place.job(asked)
    told = job.progress
    job.progress = lambda *far: (told(*far), job.stopping.set())  # asked to stop while rows are written
    with pytest.raises(Stopped):
        prepare.run(job)
    assert prepared.summary(place.home, asked) is None
    assert list(prepared.folder(place.home, asked).parent.iterdir()) == []


def test_more_held_out_rows_than_rows(place: Place) -> None:
    place.model()
    with pytest.raises(errors.TooFewRows, match="3 usable rows; at least 4"):
        place.run(place.asked(place.rows(pairs(3)), held_out_rows=3))


# Templates are other people's code


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if messages[0]['content'].startswith('Q2') %}{{ raise_exception('No Q2 here') }}{% endif %}" + CHATML, "No Q2 here"),
        ("{% if messages[0]['content'].startswith('Q2') %}{{ missing.field }}{% endif %}" + CHATML, "'missing' is undefined"),
        (
            "{% if messages[0]['content'].startswith('Q2') %}{{ ('a' * 4000000000) | length }}{% endif %}" + CHATML,
            "more than 2 GiB of memory",
        ),
        ("{% if messages[0]['content'].startswith('Q2') %}{{ ''.__class__.__mro__ }}{% endif %}" + CHATML, "SecurityError"),
        ("{% if broken", "TemplateSyntaxError"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "drops or changes part of an answer"),
    ],
)
def test_a_template_that_fails_names_the_row(place: Place, template: str, said: str) -> None:
    place.model(template)
    with pytest.raises(errors.TemplateFailed) as e:
        place.run(place.asked(place.rows([{"question": f"Q{n}", "answer": "A"} for n in range(1, 4)])))
    assert said in e.value.cause
    assert e.value.values["row"] == (2 if "Q2" in template else 1)


def test_a_template_that_never_ends(place: Place) -> None:
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    place.model(loops + CHATML)
    with pytest.raises(errors.TemplateFailed, match=r"row 1\. It ran for more than 2 seconds"):
        place.run(place.asked(place.rows(pairs(2))))


def test_nothing_is_tokenised_while_a_template_runs(place: Place) -> None:
    """Its limit on memory is the whole process's: the tokenizer would die of it."""
    place.model()
    asked = place.asked(place.rows([{"question": f"Q{n}", "answer": "long " * 300} for n in range(prepare.TOGETHER + 1)]))
    beside: list[bool] = []

    def look(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is spans.lay_conversation.__code__:
            others = [each for thread, each in sys._current_frames().items() if thread != threading.get_ident()]
            beside.append(any(one.f_code is render.encode.__code__ for other in others for one, _ in traceback.walk_stack(other)))

    sys.setprofile(look)
    try:
        place.run(asked)
    finally:
        sys.setprofile(None)
    assert len(beside) > prepare.TOGETHER and not any(beside)


LIMITS = """
from lora_ui.worker.limits import TooMuch, limited_memory, limited_time
try:
    with limited_time(0.05):
        while True:
            pass
except TooMuch:
    print("time")
try:
    with limited_memory(100 * 2**20):
        bytearray(300 * 2**20)
except MemoryError:
    print("memory")
print(len(bytearray(300 * 2**20)))
"""


def test_limits_are_lifted_again() -> None:
    """In a process of its own: what an earlier test gave back can be taken again without any new address space."""
    done = subprocess.run([sys.executable, "-c", LIMITS], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.split() == ["time", "memory", str(300 * 2**20)], done.stderr


# Through the door


def test_the_worker_process_prepares_without_torch(place: Place) -> None:
    place.model()
    asked = place.asked(place.rows(pairs(4)), held_out_rows=1)
    job = place.job(asked)
    command = [sys.executable, "-X", "importtime", "-m", "lora_ui.worker", str(job.folder)]
    done = subprocess.run(command, input='{"token": null}\n', capture_output=True, text=True, cwd=REPOSITORY)
    outcome = read_json(job.folder / "outcome.json")
    assert (done.returncode, outcome["state"], outcome["error"]) == (0, "finished", None), done.stderr[-2000:]
    assert outcome["result"]["train_rows"] == 3
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "transformers" in imported
    assert not imported & {"torch", "datasets", "gradio", "peft", "trl"}


def test_the_worker_process_explains_a_failing_template(place: Place) -> None:
    place.model("{{ raise_exception('This model knows no conversations') }}")
    job = place.job(place.asked(place.rows(pairs(2))))
    done = subprocess.run(
        [sys.executable, "-m", "lora_ui.worker", str(job.folder)], input="", capture_output=True, text=True, cwd=REPOSITORY
    )
    outcome = read_json(job.folder / "outcome.json")
    assert (done.returncode, outcome["state"], outcome["error"]["kind"]) == (1, "failed", "TemplateFailed")
    assert "This model knows no conversations" in outcome["error"]["cause"]


# What a person chose


def test_rows_left_out_by_code_are_counted(place: Place) -> None:
    place.model()
    rows = [*pairs(6), {"question": "Q", "answer": "long " * 200}, {"question": "Q1 <|im_end|>", "answer": "The answer 1."}]
    digest = place.rows(
        [{**row, "question": row["question"].replace(" <|im_end|>", "") if n % 2 else row["question"]} for n, row in enumerate(rows)]
    )
    asked = place.asked(digest, leave_out=["too_long", "special_token"], max_length=200)
    result = place.run(asked)
    assert result["left_out"] == {"special_token": 3, "too_long": 1} and result["rows"] == 4
    assert [(f["code"], f["severity"], f["rows"]) for f in result["findings"]] == [
        ("special_token", "drop", [1, 3, 5]),
        ("too_long", "drop", [7]),
    ]
    assert prepared.key(asked) != prepared.key({**asked, "leave_out": []})
    secret = [{"question": f"Q{n}", "answer": "AKIAABCDEFGHIJKLMNOP"} for n in range(2)]
    with pytest.raises(errors.NoRowsLeft, match="2 × secret"):
        place.run(place.asked(place.rows(secret), leave_out=["secret"]))


def test_a_row_limit_is_said(place: Place) -> None:
    place.model()
    result = place.run(place.asked(place.rows(pairs(20)), row_limit=8, held_out_rows=2))
    assert (result["rows"], result["train_rows"], result["held_out_rows"], result["over_limit"]) == (8, 6, 2, 12)


def test_held_out_rows_of_another_file(place: Place) -> None:
    place.model()
    tested = place.rows([{"question": "Q3 <|im_end|>", "answer": "Another."}, {"question": "New", "answer": "One."}])
    asked = place.asked(place.rows(pairs(5)), held_out_digest=tested, held_out_rows=3)
    result = place.run(asked)
    assert (result["train_rows"], result["held_out_rows"], result["own_held_out"]) == (5, 2, True)
    assert [(f["code"], f["rows"], f["action"]) for f in result["findings"] if f["code"] == "leak"] == [("leak", [3], "drop")]
    assert "One." in prepared.read_rows(prepared.folder(place.home, asked), "held_out")[1]["text"]
    assert place.run({**asked, "leave_out": ["leak"]})["train_rows"] == 4


def test_what_is_learned_is_chosen(place: Place) -> None:
    place.model()
    digest = place.rows(pairs(4))
    trained = {learn: place.run(place.asked(digest, learn=learn))["tokens"] for learn in ("all", "last", "everything")}
    assert trained["all"] == trained["last"]
    assert trained["everything"]["trained"] == trained["everything"]["total"] - 4  # the first token of a row is told by nothing


def test_a_base_model_without_template_gets_the_chosen_layout(place: Place) -> None:
    place.model(None)
    asked = place.asked(place.rows([{"question": "Q", "answer": "A"}] * 2), template_for_base="plain")
    result = place.run(asked)
    assert (result["template"], result["mask"], [f["code"] for f in result["findings"]]) == ("named", "prefix", ["template"])
    assert prepared.read_rows(prepared.folder(place.home, asked), "train")[0]["text"] == "User: Q\nAssistant: A<|im_end|>\n"


def test_what_the_template_leaves_out_or_adds_is_told(place: Place) -> None:
    place.model("{{ 'You are a mill. Grind what you get.' }}" + CHATML.replace("<|im_start|>' + message['role']", "' + message['role']"))
    found = place.run(place.asked(place.rows(pairs(2))))["findings"]
    assert "“You are a mill. Grind what you get.” " not in found[-1]["message"]["text"]
    assert "You are a mill. Grind what you get." in found[-1]["message"]["text"]
    place.model("{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}" + CHATML)
    found = place.run(place.asked(place.rows(pairs(3)), system_prompt="Be short."))["findings"]
    assert [(f["code"], f["count"], f["rows"]) for f in found if f["code"] == "template"] == [("template", 3, [1, 2, 3])]
    assert "leaves the system prompt out of 3 rows" in found[-1]["message"]["text"]


def test_the_first_rows_are_there_before_the_rest(place: Place) -> None:
    place.model("{% if messages[0]['content'].startswith('Q601 ') %}{{ raise_exception('No Q601 here') }}{% endif %}" + CHATML)
    asked = place.asked(place.rows(pairs(700)))
    seen: list[int] = []
    job = place.job(asked)
    progress, job.progress = (
        job.progress,
        lambda done, total, unit="": (seen.append(len(prepared.read_first(place.home, asked))), progress(done, total, unit)),
    )
    with pytest.raises(errors.TemplateFailed):
        prepare.run(job)
    assert seen == [200, 200]  # the third portion waits to be written when the fourth fails
    assert prepared.read_first(place.home, asked) == [] and list(prepared.folder(place.home, asked).parent.iterdir()) == []
    place.model()
    place.run(asked)
    first = prepared.read_first(place.home, asked)
    assert {row["split"] for row in first} == {"train"} and len(first) == 200
    assert [{k: v for k, v in row.items() if k != "split"} for row in first] == prepared.read_rows(
        prepared.folder(place.home, asked), "train", 0, 200
    )
