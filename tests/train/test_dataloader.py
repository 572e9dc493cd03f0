"""The tokens and labels that SFTTrainer's own dataloader yields are those that the preview shows, token for token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from lora_ui import data
from lora_ui.data import prepared
from lora_ui.home import Home, write_json
from lora_ui.worker import load, prepare
from lora_ui.worker.job import Job
from lora_ui.worker.train import _rows
from tests.tiny import tiny_model

pytestmark = pytest.mark.train
Row = tuple[tuple[int, ...], tuple[int, ...]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path, str]:
    folder = tmp_path_factory.mktemp("rows")
    home, base = Home.open(folder / "home"), tiny_model(folder / "base")
    return home, base, data.load(home, "example").digest


def shown_rows(place: tuple[Home, Path, str], learn: str) -> tuple[Path, Counter[Row]]:
    """The prepared folder, and what the preview reads from it."""
    home, base, digest = place
    asked = {"digest": digest, "base_model": str(base), "revision": None, "max_length": 256, "held_out_rows": 20, "split_seed": 7}
    params = {**asked, "system_prompt": "Be brief. <|im_end|>", "learn": learn}
    folder = home.job("prepare", "prepare-" + learn, None, digest)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "job.json", {"id": "prepare-1", "kind": "prepare", "run_id": None, "home": str(home.root), "params": params})
    summary = prepare.run(Job(folder))
    assert summary["truncated"] > 10
    there = home.root / summary["folder"]
    return there, Counter((tuple(row["input_ids"]), tuple(row["labels"])) for row in prepared.read_rows(there, "train"))


def trained_rows(batch: dict[str, Any], end_to_end: bool) -> Iterator[Row]:
    """Rows end to end come apart where their positions begin anew; a padded one ends with its attention mask."""
    for at, ids in enumerate(batch["input_ids"].tolist()):
        labels = batch["labels"][at].tolist()
        if end_to_end:
            positions = batch["position_ids"][at].tolist()
            edges = [*(i for i, position in enumerate(positions) if position == 0), len(ids)]
        else:
            edges = [0, int(batch["attention_mask"][at].sum())]
            assert batch["attention_mask"][at, : edges[1]].all() and set(labels[edges[1] :]) <= {-100}
        yield from ((tuple(ids[a:b]), tuple(labels[a:b])) for a, b in pairwise(edges))


@pytest.mark.parametrize(("packing", "end_to_end"), [(False, False), (False, True), (True, True)], ids=["padded", "rows", "packed"])
@pytest.mark.parametrize("learn", ["all", "everything"])
def test_the_trainers_batches_are_what_the_preview_shows(
    place: tuple[Home, Path, str], tmp_path: Path, packing: bool, end_to_end: bool, learn: str
) -> None:
    _, base, _ = place
    folder, shown = shown_rows(place, learn)
    arguments = SFTConfig(
        output_dir=str(tmp_path / "out"),
        max_length=256 if packing or not end_to_end else None,
        packing=packing,
        padding_free=end_to_end,
        per_device_train_batch_size=2,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    model = AutoModelForCausalLM.from_pretrained(base)
    rows = _rows(folder / "train.parquet", tmp_path / "cache")
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=load.load_tokenizer(base))
    trained = Counter(row for batch in trainer.get_train_dataloader() for row in trained_rows(batch, end_to_end))
    assert sum(shown.values()) == 180
    assert trained == shown
