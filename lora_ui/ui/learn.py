"""How LoRA works, with figures of the very model and settings on the form: rank, alpha, what memory is saved, and why so few numbers
are enough. Pure functions that give HTML."""

from __future__ import annotations

import math
from typing import Any

from lora_ui import fit, memory
from lora_ui.models import BaseModel
from lora_ui.settings import Settings
from lora_ui.ui.shell import esc, number
from lora_ui.ui.words import Words

SIDE = 120
"""Pixels of the longer side of the weight that is drawn."""
THINNEST = 3
RANKS = (8, 16, 32, 64, 128, 256)
FULL = {"weights": 4, "gradients": 4, "optimizer": 8}
"""Bytes a number of the model needs when all of it learns, in float32 with Adam's two states (Kingma and Ba 2014, arXiv:1412.6980)."""
PAPER = 200
"""Numbers that were enough for 90 % of full fine-tuning of RoBERTa on one task (Aghajanyan et al. 2020, arXiv:2012.13255)."""


def panel(t: Words, base: BaseModel | None, chosen: Settings, plan: dict[str, Any]) -> str:
    """Says so where the model's shape is not known."""
    model = fit.shape(base.config) if base and base.config else None
    targets = fit.adapted(model, chosen.adapter.target_modules) if model else None
    if model is None or not targets or plan["trainable_parameters"] is None:
        return f'<p class="muted">{esc(t("fit.unknown"))}</p>'
    widest = max(targets, key=lambda one: one.inputs * one.outputs)
    trained, whole = plan["trainable_parameters"], model.parameters
    parts = [
        _part(t, "rank", _rank(widest, chosen.adapter.r), **_counts(widest, chosen.adapter.r)),
        _part(
            t,
            "alpha",
            _alpha(t, chosen),
            alpha=chosen.adapter.lora_alpha,
            rank=chosen.adapter.r,
            volume=f"{_volume(chosen, chosen.adapter.r):.3g}",
        ),
        _part(t, "memory", _memory(t, whole, plan["memory"]["items"]), full=memory.gigabytes(sum(FULL.values()) * whole)),
        _part(t, "few", _few(t, trained, whole), trained=number(trained), whole=number(whole), paper=PAPER),
    ]
    return f'<div class="learn">{"".join(parts)}</div>'


def _part(t: Words, what: str, figure: str, **known: Any) -> str:
    return f"<section><h3>{esc(t(f'learn.{what}_title'))}</h3><p>{esc(t(f'learn.{what}', **known))}</p>{figure}</section>"


def _counts(one: fit.Linear, rank: int) -> dict[str, Any]:
    whole, thin = one.inputs * one.outputs, rank * (one.inputs + one.outputs)
    known = {"outputs": number(one.outputs), "inputs": number(one.inputs), "whole": number(whole), "thin": number(thin)}
    return {**known, "name": one.name.split(".")[-1], "rank": rank, "share": f"{100 * thin / whole:.2g}"}


def _rank(one: fit.Linear, rank: int) -> str:
    """The weight as a square, B standing and A lying beside it, true to scale down to a hair."""
    scale = SIDE / max(one.inputs, one.outputs)
    wide, high, thin = one.inputs * scale, one.outputs * scale, max(THINNEST, rank * scale)
    b, a = wide + 56, wide + 56 + thin + 12
    return (
        f'<svg class="learn-rank" width="100%" height="{SIDE + 24}" role="img" aria-hidden="true">'
        f'<rect class="frozen" x="1" y="20" width="{wide:.1f}" height="{high:.1f}"/><text x="1" y="14">W</text>'
        f'<text x="{wide + 28:.1f}" y="{20 + high / 2:.1f}" text-anchor="middle">+</text>'
        f'<rect class="learns" x="{b:.1f}" y="20" width="{thin:.1f}" height="{high:.1f}"/><text x="{b:.1f}" y="14">B</text>'
        f'<rect class="learns" x="{a:.1f}" y="20" width="{wide:.1f}" height="{thin:.1f}"/><text x="{a:.1f}" y="14">A</text></svg>'
    )


def _volume(chosen: Settings, rank: int) -> float:
    """What B·A is multiplied by (LoRA, arXiv:2106.09685; rank-stable: arXiv:2312.03732)."""
    return chosen.adapter.lora_alpha / (math.sqrt(rank) if chosen.adapter.use_rslora else rank)


def _alpha(t: Words, chosen: Settings) -> str:
    """How loud the adapter is at each rank while alpha stays."""
    ranks = sorted({*RANKS, chosen.adapter.r})
    loudest = _volume(chosen, ranks[0])
    rows = [
        _bar(
            f"r {rank}",
            [("learns" if rank == chosen.adapter.r else "frozen", _volume(chosen, rank) / loudest)],
            f"{_volume(chosen, rank):.3g}",
        )
        for rank in ranks
    ]
    return "".join(rows)


def _memory(t: Words, whole: int, needed: dict[str, int]) -> str:
    """Weights, gradients and optimizer when everything learns, and in this run."""
    full = {name: size * whole for name, size in FULL.items()}
    ours = {"weights": needed["weights"] + needed["adapter"], "gradients": needed["gradients"], "optimizer": needed["optimizer"]}
    most = max(sum(full.values()), sum(ours.values()))
    rows = [
        _bar(t(f"learn.memory_{name}"), [(kind, size / most) for kind, size in one.items()], memory.gigabytes(sum(one.values())))
        for name, one in (("full", full), ("lora", ours))
    ]
    legend = "".join(f'<span class="{kind}">{esc(t("fit.item." + kind))}</span>' for kind in FULL)
    return f'{"".join(rows)}<p class="learn-legend">{legend}</p>'


def _few(t: Words, trained: int, whole: int) -> str:
    """Three counts as lengths of their logarithm."""
    counts = (("paper", PAPER), ("lora", trained), ("full", whole))
    longest = math.log10(max(whole, trained))
    kinds = {"paper": "frozen", "lora": "learns", "full": "frozen"}
    return "".join(_bar(t(f"learn.few_{name}"), [(kinds[name], math.log10(count) / longest)], number(count)) for name, count in counts)


def _bar(name: str, parts: list[tuple[str, float]], said: str) -> str:
    """One line: what it is, a bar of parts (class, share of the whole width), its figure."""
    drawn, at = "", 0.0
    for kind, share in parts:
        drawn += f'<rect class="{kind}" x="{100 * at:.3f}%" width="{100 * share:.3f}%" height="14"/>'
        at += share
    return (
        f'<div class="learn-bar"><span>{esc(name)}</span><svg width="100%" height="14" aria-hidden="true">{drawn}</svg>'
        f'<span class="num">{esc(said)}</span></div>'
    )
