"""The model card that is published with an adapter or a merged model: from the run's own files, never the data itself.

Names and prompts are other people's text: `plain` keeps them from becoming Markdown, HTML or a link.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any

import yaml

from lora_ui import errors, machine, methods, metrics, models, settings
from lora_ui.home import Home, read_json

MARKER = "lora_ui_run"
"""The card's key that says which run a repository was made from."""
SHOWN = ("model", "adapter", "training", "evaluation")
CURVE_ROWS = 12


@dataclass(frozen=True)
class Made:
    """What a card says about a run; read once from its folder."""

    run_id: str
    asked: dict[str, Any]
    decided: dict[str, Any]
    points: list[dict[str, Any]]
    result: dict[str, Any]
    base_id: str | None
    """The base model's id on the Hub; None when it is a folder or file of this machine."""
    base_title: str
    base_note: str
    revision: str | None

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        return self.asked["settings"]


def read(home: Home, run_id: str) -> Made:
    """Raises NothingTrained when the run has no outcome."""
    run = home.run(run_id)
    job, outcome = read_json(run / "job.json"), read_json(run / "outcome.json")
    if not job or not outcome or not outcome.get("result"):
        raise errors.NothingTrained(id=run_id, state="not finished")
    asked = job["params"]
    named, revision = asked["settings"]["model"]["base_model"], asked["prepare"]["revision"]
    base_id, title, note = _base(home, named, asked["base_kind"])
    decided = {key: value["value"] for key, value in (read_json(run / "decided.json") or {}).items()}
    points = metrics.read(run / "metrics.jsonl")
    return Made(run_id, asked, decided, points, outcome["result"], base_id, title, note, revision if base_id == named else None)


def _base(home: Home, named: str, kind: str) -> tuple[str | None, str, str]:
    """Hub id, title, and what a reader should know about where the weights came from."""
    if kind == "starter":
        source = read_json(models.starter_folder(home) / "source.json") or {}
        if source.get("origin") == "hub":
            return models.STARTER_REPO, models.STARTER_REPO, ""
        note = f"It was trained on a copy of these weights that had been stored in 4 bits ({source.get('file')} of {source.get('name')})."
        return models.STARTER_REPO, models.STARTER_REPO, note
    if kind == "hub":
        return named, named, ""
    title = named.rstrip("/").rpartition("/")[2]
    return None, title, "The base model is a folder or file of the author's machine; this page cannot link to it."


def write(made: Made, repo: str, merged: bool, licence: str | None) -> str:
    """README.md for `repo`: metadata, then what it is, how to use it, how it was made."""
    parts = [
        "---\n" + yaml.safe_dump(_metadata(made, merged, licence), sort_keys=False, allow_unicode=True) + "---",
        f"# {plain(repo.rpartition('/')[2])}",
        _intro(made, merged, licence),
        "## How to use it\n\n" + _use(made, repo, merged),
        "## What it learned from\n\n" + _data(made),
        "## Results\n\n" + _results(made),
        "## Settings\n\n" + _settings(made),
        f"Made with LoRA UI. {_versions()}",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(made: Made, merged: bool, licence: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"library_name": "transformers" if merged else "peft", "pipeline_tag": "text-generation"}
    if made.base_id:
        told |= {"base_model": made.base_id, "base_model_relation": "finetune" if merged else "adapter"}
    if licence:
        told["license"] = licence
    return told | {"tags": ["lora", "sft", "lora-ui"], MARKER: made.run_id}


def _intro(made: Made, merged: bool, licence: str | None) -> str:
    base = f"[{plain(made.base_title)}](https://huggingface.co/{made.base_id})" if made.base_id else plain(made.base_title)
    kind = "A complete model: an adapter merged into" if merged else "An adapter for"
    terms = (
        f"Licence, as for the base model: {plain(licence)}."
        if licence
        else "The base model states no licence that is known here: ask its owner before you pass this on."
    )
    return " ".join(filter(None, [f"{kind} {base}.", _methods(made), plain(made.base_note), terms]))


def _methods(made: Made) -> str:
    """How it was adapted, with the papers."""
    found = methods.applied(settings.parse(made.settings))
    named = [f"{plain(one.title)} ([{plain(one.paper)}]({one.link}))" if one.paper and one.link else plain(one.title) for one in found]
    return f"Method: {', '.join(named)}."


def _use(made: Made, repo: str, merged: bool) -> str:
    base = made.base_id or "path/to/the/base-model"
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    lines += [f"tokenizer = AutoTokenizer.from_pretrained({repo!r})"]
    if merged:
        lines += [f"model = AutoModelForCausalLM.from_pretrained({repo!r})"]
    else:
        lines = ["from peft import PeftModel", *lines]
        at = f", revision={made.revision!r}" if made.revision else ""
        lines += [f"base = AutoModelForCausalLM.from_pretrained({base!r}{at})", f"model = PeftModel.from_pretrained(base, {repo!r})"]
    system = made.settings["data"]["system_prompt"]
    said = [{"role": "system", "content": system}] if system else []
    lines += ["", f"messages = {[*said, {'role': 'user', 'content': 'Your question'}]!r}"]
    lines += ['inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)']
    lines += ["answer = model.generate(**inputs, max_new_tokens=256)"]
    lines += ['print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))']
    return fenced("\n".join(lines), "python")


def _data(made: Made) -> str:
    data, prepare = made.asked["data"], made.asked["prepare"]
    lines = [
        f"{data['train_rows']} rows to learn from and {data['held_out_rows']} kept aside as a test, "
        f"of {data['rows']} rows in {plain(data['name'])}. The rows themselves are not published here.",
        f"Fingerprint of the rows: `{prepare['digest']}`, split with seed {prepare['split_seed']}; "
        f"rows longer than {prepare['max_length']} tokens were cut.",
    ]
    return "\n\n".join(lines)


def _results(made: Made) -> str:
    held, learned = made.result.get("eval_loss") or {}, made.result.get("train_loss") or {}
    rows = []
    if held.get("best") is not None:
        rows.append(["loss on the rows kept aside", _number(held.get("base")), _number(held["best"]), _number(held.get("last"))])
    if learned.get("last") is not None:
        rows.append(["loss on the rows it learned from", _number(learned.get("first")), "", _number(learned["last"])])
    parts = [_table(["", "before", "best", "last"], rows)] if rows else []
    if step := made.result.get("saved_step"):
        parts.append(f"This is step {step} of {made.result.get('total_steps')}. Lower is better; other tests were not made.")
    if curve := _curve(made.points):
        parts.append(_table(["step", "loss", "loss on rows kept aside"], curve))
    return "\n\n".join(parts) or "No loss was measured."


def _curve(points: list[dict[str, Any]]) -> list[list[str]]:
    """Every test of the held-out rows with the last training loss before it, thinned to `CURVE_ROWS`."""
    rows, last = [], None
    tested = any(p.get("eval_loss") is not None for p in points)
    for point in points:
        last = point["loss"] if point.get("loss") is not None else last
        if point.get("eval_loss") is not None or (not tested and point.get("loss") is not None):
            rows.append([str(point["step"]), _number(last), _number(point.get("eval_loss"))])
    if len(rows) <= CURVE_ROWS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (CURVE_ROWS - 1))] for i in range(CURVE_ROWS)]


def _settings(made: Made) -> str:
    """The recipe as it ran: `auto` replaced by what was decided. The data's place and the base's path stay at home."""
    rows = []
    for group in SHOWN:
        for name, value in made.settings[group].items():
            key = f"{group}.{name}"
            if key not in ("model.base_model", "model.revision"):
                rows.append([f"`{key}`", plain(str(made.decided.get(key, value)))])
    rows += [[f"`{key}`", plain(str(value))] for key, value in made.decided.items() if key.split(".")[0] == "machine"]
    return _table(["setting", "value"], rows)


def _versions() -> str:
    found = machine.versions()
    return "Versions: " + ", ".join(f"{name} {found[name]}" for name in ("torch", "transformers", "peft", "trl")) + "."


def plain(text: str) -> str:
    """Other people's text on one line, every sign that Markdown or HTML would read taken literally."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~$:@])", r"\\\1", escaped)


def fenced(text: str, language: str = "") -> str:
    """A code block that its own content cannot end."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
