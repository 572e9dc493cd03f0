"""What a worker says is bounded and holds no secret, whoever printed it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lora_ui.home import REPOSITORY, Home, read_json
from lora_ui.worker.log import LIMIT
from tests.train.inside import interposed
from tests.worker.working import start

TOKEN = "hf_canaryCANARYcanary0123456789"


def said(home: Home, action: str, place: Path, monkeypatch: pytest.MonkeyPatch, token: str | None = None) -> Path:
    """The folder of a worker that did `action` at its first heartbeat and then ended, because its rows are not there."""
    monkeypatch.setenv("PYTHONPATH", interposed(place, "os.rename", "heartbeat", action))
    folder, worker = start(home, "merge", {"run_id": "quiet-otter-000001", "dtype": None}, "quiet-otter-000001", token)
    worker.wait(120)
    assert read_json(folder / "outcome.json")["state"] == "failed"
    return folder


def test_a_million_lines_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home.open(tmp_path / "home")
    folder = said(home, "[print('line', n, 'of very many') for n in range(1_000_000)]", tmp_path / "path", monkeypatch)
    logs = sorted(folder.glob("log*.txt"))
    assert [p.name for p in logs] == ["log.1.txt", "log.txt"]
    assert sum(p.stat().st_size for p in logs) < 2 * LIMIT + 100_000
    text = (folder / "log.txt").read_text()
    assert text.startswith("(What was said before this is in log.1.txt.)\n")
    assert "line 999999 of very many\n" in text
    assert "Traceback" in text


def test_what_c_code_and_children_print_lands_in_the_same_file_after_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home.open(tmp_path / "home")
    action = "[print('x' * 90) for n in range(100_000)]; os.system('echo from a child; echo its error >&2')"
    folder = said(home, action, tmp_path / "path", monkeypatch)
    assert "from a child\nits error\n" in (folder / "log.txt").read_text()


@pytest.mark.parametrize(
    "action",
    [
        f"print('token is {TOKEN}')",
        f"sys.stderr.write('{TOKEN[:9]}'); sys.stderr.flush(); sys.stderr.write('{TOKEN[9:]} and more')",
        f"raise ValueError('GET https://hub/x?token=abcdefgh1234 by user:{TOKEN}@hub')",
        "os.environ.update(MY_API_KEY='abcdefgh1234', GH='ghp_0123456789abcdef0123'); print(os.environ)",
        'print(\'{"api_key": "abcdefgh1234"} X-Amz-Signature=abcdefgh1234&x=1\')',
        "print('an odd one: spam-and-eggs-1')",
    ],
    ids=["plain", "in two pieces", "exception", "environment", "json and address", "the job's own, of any form"],
)
def test_no_secret_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    folder = said(Home.open(tmp_path / "home"), action, tmp_path / "path", monkeypatch, token="spam-and-eggs-1")
    written = "".join(p.read_text() for p in folder.iterdir())
    assert "…" in written
    for secret in (TOKEN, "abcdefgh1234", "ghp_0123456789abcdef0123", "spam-and-eggs-1"):
        assert secret not in written


def test_a_line_without_end_is_cut_in_pieces(tmp_path: Path) -> None:
    code = "import sys, pathlib; from lora_ui.worker.log import take_over; log = take_over(pathlib.Path('x'), str)\nprint('y' * 5_000_000); log.end()"
    out = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, check=True).stdout
    assert max(map(len, out.splitlines())) < 30_000
