"""Which format and columns are recognised, and what each row becomes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lora_ui import errors
from lora_ui.data.convert import LeftOut, convert
from lora_ui.data.read import Raw
from lora_ui.data.recognise import recognise

USER, ASSISTANT = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
PAIR = [USER, ASSISTANT]


def known(row: dict[str, Any], by_hand: dict[str, str] | None = None) -> Any:
    return recognise(Raw(rows=[(1, row)]), "a.jsonl", by_hand)


@pytest.mark.parametrize(
    ("row", "format", "confidence", "messages"),
    [
        ({"instruction": "Q", "input": "", "output": "A"}, "alpaca", "sure", PAIR),
        ({"instruction": "Q", "input": "C", "output": "A"}, "alpaca", "sure", [{"role": "user", "content": "Q\n\nC"}, ASSISTANT]),
        ({"instruction": "Q", "output": "A", "system": "S"}, "alpaca", "sure", [{"role": "system", "content": "S"}, *PAIR]),
        ({"messages": PAIR}, "messages", "sure", PAIR),
        (
            {"id": 3, "messages": [{"role": "developer", "content": "S"}, *PAIR, *PAIR]},
            "messages",
            "sure",
            [{"role": "system", "content": "S"}, *PAIR, *PAIR],
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, ASSISTANT]}, "messages", "sure", PAIR),
        ({"messages": '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]'}, "messages", "sure", PAIR),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, "sharegpt", "sure", PAIR),
        (
            {"system": "S", "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            "sharegpt",
            "sure",
            [{"role": "system", "content": "S"}, *PAIR],
        ),
        ({"prompt": "Q", "completion": "A"}, "prompt_completion", "sure", PAIR),
        ({"prompt": [USER], "completion": [ASSISTANT]}, "prompt_completion", "sure", PAIR),
        ({"question": "Q", "answer": "A"}, "question_answer", "sure", PAIR),
        ({"question": "Q", "answer": 42}, "question_answer", "sure", [USER, {"role": "assistant", "content": "42"}]),
        ({"question": "Q", "context": "C", "answer": "A"}, "question_answer", "sure", [{"role": "user", "content": "Q\n\nC"}, ASSISTANT]),
        ({"Query": "Q", " Response ": "A"}, "question_answer", "likely", PAIR),
        ({"input": "Q", "output": "A"}, "question_answer", "likely", PAIR),
        ({"system prompt": "S", "User": "Q", "Assistant": "A"}, "question_answer", "likely", [{"role": "system", "content": "S"}, *PAIR]),
        ({"问题": "Q", "答案": "A"}, "question_answer", "sure", PAIR),
        ({"指令": "Q", "输入": "C", "输出": "A"}, "question_answer", "sure", [{"role": "user", "content": "Q\n\nC"}, ASSISTANT]),
    ],
)
def test_conversations(row: dict[str, Any], format: str, confidence: str, messages: list[dict[str, str]]) -> None:
    found = known(row)
    assert (found.format, found.confidence) == (format, confidence)
    assert convert(row, found.mapping) == {"messages": messages}


def test_text() -> None:
    found = known({"id": 1, "text": " Once upon a time. "})
    assert (found.format, found.mapping) == ("text", {"text": "text"})
    assert convert({"text": " Once upon a time. "}, found.mapping) == {"text": " Once upon a time. "}


def test_by_hand() -> None:
    row = {"Frage": "Q", "Antwort": "A", "Quelle": "C", "question": "other", "answer": "other"}
    mapping = {"user": "Frage", "assistant": "Antwort", "context": "Quelle"}
    found = known(row, mapping)
    assert (found.format, found.confidence, str(found.why)) == (
        "by_hand",
        "by hand",
        "You chose the columns: user = Frage, assistant = Antwort, context = Quelle.",
    )
    assert convert(row, found.mapping) == {"messages": [{"role": "user", "content": "Q\n\nC"}, ASSISTANT]}


def test_unknown_columns_and_half_a_mapping() -> None:
    with pytest.raises(errors.ColumnsNotRecognised, match=r"of a\.jsonl were not recognised: Frage, Antwort"):
        known({"Frage": "Q", "Antwort": "A"})
    with pytest.raises(errors.ColumnsNotRecognised):
        known({"Frage": "Q", "Antwort": "A"}, {"assistant": "Antwort"})


def test_missing_columns() -> None:
    with pytest.raises(errors.MissingColumns, match=r"a.jsonl has no column Fragen. Its columns are: Frage, Antwort"):
        known({"Frage": "Q", "Antwort": "A"}, {"user": "Fragen", "assistant": "Antwort"})


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"question": "Q", "answer": None}, "null_field"),
        ({"question": "Q"}, "null_field"),
        ({"question": "Q", "answer": math.nan}, "null_field"),
        ({"question": None, "answer": "A"}, "null_field"),
        ({"question": " ", "answer": "A"}, "null_field"),
        ({"question": "Q", "answer": " \n"}, "empty_answer"),
        ({"question": "Q", "answer": {"text": "A"}}, "broken_row"),
    ],
)
def test_pairs_that_are_left_out(row: dict[str, Any], code: str) -> None:
    with pytest.raises(LeftOut, match=code):
        convert(row, {"user": "question", "assistant": "answer"})


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([ASSISTANT, USER], "role_order"),
        ([USER, USER, ASSISTANT], "role_order"),
        ([*PAIR, USER], "last_turn"),
        ([USER], "last_turn"),
        ([{"role": "system", "content": "S"}], "last_turn"),
        ([USER, {"role": "system", "content": "S"}, ASSISTANT], "system_inside"),
        ([{"role": "narrator", "content": "N"}, ASSISTANT], "role_unknown"),
        ([USER, {"role": "tool", "content": "T"}, ASSISTANT], "role_order"),
        ([USER, {"role": "assistant", "content": None}], "null_field"),
        ([USER, {"role": "assistant", "content": " "}], "empty_answer"),
        ([{"role": "user", "content": [{"type": "image", "image": "x"}]}, ASSISTANT], "broken_row"),
        ("no list", "broken_row"),
        (["Q", "A"], "broken_row"),
        ([], "empty_answer"),
        (None, "null_field"),
    ],
)
def test_conversations_that_are_left_out(messages: Any, reason: str) -> None:
    with pytest.raises(LeftOut, match=reason):
        convert({"messages": messages}, {"messages": "messages"})
