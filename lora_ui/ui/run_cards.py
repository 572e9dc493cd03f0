"""Runs as escaped HTML: cards of the list, progress, phases, the one true sentence, panels and decisions. Pure functions.

`run` is what `runs.show` or one entry of `runs.list_runs` gives; a figure that is not known yet is None or missing.
"""

from __future__ import annotations

import time
from typing import Any

from lora_ui.ui import charts
from lora_ui.ui.shell import MARKS, duration, esc, number, pill
from lora_ui.ui.words import Words

ENDED = ("finished", "failed", "stopped", "interrupted")
PHASES = ("queue", "import", "prepare", "load", "first_step", "train", "save")
"""In the order a run goes through them; `runs.phase.<name>` is the word."""

Run = dict[str, Any]


def exact(t: Words, seconds: float) -> str:
    """A time that is over: 0 s, 6 s, 8 min 40 s, 1 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return t("time.seconds", n=whole)
    if whole < 3600:
        return t("runs.minutes_seconds", m=whole // 60, s=whole % 60)
    return t("time.hours", h=whole // 3600, m=whole % 3600 // 60)


def percent(run: Run) -> int:
    """How much of the steps is done, 0 to 100."""
    step, total = run.get("step") or 0, run.get("total_steps") or 0
    if run["state"] == "finished":
        return 100
    return min(100, int(100 * step / total)) if total else 0


def left(t: Words, run: Run) -> str:
    """The time that remains: a range in the first tenth, one figure later, empty when unknown."""
    eta = run.get("eta_seconds")
    if run["state"] != "running" or not eta:
        return ""
    if percent(run) < 10 and eta > 90:
        low, high = round(eta * 0.7 / 60) or 1, round(eta * 1.4 / 60) or 1
        return t("runs.left_range", low=low, high=high) if low < high else t("runs.left", time=duration(t, eta))
    return t("runs.left", time=duration(t, eta))


def progress_words(t: Words, run: Run) -> str:
    """`step 43 of 69 · 4 min left · 118 tokens/s · 31 % of what this machine can calculate`, as far as it is known."""
    parts = []
    if run.get("total_steps"):
        parts.append(t("runs.step_of", step=number(run.get("step") or 0), total=number(run["total_steps"])))
    parts += [words] if (words := left(t, run)) else []
    if run.get("tokens_per_second"):
        parts.append(t("runs.speed", n=number(run["tokens_per_second"])))
    if run.get("peak_share"):
        parts.append(t("runs.peak_share", n=f"{100 * run['peak_share']:.0f}"))
    return " · ".join(parts)


def bar(t: Words, run: Run) -> str:
    share = percent(run)
    said = progress_words(t, run) or t("state." + run["state"])
    return (
        f'<div class="progress" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share}" aria-valuetext="{esc(said)}" '
        f'aria-label="{esc(t("runs.progress"))}"><div style="width:{share}%"></div></div>'
    )


def progress(t: Words, run: Run) -> str:
    """The bar and its words, on the page of one run."""
    return f'{bar(t, run)}<p class="num run-words">{esc(progress_words(t, run))}</p>'


def phases(t: Words, run: Run) -> str:
    """Every phase named, the ones behind timed, the current one marked."""
    took, now = run.get("phases") or {}, run.get("phase")
    if run["state"] == "queued":
        now = "queue"
    items, reached = [], PHASES.index(now) if now in PHASES else len(PHASES) if run["state"] in ENDED else 0
    for place, name in enumerate(PHASES):
        ended = run["state"] in ENDED
        done = took.get(name) is not None and (ended or place < reached)
        mark, state = ("✓", "done") if done else ("●", "now") if name == now and not ended else ("○", "ahead")
        time = f" {exact(t, took[name])}" if done else ""
        items.append(
            f'<li class="{state}"><span aria-hidden="true">{mark}</span> {esc(t("runs.phase." + name))}<span class="num">{esc(time)}</span></li>'
        )
    return f'<ol class="phases" aria-label="{esc(t("runs.phases"))}">{"".join(items)}</ol>'


def verdict(t: Words, run: Run, form: str = "") -> str:
    """Whether the adapter beats the base on rows it never saw, with both figures; empty when it was not tested."""
    tested = run.get("eval_loss") or {}
    base, best = tested.get("base"), tested.get("best") if run["state"] == "finished" else tested.get("last")
    if base is None or best is None:
        return ""
    how = "better" if best < base * 0.995 else "worse" if best > base * 1.005 else "equal"
    return t(f"runs.{form}{how}", base=f"{base:.2f}", now=f"{best:.2f}")


def truth(t: Words, run: Run) -> str:
    """One sentence that says what is true now, as plain text."""
    state = run["state"]
    if run.get("deleted"):
        return t("runs.truth.deleted")
    if state == "queued":
        return in_line(t, run)
    if state in ("starting", "running"):
        if run.get("stop_asked"):
            return t("runs.truth.stopping")
        if run.get("stalled"):
            return t("runs.truth.stalled", time=duration(t, time.time() - run["stalled"]))
        return verdict(t, run) or _first_figures(t, run)
    if state == "finished":
        said = t("runs.truth.finished", time=exact(t, run.get("seconds") or 0))
        if run.get("estimate_seconds"):
            said = t("runs.truth.finished_said", time=exact(t, run.get("seconds") or 0), said=duration(t, run["estimate_seconds"]))
        best = t("runs.truth.saved", step=number(run["saved_step"])) if run.get("saved_step") else ""
        return t("runs.join").join(part for part in (said, verdict(t, run), best) if part)
    if state in ("stopped", "interrupted"):
        kept = "kept" if run.get("adapter_path") or run.get("save_point") else "lost" if run.get("step") else "early"
        return t(f"runs.truth.{state}_{kept}", step=number(run.get("step") or 0), total=number(run.get("total_steps") or 0))
    return t("runs.truth.failed", step=number(run.get("step") or 0))


def went_on(t: Words, run: Run) -> str:
    """A line for each of the last three times it died and went on by itself."""
    again = [end for end in run.get("interruptions") or [] if end["again"]][-3:]
    lines = [t("runs.again." + end["kind"], step=number(end["reached"]), time=clock(end["again"])) for end in again]
    return "".join(f'<p class="muted">{esc(line)}</p>' for line in lines)


def clock(at: float) -> str:
    """09:14 today, else with its date."""
    then = time.localtime(at)
    today = time.strftime("%Y-%m-%d", then) == time.strftime("%Y-%m-%d")
    return time.strftime("%H:%M" if today else "%Y-%m-%d %H:%M", then)


def _first_figures(t: Words, run: Run) -> str:
    loss = run.get("train_loss") or {}
    if run.get("step") and loss.get("last") is not None and loss.get("first") is not None:
        return t("runs.truth.loss", now=f"{loss['last']:.2f}", first=f"{loss['first']:.2f}")
    phase = run.get("phase")
    return t("runs.truth." + phase) if phase in PHASES and phase not in ("queue", "train") else t("runs.truth.starting")


def in_line(t: Words, run: Run) -> str:
    place = run.get("queue_position")
    return t("runs.truth.queued_next") if place in (None, 0, 1) else t("runs.truth.queued", n=place)


def result(t: Words, run: Run) -> str:
    """What a card of the list says beside the state, as plain text."""
    if run["state"] == "failed":
        return t.error(run["error"])["message"] if run.get("error") else t("runs.truth.failed", step=number(run.get("step") or 0))
    if run["state"] == "running":
        return " · ".join(part for part in (f"{percent(run)} %", left(t, run)) if part)
    if run["state"] == "finished":
        return verdict(t, run, "short_") or t("runs.truth.finished", time=exact(t, run.get("seconds") or 0))
    return truth(t, run)


def last_loss(run: Run) -> str:
    tested, train = run.get("eval_loss") or {}, run.get("train_loss") or {}
    value = tested.get("last") if tested.get("last") is not None else train.get("last")
    return f"{value:.2f}" if value is not None else ""


def card(t: Words, run: Run, points: charts.Points) -> str:
    """One line of the list: the whole card is one link. Parts with `data-live` are changed in place by the page."""
    running = run["state"] in ("starting", "running")
    spark = charts.sparkline(charts.smooth(points), t("runs.sparkline"))
    middle = f'{bar(t, run) if running else ""}<span class="said num" data-live="said">{esc(result(t, run))}</span>'
    return (
        f'<a class="run-card" href="/runs?run={esc(run["id"])}" data-run="{esc(run["id"])}"><span class="name">{esc(run["name"])}</span>'
        f'{pill(t, run["state"])}<span class="middle">{middle}</span>'
        f'<span class="end"><span data-live="spark">{spark}</span><span class="num" data-live="loss">{esc(last_loss(run))}</span></span></a>'
    )


def live(t: Words, run: Run, points: charts.Points) -> dict[str, Any]:
    """What changes in the card of a running run, for the script that changes it in place: nothing in it is other people's text."""
    return {
        "id": run["id"],
        "percent": percent(run),
        "said": result(t, run),
        "loss": last_loss(run),
        "spark": charts.sparkline(charts.smooth(points), t("runs.sparkline")),
    }


def head(t: Words, run: Run) -> str:
    """The title of one run: its name and state. `data-title` goes to the browser's tab."""
    news = f"{percent(run)} %" if run["state"] == "running" else MARKS[run["state"]]
    title = esc(f"{news} · {run['name']}")
    return f'<div class="run-head" data-title="{title}"><h1>{esc(run["name"])}</h1>{pill(t, run["state"])}</div>'


def facts(t: Words, run: Run) -> str:
    """What was taught to what, in one grey line."""
    parts = [
        t("runs.facts.data", name=run["data"]["name"], rows=number(run["data"]["train_rows"]), kept=number(run["data"]["held_out_rows"]))
    ]
    parts.append(t("runs.facts.base", name=run["base_model"]))
    parts += [t("runs.facts.preset", name=run["preset"])] if run["preset"] else []
    return f'<p class="muted">{esc(" · ".join(parts))}</p>'


def news(t: Words, run: Run) -> str:
    """What a screen reader is told: each phase, each tenth, the end. Plain text without anybody's words in it."""
    if run["state"] != "running":
        return t("state." + run["state"])
    if run["phase"] == "train":
        return f"{percent(run) // 10 * 10} %"
    return t("runs.phase." + run["phase"]) if run["phase"] in PHASES else t("state.running")


def next_steps(t: Words, run: Run) -> str:
    """The links after the end: chat first, then ship. Empty while there is nothing to talk to."""
    if run["state"] not in ENDED or not run.get("adapter_path"):
        return ""
    main = " primary" if run["state"] == "finished" else ""
    id = esc(run["id"])
    ship = f'<a class="button" href="/ship?run={id}">{esc(t("runs.ship"))}</a>' if run["state"] == "finished" else ""
    return f'<p class="actions"><a class="button{main}" href="/chat?run={id}">{esc(t("runs.chat"))}</a>{ship}</p>'


def value(shown: Any) -> str:
    """A setting's value as a person writes it; a dash for nothing."""
    if shown in (None, "", {}, []):
        return "–"
    if isinstance(shown, bool):
        return str(shown).lower()
    if isinstance(shown, float):
        return f"{shown:g}"
    if isinstance(shown, dict):
        return ", ".join(f"{key}: {part}" for key, part in shown.items())
    return ", ".join(map(str, shown)) if isinstance(shown, list) else str(shown)


def decisions(t: Words, run: Run) -> str:
    """What the machine decided and why: key, value, reason."""
    rows = "".join(
        f'<tr><th scope="row" class="key">{esc(key)}</th><td class="num">{esc(value(made["value"]))}</td><td>{esc(t.say(made))}</td></tr>'
        for key, made in (run.get("decisions") or {}).items()
    )
    if not rows:
        return f'<p class="muted">{esc(t("runs.no_decisions"))}</p>'
    heads = "".join(f'<th scope="col">{esc(t("runs.decision." + part))}</th>' for part in ("key", "value", "why"))
    return f'<div class="wide"><table class="facts"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def settings(t: Words, run: Run) -> str:
    """Every setting that was asked for, with its key."""
    rows = "".join(
        f'<tr><th scope="row" class="key">{esc(group)}.{esc(name)}</th><td class="num">{esc(value(asked))}</td></tr>'
        for group, of_group in (run.get("settings") or {}).items()
        for name, asked in of_group.items()
    )
    return f'<div class="wide"><table class="facts"><tbody>{rows}</tbody></table></div>'
