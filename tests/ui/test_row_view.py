"""Where a row's tokens come from while the rest of the data is still counted."""

from pathlib import Path

from lora_ui.data import prepared
from lora_ui.home import Home
from lora_ui.ui import row_view

ASKED = {"digest": "0" * 16, "base_model": "m", "revision": None, "max_length": 9, "held_out_rows": 0, "split_seed": 1, "system_prompt": ""}


def test_whether_the_first_rows_are_there_is_told_without_reading_them(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    here = {"prepared": None, "first": ASKED}
    assert row_view.stage(home, here) is None and row_view.stage(home, {**here, "first": None}) is None
    folder = prepared.folder(home, ASKED)
    folder.mkdir(parents=True)
    (folder / "first.parquet").write_bytes(b"reading this fails")
    assert row_view.stage(home, here) == "first"
    assert row_view.stage(home, {**here, "prepared": {"rows": 1}}) == "whole"
