"""From a source to rows and a report on disk, and refusals through the outermost function."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lora_ui import data, errors
from lora_ui.home import REPOSITORY, Home
from tests.standin_hub import READ_TOKEN, StandinHub

HOSTILE = "<b>${alert(1)}</b>"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


def write(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def pairs(count: int) -> list[dict[str, Any]]:
    return [{"question": f"Q{n}", "answer": f"A{n}"} for n in range(1, count + 1)]


def test_the_example_is_200_different_rows(home: Home) -> None:
    found = data.load(home, "example")
    assert found.name == "lora-ui-help.jsonl"
    about = {key: found.report[key] for key in ("ok", "format", "confidence", "rows", "kept", "dropped", "findings")}
    assert about == {"ok": True, "format": "question_answer", "confidence": "sure", "rows": 200, "kept": 200, "dropped": 0, "findings": []}
    rows = data.rows(home, found.digest)
    assert len({row["messages"][0]["content"] for row in rows}) == 200
    assert all("\nNext: " in row["messages"][1]["content"] for row in rows)
    assert data.EXAMPLE.is_file()


def test_rows_keep_their_numbers_and_bad_ones_are_counted(home: Home, tmp_path: Path) -> None:
    rows = pairs(12)
    rows[1]["answer"] = None
    rows[3]["answer"] = "  "
    rows[4]["answer"] = None
    rows[9] = rows[0]
    found = data.load(home, write(tmp_path, rows))
    assert (found.report["rows"], found.report["kept"], found.report["dropped"]) == (12, 9, 3)
    about = [(f["code"], f["severity"], f["count"], f["rows"]) for f in found.report["findings"]]
    assert about == [("null_field", "drop", 2, [2, 5]), ("empty_answer", "drop", 1, [4]), ("duplicate", "warn", 1, [10])]
    assert found.report["findings"][0]["message"]["text"] == "2 rows lack a question or an answer and are left out."
    assert [row["row"] for row in data.rows(home, found.digest)] == [1, 3, 6, 7, 8, 9, 10, 11, 12]
    assert data.rows(home, found.digest, 2, 1) == [
        {"row": 6, "messages": [{"role": "user", "content": "Q6"}, {"role": "assistant", "content": "A6"}]}
    ]
    assert data.rows(home, found.digest, 9, 5) == []
    assert data.open(home, found.digest) == found


def test_the_same_rows_have_the_same_digest(home: Home, tmp_path: Path) -> None:
    first = data.load(home, write(tmp_path, pairs(3)))
    again = data.load(home, write(tmp_path, pairs(3), HOSTILE.replace("/", "") + ".jsonl"))
    mapped = data.load(home, write(tmp_path, pairs(3)), {"user": "question", "assistant": "answer"})
    other = data.load(home, write(tmp_path, pairs(3)), {"user": "answer", "assistant": "question"})
    assert first.digest == again.digest == mapped.digest != other.digest
    assert again.name == "<b>${alert(1)}<b>.jsonl"
    assert len(first.digest) == 16


def test_every_row_group_is_found_again(home: Home, tmp_path: Path) -> None:
    found = data.load(home, write(tmp_path, pairs(2500)))
    assert [row["row"] for row in data.rows(home, found.digest, 998, 4)] == [999, 1000, 1001, 1002]
    assert [row["row"] for row in data.rows(home, found.digest, 2499)] == [2500]


def test_text_rows(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("First\n\nSecond\n")
    found = data.load(home, tmp_path / "a.txt")
    assert found.report["format"] == "text"
    assert data.rows(home, found.digest) == [{"row": 1, "text": "First"}, {"row": 2, "text": "Second"}]


def test_a_guessed_encoding_is_a_finding(home: Home, tmp_path: Path) -> None:
    rows = [{"question": f"第{n}个问题：什么是过拟合现象？", "answer": "模型把训练样本背了下来，在新问题上表现很差。"} for n in range(20)]
    (tmp_path / "a.jsonl").write_bytes("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode("gb18030"))
    [finding] = [f for f in data.load(home, tmp_path / "a.jsonl").report["findings"] if f["code"] == "encoding"]
    assert (finding["code"], finding["severity"], finding["message"]["values"]["encoding"]) == ("encoding", "warn", "gb18030")


def test_no_rows_left_and_too_few(home: Home, tmp_path: Path) -> None:
    with pytest.raises(errors.NoRowsLeft, match=r"All 2 rows were left out: 1 × null_field, 1 × empty_answer"):
        data.load(home, write(tmp_path, [{"question": "Q", "answer": None}, {"question": "Q", "answer": ""}]))
    with pytest.raises(errors.TooFewRows, match="1 usable rows; at least 2"):
        data.load(home, write(tmp_path, pairs(1)))
    assert list(home.datasets.iterdir()) == []


def test_unknown_dataset(home: Home) -> None:
    for digest in ("0" * 16, "../../etc"):
        with pytest.raises(errors.DataNotFound):
            data.open(home, digest)


def test_peek_for_mapping_by_hand(home: Home, tmp_path: Path) -> None:
    path = write(tmp_path, [{"Frage": "Q", HOSTILE: "A"}] * 7)
    seen = data.peek(home, path)
    assert (seen["name"], seen["columns"], seen["first"], seen["guess"], seen["format"]) == (
        "rows.jsonl",
        ["Frage", HOSTILE],
        [{"Frage": "Q", HOSTILE: "A"}] * 5,
        {},
        None,
    )
    assert data.peek(home, "example")["guess"] == {"user": "question", "assistant": "answer"}


# Uploads


def test_an_upload_keeps_its_name_and_its_bytes(home: Home, tmp_path: Path) -> None:
    path = write(tmp_path, pairs(2))
    source = data.store_upload(home, path, f"../../{HOSTILE}\n.jsonl")
    path.unlink()
    found = data.load(home, source)
    assert found.name == f"../../{HOSTILE} .jsonl"
    assert source.startswith("upload:")
    [folder] = home.uploads.iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["data", "meta.json"]


def test_uploads_over_the_limit_and_links_are_refused(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, pairs(100))
    monkeypatch.setenv("LORA_UI_MAX_UPLOAD", "1000")
    with pytest.raises(errors.UploadTooLarge, match=r"rows.jsonl is 4 KB; the limit is 1 KB"):
        data.store_upload(home, path, "rows.jsonl")
    (tmp_path / "link.jsonl").symlink_to("/etc/hostname")
    with pytest.raises(errors.DataNotFound):
        data.store_upload(home, tmp_path / "link.jsonl", "link.jsonl")
    assert list(home.uploads.iterdir()) == []


def test_an_upload_larger_than_the_disk_is_refused(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_UI_MAX_UPLOAD", str(2**62))
    path = tmp_path / "huge.jsonl"
    with open(path, "wb") as f:
        os.truncate(f.fileno(), home.free_bytes() + 2**40)  # a hole: it takes no space itself
    with pytest.raises(errors.DiskFull):
        data.store_upload(home, path, "huge.jsonl")
    assert list(home.uploads.iterdir()) == []


KEEPS = """
import resource, signal, sys
from lora_ui import data, errors
from lora_ui.home import Home
home = Home.open(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for keep in (lambda: data.store_upload(home, home.root / "rows.jsonl", "rows.jsonl"), lambda: data.store_text(home, "a,b\\n" * 5000)):
    try:
        keep()
    except errors.DiskFull as e:
        print(e.kind)
"""


def test_a_disk_that_takes_no_more_while_a_file_is_kept_is_said_and_leaves_nothing(home: Home) -> None:
    (home.root / "rows.jsonl").write_bytes(os.urandom(20_000))
    said = subprocess.run([sys.executable, "-c", KEEPS, str(home.root)], capture_output=True, text=True)
    assert said.stdout.split() == ["DiskFull", "DiskFull"], said.stderr
    assert list(home.uploads.iterdir()) == []


# The Hub

LOAD = "import sys; from lora_ui import data, errors\nfrom lora_ui.home import Home\ntry:\n print(data.load(Home.open(sys.argv[1]), sys.argv[2], token=sys.argv[3] or None).report['kept'])\nexcept errors.LoraUIError as e:\n print(e.kind)\nassert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"


def load_from_hub(home: Home, id: str, token: str = "") -> str:
    """In a process of its own: huggingface_hub reads HF_HOME once, at import."""
    done = subprocess.run([sys.executable, "-c", LOAD, str(home.root), id, token], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_hub_dataset_and_again_without_the_hub(
    home: Home, tmp_path: Path, standin_hub: StandinHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write(tmp_path, pairs(4)).read_bytes()
    standin_hub.add_dataset("team-b/rows", {"README.md": b"# rows", "train.jsonl": rows, "test.jsonl": b"broken", "load.py": b"exit(1)"})
    assert load_from_hub(home, f"{standin_hub.url}/datasets/team-b/rows".replace(standin_hub.url, "https://huggingface.co")) == "4"
    assert load_from_hub(home, "team-b/none") == "DataNotFound"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert load_from_hub(home, "team-b/rows") == "4"
    assert load_from_hub(home, "team-b/other") == "HubOffline"


def test_a_private_hub_dataset_needs_a_token(home: Home, tmp_path: Path, standin_hub: StandinHub) -> None:
    standin_hub.add_dataset("user-a/rows", {"rows.jsonl": write(tmp_path, pairs(3)).read_bytes()}, private=True)
    assert load_from_hub(home, "user-a/rows") == "DataNotFound"
    assert load_from_hub(home, "user-a/rows", READ_TOKEN) == "3"


class Enough(Exception):
    """Raised in the midst of a reading."""


@pytest.mark.parametrize(
    ("row", "phase"),
    [
        ({"question": "Q", "answer": "A"}, "reading"),
        ({"question": "Q", "answer": ""}, "reading"),  # left out, all of them
        ({"this": "Q", "that": "A"}, "reading"),  # not recognised: all columns of all rows are looked for
        ({"question": "Q", "answer": "A"}, "checking"),
    ],
    ids=["kept", "left out", "not recognised", "checks"],
)
def test_a_reading_can_be_ended_at_any_row(home: Home, tmp_path: Path, row: dict[str, str], phase: str) -> None:
    calls = 0

    def told(now: str, done: int, total: int | None) -> None:
        nonlocal calls
        calls += now == phase
        if calls == 4:
            raise Enough

    with pytest.raises(Enough):
        data.load(home, write(tmp_path, [row] * 10), told=told)
    assert phase == "checking" or list(home.datasets.iterdir()) == []
