"""What the `prepare` job counts while rows go by, and what it says about them in its summary."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_ui.data.report import finding
from lora_ui.data.split import Split
from lora_ui.errors import Say
from lora_ui.worker import layout
from lora_ui.worker.render import Together

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass
class Counts:
    """Row numbers are those of the person's file."""

    rows: dict[str, int] = field(default_factory=lambda: {"train": 0, "held_out": 0})
    lengths: list[int] = field(default_factory=list)
    trained: int = 0
    train_lengths: list[int] = field(default_factory=list)
    cut_tokens: int = 0
    truncated: list[int] = field(default_factory=list)
    nothing_learned: list[int] = field(default_factory=list)
    control_like: list[int] = field(default_factory=list)
    missing: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    left_out: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, numbers: list[int], held_out: Any, made: Together, leave_out: list[str]) -> Any:
        """For each row whether it is used: not one whose answer was cut off entirely, which teaches nothing, nor one the person leaves
        out. `held_out`: for each row whether it is kept aside."""
        used = made.learned > 0
        self.nothing_learned += [numbers[at] for at in np.flatnonzero(~used).tolist()]
        control_like = np.array([len(row.cuts) for row in made.laid], np.int64)
        for at in np.flatnonzero(used & ((made.cut_tokens > 0) | (control_like > 0))).tolist():
            used[at] = self._used(numbers[at], int(made.cut_tokens[at]), bool(control_like[at]), leave_out)
        lengths = np.diff(made.edges)
        self.rows["train"] += int((used & ~held_out).sum())
        self.rows["held_out"] += int((used & held_out).sum())
        self.lengths += lengths[used].tolist()
        self.train_lengths += lengths[used & ~held_out].tolist()
        self.trained += int(made.learned[used].sum())
        for at, row in enumerate(made.laid):
            for what in row.missing if used[at] else ():
                self.missing[what].append(numbers[at])
        return used

    def _used(self, number: int, cut_tokens: int, control_like: bool, leave_out: list[str]) -> bool:
        """Of a row that is cut or holds what looks like control tokens."""
        for code, found in (("too_long", cut_tokens), ("special_token", control_like)):
            if found and code in leave_out:
                self.left_out[code].append(number)
                return False
        self.cut_tokens += cut_tokens
        self.truncated += [number] if cut_tokens else []
        self.control_like += [number] if control_like else []
        return True


def summary(tokenizer: PreTrainedTokenizerFast, plain: bool, params: dict[str, Any], split: Split, counts: Counts) -> dict[str, Any]:
    template, mask, reason = _how(tokenizer, plain, params["template_for_base"])
    codes = {**split.left_out, **counts.left_out}
    return {
        "rows": sum(counts.rows.values()),
        "train_rows": counts.rows["train"],
        "held_out_rows": counts.rows["held_out"],
        "own_held_out": params["held_out_digest"] is not None,
        "left_out": {code: len(rows) for code, rows in codes.items()},
        "over_limit": split.over_limit,
        "truncated": len(counts.truncated),
        "cut_tokens": counts.cut_tokens,
        "tokens": {"total": sum(counts.lengths), "trained": counts.trained},
        "train_tokens": sum(counts.train_lengths),
        "median_tokens": int(statistics.median(counts.lengths)),
        "lengths": counts.lengths,
        "train_lengths": counts.train_lengths,
        "template": template,
        "mask": "all" if params["learn"] == "everything" else mask,
        "learn": params["learn"],
        "reason": reason.as_dict(),
        "findings": _left_out(codes) + _row_findings(counts, split) + _template_findings(tokenizer, template, counts),
        "special_ids": sorted(id for id, token in tokenizer.added_tokens_decoder.items() if token.special),
    }


def _how(tokenizer: PreTrainedTokenizerFast, plain: bool, for_base: str) -> tuple[str, str, Say]:
    """(template: own, chatml, named or plain; mask: generation, prefix or all; why)."""
    if plain:
        return "plain", "all", Say("Plain text is learned whole, with the token that ends it.")
    if not tokenizer.chat_template and for_base == "plain":
        return "named", "prefix", Say("This base model has no chat template, so conversations are laid out as lines that name who speaks.")
    if not tokenizer.chat_template:
        return "chatml", "prefix", Say("This base model has no chat template, so conversations are laid out as ChatML in plain letters.")
    if layout.has_generation_tags(layout.template_of(tokenizer)):
        return "own", "generation", Say("The model's own chat template marks what the assistant writes.")
    return "own", "prefix", Say("Laid out by the model's own chat template; what follows the prompt for an answer is learned.")


def _left_out(codes: dict[str, list[int]]) -> list[dict[str, Any]]:
    fix = Say("Take the code out of data.leave_out to use them.")
    return [
        finding(
            code,
            "drop",
            rows,
            Say("{count} [row|rows] with the finding {code} [is|are] left out, as chosen.", count=len(rows), code=code),
            fix,
        )
        for code, rows in codes.items()
    ]


def _row_findings(counts: Counts, split: Split) -> list[dict[str, Any]]:
    found = []
    shorten = Say("Raise max_length, or shorten these rows.")
    if n := len(counts.nothing_learned):
        message = Say("{count} [row is|rows are] so long that the whole answer is cut off, and [is|are] left out.", count=n)
        found.append(finding("too_long", "drop", counts.nothing_learned, message, shorten))
    if n := len(counts.truncated):
        message = Say("{count} [row is|rows are] cut at the longest length; {tokens} tokens are lost.", count=n, tokens=counts.cut_tokens)
        found.append(finding("too_long", "warn", counts.truncated, message, shorten, action="drop"))
    if n := len(counts.control_like):
        message = Say(
            "{count} [row holds|rows hold] text that looks like a control token of this model. It is learned as ordinary letters.", count=n
        )
        found.append(finding("special_token", "warn", counts.control_like, message, Say("Remove it unless it is meant."), action="drop"))
    if n := len(split.leaks):
        message = Say(
            "{count} training [row has|rows have] the prompt or nearly all words of a held-out row, so the test is too easy.", count=n
        )
        fix = Say("Leave them out of training, or test on other rows.")
        found.append(finding("leak", "warn", split.leaks, message, fix, action="drop"))
    return found


def _template_findings(tokenizer: PreTrainedTokenizerFast, template: str, counts: Counts) -> list[dict[str, Any]]:
    found = []

    def warn(message: Say, fix: Say, rows: list[int] | None = None) -> None:
        found.append(finding("template", "warn", rows or [], message, fix, count=len(rows) if rows else 1))

    missing = counts.missing
    if rows := missing.get("thinking"):
        message = Say(
            "The chat template leaves the thinking out of {count} [row|rows] (earlier answers', mostly); it is not learned.",
            count=len(rows),
        )
        warn(message, Say("End each row with the answer whose thinking matters."), rows)
    if rows := missing.get("system"):
        message = Say("The chat template leaves the system prompt out of {count} [row|rows].", count=len(rows))
        warn(message, Say("Put it into the question, or choose a base model that takes one."), rows)
    if rows := missing.get("tools"):
        message = Say("The chat template leaves the tools out of {count} [row|rows]; it was not made for them.", count=len(rows))
        warn(message, Say("Choose a base model that can call tools."), rows)
    if rows := missing.get("tool"):
        message = Say("The chat template leaves a tool's result out of {count} [row|rows]; it was not made for tools.", count=len(rows))
        warn(message, Say("Choose a base model that can call tools."), rows)
    if template in layout.LAYOUTS:
        known = {"chatml": Say("This base model has no chat template; ChatML is used and saved with the adapter.")}
        named = Say("This base model has no chat template; lines that name who speaks are used and saved with the adapter.")
        warn(known.get(template, named), Say("An instruct model knows conversations already."))
    if template != "own":
        return found
    own = layout.template_of(tokenizer)
    if not layout.turn_ends(tokenizer, own):
        message = Say("The model's chat template puts no end token after an answer, so it may not learn where to stop.")
        warn(message, Say("Choose another base model if answers do not end."))
    if words := layout.own_words(tokenizer, own):
        message = Say("The chat template adds words of its own to rows without a system prompt: “{words}”.", words=_short(words))
        warn(message, Say("Write a system prompt if they should not be there."))
    return found


def _short(words: str) -> str:
    return words if len(words) <= 120 else words[:117] + "…"
