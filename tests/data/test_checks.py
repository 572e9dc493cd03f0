"""What is noticed about rows: each finding, which rows it means, and what is not mistaken for one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from lora_ui import data
from lora_ui.data import checks, private, writing
from lora_ui.home import Home

WORDS = ["river", "mill", "bread", "stone", "valley", "winter", "boat", "field", "oven", "road", "bridge", "smoke", "cloth", "apple"]


def prose(seed: int, count: int = 60) -> str:
    draw = random.Random(seed)
    return " ".join(f"{draw.choice(WORDS)}{draw.randrange(40)}" for _ in range(count))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


def pair(question: str, answer: str) -> dict[str, str]:
    return {"question": question, "answer": answer}


def found(home: Home, folder: Path, rows: list[dict[str, Any]]) -> dict[str, tuple[int, list[int], str | None]]:
    """code → (count, rows, action) of what the checks say."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    report = data.load(home, path).report
    assert report["findings"] == data.open(home, report["digest"]).report["findings"]
    assert all(f["message"]["text"] and f["fix"]["text"] for f in report["findings"])
    return {f["code"]: (f["count"], f["rows"], f["action"]) for f in report["findings"]}


def usual(count: int = 30) -> list[dict[str, str]]:
    return [pair(f"What about {prose(n, 8)}?", prose(1000 + n)) for n in range(count)]


def test_ordinary_rows_have_no_findings(home: Home, tmp_path: Path) -> None:
    assert found(home, tmp_path, usual()) == {}


def test_repeated_and_nearly_repeated_rows(home: Home, tmp_path: Path) -> None:
    rows = usual()
    rows[9] = rows[2]
    rows[12] = pair(rows[3]["question"].upper(), rows[3]["answer"].replace(" ", "  ") + "!")
    rows[20] = pair(rows[4]["question"], rows[4]["answer"] + " indeed")
    rows[25] = pair(rows[5]["question"], prose(5))
    said = found(home, tmp_path, rows)
    assert said["duplicate"] == (1, [10], "drop")
    assert said["near_duplicate"] == (2, [13, 21], "drop")
    assert said["conflict"] == (4, [5, 6, 21, 26], None)


def test_an_instruction_in_every_row_makes_them_no_duplicates(home: Home, tmp_path: Path) -> None:
    told = prose(1, 200)
    rows = [pair(f"{told}\n{prose(n + 10, 14)}", prose(n + 5000, 14)) for n in range(120)]
    assert found(home, tmp_path, rows) == {}


def test_short_rows_that_differ_in_a_number_are_no_duplicates(home: Home, tmp_path: Path) -> None:
    assert found(home, tmp_path, [pair(f"What is {n} plus {n + 1}?", f"It is {2 * n + 1}.") for n in range(60)]) == {}


def test_wrong_letters_html_other_scripts_and_extreme_lengths(home: Home, tmp_path: Path) -> None:
    rows = usual(40)
    rows[1] = pair("CafÃ© or not?", "It is a cafÃ©, of course.")
    rows[2] = pair("<p>Why?</p>", "Because&nbsp;of the mill.<br>")
    rows[3] = pair("How is it written?", "Like this: `<b>bold</b>`\n```html\n<div></div>\n```")
    rows[4] = pair("Где мельница?", "Мельница стоит у реки.")
    rows[5] = pair("Everything?", prose(77, 4000))
    said = found(home, tmp_path, rows)
    assert said["language"] == (1, [5], "drop")
    assert said["extreme_length"] == (1, [6], "drop")
    report = data.load(home, tmp_path / "rows.jsonl").report["findings"]
    assert [(f["rows"], f["action"]) for f in report if f["code"] == "encoding"] == [([2], "drop"), ([3], None)]
    assert len(report) == 4


def test_secrets_and_personal_data(home: Home, tmp_path: Path) -> None:
    rows = usual()
    rows[0]["answer"] += " sk-proj-" + "a1B2" * 8
    rows[1]["answer"] += " write to anna.b@mill-house.org"
    rows[2]["answer"] += " call +44 20 7946 0958"
    rows[3]["answer"] += " write to you@example.com"
    said = found(home, tmp_path, rows)
    assert said == {"secret": (1, [1], "drop"), "personal_data": (2, [2, 3], "drop")}


def test_uneven_labels(home: Home, tmp_path: Path) -> None:
    even = [pair(prose(n, 9), ("good", "bad", "neither")[n % 3]) for n in range(90)]
    assert found(home, tmp_path, even) == {}
    uneven = [pair(prose(n, 9), "bad" if n in (7, 30) else "good") for n in range(60)]
    assert found(home, tmp_path, uneven) == {"label_imbalance": (2, [8, 31], None)}
    message = data.load(home, tmp_path / "rows.jsonl").report["findings"][0]["message"]["text"]
    assert message == "The answers are 2 labels, and uneven: good is 97% of all rows, bad only 2 rows."


def test_plain_text_and_conversations(home: Home, tmp_path: Path) -> None:
    assert found(home, tmp_path, [{"text": prose(n)} for n in (1, 2, 1)]) == {"duplicate": (1, [3], "drop")}
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}, {"role": "user", "content": "And?"}]
    rows = [{"messages": [*turns, {"role": "assistant", "content": answer}]} for answer in ("Fine", "Bad")]
    assert found(home, tmp_path, rows) == {"conflict": (2, [1, 2], None)}


def test_checks_are_made_once(home: Home, tmp_path: Path) -> None:
    found(home, tmp_path, usual(3))
    digest = data.load(home, tmp_path / "rows.jsonl").digest
    before = (home.dataset(digest) / "checks.parquet").stat().st_mtime_ns
    data.load(home, tmp_path / "rows.jsonl")
    assert (home.dataset(digest) / "checks.parquet").stat().st_mtime_ns == before
    (home.dataset(digest) / "checks.json").unlink()
    assert checks.marks(home, digest)["row"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The river", "Latin"), ("Größe und Maß", "Latin"), ("12 + 3 = 15", None), ("", None), ("这条河很短。", "Chinese"), ("この川は短い", "Japanese"),
        ("강은 짧다", "Korean"), ("Река", "Cyrillic"), ("النهر قصير", "Arabic"), ("用 Python 写一个函数", "Chinese"), ("הנהר", "Hebrew"),
    ],
)  # fmt: skip
def test_scripts(text: str, expected: str | None) -> None:
    assert writing.script(text) == expected


@pytest.mark.parametrize("text", ["cafÃ©", "itâ€™s", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "ä½\u00a0å¥½", "a\ufffdb", "锟斤拷", "ðŸ˜€", "10Â\u00a0°C", "naÃ¯ve"])
def test_wrongly_decoded(text: str) -> None:
    assert writing.is_mojibake(text)


@pytest.mark.parametrize(
    "text", ["café", "it’s “good”", "привет", "你好", "São Paulo, MAÇÃ", "Ünïcödé — naïve", "„MENÜ“", "10 °C", "🙂", "Ångström"]
)
def test_rightly_decoded(text: str) -> None:
    assert not writing.is_mojibake(text)


@pytest.mark.parametrize("text", ["if a < b and b > c: x &= 1", "List<String>", "`<br>`", "a <- b", "AT&T; R&D", "<think>so</think>"])
def test_no_html(text: str) -> None:
    assert not writing.has_html(text)


@pytest.mark.parametrize(
    "text",
    ["hf_" + "aB3" * 12, "ghp_" + "a1" * 18, "AKIAABCDEFGHIJKLMNOP", "-----BEGIN RSA PRIVATE KEY-----", "postgres://me:hunter22@db/x",
     "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4"],
)  # fmt: skip
def test_secrets(text: str) -> None:
    assert private.has_secret(f"key: {text} ok") and not private.has_secret("task-based sk-learn hf_hub_download https://a.b/c:d")


def test_phones_and_numbers() -> None:
    assert all(map(private.has_phone, ("+1 415 555 2671", "+8613812345678", "(415) 555-2671", "13812345678", "+49 30/901820-55")))
    assert not any(
        map(private.has_phone, ("3.14159265358979", "2024-01-31 12:30", "1234567890123", "10 000 000", "5 + 7 = 12", "192.168.100.200"))
    )
