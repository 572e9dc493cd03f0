"""What the Ship page says: sizes, files, how merging and publishing stand, and lines of code to copy. Escaped HTML and text."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from lora_ui import models
from lora_ui.home import read_json
from lora_ui.jobs import ENDED
from lora_ui.ui import run_cards
from lora_ui.ui.shell import duration, esc, panel, pill, size
from lora_ui.ui.words import Words

Run = dict[str, Any]
Standing = dict[str, Any]


def _bytes(folder: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def truth(t: Words, run: Run) -> str:
    """How this run ended, in one sentence."""
    said = run_cards.verdict(t, run, "short_") or run_cards.truth(t, run)
    return f'<p>{pill(t, run["state"])} <span class="num">{esc(said)}</span></p>'


def download_says(t: Words, run: Run) -> str:
    there = size(_bytes(Path(run["adapter_path"])))
    return f"<p>{esc(t('ship.download_says', size=there, base=run['base_model']))}</p>"


def files(t: Words, title: str, folder: Path) -> str:
    """What is in a folder, name and size."""
    rows = "".join(
        f'<li><span class="mono">{esc(path.name)}</span> <span class="num">{size(path.stat().st_size)}</span></li>'
        for path in sorted(folder.iterdir())
    )
    return f'<details class="files"><summary>{esc(title)}</summary><ul>{rows}</ul></details>'


def merge_says(t: Words, run: Run) -> str:
    base = Path(run["base_model_path"]) if run["base_model_path"] else None
    expected = _bytes(base, "*.safetensors") if base and base.is_dir() else 0
    words = t("ship.merge_says_size", size=size(expected)) if expected else t("ship.merge_says")
    return f"<p>{esc(words)}</p>"


def merge_news(t: Words, run: Run, job: Standing | None) -> str:
    """The result line, which stays; while it works, how far it is."""
    if job is None:
        return ""
    if job["state"] == "finished" and run["merged_path"]:
        check = job["result"]["check"]
        said = t("ship.merge_done", size=size(_bytes(Path(run["merged_path"]))), same=check["same_first_choice"], prompts=check["prompts"])
        path = f'<p class="muted">{esc(t("ship.merge_where"))} <span class="mono">{esc(run["merged_path"])}</span></p>'
        whole = job["result"].get("whole")
        return f'<p class="good"><span aria-hidden="true">✓</span> {esc(said)}</p>{path}' + (
            f'<p class="muted">{esc(t.say(whole))}</p>' if whole else ""
        )
    return _standing(t, job)


def publish_news(t: Words, job: Standing | None) -> str:
    if job is None:
        return ""
    if job["state"] == "finished":
        result = job["result"]
        url, check = result["url"], result["check"]
        said = t("ship.published_private" if check["private"] else "ship.published_public")
        copy = f'<button type="button" class="quiet" data-copy="{esc(url)}" data-done="{esc(t("panel.copied"))}">{esc(t("ship.copy_link"))}</button>'
        link = f'<a href="{esc(url)}" target="_blank" rel="noopener">{esc("/".join(url.rsplit("/", 2)[1:]))} ↗</a>'
        return f'<p class="good"><span aria-hidden="true">✓</span> {esc(said)} {link} {copy}</p>'
    return _standing(t, job)


def _standing(t: Words, job: Standing) -> str:
    """A job that works or did not succeed, in one sentence."""
    if job["state"] in ("failed", "interrupted") and job["error"]:
        report = "\n".join(str(job["error"].get(part) or "") for part in ("kind", "message", "cause", "traceback")).strip()
        return panel(t, job["error"], safe=t("ship.safe"), report=report)
    if job["state"] in ENDED:
        return f'<p class="muted">{esc(t("ship.stopped"))}</p>'
    if job["state"] == "queued":
        return f"<p>{esc(t('ship.queued'))}</p>"
    if job["total"]:
        share = min(100, int(100 * job["done"] / job["total"]))
        said = t("ship.sent", done=size(job["done"]), total=size(job["total"])) if job["unit"] == "bytes" else f"{share} %"
        bar = (
            f'<div class="progress" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share}" '
            f'aria-label="{esc(t("runs.progress"))}"><div style="width:{share}%"></div></div>'
        )
        return f'{bar}<p class="num muted">{esc(said)}</p>'
    phase = f"ship.phase.{job['phase']}"
    said = t(phase) if t.has(phase) else t("ship.starting")
    return f'<p>{esc(said)} <span class="muted num">{esc(duration(t, job["seconds"] or 0))}</span></p>'


def publish_says(t: Words, licence: str | None) -> str:
    """What publishing is, and which licence follows."""
    follows = t("ship.licence", licence=licence) if licence else t("ship.licence_unknown")
    return f"<p>{esc(t('ship.publish_says'))} {esc(follows)}</p>"


def goes_up(t: Words, run: Run, what: str) -> str:
    """What would leave this machine."""
    folder = Path(run["merged_path"] or "") if what == "merged" else Path(run["adapter_path"])
    if what == "merged" and not run["merged_path"]:
        return f'<p class="muted">{esc(t("ship.merge_first"))}</p>'
    said = t("ship.goes_up", files=len(list(folder.iterdir())) + 1, size=size(_bytes(folder)))
    return files(t, said, folder) + f'<p class="muted">{esc(t("ship.card"))}</p>'


def _base(run: Run) -> str:
    """What others have to load: the Hub's name of the base, or the folder here."""
    return run["base_model"] if models.is_hub_id(run["base_model"]) else run["base_model_path"] or run["base_model"]


def python(run: Run) -> str:
    return f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

adapter = {run["adapter_path"]!r}
tokenizer = AutoTokenizer.from_pretrained(adapter)
base = AutoModelForCausalLM.from_pretrained({_base(run)!r}, dtype="auto")
model = PeftModel.from_pretrained(base, adapter)

messages = [{{"role": "user", "content": "Hello"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=200)
print(tokenizer.decode(answer[0][inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""


def vllm(t: Words, run: Run) -> str:
    """vLLM takes adapters of LoRA only."""
    adapter, config = shlex.quote(f"{run['id']}={run['adapter_path']}"), read_json(Path(run["adapter_path"]) / "adapter_config.json") or {}
    return f"vllm serve {shlex.quote(_base(run))} --enable-lora --max-lora-rank {config.get('r', 64)} --lora-modules {adapter}\n"


def ollama(t: Words, run: Run) -> str:
    if not run["merged_path"]:
        return f"# {t('ship.merge_first')}\n"
    return f"echo {shlex.quote('FROM ' + run['merged_path'])} > Modelfile\nollama create {run['id']} -f Modelfile\nollama run {run['id']}\n"
