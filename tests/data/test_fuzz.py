"""Files that nobody would write on purpose, and some that somebody would: each ends in a report or a refusal, soon and in little memory."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_ui import data, errors
from lora_ui.data.sources import hub_name, locate
from lora_ui.home import REPOSITORY, Home
from tests.data.corpus import cases

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".xlsx", ".txt", ".md", ".jsonl.gz", ".zip")
FUZZ = settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
ROWS = [case for case in cases() if not isinstance(case.verdict, str) and len(case.content) < 20_000]


@pytest.fixture(scope="module")
def place() -> Iterator[Home]:
    with tempfile.TemporaryDirectory() as folder:
        yield Home.open(Path(folder) / "home")


def taken(home: Home, name: str, content: bytes, mapping: dict[str, str] | None = None) -> dict | None:
    """The report, or None for a refusal; anything else than a LoraUIError goes through."""
    path = home.root / name
    path.write_bytes(content)
    try:
        report = data.load(home, path, mapping).report
        assert json.dumps(report) and json.dumps(data.rows(home, report["digest"], 0, 3)).encode()
        assert json.dumps(data.peek(home, path)["columns"])
        return report
    except errors.LoraUIError as e:
        assert json.dumps(e.as_dict()).encode()
        return None


@FUZZ
@given(suffix=st.sampled_from(SUFFIXES), content=st.binary(max_size=400))
def test_random_bytes(place: Home, suffix: str, content: bytes) -> None:
    taken(place, "a" + suffix, content)


@FUZZ
@given(suffix=st.sampled_from(SUFFIXES[:8]), content=st.text(max_size=300))
def test_random_text(place: Home, suffix: str, content: str) -> None:
    taken(place, "a" + suffix, content.encode("utf-8", "surrogatepass"))


@FUZZ
@given(case=st.sampled_from(ROWS), share=st.floats(0, 1))
def test_truncated_files(place: Home, case, share: float) -> None:
    taken(place, case.name, case.content[: int(len(case.content) * share)])


@FUZZ
@given(
    case=st.sampled_from(ROWS), changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5)
)
def test_changed_bytes(place: Home, case, changes: list[tuple[float, int]]) -> None:
    content = bytearray(case.content)
    for where, byte in changes:
        content[int(where * len(content))] = byte
    taken(place, case.name, bytes(content))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(("role", "content", "from", "value", "tool_calls", "function", "name", "x")), inner, max_size=4)
    ),
    max_leaves=12,
)
COLUMNS = st.sampled_from(
    (
        "question",
        "answer",
        "messages",
        "conversations",
        "instruction",
        "input",
        "output",
        "history",
        "tools",
        "system",
        "text",
        "label",
        "prompt",
        "completion",
    )
)


@FUZZ
@given(rows=st.lists(st.dictionaries(COLUMNS, JSON, max_size=5), min_size=1, max_size=4), suffix=st.sampled_from((".json", ".jsonl")))
def test_rows_of_any_shape(place: Home, rows: list, suffix: str) -> None:
    """All rows are accounted for; text that is kept is text."""
    report = taken(place, "a" + suffix, json.dumps(rows).encode())
    if report:
        assert report["kept"] + report["dropped"] == report["rows"]


@FUZZ
@given(cells=st.lists(st.lists(st.text(max_size=6), min_size=2, max_size=3), min_size=2, max_size=5), mark=st.sampled_from(",;\t"))
def test_tables_of_any_text_come_back_as_they_were(place: Home, cells: list[list[str]], mark: str) -> None:
    quoted = [mark.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells]
    taken(place, "a.csv", ("question" + mark + "answer\n" + "\n".join(quoted)).encode("utf-8", "surrogatepass"))


@FUZZ
@given(spec=st.text(alphabet="{}qa\\n: ", max_size=12))
def test_templates_of_any_form(place: Home, spec: str) -> None:
    taken(place, "a.jsonl", b'{"q": "1", "a": "2"}\n{"q": "3", "a": null}\n{"q": "5", "a": "6"}\n', {"user": spec, "assistant": "q"})


@FUZZ
@given(source=st.text(max_size=40) | st.text(alphabet="ab/@:.-_?#%~\n\0", max_size=20))
def test_names_of_any_form(place: Home, source: str) -> None:
    """Of what names a dataset on the Hub, the form we give it says the same."""
    if (name := hub_name(source)) is not None:
        assert hub_name(name) == name
    else:
        try:
            locate(place, "/nonexistent/" + source.replace("\n", ""))
        except errors.LoraUIError as e:
            assert e.message


# Heavy ones, each in a process of its own with a limit

LIMIT = 2**30
CHILD = """
import re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
from lora_ui import data, errors
from lora_ui.home import Home
try:
    said = data.load(Home.open(sys.argv[1]), sys.argv[2]).report["format"]
except errors.LoraUIError as e:
    said = e.kind
print(said, int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024)
"""


def repeated(path: Path, start: bytes, piece: bytes, size: int, end: bytes) -> None:
    with path.open("wb") as file:
        file.write(start)
        block = piece * (2**20 // len(piece))
        for _ in range(size // len(block)):
            file.write(block)
        file.write(end)


def wide_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({f"c{i}": [1] for i in range(12_000)}), path)


def repeating_parquet(path: Path) -> None:
    """2,000 rows of 2 × 6 MB in a file of a kilobyte."""
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 2000, pyarrow.int32()), ["x" * 6_000_000])
    pyarrow.parquet.write_table(pyarrow.table({"question": column, "answer": column}), path, compression="zstd", store_schema=False)


def huge_sheet(path: Path) -> None:
    """A workbook whose list of texts unpacks to 200 MB."""
    case = next(case for case in cases() if case.title == "workbook")
    with zipfile.ZipFile(io.BytesIO(case.content)) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            if member.filename != "xl/sharedStrings.xml":
                new.writestr(member.filename, old.read(member))
        with new.open("xl/sharedStrings.xml", "w") as file:
            for _ in range(200):
                file.write(b" " * 2**20)


def zeros_gz(path: Path) -> None:
    with gzip.open(path, "wb", 9) as file:
        for _ in range(100):
            file.write(b"a" * 2**20)


MANY = ",".join(f"c{i}" for i in range(1_000_000)).encode()
SIZE = 200 * 2**20
HEAVY: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "one line of jsonl": ("a.jsonl", lambda p: repeated(p, b'{"question": "Q", "answer": "', b"word ", SIZE, b'"}\n'), "RowTooLong"),
    "one line without an end": ("a.jsonl", lambda p: repeated(p, b"", b"x", SIZE, b""), "RowTooLong"),
    "one line of json": ("a.json", lambda p: repeated(p, b'{"question": "', "字".encode(), SIZE, b'"}'), "RowTooLong"),
    "one line that is an array": ("a.json", lambda p: repeated(p, b"[", b'{"text": "one two three four five six seven eight nine ten"},   ', 2**25, b'{"text": "x"}]'), "text"),
    "one value of empty things": ("a.json", lambda p: repeated(p, b'[{"a": [', b"{},", SIZE, b"{}]}]"), "RowTooLong"),
    "one line of csv": ("a.csv", lambda p: repeated(p, b"question,answer\nq,", b"word ", SIZE, b"\n"), "RowTooLong"),
    "one line of commas": ("a.csv", lambda p: repeated(p, b"question,answer\n", b",", SIZE, b"\n"), "RowTooLong"),
    "one row over many lines": ("a.csv", lambda p: repeated(p, b'question,answer\nq,"', b"word\n", SIZE, b'"\n'), "RowTooLong"),
    "one line of text": ("a.txt", lambda p: repeated(p, b"", b"word ", 2**25, b""), "text"),
    "one line of markdown": ("a.md", lambda p: repeated(p, b"# A\n\n", b"word ", 2**25, b""), "text"),
    "brackets": ("a.json", lambda p: repeated(p, b"", b"[", 2**26, b""), "BrokenRows"),
    "brackets in a line": ("a.jsonl", lambda p: repeated(p, b'{"a":', b"[", 2**23, b"\n"), "BrokenRows"),
    "a million columns": ("a.csv", lambda p: p.write_bytes(MANY + b"\n" + MANY + b"\n"), "TooManyColumns"),
    "a million keys": ("a.jsonl", lambda p: p.write_text("{" + ",".join(f'"c{i}":1' for i in range(1_000_000)) + "}\n"), "TooManyColumns"),
    "a million keys in an array": ("a.json", lambda p: p.write_text("[{" + ",".join(f'"c{i}":1' for i in range(1_000_000)) + "}]"), "TooManyColumns"),
    "a wide Parquet table": ("a.parquet", wide_parquet, "TooManyColumns"),
    "a Parquet table that repeats": ("a.parquet", repeating_parquet, "ArchiveTooLarge"),
    "a workbook that swells": ("a.xlsx", huge_sheet, "UploadTooLarge"),
    "an archive that swells": ("a.txt.gz", zeros_gz, "ArchiveTooLarge"),
}  # fmt: skip


@pytest.mark.parametrize("title", HEAVY)
def test_heavy_files_take_little_memory(tmp_path: Path, title: str) -> None:
    name, write, verdict = HEAVY[title]
    write(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "home"), str(tmp_path / name)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said, memory = done.stdout.split()
    assert said == verdict
    assert int(memory) < LIMIT, f"{int(memory) / 2**20:.0f} MiB"
    (tmp_path / name).unlink()


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    taken = []
    for count in (10_000, 120_000):
        path = tmp_path / f"{count}.jsonl"
        path.write_text(
            "".join(f'{{"question": "What is {i}?", "answer": "{i} is a number. {"It goes on. " * 20}"}}\n' for i in range(count))
        )
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path / "home"), str(path)], capture_output=True, text=True, cwd=REPOSITORY
        )
        said, memory = done.stdout.split()
        assert said == "question_answer"
        taken.append(int(memory))
    assert taken[1] - taken[0] < 110_000 * 1024  # reading holds nothing; the checks' fingerprints take about 600 bytes a row
