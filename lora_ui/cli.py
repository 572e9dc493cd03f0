"""The command line: the page's own functions (runs.py) behind the verbs of `python -m lora_ui`.

Exit codes: 0 done, 1 refused or failed (message on stderr; with --json an `error` object on stdout), 2 wrong usage, 3 stopped.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import huggingface_hub
import typer

from lora_ui import chats, doctor, errors, exactly, hub, presets, runs, settings, terminal
from lora_ui.data import sources
from lora_ui.home import Home
from lora_ui.jobs import ENDED, Jobs

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Fine-tune language models with LoRA.")

HomeOption = Annotated[Path | None, typer.Option("--home", help="Home folder; default ~/.lora-ui or LORA_UI_HOME.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else there.")]
PresetOption = Annotated[str | None, typer.Option("--preset", help="A preset's name.")]
SettingsOption = Annotated[Path | None, typer.Option("--settings", help="A recipe: YAML with the groups of settings.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="group.field=value; may be given several times.")]
MapOption = Annotated[list[str] | None, typer.Option("--map", help="role=column, or a template such as user={title}: {body}; repeatable.")]
KeyOption = Annotated[str | None, typer.Option("--key", help="The same key gives the same job, however often it is asked for.")]
ModelOption = Annotated[str | None, typer.Option("--base-model", help="A Hub id, a local folder, a .gguf file, or starter.")]


def _token() -> str | None:
    """HF_TOKEN or the hub's own login."""
    return huggingface_hub.get_token()


def _raw(
    home: Home,
    preset: str | None,
    file: Path | None,
    assignments: list[str] | None,
    data: str | None,
    base_model: str | None,
    mapping: list[str] | None,
) -> dict[str, Any]:
    """Layers: preset, file, the options of their own, --set."""
    own: dict[str, Any] = {"model": {}, "data": {}}
    if base_model is not None:
        own["model"]["base_model"] = base_model
    if data:
        own["data"]["source"] = sources.absolute(data)
    if mapping:
        own["data"]["mapping"] = _mapping(mapping)
    layers = [presets.get(home, preset).settings if preset else {}, settings.read(file) if file else {}, own]
    return settings.merge(*layers, settings.from_assignments(assignments or []))


def _mapping(pairs: list[str]) -> dict[str, str]:
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise errors.InvalidSettings([errors.Say("--map {pair}: write role=column, such as user=question", pair=pair) for pair in wrong])
    return dict(pair.split("=", 1) for pair in pairs)


def _one_of(preset: str | None, file: Path | None) -> None:
    if preset and file:
        raise typer.BadParameter("give --preset or --settings, not both")


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="A file, a folder, or owner/name[@revision][:config/split] on the Hub.")],
    base_model: ModelOption = None,
    preset: PresetOption = None,
    settings_file: SettingsOption = None,
    assignments: SetOption = None,
    mapping: MapOption = None,
    report_file: Annotated[Path | None, typer.Option("--report", help="Save the report there: .html or .json.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read the data and say what would be learned from it. Exit 1 if it cannot be trained on."""
    _one_of(preset, settings_file)
    with terminal.explained(as_json), terminal.saved(report_file, data) as saved:
        here = Home.open(home)
        raw = _raw(here, preset, settings_file, assignments, data, base_model, mapping)
        report = runs.check(here, raw, _token())
        if base_model:
            terminal.follow(here, runs.prepare(here, raw, _token()).id)
            report = runs.counted(report, runs.prepared(here, raw, _token()))
        saved.update(report)
        if as_json:
            terminal.print_json(report)
        else:
            terminal.print_report(report)
        if not report["ok"]:
            raise typer.Exit(1)


@app.command()
def fit(
    base_model: Annotated[str, typer.Option("--base-model", help="A Hub id, a local folder, a .gguf file, or starter.")],
    preset: PresetOption = None,
    settings_file: SettingsOption = None,
    assignments: SetOption = None,
    gpu_memory: Annotated[str | None, typer.Option("--gpu-memory", help="Memory to plan for, such as 24GiB.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Go through two steps without numbers as well, and count every byte.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a run fits into memory, how many parameters would learn, and what to change, from the model's config alone."""
    _one_of(preset, settings_file)
    with terminal.explained(as_json):
        here = Home.open(home)
        raw = _raw(here, preset, settings_file, assignments, None, base_model, None)
        size = terminal.count_bytes(gpu_memory) if gpu_memory else None
        report = runs.fit_report(here, raw, size, _token())
        if exact:
            report["exact"] = terminal.counted(exactly.of_fit(here, raw, _token(), size))
        if as_json:
            terminal.print_json(report)
        else:
            terminal.print_fit(report)


@app.command()
def train(
    data: Annotated[
        str | None, typer.Option("--data", help="A file, a folder, or a dataset id on the Hub; needed unless the recipe names one.")
    ] = None,
    base_model: ModelOption = None,
    preset: PresetOption = None,
    settings_file: SettingsOption = None,
    assignments: SetOption = None,
    mapping: MapOption = None,
    name: Annotated[str, typer.Option("--name", help="What to call the run.")] = "",
    key: KeyOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave once it is queued; it goes on by itself.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train an adapter. The first line is the run's id; Ctrl-C leaves it running."""
    _one_of(preset, settings_file)
    with terminal.explained(as_json):
        here = Home.open(home)
        raw = _raw(here, preset, settings_file, assignments, data, base_model, mapping)
        if not settings.parse(raw).data.source:
            raise typer.BadParameter("give --data, or a recipe with data.source")
        runs.startable(here, raw, _token())
        if terminal.follow(here, runs.prepare(here, raw, _token()).id):
            raise typer.Exit(1)
        coming = runs.plan(here, raw, _token())
        seconds = f"about {coming['seconds'] / 60:.0f} min" if coming["seconds"] else "time"
        terminal.say(
            f"{coming['train_rows']} rows are learned in {coming['epochs']:g} rounds, {coming['held_out_rows']} kept aside; "
            f"{coming['steps']} steps, {seconds} ({coming['basis']['text']})"
        )
        for said in terminal.warnings(coming):
            terminal.say(said)
        job = runs.start(here, raw, key or uuid.uuid4().hex, name, preset, _token())
        if as_json:
            terminal.print_json({"id": job.id})
        else:
            print(job.id, flush=True)
        if detach:
            return
        raise typer.Exit(terminal.watch(here, job.id))


@app.command("runs")
def list_runs(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the runs, newest first."""
    with terminal.explained(as_json):
        for run in runs.list_runs(Home.open(home)):
            if as_json:
                terminal.print_json(run)
            else:
                print(
                    f"{run['id']:28} {run['state']:12} step {run['step'] or 0}/{run['total_steps'] or '?':<8} {run['base_model']}  {run['name']}"
                )


@app.command()
def show(run: str, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Everything known of one run."""
    with terminal.explained(as_json):
        known = runs.show(Home.open(home), run)
        if as_json:
            return terminal.print_json(known)
        for name in (
            "id",
            "name",
            "state",
            "base_model",
            "preset",
            "step",
            "total_steps",
            "train_loss",
            "eval_loss",
            "tokens_per_second",
            "peak_share",
            "seconds",
            "memory",
            "adapter_path",
        ):
            print(f"{name:18} {known[name]}")
        for name, decision in known["decisions"].items():
            print(f"{name:40} {decision['value']}  because {decision['reason']}")
        terminal.print_interruptions(known)
        if known["error"]:
            terminal.complain(known["error"])


@app.command()
def logs(
    run: str, follow: Annotated[bool, typer.Option("-f", help="Go on printing until it ends.")] = False, home: HomeOption = None
) -> None:
    """Print a job's log."""
    with terminal.explained(False):
        here = Home.open(home)
        row = Jobs(here.database).get(run)
        path = here.job(row.kind, row.id, row.run_id, row.dataset) / "log.txt"
        offset = 0
        while True:
            state = runs.job(here, run)["state"]
            if path.exists():
                with open(path, encoding="utf-8", errors="replace") as f:
                    f.seek(offset)
                    sys.stdout.write(hub.redact(f.read()))
                    sys.stdout.flush()
                    offset = f.tell()
            if not follow or state in ENDED:
                return
            time.sleep(0.3)


def _act(verb: Callable[[Home, str], Any], run: str, home: Path | None, as_json: bool) -> None:
    with terminal.explained(as_json):
        job = verb(Home.open(home), run)
        if as_json:
            terminal.print_json({"id": job.id, "state": job.state})
        else:
            print(f"{job.id} {job.state}")


@app.command()
def stop(run: str, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop a run and keep what it learned."""
    _act(runs.stop, run, home, as_json)


@app.command()
def resume(run: str, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Go on with a stopped, failed or interrupted run from its last good save point."""
    _act(lambda here, id: runs.resume(here, id, _token()), run, home, as_json)


@app.command()
def delete(run: str, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Move a run to the trash."""
    _act(runs.delete, run, home, as_json)


@app.command()
def chat(
    run_or_model: str,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Print the answer to this and leave.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Answer with the base model as well.")] = False,
    system: Annotated[str, typer.Option("--system", help="A system prompt.")] = "",
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 0.9,
    max_tokens: Annotated[int, typer.Option(min=1)] = 512,
    seed: Annotated[int | None, typer.Option(help="The same number gives the same answer.")] = None,
    home: HomeOption = None,
) -> None:
    """Talk with a run's adapter, or with a base model."""
    with terminal.explained(False):
        here = Home.open(home)
        at, speakers = _open_chat(here, run_or_model, compare)
        history: dict[str, list[dict[str, str]]] = {who: [{"role": "system", "content": system}] if system else [] for who in speakers}
        while True:
            asked = prompt if prompt is not None else _ask()
            if not asked:
                return
            for who in speakers:
                if len(speakers) > 1:
                    print(f"[{who}]")
                history[who].append({"role": "user", "content": asked})
                history[who].append({"role": "assistant", "content": _answer(at, who, history[who], temperature, top_p, max_tokens, seed)})
            if prompt is not None:
                return


def _ask() -> str:
    try:
        return input("> ")
    except EOFError:
        return ""


def _answer(
    at: chats.Endpoint, who: str, messages: list[dict[str, str]], temperature: float, top_p: float, max_tokens: int, seed: int | None
) -> str:
    said = ""
    for piece in chats.stream(at, who, messages, temperature, top_p, max_tokens, seed):
        said += piece.get("text", "")
        print(piece.get("text", "\n"), end="", flush=True)
    return said


def _open_chat(home: Home, run_or_model: str, compare: bool) -> tuple[chats.Endpoint, list[str]]:
    """Wait until the chat worker answers; says what it is waiting for."""
    job = runs.open_chat(home, run_or_model, None)
    is_run = any(run["id"] == run_or_model for run in runs.list_runs(home))
    jobs, shown = Jobs(home.database), ""
    while (at := chats.endpoint(home, jobs.get(job.id))) is None:
        there = runs.job(home, job.id)
        if (line := there["phase"] or there["state"]) != shown:
            terminal.say(line)
            shown = line
        time.sleep(0.1)
    if is_run:
        chats.add_adapter(at, run_or_model)
    return at, ["base", run_or_model] if compare and is_run else [run_or_model if is_run else "base"]


@app.command()
def merge(
    run: str,
    out: Annotated[Path, typer.Argument(help="A new or empty folder for the merged model.")],
    key: KeyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bake the adapter into a copy of the base model."""
    with terminal.explained(as_json):
        here = Home.open(home)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise errors.OutputNotEmpty(path=str(out))
        job = runs.merge(here, run, key or uuid.uuid4().hex)
        result = terminal.result(here, job.id, as_json)
        building = out.resolve().with_name(f".{out.name}.{os.getpid()}")
        shutil.copytree(result["path"], building)
        if out.exists():
            out.rmdir()
        building.rename(out)
        if result["whole"]:
            terminal.say(result["whole"]["text"])
        terminal.print_result({**result, "path": str(out)}, as_json)


@app.command()
def push(
    run: str,
    repo: Annotated[str, typer.Argument(help="owner/name on the Hub.")],
    merged: Annotated[bool, typer.Option("--merged", help="Publish the merged model instead of the adapter.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; private otherwise.")] = False,
    key: KeyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish to the Hugging Face Hub, privately unless --public. The token comes from HF_TOKEN or the hub's own login."""
    with terminal.explained(as_json):
        here = Home.open(home)
        job = runs.push(here, run, repo, key or uuid.uuid4().hex, merged, public, _token())
        terminal.print_result(terminal.result(here, job.id, as_json), as_json)


@app.command("doctor")
def examine(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """This machine, what will work here, and what is wrong with the home folder; mends what is safe. Exit 1 if something is left."""
    with terminal.explained(as_json):
        report = doctor.report(home)
        if as_json:
            terminal.print_json(report)
        else:
            terminal.print_examined(report)
        if not all(trouble["done"] for trouble in report["trouble"]):
            raise typer.Exit(1)


def main() -> None:
    app()
