"""The picture of the rows' lengths: what it counts and where it draws."""

import random
import re
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from lora_ui import presets, settings
from lora_ui.ui import lengths
from lora_ui.ui.words import Words


def prepared(folder, kept, cut, longest):
    """A summary as `runs.prepared` gives it, with `cut` tokens lost by as many rows."""
    table = pyarrow.table({"cut_tokens": [0] * len(kept) + cut})
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    return {"folder": str(folder), "lengths": [*kept, *[longest] * len(cut)], "truncated": len(cut)}


def test_rows_are_counted_as_long_as_they_were_before_they_were_cut(tmp_path):
    summary = prepared(tmp_path, [10, 10, 64], [6, 36], 64)
    assert lengths.whole(summary, 64) == {10: 2, 64: 1, 70: 1, 100: 1}
    drawn = lengths.picture(Words("en"), summary, 64)
    assert "64 tokens keep 60 % whole; cut: 2. The longest row has 100 tokens." in drawn
    assert drawn.count('class="kept"') == 2 and drawn.count('class="cut"') == 2


@pytest.mark.parametrize("rows", [[1], [3, 3], [1, 511, 512], [5] * 10_000 + [512], list(range(1, 513))])
@pytest.mark.parametrize("longest", [16, 512, 100_000])
def test_every_bar_and_word_is_inside_the_picture(tmp_path, rows, longest):
    cut = [n - longest for n in rows if n > longest]
    summary = prepared(tmp_path, [n for n in rows if n <= longest], cut, longest)
    for language in ("en", "zh"):
        drawn = lengths.picture(Words(language), summary, longest)
        for at in re.findall(r'x\d?="([\d.]+)%"', drawn):
            assert 0 <= float(at) <= 100
        assert ('line class="limit"' in drawn) == (longest <= 4 * max(rows))
        assert bool(cut) == ('class="cut"' in drawn)
        tops = [float(y) for y in re.findall(r'<rect[^>]* y="([\d.]+)"', drawn)]
        assert min(tops) == lengths.TOP


def test_padding_is_what_many_random_batches_waste():
    rows = [3] * 60 + [10] * 30 + [100] * 10
    draw = random.Random(1)
    batches = [draw.choices(rows, k=4) for _ in range(20_000)]
    wasted = 1 - sum(map(sum, batches)) / sum(4 * max(batch) for batch in batches)
    assert lengths.padding(Counter(rows), 4) == pytest.approx(wasted, abs=0.01)
    assert lengths.padding(Counter(rows), 1) == pytest.approx(0) and lengths.padding(Counter({7: 3}), 8) == 0


def test_what_a_round_costs_is_said():
    summary = {"train_lengths": [10] * 90 + [100] * 10, "train_tokens": 1900, "train_rows": 100, "median_tokens": 10}
    decided = presets.decide(settings.parse({}), 100, 0, "cpu", 10, 1900, summary["train_lengths"])
    said = lengths.cost(Words("en"), summary, 512, decided)
    assert f"{decided['steps_per_round'].value} steps" in said and "7%" in said
