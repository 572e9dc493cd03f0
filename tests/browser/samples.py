"""One small file for each public form of training data, in each kind of file: rows of our own, in the shape that others publish."""

from __future__ import annotations

import csv
import gzip
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pyarrow.parquet

PORTS = ["Bergen", "Cadiz", "Dover", "Genoa", "Riga", "Turku"]
TOOL = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "The height of the tide in a port",
        "parameters": {"type": "object", "properties": {"port": {"type": "string"}}},
    },
}
CHATML = (
    "{% if tools %}{{ '<|im_start|>system\\nTools:\\n' }}{% for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message.reasoning_content %}{{ '<think>\\n' + message.reasoning_content + '\\n</think>\\n' }}{% endif %}{{ message['content'] }}"
    "{% for call in message.tool_calls or [] %}{{ '<call>' + call.function.name + ' ' + (call.function.arguments | tojson) + '</call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML that lays out tools, their calls and thinking."""


@dataclass(frozen=True)
class Sample:
    """`format`, `sure` and `why` are what the page says of it (`why`: part of the English sentence); `shown` and `learned` are words of
    the first row, `learned` those the model is taught."""

    name: str
    write: Callable[[Path], object]
    format: str
    sure: str
    why: str
    shown: tuple[str, ...]
    learned: tuple[str, ...]


def jsonl(rows: list[Any]) -> Callable[[Path], object]:
    return lambda path: path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def table(header: tuple[str, ...], rows: list[tuple[str, ...]], encoding: str, separator: str = ",") -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with path.open("w", encoding=encoding, newline="") as file:
            csv.writer(file, delimiter=separator).writerows([header, *rows])

    return write


def workbook(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        book = openpyxl.Workbook()
        for row in (header, *rows):
            book.active.append(row)
        book.save(path)

    return write


def zipped(files: dict[str, str]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(name, text)

    return write


def packed(write: Callable[[Path], object]) -> Callable[[Path], object]:
    """What `write` writes, as `.gz`."""

    def both(path: Path) -> None:
        write(path)
        path.write_bytes(gzip.compress(path.read_bytes()))

    return both


def messages(port: str, *more: dict[str, Any]) -> list[dict[str, Any]]:
    said = [
        ("system", "You keep the harbour log."),
        ("user", f"Who lies at anchor in {port}?"),
        ("assistant", f"Two cutters lie in {port}."),
    ]
    return [*({"role": role, "content": text} for role, text in said), *more]


def talk_with_tools(port: str) -> list[dict[str, Any]]:
    call = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": json.dumps({"port": port})}}
    return [
        {"role": "user", "content": f"How high is the water in {port}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"metres": 3}'},
        {"role": "assistant", "content": f"Three metres in {port}."},
    ]


def sharegpt(port: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"Name a pilot of {port}."}, {"from": "gpt", "value": f"Old Ines pilots in {port}."}]


def thinking(port: str) -> list[dict[str, str]]:
    answer = {
        "role": "assistant",
        "content": f"Moor at the north quay of {port}.",
        "reasoning_content": f"The wind in {port} is southerly.",
    }
    return [{"role": "user", "content": f"Where do I moor in {port}?"}, answer]


def parquet(rows: list[dict[str, Any]]) -> Callable[[Path], object]:
    return lambda path: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


ALPACA = [{"instruction": "Name the port.", "input": f"Ships of {p}", "output": f"That is {p}."} for p in PORTS]
HISTORY = [
    {"instruction": f"And how deep is {p}?", "input": "", "output": f"{p} is nine fathoms deep.", "system": "You are a pilot.",
     "history": [[f"Where is {p}?", f"{p} is on the coast."]]}
    for p in PORTS
]  # fmt: skip
TURNS = [
    {"prompt": [{"role": "user", "content": f"Greet {p}."}], "completion": [{"role": "assistant", "content": f"Ahoy, {p}."}]} for p in PORTS
]
CHINESE = [(f"{p} 港的灯塔在哪里？", f"灯塔在 {p} 港的北岸。") for p in PORTS]
PROSE = "\n\n".join(f"The harbour of {p} was built of grey stone." for p in PORTS)
MARKDOWN = "\n\n".join(f"# The port of {p}\n\nShips of {p} carry *salt* and timber." for p in PORTS)
QA, PAIR = ("question", "answer"), ("prompt", "completion")
SAMPLES = [
    Sample("alpaca.jsonl", jsonl(ALPACA), "alpaca", "sure", "(Alpaca)", ("Name the port.", "Ships of Bergen"), ("That is Bergen.",)),
    Sample("alpaca history.json", lambda path: path.write_text(json.dumps(HISTORY)), "alpaca", "sure", "earlier turns in history",
           ("You are a pilot.", "Where is Bergen?"), ("Bergen is on the coast.", "Bergen is nine fathoms deep.")),
    Sample("messages.json", lambda path: path.write_text(json.dumps({"version": "1.0", "data": [{"messages": messages(p)} for p in PORTS]})),
           "messages", "sure", "messages with role and content", ("You keep the harbour log.", "Who lies at anchor in Bergen?"),
           ("Two cutters lie in Bergen.",)),
    Sample("tools.jsonl.gz", packed(jsonl([{"messages": talk_with_tools(p), "tools": [TOOL]} for p in PORTS])), "messages", "sure",
           "messages with role and content", ("The height of the tide in a port", "How high is the water in Bergen?", '{"metres": 3}'),
           ('tide {"port": "Bergen"}', "Three metres in Bergen.")),
    Sample("thinking.parquet", parquet([{"messages": thinking(p)} for p in PORTS]), "messages", "sure", "messages with role and content",
           ("Where do I moor in Bergen?",), ("The wind in Bergen is southerly.", "Moor at the north quay of Bergen.")),
    Sample("ShareGPT.JSON", lambda path: path.write_text(json.dumps([{"id": p, "conversations": sharegpt(p)} for p in PORTS])), "sharegpt",
           "sure", "(ShareGPT)", ("Name a pilot of Bergen.",), ("Old Ines pilots in Bergen.",)),
    Sample("pairs.csv", table(PAIR, [(f"The flag\nof {p} is", f'red, or "rust" in {p}.') for p in PORTS], "utf-8"), "prompt_completion",
           "sure", "prompt and completion", ("The flag\nof Bergen is",), ('red, or "rust" in Bergen.',)),
    Sample("pairs of chats.jsonl", jsonl(TURNS), "prompt_completion", "sure", "prompt and completion", ("Greet Bergen.",), ("Ahoy, Bergen.",)),
    Sample("fragen.tsv", table(QA, [(f"Wie heißt der Hafen von {p}?", f"Er heißt Überseehafen {p}.") for p in PORTS], "utf-8-sig", "\t"),
           "question_answer", "sure", "question and answer", ("Wie heißt der Hafen von Bergen?",), ("Er heißt Überseehafen Bergen.",)),
    Sample("问答.xlsx", workbook(("问题", "回答"), CHINESE), "question_answer", "sure", "问题 and 回答", ("Bergen 港的灯塔在哪里？",),
           ("灯塔在 Bergen 港的北岸。",)),
    Sample("指令.csv", table(("指令", "输入", "输出"), [("把这句话译成英文。", f"{p} 港很大。", f"{p} is a large port.") for p in PORTS], "gb18030"),
           "question_answer", "sure", "指令 and 输出", ("把这句话译成英文。", "Bergen 港很大。"), ("Bergen is a large port.",)),
    Sample("two.zip", zipped({f"{p}.jsonl": json.dumps({"Question": f"Which sea is off {p}?", "Answer": f"A cold one, off {p}."}) for p in PORTS}),
           "question_answer", "sure", "Question and Answer", ("Which sea is off Bergen?",), ("A cold one, off Bergen.",)),
    Sample("harbours.txt", lambda path: path.write_text(PROSE), "text", "sure", "plain text", (), ("The harbour of Bergen was built of grey stone.",)),
    Sample("ports.md", lambda path: path.write_text(MARKDOWN), "text", "sure", "plain text", (), ("# The port of Bergen", "Ships of Bergen carry *salt*")),
]  # fmt: skip
