"""A large file on the Data page: its reading counts, and stops when it is told to."""

import json
import re

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def test_a_long_reading_counts_and_can_be_stopped(app, visit, tmp_path):
    big = tmp_path / "big.jsonl"
    with big.open("w") as f:
        for n in range(300_000):
            f.write(json.dumps({"question": f"What is the number after {n}?", "answer": f"It is {n + 1}."}) + "\n")
    page, t = visit()
    page.goto(app.url)
    expect(page).to_have_title(f"{t('data.name')} · LoRA UI")
    page.locator("#upload input[type=file]").set_input_files(big)
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-label", re.compile("[0-9],[0-9]{3} rows"))
    page.locator("#stop-reading").click()
    expect(page.locator("body")).to_contain_text(t("data.halted"))
    expect(page.locator("#example")).to_be_visible()
    expect(page.locator("#stop-reading")).to_have_count(0)
    assert list(app.home.datasets.glob("*/rows.parquet")) == []

    page.locator("#example").click()  # the stopped reading comes back to nothing
    expect(page.locator("#row")).to_contain_text("What is LoRA UI?")
    assert [folder.name for folder in app.home.datasets.glob(".rows-*")] == []
