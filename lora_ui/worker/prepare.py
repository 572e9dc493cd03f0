"""The `prepare` job: rows × base model → the tokens and labels that the preview shows and training uses. No GPU, no torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
import pyarrow.parquet
from jinja2 import TemplateError

from lora_ui import data, errors
from lora_ui.data import prepared
from lora_ui.data.split import Split, split
from lora_ui.data.store import GROUP
from lora_ui.errors import Say
from lora_ui.home import write_json
from lora_ui.worker import counts, load, render
from lora_ui.worker.counts import Counts
from lora_ui.worker.job import Job
from lora_ui.worker.layout import CHATML, LAYOUTS, template_of
from lora_ui.worker.limits import MEMORY, SECONDS, TooMuch, limited_memory, limited_time
from lora_ui.worker.render import Piece, Together
from lora_ui.worker.spans import Laid

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["CHATML", "LAYOUTS", "make", "run"]
TOGETHER = 200
"""Rows that are laid out under one limit and tokenised at once."""
_LETTERS_A_SECOND = 100_000
"""Laid out three times and tokenised, on a slow machine."""
_SCHEMA = pyarrow.schema(
    [
        ("row", pyarrow.int64()),
        ("input_ids", pyarrow.list_(pyarrow.int32())),
        ("labels", pyarrow.list_(pyarrow.int32())),
        ("text", pyarrow.string()),
        ("starts", pyarrow.list_(pyarrow.int32())),
        ("ends", pyarrow.list_(pyarrow.int32())),
        ("cut_tokens", pyarrow.int32()),
    ]
)
_ROW = dict[str, Any]
_PORTION = list[tuple[bool, _ROW]]
"""(whether it is held out, row) of rows that go together."""


def run(job: Job) -> dict[str, Any]:
    """The summary, with `folder` relative to the home. Raises as `make`."""
    summary = make(job, job.params)
    return {"folder": str(prepared.folder(job.home, job.params).relative_to(job.home.root)), **summary}


def make(job: Job, asked: dict[str, Any]) -> dict[str, Any]:
    """Choose, render, tokenise, mask, cut and split all rows unless that was done before; returns the summary.

    Raises TemplateFailed (with the row's number), NoRowsLeft, TooFewRows, and what loading the tokenizer raises.
    """
    if found := prepared.summary(job.home, asked):
        return found
    params = {**prepared.CHOSEN, **asked}
    dataset = data.open(job.home, params["digest"])
    chosen = _split(job, params, dataset)
    job.phase("load")
    tokenizer = load.load_tokenizer(load.tokenizer_folder(job, params["base_model"], params["revision"]))
    job.phase("prepare")
    target = prepared.folder(job.home, asked)
    staging = target.with_name(f"{prepared.STAGING}{target.name}-{os.getpid()}")
    prepared.remove_left_over(job.home)
    staging.mkdir(parents=True)
    try:
        counted = _write(job, params, tokenizer, chosen, staging, target)
        if not counted.rows["train"]:
            raise errors.NoRowsLeft(
                name=dataset.name, rows=len(chosen.used), reasons=Say("no answer begins within {n} tokens", n=params["max_length"])
            )
        told = counts.summary(tokenizer, "text" in dataset.report["mapping"], params, chosen, counted)
        summary = {"key": target.name, "base_model": params["base_model"], **told}
        write_json(staging / "summary.json", summary)
        if not (target / "summary.json").exists():
            shutil.rmtree(target, ignore_errors=True)
            staging.rename(target)
        return summary
    except BaseException:
        (target / "first.parquet").unlink(missing_ok=True)
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _split(job: Job, params: dict[str, Any], dataset: data.Dataset) -> Split:
    """Raises NoRowsLeft when everything was left out, TooFewRows when as many are asked to be kept aside."""
    wanted = 0 if params["held_out_digest"] else params["held_out_rows"]
    choice = (params["leave_out"], params["row_limit"], wanted, params["split_seed"], params["held_out_digest"])
    chosen = split(job.home, params["digest"], *choice)
    if not chosen.used:
        reasons = ", ".join(f"{len(rows)} × {code}" for code, rows in chosen.left_out.items())
        raise errors.NoRowsLeft(name=dataset.name, rows=dataset.report["kept"], reasons=reasons)
    if wanted >= len(chosen.used):
        raise errors.TooFewRows(name=dataset.name, rows=len(chosen.used), needed=wanted + 1)
    return chosen


class _Parts:
    """train.parquet and held_out.parquet being written, and first.parquet as soon as its rows are there."""

    def __init__(self, staging: Path, target: Path):
        self.writers = {name: pyarrow.parquet.ParquetWriter(staging / f"{name}.parquet", _SCHEMA) for name in ("train", "held_out")}
        self.waiting: dict[str, list[pyarrow.Table]] = {"train": [], "held_out": []}
        self.first: list[pyarrow.Table] | None = []
        self.staging, self.target = staging, target

    def add(self, rows: pyarrow.Table, used: Any, held_out: Any) -> None:
        """The rows that are `used`, into the part that `held_out` says (both for each row)."""
        for side, chosen in (("train", used & ~held_out), ("held_out", used & held_out)):
            self.waiting[side].append(rows.filter(pyarrow.array(chosen)))
            if sum(map(len, self.waiting[side])) >= GROUP:
                self._flush(side)
        if self.first is not None:
            sides = pyarrow.array(np.where(held_out, "held_out", "train").tolist())
            self.first.append(rows.append_column("split", sides).filter(pyarrow.array(used)))
            if sum(map(len, self.first)) >= prepared.FIRST:
                self._show_first(pyarrow.concat_tables(self.first).slice(0, prepared.FIRST))

    def _show_first(self, table: pyarrow.Table) -> None:
        """Beside the staging folder, where `prepared.read_first` finds it; a rename, so that it is whole or not there."""
        self.first = None
        pyarrow.parquet.write_table(table, self.staging / "first.parquet")
        self.target.mkdir(exist_ok=True)
        shutil.copyfile(self.staging / "first.parquet", self.staging / "first.part")
        os.replace(self.staging / "first.part", self.target / "first.parquet")

    def _flush(self, side: str) -> None:
        self.writers[side].write_table(pyarrow.concat_tables(self.waiting[side]))
        self.waiting[side] = []

    def close(self) -> None:
        for side, tables in self.waiting.items():
            if any(map(len, tables)):
                self._flush(side)
            self.writers[side].close()


def _write(job: Job, params: _ROW, tokenizer: PreTrainedTokenizerFast, chosen: Split, staging: Path, target: Path) -> Counts:
    """The parts in `staging`."""
    counted, parts, done = Counts(), _Parts(staging, target), 0
    own = data.open(job.home, params["held_out_digest"]).report["kept"] if params["held_out_digest"] else 0
    try:
        for together, made in _tokenised(job, tokenizer, _together(_chosen_rows(job, params, chosen)), params):
            held_out, numbers = np.array([aside for aside, _ in together]), [row["row"] for _, row in together]
            parts.add(_table(numbers, made), counted.add(numbers, held_out, made, params["leave_out"]), held_out)
            done += len(together)
            job.progress(done, len(chosen.used) + own, "rows")
    finally:
        parts.close()
    return counted


def _tokenised(
    job: Job, tokenizer: PreTrainedTokenizerFast, portions: Iterator[tuple[_PORTION, int]], params: _ROW
) -> Iterator[tuple[_PORTION, Together]]:
    """Each portion with its tokens. While one is tokenised, the next is read and the caller has the one before; but nothing else runs
    while a template does: the limit on its memory is the whole process's."""
    before: tuple[_PORTION, list[Laid], Future[list[Piece]]] | None = None

    def ready() -> Iterator[tuple[_PORTION, Together]]:
        if before:
            portion, laid, pieces = before
            yield portion, render.together(laid, pieces.result(), params["max_length"])

    with ThreadPoolExecutor(1, "tokenise") as beside:
        for portion, letters in portions:
            job.check()
            if before:
                wait([before[2]])
            laid = _laid(tokenizer, [row for _, row in portion], letters, params)
            pieces = beside.submit(render.encode, tokenizer, laid)
            yield from ready()
            before = portion, laid, pieces
        yield from ready()


def _chosen_rows(job: Job, params: _ROW, chosen: Split) -> Iterator[tuple[bool, _ROW]]:
    """(whether it is held out, row) of every row that is used."""
    wanted = iter(chosen.used)
    following = next(wanted, None)
    for position, row in enumerate(data.every_row(job.home, params["digest"])):
        if position == following:
            following = next(wanted, None)
            yield position in chosen.held_out, row
    if params["held_out_digest"]:
        for row in data.every_row(job.home, params["held_out_digest"]):
            yield True, row


def _together(rows: Iterator[tuple[bool, _ROW]]) -> Iterator[tuple[_PORTION, int]]:
    """Rows in portions, smaller where rows are long, with their letters."""
    portion: _PORTION = []
    letters = 0
    for aside, row in rows:
        portion.append((aside, row))
        letters += _letters(row)
        if len(portion) >= TOGETHER or letters > 2_000_000:
            yield portion, letters
            portion, letters = [], 0
    if portion:
        yield portion, letters


def _letters(row: _ROW) -> int:
    return len(row.get("text") or "") + sum(len(str(v)) for m in row.get("messages") or [] for v in m.values() if v)


def _laid(tokenizer: PreTrainedTokenizerFast, rows: list[_ROW], letters: int, params: _ROW) -> list[Laid]:
    """Rows under limits: together, and where that fails one by one, which names the row. A template is other people's code: whatever
    it raises is its failure on this row."""
    template = template_of(tokenizer, params["template_for_base"])

    def lay(row: _ROW) -> Laid:
        return render.lay(tokenizer, row, params["system_prompt"], template, params["learn"])

    try:
        with limited_memory(), limited_time(SECONDS + letters / _LETTERS_A_SECOND):
            return [lay(row) for row in rows]
    except (render.Unrenderable, TooMuch, MemoryError, *_FAILURES):
        return [_alone(lay, row, params) for row in rows]


_FAILURES = (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError)


def _alone(lay: Callable[[_ROW], Laid], row: _ROW, params: _ROW) -> Laid:
    seconds = SECONDS + _letters(row) / _LETTERS_A_SECOND
    try:
        with limited_memory(), limited_time(seconds):
            return lay(row)
    except render.Unrenderable as e:
        detail: Say = e.said
    except TooMuch:
        detail = Say("It ran for more than {seconds} seconds.", seconds=f"{seconds:.0f}")
    except MemoryError:
        detail = Say("It asked for more than {size} of memory.", size=f"{MEMORY / 2**30:g} GiB")
    except _FAILURES as e:
        detail = Say("{said}", said=f"{type(e).__name__}: {e}"[:300])
    raise errors.TemplateFailed(model=params["base_model"], row=row["row"], detail=detail)


def _table(numbers: list[int], made: Together) -> pyarrow.Table:
    """Lists of numbers go over as one piece: row by row takes longer than tokenising them."""
    edges = made.edges.astype(np.int32)
    columns = {name: pyarrow.ListArray.from_arrays(edges, getattr(made, name)) for name in ("input_ids", "labels", "starts", "ends")}
    return pyarrow.table({"row": numbers, "text": [row.text for row in made.laid], "cut_tokens": made.cut_tokens, **columns}, _SCHEMA)
