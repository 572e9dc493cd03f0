"""Rows that are trimmed as a person chose: what goes, what stays, and that it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_ui import data, preflight, settings
from lora_ui.data.writing import trimmed
from lora_ui.home import Home
from tests.data.test_checks import pair


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Flour.", "Flour."),
        (" Flour.\n", "Flour."),
        ("\n \r\n\nFlour,\n  milk.  \n", "Flour,\n  milk."),
        ("    return x\n", "    return x"),
        ("\n\treturn x", "\treturn x"),
        ("\u3000\u3000第一段。\u3000", "\u3000\u3000第一段。"),
        ("\ufeffFlour.\u00a0", "Flour."),
        (" \n", ""),
    ],
)
def test_blank_space_goes_and_an_indentation_stays(text: str, said: str) -> None:
    assert trimmed(text) == said
    assert trimmed(said) == said


def chat(*said: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 3, said)]}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_trimmed_rows_are_those_of_a_clean_file_and_are_told(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    rows = [chat("Q1", " A1\n", "Q2", "A2 "), chat("Q3", "A3", "Q4"), chat("Q5", "  A5"), chat("Q6")]
    file = write(tmp_path / "a.jsonl", rows)
    found = {f["code"]: (f["severity"], f["count"], f["rows"], f["action"], f["trim"]) for f in data.load(home, file).report["findings"]}
    assert found == {"role_order": ("drop", 2, [2, 4], None, "last_turn"), "whitespace": ("warn", 1, [1], "drop", "whitespace")}

    cut = data.load(home, file, trim=["whitespace", "last_turn"])
    said = [(f["code"], f["severity"], f["rows"], f["action"], f["trim"]) for f in cut.report["findings"]]
    assert said == [
        ("role_order", "drop", [4], None, "last_turn"),
        ("whitespace", "warn", [1], "undo", "whitespace"),
        ("role_order", "warn", [2], "undo", "last_turn"),
    ]
    assert (cut.report["kept"], cut.report["dropped"]) == (3, 1)
    kept = data.rows(home, cut.digest)
    assert [m["content"] for row in kept for m in row["messages"]] == ["Q1", "A1", "Q2", "A2", "Q3", "A3", "Q5", "  A5"]
    clean = write(tmp_path / "b.jsonl", [chat("Q1", "A1", "Q2", "A2"), chat("Q3", "A3"), chat("Q5", "  A5")])
    assert data.load(home, clean).digest == cut.digest
    assert data.load(home, file).report["kept"] == 2  # as it is in the file, when nothing is chosen


def test_the_same_file_trimmed_and_not_are_two_data_sets_for_a_run(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    raw = {"data": {"source": str(write(tmp_path / "a.jsonl", [pair(f"Q{n}", f"A{n}\n") for n in range(3)]))}}
    as_it_is, cut = (preflight.dataset(home, settings.parse(one)) for one in (raw, settings.merge(raw, {"data": {"trim": ["whitespace"]}})))
    assert as_it_is.digest != cut.digest
    assert data.rows(home, cut.digest)[0]["messages"][1]["content"] == "A0"
    assert data.rows(home, as_it_is.digest)[0]["messages"][1]["content"] == "A0\n"
