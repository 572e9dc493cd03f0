"""Good and bad files with their verdicts. `python -m tests.data.corpus FOLDER` writes them out to be looked at.

A verdict is the name of a refusal in errors.py, or (format, kept, dropped, codes of findings).
"""

from __future__ import annotations

import gzip
import io
import json
import stat
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pyarrow.parquet

QA = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(1, 6)]
USER, ASSISTANT, SYSTEM = ({"role": r, "content": c} for r, c in (("user", "Q"), ("assistant", "A"), ("system", "S")))
CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOL_TALK = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **CALL}]},
    {"role": "tool", "tool_call_id": "c1", "content": "4 degrees"},
    {"role": "assistant", "content": "Cold.", "reasoning_content": "4 is little."},
]
Verdict = str | tuple[str, int, int, tuple[str, ...]]


@dataclass(frozen=True)
class Case:
    name: str
    content: bytes
    verdict: Verdict
    title: str


CASES: list[Case] = []


def case(title: str, name: str, content: bytes | str, verdict: Verdict) -> None:
    CASES.append(Case(name, content.encode() if isinstance(content, str) else content, verdict, title))


def good(format: str, kept: int = 5, dropped: int = 0, *codes: str) -> Verdict:
    return (format, kept, dropped, codes)


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def n(row: dict[str, Any], count: int = 3) -> list[dict[str, Any]]:
    """The row `count` times, each a little different in `id`."""
    return [{"id": i, **row} for i in range(count)]


def csv_of(rows: list[dict[str, Any]], mark: str = ",", end: str = "\n") -> str:
    return end.join([mark.join(rows[0]), *(mark.join(f'"{v}"' for v in row.values()) for row in rows), ""])


def xlsx(*sheets: list[list[Any]]) -> bytes:
    book, out = openpyxl.Workbook(), io.BytesIO()
    book.remove(book.active)
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(f"Sheet {number}")
        for row in rows:
            sheet.append(row)
    book.save(out)
    return out.getvalue()


def parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out, **options)
    return out.getvalue()


def packed(members: dict[str, bytes | str], link: str = "") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        if link:
            about = zipfile.ZipInfo(link)
            about.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(about, "/etc/passwd")
    return out.getvalue()


TABLE = [["question", "answer"], *[[row["question"], row["answer"]] for row in QA]]
TEXT = jsonl(QA)


def readable() -> None:
    """The same five rows in every way they may be written."""
    qa = good("question_answer")
    case("lines", "a.jsonl", TEXT, qa)
    case("no last line end", "a.jsonl", TEXT.rstrip(), qa)
    case("other suffix", "a.ndjson", TEXT, qa)
    case("capital suffix", "A.JSONL", TEXT, qa)
    case("lines named json", "a.json", TEXT, qa)
    case("empty lines between", "a.jsonl", TEXT.replace("\n", "\n\n \n"), qa)
    case("windows lines", "a.jsonl", TEXT.replace("\n", "\r\n"), qa)
    case("array", "a.json", json.dumps(QA), qa)
    case("array over lines", "a.json", json.dumps(QA, indent=2), qa)
    case("array named jsonl", "a.jsonl", json.dumps(QA, indent=1), qa)
    case("object with a list", "a.json", json.dumps({"version": 1, "data": QA}), qa)
    beside = {"tags": ["a", "b"], "none": [], "rows": QA}
    case("object with a list of rows beside other lists", "a.json", json.dumps(beside), qa)
    mixed = [QA[0], {"messages": [USER, ASSISTANT]}, *QA[1:]]
    case("mixed rows are read as what most of them are", "a.jsonl", jsonl(mixed), good("question_answer", 5, 1, "null_field"))
    case("object with a list over lines", "a.jsonl", json.dumps({"about": {"x": [1]}, "rows": QA}, indent=2), qa)
    case("utf-8 mark", "a.jsonl", b"\xef\xbb\xbf" + TEXT.encode(), qa)
    case("utf-16", "a.jsonl", TEXT.encode("utf-16"), qa)
    case("utf-16 big", "a.json", b"\xfe\xff" + json.dumps(QA).encode("utf-16-be"), qa)
    case("utf-16 without mark", "a.jsonl", TEXT.encode("utf-16-le"), good("question_answer", 5, 0, "encoding"))
    case("utf-32", "a.jsonl", TEXT.encode("utf-32"), qa)
    for mark in ",;|\t":
        case(f"csv with {mark!r}", "a.csv", csv_of(QA, mark), qa)
    case("tsv", "a.tsv", csv_of(QA, "\t"), qa)
    case("csv, windows lines", "a.CSV", csv_of(QA, end="\r\n"), qa)
    case("csv, old mac lines", "a.csv", csv_of(QA, end="\r"), qa)
    case("csv, utf-8 mark", "a.csv", "\ufeff" + csv_of(QA), qa)
    case("csv, utf-16", "a.csv", csv_of(QA, "\t").encode("utf-16"), qa)
    case("csv that says its mark", "a.csv", "sep=;\n" + csv_of(QA, ";"), qa)
    case("csv, line breaks in cells", "a.csv", csv_of([{"question": "a,\nb", "answer": f'x\n""{i}""'} for i in range(5)]), qa)
    case("csv, a column twice", "a.csv", "question,answer,answer\n" + "q,a,b\n" * 2, good("question_answer", 2, 0, "header"))
    case("csv, short rows", "a.csv", "question,answer\nq,a\nr,b\ns\n", good("question_answer", 2, 1, "null_field"))
    case("csv, long rows", "a.csv", "question,answer\nq,a\nr,b\ns,c,d\n", good("question_answer", 2, 1, "broken_row"))
    case("csv, names with blanks", "a.csv", " Question , Answer \nq,a\nr,b\n", good("question_answer", 2))
    case("workbook", "a.xlsx", xlsx(TABLE), qa)
    case("workbook, empty sheet first", "a.XLSX", xlsx([], TABLE), qa)
    case("workbook, same sheet twice", "a.xlsx", xlsx(TABLE, TABLE), good("question_answer", 10, 0))
    case("workbook, another sheet", "a.xlsx", xlsx(TABLE, [["Note"], ["x"]]), good("question_answer", 5, 0, "sheet"))
    case("workbook, a column twice", "a.xlsx", xlsx([[*TABLE[0], "answer"], *TABLE[1:]]), good("question_answer", 5, 0, "header"))
    case("workbook, numbers", "a.xlsx", xlsx([["question", "answer"], ["q", 3], ["r", 4.5], ["s", True]]), good("question_answer", 3))
    case("workbook, gap", "a.xlsx", xlsx([*TABLE, [None, None], ["q"]]), good("question_answer", 5, 1, "null_field"))
    case("parquet", "a.parquet", parquet(QA), qa)
    case("parquet, groups", "a.parquet", parquet(QA, row_group_size=2, compression="zstd"), qa)
    case("parquet, messages", "a.parquet", parquet([{"messages": [USER, ASSISTANT]}] * 2), good("messages", 2, 0))
    case("gz", "a.jsonl.gz", gzip.compress(TEXT.encode()), qa)
    case("gz, capital", "a.CSV.GZ", gzip.compress(csv_of(QA).encode()), qa)
    case("gz of parquet", "a.parquet.gz", gzip.compress(parquet(QA)), qa)
    case("zip", "a.zip", packed({"rows.jsonl": TEXT}), qa)
    case("zip of several", "a.zip", packed({"a.jsonl": TEXT, "b/c.csv": csv_of(QA)}), good("question_answer", 10, 0))
    case("zip with other things", "a.zip", packed({"README.md": "x", "__MACOSX/._a.jsonl": "x", "p.png": "x", "a.jsonl": TEXT}), qa)
    case("zip of a workbook", "a.zip", packed({"b/a.xlsx": xlsx(TABLE)}), qa)
    case("zip of gz", "a.zip", packed({"a.jsonl.gz": gzip.compress(TEXT.encode())}), qa)
    case("zip that points outside", "a.zip", packed({"../../../../tmp/evil.jsonl": TEXT, "/etc/evil.jsonl": TEXT}), qa)
    case("zip with a link", "a.zip", packed({"a.jsonl": TEXT}, link="b.jsonl"), qa)
    case("text", "a.txt", "One\n\nTwo\n\nThree", good("text", 3))
    case("text of lines", "a.TXT", "One\nTwo\nThree\n", good("text", 3))
    case("text, one long line", "a.txt", "Word and word. " * 4000, good("text", 8, 0))
    case("markdown", "a.md", "# A\n\none\n\n## B\n\n```\ncode\n\n# no heading\n```\n\n# C\n\nthree\n", good("text", 3))
    case("markdown, long", "a.md", "".join(f"Paragraph {i} has some words in it.\n\n" for i in range(200)), good("text", 4))
    for encoding in ("gb18030", "cp1251", "shift_jis"):
        words = {
            "gb18030": "什么是机器学习中的过拟合现象？",
            "cp1251": "Что такое переобучение модели и как его избежать?",
            "shift_jis": "機械学習における過学習とは何ですか？",
        }
        rows = [{"question": f"{i} {words[encoding]}", "answer": words[encoding] * 2} for i in range(30)]
        case(f"old encoding {encoding}", "a.jsonl", jsonl(rows).encode(encoding), good("question_answer", 30, 0, "encoding"))


def recognised() -> None:
    pairs: list[tuple[str, dict[str, Any], str]] = [
        ("alpaca", {"instruction": "Q", "input": "", "output": "A"}, "alpaca"),
        ("alpaca without input", {"instruction": "Q", "output": "A"}, "alpaca"),
        ("alpaca with history", {"instruction": "Q", "output": "A", "history": [["q", "a"]]}, "alpaca"),
        ("alpaca with system", {"instruction": "Q", "input": "C", "output": "A", "system": "S"}, "alpaca"),
        ("messages", {"messages": [SYSTEM, USER, ASSISTANT]}, "messages"),
        ("messages with tools", {"messages": TOOL_TALK, "tools": [CALL]}, "messages"),
        ("messages, tools as text", {"messages": TOOL_TALK, "tools": json.dumps([CALL])}, "messages"),
        ("messages as text", {"messages": json.dumps([USER, ASSISTANT])}, "messages"),
        ("messages of parts", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, ASSISTANT]}, "messages"),
        ("messages in another column", {"talk": [USER, ASSISTANT]}, "messages"),
        ("old function call", {"messages": [USER, {"role": "assistant", "content": None, "function_call": CALL["function"]}]}, "messages"),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, "sharegpt"),
        (
            "sharegpt with system",
            {"system": "S", "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            "sharegpt",
        ),
        (
            "sharegpt with calls",
            {
                "conversations": [
                    {"from": "human", "value": "Q"},
                    {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
                    {"from": "observation", "value": "4"},
                    {"from": "gpt", "value": "A"},
                ]
            },
            "sharegpt",
        ),
        ("speakers", {"dialogue": [{"speaker": "customer", "utterance": "Q"}, {"speaker": "agent", "utterance": "A"}]}, "messages"),
        ("prompt and completion", {"prompt": "Q", "completion": "A"}, "prompt_completion"),
        ("conversational pair", {"prompt": [USER], "completion": [ASSISTANT]}, "prompt_completion"),
        ("preferences", {"prompt": "Q", "chosen": "A", "rejected": "B"}, "question_answer"),
        ("instruction and response", {"instruction": "Q", "response": "A"}, "question_answer"),
        ("instruction, context, response", {"instruction": "Q", "context": "C", "response": "A"}, "question_answer"),
        ("query", {"Query": "Q", "Reply": "A"}, "question_answer"),
        ("label", {"text": "Good film", "label": 1}, "question_answer"),
        ("summary", {"article": "Long", "summary": "Short"}, "question_answer"),
        ("text", {"text": "Once upon a time"}, "text"),
        ("content", {"content": "Once upon a time", "url": "x"}, "text"),
        ("对话", {"对话": [{"角色": "用户", "内容": "Q"}, {"角色": "助手", "内容": "A"}]}, "messages"),
        ("用户 and 助手", {"用户": "Q", "助手": "A"}, "question_answer"),
        ("文本 and 标签", {"文本": "Q", "标签": "A"}, "question_answer"),
        ("正文", {"正文": "Q"}, "text"),
    ]
    for user, assistant in (
        ("问题", "回答"),
        ("问题", "答案"),
        ("指令", "输出"),
        ("提问", "回复"),
        ("输入", "输出"),
        ("题目", "解答"),
        ("提示词", "响应"),
    ):
        pairs.append((f"{user} and {assistant}", {user: "Q", assistant: "A"}, "question_answer"))
    pairs.append(("指令, 输入 and 输出", {"指令": "Q", "输入": "C", "输出": "A"}, "question_answer"))
    for title, row, format in pairs:
        case(title, "a.jsonl", jsonl(n(row)), good(format, 3, 0))


def left_out() -> None:
    def talk(title: str, turns: Any, code: str) -> None:
        case(
            title,
            "a.jsonl",
            jsonl([{"messages": m} for m in ([USER, ASSISTANT], [USER, {**ASSISTANT, "content": "B"}], turns)]),
            good("messages", 2, 1, code),
        )

    for title, answer, code in (
        ("null", None, "null_field"),
        ("empty", "", "empty_answer"),
        ("blank", " \n\t", "empty_answer"),
        ("object", {"a": 1}, "broken_row"),
        ("list", ["a"], "broken_row"),
    ):
        case(f"answer: {title}", "a.jsonl", jsonl([*QA, {"question": "Q", "answer": answer}]), good("question_answer", 5, 1, code))
    case("no question", "a.jsonl", jsonl([*QA, {"question": " ", "answer": "A"}]), good("question_answer", 5, 1, "null_field"))
    case("NaN", "a.jsonl", TEXT + '{"question": "Q", "answer": NaN}\n', good("question_answer", 5, 1, "null_field"))
    case(
        "bad history",
        "a.jsonl",
        jsonl([{"instruction": q, "output": "A", "history": h} for q, h in (("1", [["a", "b"]]), ("2", []), ("3", [["a"]]))]),
        good("alpaca", 2, 1, "broken_row"),
    )
    talk("two users", [USER, USER, ASSISTANT], "role_order")
    talk("assistant first", [ASSISTANT, USER, ASSISTANT], "role_order")
    talk("user last", [USER, ASSISTANT, USER], "role_order")
    talk("system in the middle", [USER, SYSTEM, ASSISTANT], "role_order")
    talk("tool without a caller", [USER, {"role": "tool", "content": "x"}, ASSISTANT], "role_order")
    talk("unknown role", [{"role": "narrator", "content": "x"}, ASSISTANT], "role_order")
    talk("picture", [{"role": "user", "content": [{"type": "image", "image": "x"}]}, ASSISTANT], "broken_row")
    talk("no list", "hello", "broken_row")
    talk("empty list", [], "empty_answer")
    talk("empty answer", [USER, {"role": "assistant", "content": ""}], "empty_answer")
    talk("call without a name", [USER, {"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}], "broken_row")
    talk("half a character in text", '[{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "A"}]', "broken_row")


def refused() -> None:
    broken = [
        ("truncated", '{"question": "Q", "answer": "A'),
        ("single quotes", "{'question': 'Q'}"),
        ("no bracket", '{"question": "Q"'),
        ("no value", '{"question": }'),
        ("trailing comma", '{"question": "Q",}'),
        ("two objects", '{"a": 1} {"a": 2}'),
        ("an array", '["Q", "A"]'),
        ("a number", "42"),
        ("half a character", '{"question": "\\ud800", "answer": "A"}'),
        ("tab in a text", '{"question": "a\tb"}'),
        ("deep", '{"a":' + "[" * 5000),
        ("a long number", '{"a": ' + "9" * 5000 + "}"),
    ]
    for title, line in broken:
        case(f"broken line: {title}", "a.jsonl", TEXT + line + "\n", "BrokenRows")
        case(f"broken entry: {title}", "a.json", json.dumps(QA)[:-1] + ", " + line + "]", "BrokenRows")
    case("array cut off", "a.json", json.dumps(QA)[:-30], "BrokenRows")
    case("array, more after it", "a.json", json.dumps(QA) + "x", "BrokenRows")
    case("just a word", "a.json", '"hello"', "BrokenRows")
    case("open quote", "a.csv", 'question,answer\nq,"a\nr,b\n', "BrokenRows")
    case("parquet cut off", "a.parquet", parquet(QA)[:-20], "BrokenRows")
    case("parquet of nothing", "a.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", "BrokenRows")
    case("workbook cut off", "a.xlsx", xlsx(TABLE)[:-200], "BrokenRows")
    case("workbook that is a zip", "a.xlsx", packed({"a.jsonl": TEXT}), "BrokenRows")
    for name in ("a.jsonl", "a.json", "a.csv", "a.txt", "a.md", "a.xlsx", "a.parquet", "a.zip", "a.gz"):
        case(f"nothing in {name}", name, b"", "EmptyData")
    for name in ("a.jsonl", "a.csv", "a.txt", "a.md"):
        case(f"blanks in {name}", name, " \n\n \t\n", "EmptyData")
    case("empty array", "a.json", "[]", "EmptyData")
    case("only a header", "a.csv", "question,answer\n", "EmptyData")
    case("only a header in a sheet", "a.xlsx", xlsx([["question", "answer"]]), "EmptyData")
    case("parquet without rows", "a.parquet", parquet(QA[:1])[:0] or b"", "EmptyData")
    case("zip without rows", "a.zip", packed({"photo.png": "x"}), "EmptyData")
    case("only a link", "a.zip", packed({}, link="a.jsonl"), "EmptyData")
    for title, start in (
        ("png", b"\x89PNG\r\n\x1a\n"),
        ("pdf", b"%PDF-1.7\n"),
        ("zip", b"PK\x03\x04"),
        ("gzip", b"\x1f\x8b"),
        ("sqlite", b"SQLite format 3\x00"),
        ("numbers", b"\x01\x00\x00\x00\x02\x03\x00\x00\x00\x01"),
    ):
        case(f"{title} named jsonl", "a.jsonl", start * 30, "NotText")
    case("unknown suffix", "a.yaml", "a: 1", "UnsupportedFile")
    case("no suffix", "rows", TEXT, "UnsupportedFile")
    case("unknown suffix in gz", "a.tar.gz", gzip.compress(b"x"), "UnsupportedFile")
    case("noise", "a.jsonl", bytes(b for b in range(255, 0, -1) if b not in b"\r\n\t") * 20, "UnreadableEncoding")
    case("utf-16 cut in a character", "a.jsonl", b"\xff\xfe" + TEXT.encode("utf-16-le") + b"\x00\xd8", "UnreadableEncoding")
    case("gz cut off", "a.jsonl.gz", gzip.compress(TEXT.encode())[:-12], "BrokenArchive")
    case("gz that is none", "a.jsonl.gz", TEXT, "BrokenArchive")
    case("zip cut off", "a.zip", packed({"a.jsonl": TEXT})[:-30], "BrokenArchive")
    case("zip that is none", "a.zip", TEXT, "BrokenArchive")
    case("bomb", "a.jsonl.gz", gzip.compress(b" " * (70 * 2**20), 9), "ArchiveTooLarge")
    case("bomb in a zip", "a.zip", packed({"a.csv": b"\n" * (70 * 2**20)}), "ArchiveTooLarge")
    case("unknown columns", "a.jsonl", jsonl([{"colour": "red", "weight": 3}] * 3), "ColumnsNotRecognised")
    case("no header", "a.csv", "red,3\nblue,4\n", "ColumnsNotRecognised")
    case("only questions", "a.jsonl", jsonl([{"question": "Q"}] * 3), "ColumnsNotRecognised")
    case("no answers at all", "a.jsonl", jsonl([{"question": "Q", "answer": None}] * 3), "NoRowsLeft")
    case("one row", "a.jsonl", jsonl(QA[:1]), "TooFewRows")
    case("a single object", "a.json", json.dumps(QA[0], indent=1), "TooFewRows")
    case("columns and rows turned", "a.csv", ",".join(f"c{i}" for i in range(20_000)) + "\n" + "x," * 19_999 + "x\n", "TooManyColumns")
    case("a column for every row", "a.jsonl", jsonl([{f"id{i}": "x"} for i in range(20_000)]), "TooManyColumns")


def cases() -> list[Case]:
    if not CASES:
        parts: list[Callable[[], None]] = [readable, recognised, left_out, refused]
        for part in parts:
            part()
    return CASES


if __name__ == "__main__":
    for number, made in enumerate(cases()):
        folder = Path(sys.argv[1]) / f"{number:03d} {made.title.replace('/', ' ')}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / made.name).write_bytes(made.content)
        (folder / "verdict.txt").write_text(f"{made.verdict}\n")
