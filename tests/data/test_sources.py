"""Where data comes from: pasted text, several sources, parts of a Hub dataset; columns chosen by hand; tool calls; saved reports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lora_ui import data, errors
from lora_ui.data import hub_rows
from lora_ui.data.sources import absolute, hub_name, locate
from lora_ui.home import REPOSITORY, Home
from lora_ui.ui import saved_report
from lora_ui.ui.words import Words
from tests.data.corpus import CALL, QA, TEXT, TOOL_TALK, jsonl
from tests.standin_hub import StandinHub

HOSTILE = "<b>${alert(1)}</b>"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


def file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, "utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("text", "name", "format", "kept"),
    [
        (TEXT, "", "question_answer", 5),
        (json.dumps(QA, indent=1), "pasted", "question_answer", 5),
        ("question\tanswer\nq\ta\nr\tb\n", "", "question_answer", 2),
        ("Question,Answer\nq,a\nr,b\n", "", "question_answer", 2),
        ("Well, I never.\n\nSaid she, and left.", "", "text", 2),
        ("# A\n\nb\n\n# C\n\nd", "notes.md", "text", 2),
    ],
)
def test_pasted_text(home: Home, text: str, name: str, format: str, kept: int) -> None:
    report = data.load(home, data.store_text(home, text, name)).report
    assert (report["format"], report["kept"]) == (format, kept)


def test_pasted_text_that_cannot_be_kept(home: Home) -> None:
    with pytest.raises(errors.EmptyData):
        data.store_text(home, " \n")
    with pytest.raises(errors.UnreadableEncoding):
        data.store_text(home, "half \ud800")
    assert list(home.uploads.iterdir()) == []


def test_several_sources_are_counted_through(home: Home, tmp_path: Path) -> None:
    first, second = file(tmp_path, "a.jsonl", TEXT), file(tmp_path, "b.csv", "question,answer\nnew,row\n")
    report = data.load(home, f"{first}\n\n {second} \n").report
    assert (report["name"], report["kept"]) == ("a.jsonl + b.csv", 6)
    assert report["files"] == [{"name": "a.jsonl", "first_row": 1, "rows": 5}, {"name": "b.csv", "first_row": 6, "rows": 1}]
    assert absolute(f"{tmp_path}/../{tmp_path.name}/a.jsonl\n owner/name:fr ") == f"{first}\nowner/name:fr"
    with pytest.raises(errors.DataNotFound, match="nowhere"):
        data.load(home, f"{first}\n{tmp_path}/nowhere")
    file(tmp_path, "two\nlines.jsonl", TEXT)
    assert data.load(home, tmp_path / "two\nlines.jsonl").report["kept"] == 5


# Columns


ROWS = [
    {"title": "T1", "body": "B1", "label": "L1"},
    {"title": "T2", "body": None, "label": "L2"},
    {"title": "T3", "body": "B3", "label": "{x}"},
]


def test_a_role_may_be_a_template(home: Home, tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", jsonl(ROWS))
    found = data.load(home, path, {"user": "{title}: {{{body}}}", "assistant": "label", "system": "S\\n{title}{body}"})
    assert [f["code"] for f in found.report["findings"]] == ["null_field"]
    rows = data.rows(home, found.digest)
    assert [row["messages"][1]["content"] for row in rows] == ["T1: {B1}", "T3: {B3}"]
    assert [row["messages"][0]["content"] for row in rows] == ["S\nT1B1", "S\nT3B3"]
    assert rows[1]["messages"][2]["content"] == "{x}"
    with pytest.raises(errors.MissingColumns, match="no column bodies"):
        data.load(home, path, {"user": "{title} {bodies}", "assistant": "label"})


def test_what_was_chosen_is_used_again_for_the_same_columns(home: Home, tmp_path: Path) -> None:
    mapping = {"user": "{title} {body}", "assistant": "label"}
    data.load(home, file(tmp_path, "a.jsonl", jsonl(ROWS)), mapping)
    other = file(tmp_path, "b.csv", "label,body,title\nx,y,z\nu,v,w\n")
    report = data.load(home, other).report
    assert (report["mapping"], report["confidence"]) == (mapping, "by hand")
    assert str(report["why"]["text"]).startswith("You chose these columns for an earlier file with the same ones: user = {title} {body}")
    assert data.peek(home, other)["guess"] == mapping
    data.forget_mapping(home, other)
    assert data.load(home, other).report["confidence"] == "likely"


def test_choosing_what_is_recognised_anyway_undoes_an_earlier_choice(home: Home, tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", TEXT)
    data.load(home, path, {"user": "answer", "assistant": "question"})
    assert data.load(home, path).report["mapping"]["user"] == "answer"
    data.load(home, path, {"user": "question", "assistant": "answer"})
    assert data.load(home, path).report["confidence"] == "sure"


def test_a_column_that_comes_late_is_found(home: Home, tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", jsonl([{"id": 1}] * 5000 + QA))
    assert data.load(home, path).report["kept"] == 5
    assert data.load(home, path, {"user": "answer", "assistant": "question"}).report["kept"] == 5
    assert data.peek(home, path)["columns"] == ["id", "question", "answer"]


def test_tool_calls_and_reasoning_are_kept(home: Home, tmp_path: Path) -> None:
    found = data.load(home, file(tmp_path, "a.jsonl", jsonl([{"messages": TOOL_TALK, "tools": [CALL]}, {"messages": TOOL_TALK}])))
    first, second = data.rows(home, found.digest)
    assert first["tools"] == [CALL] and "tools" not in second
    assert first["messages"] == [
        {"role": "user", "content": "Q"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
        },
        {"role": "tool", "content": "4 degrees", "tool_call_id": "c1"},
        {"role": "assistant", "content": "Cold.", "reasoning_content": "4 is little."},
    ]


def test_history_comes_first(home: Home, tmp_path: Path) -> None:
    rows = [{"instruction": "3", "output": "4", "history": [["1", "2"]]}, {"instruction": "5", "output": "6", "history": []}]
    found = data.load(home, file(tmp_path, "a.jsonl", jsonl(rows)))
    assert [m["content"] for m in data.rows(home, found.digest)[0]["messages"]] == ["1", "2", "3", "4"]


# The Hub

CARD = """---
configs:
- config_name: french
  data_files:
  - {split: train, path: "fr/*.jsonl"}
  - {split: test, path: [fr-test.csv]}
- config_name: english
  default: true
  data_files: en/**/rows.jsonl
---
"""
NAMES = ["README.md", "fr/a.jsonl", "fr/b.jsonl", "fr-test.csv", "en/x/y/rows.jsonl", "en/x/other.jsonl"]


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("a/b", ["en/x/y/rows.jsonl"]),
        ("a/b:french", ["fr/a.jsonl", "fr/b.jsonl"]),
        ("a/b:french/test", ["fr-test.csv"]),
        ("a/b:german", []),
        ("https://huggingface.co/datasets/a/b/viewer/french/test?p=1", ["fr-test.csv"]),
        ("https://huggingface.co/datasets/a/b/blob/main/en/x/other.jsonl", ["en/x/other.jsonl"]),
        ("https://huggingface.co/datasets/a/b/tree/main/fr", ["fr/a.jsonl", "fr/b.jsonl"]),
    ],
)
def test_the_card_says_which_files_belong_to_a_config(asked: str, chosen: list[str]) -> None:
    source = hub_rows.parse(asked)
    assert source and hub_rows.select(NAMES, source, CARD) == chosen


@pytest.mark.parametrize("card", ["", "---\n[\n---\n", "---\nconfigs: 3\n---", "---\nconfigs: [{data_files: {train: [1]}}]\n---\n"])
def test_without_a_usable_card_names_and_folders_decide(card: str) -> None:
    names = ["en/train-0.parquet", "en/validation-0.parquet", "fr/train-0.parquet"]
    for asked, chosen in (("a/b:fr", names[2:]), ("a/b:en/validation", names[1:2]), ("a/b:/val", names[1:2]), ("a/b", names[:1])):
        source = hub_rows.parse(asked)
        assert source and hub_rows.select(names, source, card) == chosen


def test_names_with_revision_config_and_split() -> None:
    for name in ("a/b", "a/b@v1.0", "a/b:fr", "a/b:fr/test", "a/b:/test", "a/b@refs/pr/1:fr/test"):
        assert hub_name(name) == hub_name(f"datasets/{name}") == name
    for text in ("a/b c", "a/b:fr/test/x", "a/b@v 1", "a/b\n/etc/passwd", "a"):
        assert hub_name(text) is None


LOAD = "import sys; from lora_ui import data, errors\nfrom lora_ui.home import Home\ntry:\n print(data.load(Home.open(sys.argv[1]), sys.argv[2]).report['kept'])\nexcept errors.LoraUIError as e:\n print(e.kind, e)"


def from_hub(home: Home, source: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(home.root), source],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_parts_and_revisions_of_a_hub_dataset(home: Home, standin_hub: StandinHub) -> None:
    files = {
        "README.md": CARD.encode(),
        "fr/a.jsonl": TEXT.encode(),
        "fr-test.csv": b"question,answer\nq,a\nr,b\n",
        "en/rows.jsonl": jsonl(QA[:3]).encode(),
    }
    repo = standin_hub.add_dataset("team-b/rows", files)
    old = repo.sha
    repo.commit({**files, "en/rows.jsonl": jsonl(QA[:4]).encode()})
    assert from_hub(home, "team-b/rows") == "4"
    assert from_hub(home, f"team-b/rows@{old}") == "3"
    assert from_hub(home, f"team-b/rows@{old}:french/test\nteam-b/rows:french") == "7"
    assert from_hub(home, "team-b/rows:french", {"HF_ENDPOINT": "http://127.0.0.1:9"}) == "5"
    assert from_hub(home, "team-b/rows:german").startswith("DatasetPartNotFound team-b/rows has no german")
    assert from_hub(home, "team-b/rows@nothing").startswith("RevisionNotFound")


def test_odd_paths(home: Home) -> None:
    for source in ("~nobody-at-all/x", "\0", "a/b/c/d", "\n\n", "/proc/self/mem"):
        with pytest.raises((errors.DataNotFound, errors.EmptyData, errors.UnreadableFile)):
            data.load(home, source)
    assert locate(home, " example ")[0] == "lora-ui-help.jsonl"


# Reports


def check(*args: Any, home: Home) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lora_ui", "check", *map(str, args), "--home", str(home.root)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)


def test_a_report_can_be_saved(home: Home, tmp_path: Path) -> None:
    path = file(tmp_path, f"{HOSTILE.replace('/', '')}.jsonl", TEXT + jsonl([{"question": "Q", "answer": None, HOSTILE: "x"}]))
    assert check(path, "--report", tmp_path / "a.json", home=home).returncode == 0
    report = json.loads((tmp_path / "a.json").read_text())
    assert (report["kept"], report["dropped"], report["columns"][2]) == (5, 1, HOSTILE)
    shown = saved_report.page(report, Words("en"))
    assert "<b>" not in shown and "&lt;b&gt;" in shown and "<script" not in shown and "http" not in shown.replace("http-equiv", "")
    assert "5 ready" in shown and "1 left out" in shown and "#6" in shown
    assert check(file(tmp_path, "b.jsonl", "{"), "--report", tmp_path / "b.HTML", home=home).returncode == 1
    assert "comma" in (tmp_path / "b.HTML").read_text() or "name in double quotes" in (tmp_path / "b.HTML").read_text()
    assert check(path, "--report", tmp_path / "a.pdf", home=home).returncode == 2


def test_a_saved_report_is_chinese_from_a_chinese_page(home: Home, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": answer}]} for answer in ("答", "答", " 是", "")
    ]
    report = data.load(home, file(tmp_path, "表.jsonl", jsonl(rows))).report
    assert {f["code"] for f in report["findings"]} == {"empty_answer", "duplicate", "conflict", "whitespace"}
    counted = {**report, "used": 2, "truncated": 1, "tokens": {"total": 90, "trained": 30}}
    shown = saved_report.page(counted, Words("zh"))
    said = re.sub(r"<style>.*?</style>|<[^>]*>", " ", shown, flags=re.S)
    for own in (report["digest"], "jsonl", "messages", "role", "content"):  # what stands in the file, and its keys
        said = said.replace(own, "")
    assert re.findall(r"[A-Za-z]{2,}", said) == [] and '<html lang="zh">' in shown
    assert "2 条可用" in said and "2 条不参与训练" in said and "对话（确定）" in said and "整段对话" in said
    broken = saved_report.page({"ok": False, "name": "a", "error": errors.EmptyData(name="a").as_dict()}, Words("zh"))
    assert Words("zh").error(errors.EmptyData(name="a"))["fix"] in broken
