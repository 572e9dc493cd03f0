"""The `prepare` job: rows × base model → the tokens and labels that the preview shows and training uses. No GPU, no torch."""

from __future__ import annotations

import os
import random
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.parquet
from jinja2 import TemplateError

from lora_ui import data, errors
from lora_ui.data import prepared
from lora_ui.data.report import finding
from lora_ui.data.store import GROUP
from lora_ui.errors import Say
from lora_ui.home import write_json
from lora_ui.worker import load, render
from lora_ui.worker.job import Job
from lora_ui.worker.limits import MEMORY, SECONDS, TooMuch, limited_memory, limited_time
from lora_ui.worker.render import CHATML, READ_ONLY, Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["CHATML", "make", "run"]
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


def run(job: Job) -> dict[str, Any]:
    """The summary, with `folder` relative to the home. Raises as `make`."""
    summary = make(job, job.params)
    return {"folder": str(prepared.folder(job.home, job.params).relative_to(job.home.root)), **summary}


def make(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Render, tokenise, mask, cut and split all rows unless that was done before; returns the summary.

    Raises TemplateFailed (with the row's number), NoRowsLeft, TooFewRows, and what loading the tokenizer raises.
    """
    if found := prepared.summary(job.home, params):
        return found
    dataset = data.open(job.home, params["digest"])
    total = dataset.report["kept"]
    if params["held_out_rows"] >= total:
        raise errors.TooFewRows(name=dataset.name, rows=total, needed=params["held_out_rows"] + 1)
    held_out = set(random.Random(params["split_seed"]).sample(range(total), params["held_out_rows"]))
    job.phase("load")
    tokenizer = load.load_tokenizer(load.tokenizer_folder(job, params["base_model"], params["revision"]))
    job.phase("prepare")
    target = prepared.folder(job.home, params)
    staging = target.with_name(f".tmp-{target.name}-{os.getpid()}")
    staging.mkdir(parents=True)
    try:
        count = _write(job, params, tokenizer, held_out, total, staging)
        if not count.rows["train"]:
            raise errors.NoRowsLeft(
                name=dataset.name, rows=total, reasons=Say("no answer begins within {n} tokens", n=params["max_length"])
            )
        summary = {
            "key": target.name,
            "base_model": params["base_model"],
            **_summary(tokenizer, "text" in dataset.report["mapping"], count),
        }
        write_json(staging / "summary.json", summary)
        if not (target / "summary.json").exists():
            shutil.rmtree(target, ignore_errors=True)
            staging.rename(target)
        return summary
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@dataclass
class _Count:
    """What is counted while rows go by; row numbers are those of the person's file."""

    rows: dict[str, int] = field(default_factory=lambda: {"train": 0, "held_out": 0})
    lengths: list[int] = field(default_factory=list)
    trained: int = 0
    train_lengths: list[int] = field(default_factory=list)
    cut_tokens: int = 0
    truncated: list[int] = field(default_factory=list)
    nothing_learned: list[int] = field(default_factory=list)
    control_like: list[int] = field(default_factory=list)

    def add(self, row: int, split: str, made: Rendered) -> bool:
        """Whether the row is used: one whose answer was cut off entirely teaches nothing."""
        learned = sum(label != READ_ONLY for label in made.labels)
        if not learned:
            self.nothing_learned.append(row)
            return False
        self.rows[split] += 1
        self.lengths.append(len(made.input_ids))
        self.trained += learned
        if split == "train":
            self.train_lengths.append(len(made.input_ids))
        self.cut_tokens += made.cut_tokens
        if made.cut_tokens:
            self.truncated.append(row)
        if made.control_like:
            self.control_like.append(row)
        return True


def _write(job: Job, params: dict[str, Any], tokenizer: PreTrainedTokenizerFast, held_out: set[int], total: int, staging: Path) -> _Count:
    """train.parquet and held_out.parquet in `staging`."""
    count = _Count()
    waiting: dict[str, list[dict[str, Any]]] = {"train": [], "held_out": []}
    with (
        pyarrow.parquet.ParquetWriter(staging / "train.parquet", _SCHEMA) as train,
        pyarrow.parquet.ParquetWriter(staging / "held_out.parquet", _SCHEMA) as aside,
    ):
        writers = {"train": train, "held_out": aside}
        for position, row in enumerate(_rows(job, params["digest"], total)):
            job.check()
            split = "held_out" if position in held_out else "train"
            made = _rendered(tokenizer, row, params)
            if count.add(row["row"], split, made):
                waiting[split].append({"row": row["row"], **{name: getattr(made, name) for name in _SCHEMA.names[1:]}})
            if len(waiting[split]) >= GROUP:
                writers[split].write_table(pyarrow.Table.from_pylist(waiting.pop(split), _SCHEMA))
                waiting[split] = []
            job.progress(position + 1, total, "rows")
        for split, rest in waiting.items():
            writers[split].write_table(pyarrow.Table.from_pylist(rest, _SCHEMA))
    return count


def _rows(job: Job, digest: str, total: int) -> Iterator[dict[str, Any]]:
    for start in range(0, total, GROUP):
        yield from data.rows(job.home, digest, start, GROUP)


def _rendered(tokenizer: PreTrainedTokenizerFast, row: dict[str, Any], params: dict[str, Any]) -> Rendered:
    """One row under limits. A template is other people's code: whatever it raises is its failure on this row."""
    letters = len(row.get("text") or "") + sum(len(m["content"]) for m in row.get("messages") or [])
    seconds = SECONDS + letters / _LETTERS_A_SECOND
    try:
        with limited_memory(), limited_time(seconds):
            return render.render(tokenizer, row, params["system_prompt"], params["max_length"], render.template_of(tokenizer))
    except render.Unrenderable as e:
        detail: Say = e.said
    except TooMuch:
        detail = Say("It ran for more than {seconds} seconds.", seconds=f"{seconds:.0f}")
    except MemoryError:
        detail = Say("It asked for more than {size} of memory.", size=f"{MEMORY / 2**30:g} GiB")
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError) as e:
        detail = Say("{said}", said=f"{type(e).__name__}: {e}"[:300])
    raise errors.TemplateFailed(model=params["base_model"], row=row["row"], detail=detail)


def _summary(tokenizer: PreTrainedTokenizerFast, plain: bool, count: _Count) -> dict[str, Any]:
    template, mask, reason = _how(tokenizer, plain)
    return {
        "rows": sum(count.rows.values()),
        "train_rows": count.rows["train"],
        "held_out_rows": count.rows["held_out"],
        "truncated": len(count.truncated),
        "cut_tokens": count.cut_tokens,
        "tokens": {"total": sum(count.lengths), "trained": count.trained},
        "train_tokens": sum(count.train_lengths),
        "median_tokens": int(statistics.median(count.lengths)),
        "lengths": count.lengths,
        "train_lengths": count.train_lengths,
        "template": template,
        "mask": mask,
        "reason": reason.as_dict(),
        "findings": _findings(tokenizer, template, count),
        "special_ids": sorted(id for id, token in tokenizer.added_tokens_decoder.items() if token.special),
    }


def _how(tokenizer: PreTrainedTokenizerFast, plain: bool) -> tuple[str, str, Say]:
    """(template: own, chatml or plain; mask: generation, prefix or all; why)."""
    if plain:
        return "plain", "all", Say("Plain text is learned whole, with the token that ends it.")
    if not tokenizer.chat_template:
        return "chatml", "prefix", Say("This base model has no chat template, so conversations are laid out as ChatML in plain letters.")
    if render.has_generation_tags(render.template_of(tokenizer)):
        return "own", "generation", Say("The model's own chat template marks what the assistant writes.")
    return "own", "prefix", Say("Laid out by the model's own chat template; what follows the prompt for an answer is learned.")


def _findings(tokenizer: PreTrainedTokenizerFast, template: str, count: _Count) -> list[dict[str, Any]]:
    found = []
    shorten = Say("Raise max_length, or shorten these rows.")
    if n := len(count.nothing_learned):
        message = Say("{count} rows are so long that their whole answer is cut off; they are left out.", count=n)
        found.append(finding("too_long", "drop", count.nothing_learned, message, shorten))
    if n := len(count.truncated):
        message = Say("{count} rows are cut at the longest length; {tokens} tokens are lost.", count=n, tokens=count.cut_tokens)
        found.append(finding("too_long", "warn", count.truncated, message, shorten))
    if n := len(count.control_like):
        message = Say("{count} rows hold text that looks like a control token of this model. It is learned as ordinary letters.", count=n)
        found.append(finding("special_token", "warn", count.control_like, message, Say("Remove it unless it is meant.")))
    if template == "chatml":
        message = Say("This base model has no chat template; ChatML is used and saved with the adapter.")
        found.append(finding("template", "warn", [], message, Say("An instruct model knows conversations already."), count=1))
    elif template == "own" and not render.turn_end(tokenizer, render.template_of(tokenizer)):
        message = Say("The model's chat template puts no end token after an answer, so it may not learn where to stop.")
        found.append(finding("template", "warn", [], message, Say("Choose another base model if answers do not end."), count=1))
    return found
