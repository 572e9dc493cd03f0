"""Every file of the corpus gets its verdict, with words for the refusal and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_ui import data, errors
from lora_ui.data import store
from lora_ui.home import Home
from tests.data.corpus import Case, cases


def test_the_corpus_is_large_enough_and_half_of_it_is_bad() -> None:
    bad = [case for case in cases() if isinstance(case.verdict, str)]
    assert len(cases()) >= 120 and len(bad) >= 60
    assert len({(case.title, case.name) for case in cases()}) == len(cases())


@pytest.mark.parametrize("upload", [False, True], ids=["file", "upload"])
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.title)
def test_verdict(tmp_path: Path, case: Case, upload: bool) -> None:
    """An upload is kept under a name without a suffix."""
    home = Home.open(tmp_path / "home")
    path = tmp_path / case.name
    path.write_bytes(case.content)
    try:
        found = store.load(
            home, data.store_upload(home, path, case.name) if upload else path
        )  # reading alone: what checks of the words find is in test_checks.py
    except errors.LoraUIError as e:
        assert e.kind == case.verdict, str(e)
        assert e.message and e.cause and e.fix and json.dumps(e.as_dict())
        assert list(home.datasets.iterdir()) == []
    else:
        report = found.report
        assert (report["format"], report["kept"], report["dropped"], tuple(f["code"] for f in report["findings"])) == case.verdict
        assert len(data.rows(home, found.digest)) == report["kept"]
        assert report["kept"] + report["dropped"] == report["rows"] == sum(file["rows"] for file in report["files"])
    assert [p.name for p in home.root.iterdir() if p.name.startswith(".tmp")] == []
