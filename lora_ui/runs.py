"""What a person does with runs: plan, start, show, stop, resume, merge, push. Shared line for line by page and command line."""

from __future__ import annotations

import secrets
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_ui import calibration, chats, endings, errors, fit, hub, machine, memory, metrics, models, preflight, settings, space, supervisor
from lora_ui.data import prepared as prepared_rows
from lora_ui.home import Home, read_json
from lora_ui.jobs import BUSY, ENDED, WAITING, Job, Jobs

Points = list[tuple[float, float]]
plan = preflight.plan
space_report = space.report
delete_unused_datasets = space.delete_unused_datasets
save_points = endings.save_points


def _submit(
    home: Home, kind: str, params: dict[str, Any], key: str | None, run_id: str | None = None, name: str = "", token: str | None = None
) -> Job:
    """Queue a job; a token goes to the supervisor's memory first, the job carries only its handle."""
    supervisor.ensure(home)
    params = {**params, "env": chats.hub_environment()}
    if token:
        params["token_handle"] = _hand_over(home, token)
    job = Jobs(home.database).submit(kind, params, key, run_id, name)
    supervisor.tell(home, {})
    return job


def _hand_over(home: Home, token: str) -> str:
    handle = secrets.token_hex(16)
    supervisor.tell(home, {"handle": handle, "token": token})
    return handle


# before a run


def prepare(home: Home, raw: dict[str, Any], token: str | None = None) -> Job:
    """Submit the `prepare` job of these settings, or give the one that is waiting, busy or finished. Raises what reading data or
    finding the base model raises."""
    chosen = settings.parse(raw)
    rows = preflight.dataset(home, chosen, token)
    base = preflight.base_model(home, chosen, token)
    asked = preflight.prepare_params(home, chosen, rows, base, token)
    key = prepared_rows.key(asked)
    for job in Jobs(home.database).all("prepare", ("queued", *BUSY, "finished")):
        if job.params["prepared"] == key and (job.state != "finished" or prepared_rows.summary(home, asked)):
            return job
    return _submit(home, "prepare", {**asked, "prepared": key}, None, token=token)


def prepared(home: Home, raw: dict[str, Any], token: str | None = None) -> dict[str, Any] | None:
    """The summary of a finished `prepare` of these settings, or None while there is none."""
    chosen = settings.parse(raw)
    base = preflight.base_model(home, chosen, token)
    asked = preflight.prepare_params(home, chosen, preflight.dataset(home, chosen, token), base, token)
    summary = prepared_rows.summary(home, asked)
    return {**summary, "folder": str(prepared_rows.folder(home, asked))} if summary else None


def check(home: Home, raw: dict[str, Any], token: str | None = None) -> dict[str, Any]:
    """The report on data alone; tokens are null. Raises what `data.load` raises."""
    return counted(preflight.dataset(home, settings.parse(raw), token).report, None)


def counted(report: dict[str, Any], summary: dict[str, Any] | None) -> dict[str, Any]:
    """The report on data with what `prepared` says about it for one base model, where that is known; `used`: rows that are, of its own."""
    if summary is None:
        return {**report, "used": None, "truncated": None, "tokens": None}
    findings = [*report["findings"], *summary["findings"]]
    used = summary["train_rows"] + (0 if summary["own_held_out"] else summary["held_out_rows"])
    return {**report, "used": used, "truncated": summary["truncated"], "tokens": summary["tokens"], "findings": findings}


def fit_report(home: Home, raw: dict[str, Any], gpu_memory: int | None = None, token: str | None = None) -> dict[str, Any]:
    """Parameters, memory and speed from config.json alone, for a usual number of rows of the longest kind; unknown is None."""
    chosen = settings.parse(raw)
    base = models.known(home, chosen.model.base_model, chosen.model.revision)
    if base is None or base.config is None:
        base = models.find(home, chosen.model.base_model, chosen.model.revision, token)
    counts = fit.parameters(base.config, chosen.adapter) if base.config else None
    here = machine.look()
    places = [memory.another(gpu_memory)] if gpu_memory else calibration.here(home, here)
    found = preflight.memory_of(home, base, chosen, memory.Rows(1000, 100), places) or {}
    flops = fit.step_flops(base, counts["trainable_parameters"] if counts else None)
    on_cpu = places[0].device == "cpu" and flops
    return {
        "verdict": found.get("verdict"),
        "predicted_bytes": found.get("predicted_bytes"),
        "available_bytes": places[0].whole,
        **{name: found.get(name, {}) for name in ("items", "decisions")},
        "calibration": found.get("calibration"),
        "places": found.get("places", []),
        "advice": found.get("ways", []),
        "tokens_per_second": fit.cpu_flops() * fit.CPU_EFFICIENCY / flops if on_cpu and flops else None,
        "trainable_parameters": counts["trainable_parameters"] if counts else None,
        "all_parameters": counts["all_parameters"] if counts else base.parameters,
        "share": counts["share"] if counts else None,
        "explanation": str(counts["explanation"]) if counts else None,
    }


def startable(home: Home, raw: dict[str, Any], token: str | None = None) -> preflight.Ground:
    """What a run that can start stands on: settings, rows, base model. Raises the first problem that stands in the way."""
    on = preflight.ground(home, raw, token)
    for problem in preflight.problems(home, on):
        raise problem
    found = on.dataset.report
    if found["confidence"] == "by hand" and not on.chosen.data.mapping:  # columns chosen for an earlier file: the recipe says them
        return replace(on, chosen=settings.parse(settings.merge(raw, {"data": {"mapping": found["mapping"]}})))
    return on


def start(home: Home, raw: dict[str, Any], key: str | None, name: str = "", preset: str | None = None, token: str | None = None) -> Job:
    """Check everything, then queue the run. The same `key` gives the same run. Raises the first problem that stands in the way."""
    return _submit(home, "train", asked(home, raw, name[:200], preset, token), key, name=name[:200], token=token)


def asked(home: Home, raw: dict[str, Any], name: str = "", preset: str | None = None, token: str | None = None) -> dict[str, Any]:
    """What the worker of a run is told. Raises the first problem that stands in the way."""
    on = startable(home, raw, token)
    chosen, rows, base, coming = on.chosen, on.dataset, on.base, preflight.planned(home, on)
    return {
        "settings": chosen.model_dump(),
        "header": {"title": name or rows.name, "from": preset, "data": rows.name, "digest": rows.digest, "revision": base.revision},
        "prepare": coming["prepare"],
        "licence": base.licence,
        "base_kind": base.kind,
        "preset": preset,
        "data": {
            "name": rows.name,
            "rows": coming["rows"],
            "train_rows": coming["train_rows"],
            "held_out_rows": coming["held_out_rows"],
        },
        "estimate_seconds": coming["seconds"],
        **{name: coming[name] for name in ("predicted_bytes", "calibration")},
    }


# looking


def job(home: Home, id: str) -> dict[str, Any]:
    """Where any job stands: state, phase, done, total, unit, seconds, error, result. Raises NoSuchJob."""
    return _standing(home, Jobs(home.database).get(id))


def _standing(home: Home, row: Job) -> dict[str, Any]:
    folder = home.job(row.kind, row.id, row.run_id, row.dataset)
    beat = (read_json(folder / "heartbeat") or {}) if row.state in BUSY else {}
    outcome = (read_json(folder / "outcome.json") or {}) if row.state in ENDED else {}
    return {
        "id": row.id,
        "kind": row.kind,
        "run_id": row.run_id,
        "name": row.name,
        "state": row.state,
        "created": row.created,
        "started": row.started,
        "ended": row.ended,
        "phase": beat.get("phase"),
        "phases": _phases(row, beat.get("phases") or outcome.get("phases") or {}),
        "done": beat.get("done"),
        "total": beat.get("total"),
        "unit": beat.get("unit"),
        "since": beat.get("since"),
        "seconds": (row.ended or time.time()) - row.started if row.started else None,
        "stop_asked": row.stop_asked is not None,
        "stalled": row.stalled,
        "interruptions": row.interruptions,
        "error": row.error,
        "result": row.result,
    }


def _phases(row: Job, timed: dict[str, float]) -> dict[str, float | None]:
    """The contract's six phases in seconds; null before they were reached. Other phases a worker names are kept."""
    queue = row.started - row.queued if row.started and row.started >= row.queued else None
    return {"queue": queue, **{p: timed.get(p) for p in ("import", "load", "prepare", "first_step", "train", "save")}, **timed}


def show(home: Home, id: str) -> dict[str, Any]:
    """Everything known of one run; unknown is None. Raises NoSuchJob."""
    jobs = Jobs(home.database)
    row = jobs.get(id)
    if row.kind != "train":
        raise errors.NoSuchJob(id=id)
    known, _ = glance(home, row, [job.id for job in jobs.queue()])
    return {**known, "jobs": [_standing(home, job) for job in jobs.all(run_id=id)]}


def glance(home: Home, row: Job, waiting: list[str]) -> tuple[dict[str, Any], dict[str, Points]]:
    """As `show` without the jobs of the run, and as `curves`: its folder is read once, the table not at all. `waiting`: the queue's ids."""
    there, id = _standing(home, row), row.id
    result: dict[str, Any] = there.pop("result") or {}
    points = metrics.read(home.run(id) / "metrics.jsonl")
    last = points[-1] if points else {}
    tests = [p for p in points if p.get("eval_loss") is not None]
    total = result.get("total_steps") or (there["total"] if there["unit"] == "steps" else None)
    step = result.get("step") or (there["done"] if there["unit"] == "steps" else last.get("step"))
    trained = [p["loss"] for p in points if p.get("loss") is not None]
    after = [p["eval_loss"] for p in tests if p["step"] > 0]
    known = {
        **there,
        "base_model": row.params["settings"]["model"]["base_model"],
        "preset": row.params["preset"],
        "step": step,
        "total_steps": total,
        "train_loss": {"first": trained[0] if trained else None, "last": trained[-1] if trained else None},
        "eval_loss": {
            "base": tests[0]["eval_loss"] if tests and tests[0]["step"] == 0 else None,
            "first": after[0] if after else None,
            "best": min(after, default=None),
            "last": after[-1] if after else None,
        },
        "saved_step": result.get("saved_step"),
        "save_point": endings.saved(home.run(id)),
        "tokens_per_second": metrics.middle(points, "tokens_per_second"),
        "peak_share": metrics.middle(points, "peak_share"),
        "memory": result.get("memory") or {"predicted_bytes": None, "measured_bytes": None},
        "trainable_parameters": result.get("trainable_parameters"),
        "all_parameters": result.get("all_parameters"),
        "adapter_path": _there(home.run(id) / "adapter"),
        "merged_path": _there(home.run(id) / "merged"),
        "base_model_path": result.get("base_model_path"),
        "pid": row.pid if row.state in BUSY else None,
        "data": row.params["data"],
        "prepare": row.params["prepare"],
        "settings": row.params["settings"],
        "decisions": read_json(home.run(id) / "decided.json") or {},
        "estimate_seconds": row.params["estimate_seconds"],
        "eta_seconds": _eta(there, step, total),
        "queue_position": waiting.index(id) + 1 if id in waiting else None,
        "resumed_from": result.get("resumed_from"),
        "deleted": row.deleted,
    }
    return known, _curves(points)


def _eta(there: dict[str, Any], step: int | None, total: int | None) -> float | None:
    spent, since = there["phases"].get("train"), there["since"]
    if there["state"] != "running" or not step or not total or not spent or since is None or step <= since:
        return None
    return float(spent / (step - since) * (total - step))


def _there(path: Path) -> str | None:
    return str(path) if path.is_dir() else None


def list_runs(home: Home, deleted: bool = False) -> list[dict[str, Any]]:
    """All runs, newest first, each as `show`."""
    return [show(home, row.id) for row in Jobs(home.database).all("train", deleted=deleted)]


def curves(home: Home, id: str) -> dict[str, Points]:
    """(step, value) points for the charts; values that were no number are left out."""
    return _curves(metrics.read(home.run(id) / "metrics.jsonl"))


def _curves(rows: list[dict[str, Any]]) -> dict[str, Points]:
    names = ("loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second")
    return {name: [(row["step"], row[name]) for row in rows if row.get(name) is not None] for name in names}


def log(home: Home, id: str, lines: int = 500) -> str:
    """The end of a job's log, secrets removed; at most the last 256 KiB are read."""
    row = Jobs(home.database).get(id)
    try:
        with open(home.job(row.kind, row.id, row.run_id, row.dataset) / "log.txt", "rb") as f:
            f.seek(max(0, f.seek(0, 2) - 256 * 1024))
            text = f.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return hub.redact("\n".join(text.splitlines()[-lines:]))


def whole_log(home: Home, id: str) -> str:
    """All that is kept of a job's log (at most two files), secrets removed."""
    row = Jobs(home.database).get(id)
    folder = home.job(row.kind, row.id, row.run_id, row.dataset)
    files = [folder / name for name in ("log.1.txt", "log.txt")]
    return hub.redact("".join(path.read_text("utf-8", "replace") for path in files if path.is_file()))


# acting


def stop(home: Home, id: str) -> Job:
    """Ask a job to end; a run keeps what it learned. Raises NoSuchJob, IllegalMove."""
    job = Jobs(home.database).ask_to_stop(id)
    supervisor.ensure(home)
    supervisor.tell(home, {})
    return job


def resume(home: Home, id: str, token: str | None = None) -> Job:
    """Go on from the last good save point. Raises NoSuchJob, IllegalMove, and TokenMissing for a push."""
    jobs = Jobs(home.database)
    supervisor.ensure(home)
    if token is None and jobs.get(id).kind == "push":
        raise errors.TokenMissing()
    job = jobs.resume(id, token_handle=_hand_over(home, token) if token else None)  # a downloaded base model needs none any more
    supervisor.tell(home, {})
    return job


def delete(home: Home, id: str) -> Job:
    """Into the trash; `restore` brings it back. Raises NoSuchJob, IllegalMove."""
    return Jobs(home.database).delete(id)


def restore(home: Home, id: str) -> Job:
    return Jobs(home.database).restore(id)


def rename(home: Home, id: str, name: str) -> Job:
    return Jobs(home.database).rename(id, name.strip()[:200] or Jobs(home.database).get(id).name)


def run_next(home: Home, id: str) -> Job:
    return Jobs(home.database).run_next(id)


def empty_trash(home: Home) -> list[str]:
    """Remove every run of the trash for good; returns their ids."""
    return space.empty_trash(home, time.time())


def _trained(home: Home, id: str) -> Job:
    row = Jobs(home.database).get(id)
    if row.state not in ENDED or not (home.run(id) / "adapter").is_dir():
        raise errors.NothingTrained(id=row.name, state=row.state)
    return row


def merge(home: Home, run_id: str, key: str | None, dtype: str | None = None) -> Job:
    """Queue a merge into the base model's stored number format, or `dtype`. Raises NothingTrained, DiskFull."""
    row = _trained(home, run_id)
    needed = 4 * ((row.result or {}).get("all_parameters") or 0)
    if needed > home.free_bytes():
        raise errors.DiskFull(needed=preflight.gigabytes(needed), free=preflight.gigabytes(home.free_bytes()), where=str(home.root))
    under_way = Jobs(home.database).all("merge", (*WAITING, *BUSY), run_id)
    return under_way[0] if under_way else _submit(home, "merge", {"run_id": run_id, "dtype": dtype}, key, run_id)


def push(home: Home, run_id: str, repo: str, key: str | None, merged: bool = False, public: bool = False, token: str | None = None) -> Job:
    """Check name, token and right to write now, then queue the upload. Raises TokenMissing, TokenRejected, HubRefused,
    InvalidRepoName, HubOffline, NothingTrained."""
    row = _trained(home, run_id)
    if merged and not (home.run(run_id) / "merged").is_dir():
        raise errors.NotMergedYet(id=row.name)
    if not token:
        raise errors.TokenMissing()
    hub.check_write(token, repo)
    for job in Jobs(home.database).all("push", (*WAITING, *BUSY), run_id):
        if job.params["repo"] == repo:
            return job
    return _submit(home, "push", {"run_id": run_id, "repo": repo, "merged": merged, "public": public}, key, run_id, token=token)


def adapter_zip(home: Home, run_id: str, into: Path) -> Path:
    """`<run>.zip` of the plain adapter folder, in the folder `into`. Raises NothingTrained."""
    _trained(home, run_id)
    folder = home.run(run_id) / "adapter"
    target = into / f"{run_id}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


def in_the_way(home: Home) -> str | None:
    """The name of a run that a chat opened now would wait for; None when a GPU (or the CPU) is free for it. Other chats make way."""
    jobs = Jobs(home.database)
    busy = [job for job in jobs.all(states=BUSY) if job.lease and job.kind != "chat"]
    return jobs.get(busy[0].run_id or busy[0].id).name if len(busy) >= len(machine.look().leases) else None


def open_chat(home: Home, run_or_model: str, key: str | None = None) -> Job:
    """A chat with a run's base model (and its adapter) or with any base model; one that is there already is reused."""
    if any(row.id == run_or_model for row in Jobs(home.database).all("train")):
        row = _trained(home, run_or_model)
        chosen = row.params["settings"]["model"]
        base, revision, run_id = chosen["base_model"], row.params["prepare"]["revision"], run_or_model
    else:
        found = models.find(home, run_or_model)
        base, revision, run_id = run_or_model, found.revision, None
    params = {"base_model": base, "revision": revision, "run_id": run_id, "idle_seconds": 600}
    return chats.same_base(home, params) or _submit(home, "chat", params, key)
