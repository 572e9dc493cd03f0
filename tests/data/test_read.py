"""Real files in, raw rows or a refusal out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lora_ui import errors
from lora_ui.data import read
from lora_ui.data.sources import choose, hub_id, locate
from lora_ui.home import Home

ROW = {"question": "Q1", "answer": "A1"}
ROWS = [ROW, {"question": "Q2", "answer": "A2"}]


def read_file(folder: Path, name: str, content: bytes | str) -> read.Raw:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read.read([(name, path)])


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# What can be read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines(ROWS)),
        ("a.jsonl", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.json", lines(ROWS)),
        ("a.json", json.dumps({"version": 1, "data": ROWS}, indent=1)),
        ("a.jsonl", b"\xef\xbb\xbf" + lines(ROWS).encode()),
        ("a.jsonl", lines(ROWS).encode("utf-16")),
        ("a.jsonl", lines(ROWS).replace("\n", "\r\n")),
        ("a.csv", "question,answer\nQ1,A1\nQ2,A2\n"),
        ("a.csv", "question;answer\r\nQ1;A1\r\nQ2;A2\r\n"),
        ("a.csv", "\ufeffquestion,answer\nQ1,A1\n\nQ2,A2"),
        ("a.csv", "question|answer\nQ1|A1\nQ2|A2\n"),
        ("a.tsv", "question\tanswer\nQ1\tA1\nQ2\tA2\n"),
        ("A.CSV", '"question","answer"\n"Q1","A1"\n"Q2","A2"\n'),
    ],
)
def test_the_same_rows_however_they_are_written(tmp_path: Path, name: str, content: bytes | str) -> None:
    raw = read_file(tmp_path, name, content)
    assert [row for _, row in raw.rows] == ROWS
    assert raw.encodings == {}


def test_parquet(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert read.read([("a.parquet", tmp_path / "a.parquet")]).rows == list(enumerate(ROWS, 1))


def test_row_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    assert [n for n, _ in read_file(tmp_path, "a.jsonl", "\n" + lines([ROW]) + "\n\n" + lines([ROW])).rows] == [2, 5]
    assert [n for n, _ in read_file(tmp_path, "a.csv", "q,a\n1,2\n3,4\n").rows] == [1, 2]


def test_csv_keeps_line_breaks_commas_and_quotes_in_cells(tmp_path: Path) -> None:
    raw = read_file(tmp_path, "a.csv", 'question,answer\n"a, b","line 1\nline ""2"""\n')
    assert raw.rows == [(1, {"question": "a, b", "answer": 'line 1\nline "2"'})]


def test_csv_rows_of_another_width(tmp_path: Path) -> None:
    raw = read_file(tmp_path, "a.csv", "question,answer\nQ1,A1\nQ2,A2,more\nQ3\n")
    assert raw.rows == [(1, ROW), (3, {"question": "Q3", "answer": None})]
    assert [(n, str(why)) for n, why in raw.broken] == [(2, "it has 3 cells, the header has 2")]


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        ("First\nstill first\n\nSecond\n", ["First\nstill first", "Second"]),
        ("One\nTwo\n", ["One", "Two"]),
        ("One\r\n \r\nTwo", ["One", "Two"]),
    ],
)
def test_txt_is_cut_at_empty_lines_else_at_lines(tmp_path: Path, content: str, pieces: list[str]) -> None:
    raw = read_file(tmp_path, "a.txt", content)
    assert raw.rows == [(n, {"text": piece}) for n, piece in enumerate(pieces, 1)]
    assert raw.plain_text


def test_an_old_encoding_is_read_and_said(tmp_path: Path) -> None:
    rows = [{"question": "什么是机器学习中的过拟合现象？", "answer": "模型把训练样本背了下来，在新的问题上反而表现很差。"}] * 20
    raw = read_file(tmp_path, "a.jsonl", lines(rows).encode("gb18030"))
    assert [row for _, row in raw.rows] == rows
    assert raw.encodings == {"a.jsonl": "gb18030"}


# What is refused


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_empty(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(errors.EmptyData, match=f"{name} is empty"):
        read_file(tmp_path, name, content)


@pytest.mark.parametrize(("name", "content"), [("a.json", "[]"), ("a.csv", "question,answer\n")])
def test_no_rows(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(errors.EmptyData):
        read_file(tmp_path, name, content)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "a PNG picture"),
        (b"PK\x03\x04\x14\x00\x00\x00", "a zip archive"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG picture"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"PAR1\x15\x04", "a Parquet table"),
        (b"RIFF\x24\x00\x00\x00WEBPVP8 ", "a WebP picture"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.png", "a"])
def test_not_text_whatever_its_name(tmp_path: Path, name: str, start: bytes, what: str) -> None:
    with pytest.raises(errors.NotText, match=f"{name} is {what}"):
        read_file(tmp_path, name, start * 20)


def test_binary_data_of_no_known_kind(tmp_path: Path) -> None:
    with pytest.raises(errors.NotText, match=r"a\.jsonl is binary data"):
        read_file(tmp_path, "a.jsonl", b"\x01\x00\x00\x00\x02\x03\x00\x00\x00\x01" * 20)


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedFile, match=r"a\.yaml is not a kind of file.*ends in \.yaml"):
        read_file(tmp_path, "a.yaml", "rows: []")


def test_unreadable_encoding(tmp_path: Path) -> None:
    noise = bytes(range(128, 256)) + bytes(b for b in range(255, 0, -1) if b not in b"\n\r\t")
    with pytest.raises(errors.UnreadableEncoding, match="Byte 0 is not UTF-8"):
        read_file(tmp_path, "a.jsonl", noise * 20)
    with pytest.raises(errors.UnreadableEncoding, match="UTF-16-LE"):
        read_file(tmp_path, "a.jsonl", b"\xff\xfe" + b"a\x00\x00\xd8b\x00")


def test_broken_json_on_line_7(tmp_path: Path) -> None:
    broken = '{"question": "Q7", "answer: "A7"}'
    content = lines([ROW] * 6) + broken + "\n" + lines([ROW] * 3)
    with pytest.raises(errors.BrokenRows) as e:
        read_file(tmp_path, "a.jsonl", content)
    assert e.value.message.startswith(
        "1 of 10 lines of a.jsonl cannot be read:\nLine 7: at character 30 a colon is missing after a name, or a quote before it: "
    )
    assert e.value.message.endswith(broken)
    assert e.value.values["lines"] == [7]
    assert json.loads(json.dumps(e.value.as_dict()))["kind"] == "BrokenRows"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"question": "Q"', "a comma or a closing bracket is missing"),
        ('{"question": "Q', "no closing quote"),
        ("{'question': 'Q'}", "a name in double quotes is expected"),
        ('{"question": }', "a value is missing"),
        ('{"question" "Q"}', "a colon is missing"),
        ('{"question": "Q"} {"question": "Q"}', "something follows"),
        ('{"question": "a\tb"}', "a line break or tab stands inside a text"),
        ('["Q", "A"]', "it is not an object in curly brackets"),
        ('{"question": "\\ud800"}', "half of a character"),
        ("[" * 100_000, "nested too deeply"),
        ('{"n": ' + "9" * 5000 + "}", "a number is too long"),
    ],
)
def test_what_is_wrong_with_a_line(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(errors.BrokenRows, match=f"Line 2: .*{why}"):
        read_file(tmp_path, "a.jsonl", lines([ROW]) + line + "\n")


def test_five_broken_lines_are_quoted_and_all_counted(tmp_path: Path) -> None:
    with pytest.raises(errors.BrokenRows) as e:
        read_file(tmp_path, "a.jsonl", lines([ROW]) + "{\n" * 7)
    assert e.value.values["count"] == 7
    assert e.value.values["lines"] == [2, 3, 4, 5, 6]


def test_broken_json_array_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(errors.BrokenRows, match="Line 3: at character"):
        read_file(tmp_path, "a.json", '[\n {"question": "Q1"},\n {"question" "Q2"}\n]')
    with pytest.raises(errors.BrokenRows, match="entry 2 of the list is not an object"):
        read_file(tmp_path, "a.json", '[{"question": "Q1"}, "Q2"]')


def test_broken_csv_and_parquet(tmp_path: Path) -> None:
    with pytest.raises(errors.BrokenRows, match="Line 3: a quote opens or closes in the wrong place"):
        read_file(tmp_path, "a.csv", 'question,answer\nQ1,A1\nQ2,"A2\n')
    with pytest.raises(errors.BrokenRows, match="damaged"):
        read_file(tmp_path, "a.parquet", b"PAR1 and then nothing of the kind PAR1")
    with pytest.raises(errors.NotText):
        read_file(tmp_path, "a.parquet", b"PK\x03\x04")


# Where data lies


def test_a_folder_is_read_by_name_without_links_and_hidden_files(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    folder = tmp_path / "rows"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.jsonl").write_text(lines([ROW]))
    (folder / "a.csv").write_text("question,answer\nQ0,A0\nQ1,A1\n")
    (folder / "sub" / "c.jsonl").write_text(lines([ROW]))
    (folder / ".hidden.jsonl").write_text("broken")
    (folder / "README.txt").write_text("not rows")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "elsewhere.jsonl").write_text(lines([ROW]))
    (folder / "link.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    name, files = locate(home, str(folder))
    assert (name, [n for n, _ in files]) == ("rows", ["a.csv", "b.jsonl", "sub/c.jsonl"])
    raw = read.read(files)
    assert [n for n, _ in raw.rows] == [1, 2, 3, 4]
    assert raw.files[1] == {"name": "b.jsonl", "first_row": 3, "rows": 1}


def test_nothing_there(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.EmptyData):
        locate(home, str(tmp_path / "empty"))
    for source in (str(tmp_path / "missing.jsonl"), "", "upload:../../etc", "upload:00ff", "x" * 5000, "a\x00b"):
        with pytest.raises(errors.DataNotFound):
            locate(home, source)


def test_devices_pipes_and_odd_files_are_no_data(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", Path("/dev/zero")):
        with pytest.raises(errors.DataNotFound):
            read.read([(path.name, path)])
    with pytest.raises(errors.UnsupportedFile):
        read.read([("passwd", Path("/etc/passwd"))])


@pytest.mark.parametrize(
    "source",
    [
        "own-er/na.me_1",
        "https://huggingface.co/datasets/own-er/na.me_1",
        " 'datasets/own-er/na.me_1' ",
        "hf.co/datasets/own-er/na.me_1/tree/main",
    ],
)
def test_hub_ids_and_addresses(source: str) -> None:
    assert hub_id(source) == "own-er/na.me_1"


@pytest.mark.parametrize("source", ["file.jsonl", "../x", "a/b/c", "/etc/passwd", "owner/", "https://example.com/datasets/a/b"])
def test_not_hub_ids(source: str) -> None:
    assert hub_id(source) is None


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (
            ["README.md", "data/train-00000.parquet", "data/train-00001.parquet", "data/test-0.parquet"],
            ["data/train-00000.parquet", "data/train-00001.parquet"],
        ),
        (["rows.jsonl", "test.jsonl", "dataset_infos.json"], ["rows.jsonl"]),
        (["en/train-0.parquet", "default/train-0.parquet"], ["default/train-0.parquet"]),
        (["train.csv", "train.jsonl"], ["train.jsonl"]),
        (["load.py", "README.md"], []),
    ],
)
def test_which_files_of_a_repository(names: list[str], chosen: list[str]) -> None:
    assert choose(names) == chosen
