"""How the command line speaks: JSON or words on stdout, progress and complaints on stderr, exit codes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from lora_ui import errors, memory, runs, supervisor
from lora_ui.home import Home
from lora_ui.jobs import ENDED
from lora_ui.ui import saved_report
from lora_ui.ui.words import Words

EXIT = {"finished": 0, "stopped": 3}


@contextmanager
def explained(as_json: bool) -> Iterator[None]:
    """A LoraUIError becomes message, cause and fix on stderr (and an `error` object on stdout with --json), exit code 1."""
    try:
        yield
    except errors.LoraUIError as e:
        complain(e.as_dict())
        if as_json:
            print_json({"error": e.as_dict()})
        raise typer.Exit(1) from None


@contextmanager
def saved(path: Path | None, name: str) -> Iterator[dict[str, Any]]:
    """A report to fill, written to `path` (.html or .json) in the end; what was refused is written too. Raises BadParameter."""
    if path and (path.suffix.lower() not in (".html", ".json") or not path.absolute().parent.is_dir()):
        raise typer.BadParameter("--report takes a file that ends in .html or .json, in a folder that is there")
    report: dict[str, Any] = {}
    try:
        yield report
    except errors.LoraUIError as e:
        report |= {"ok": False, "name": name, "error": e.as_dict()}
        raise
    finally:
        if path and report:
            text = (
                saved_report.page(report, Words("en"))
                if path.suffix.lower() == ".html"
                else json.dumps(report, indent=1, ensure_ascii=False)
            )
            path.write_text(text, "utf-8")


def complain(error: dict[str, Any]) -> None:
    print("\n".join(part for part in (error["message"], error["cause"], error["fix"]) if part), file=sys.stderr)


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


def say(text: str) -> None:
    """Progress goes to stderr, so that stdout stays what was asked for."""
    print(text, file=sys.stderr, flush=True)


def watch(home: Home, id: str) -> int:
    """Print progress until the job ends; Ctrl-C detaches."""
    try:
        return follow(home, id)
    except KeyboardInterrupt:
        say(f"\nIt goes on. Follow: python -m lora_ui logs {id} -f · stop: python -m lora_ui stop {id}")
        return 0


def follow(home: Home, id: str) -> int:
    """Wait for a job; returns its exit code, having said what went wrong."""
    shown, looked = "", time.monotonic()
    while True:
        there = runs.job(home, id)
        if time.monotonic() - looked > 5:  # a supervisor that was killed is replaced
            looked = time.monotonic()
            supervisor.ensure(home)
        line = (
            there["state"]
            if not there["phase"]
            else there["phase"] + (f" {there['done']:g}/{there['total']:g} {there['unit']}" if there["total"] else "")
        )
        if line != shown and there["state"] not in ENDED:
            say(line)
            shown = line
        if there["state"] in ENDED:
            if there["error"]:
                complain(there["error"])
            say(there["state"])
            return EXIT.get(there["state"], 1)
        time.sleep(0.3)


def result(home: Home, id: str, as_json: bool) -> dict[str, Any]:
    code = watch(home, id)
    there = runs.job(home, id)
    if code:
        if as_json:
            print_json({"error": there["error"]})
        raise typer.Exit(code)
    if there["state"] not in ENDED:
        raise typer.Exit(0)  # detached with Ctrl-C
    result: dict[str, Any] = there["result"]
    return result


def print_result(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        print(result.get("path") or result.get("url"))


def print_interruptions(run: dict[str, Any]) -> None:
    for end in run["interruptions"]:
        then = f"went on by itself at {time.strftime('%Y-%m-%d %H:%M', time.localtime(end['again']))}" if end["again"] else "waited for you"
        print(f"{'interrupted':18} at step {end['reached']} ({end['kind']}); it {then}")
    if run["stalled"]:
        print(f"{'stalled':18} no sign of life for {time.time() - run['stalled']:.0f} s; stack.txt in its folder says where it hangs")


def print_report(report: dict[str, Any]) -> None:
    print(f"{report['name']}: {report['rows']} rows · {report['why']['text']}")
    print(f"{report['kept']} ready, {report['dropped']} left out")
    for finding in report["findings"]:
        rows = ", ".join(map(str, finding["rows"]))
        print(f"  {finding['severity']}: {finding['message']['text']}" + (f" (rows {rows})" if rows else "") + f" {finding['fix']['text']}")
    if report["tokens"]:
        print(f"{report['tokens']['total']:,} tokens, {report['tokens']['trained']:,} of them learned; {report['truncated']} rows are cut")


def print_examined(report: dict[str, Any]) -> None:
    for section in ("machine", "versions", "home"):
        print(section)
        for name, value in report[section].items():
            print(f"  {name:18} {value}")
    for line in report["notes"]:
        print(f"- {line}")
    for trouble in report["trouble"]:
        print(f"found: {trouble['found']}")
        print(f"  mended: {trouble['done']}" if trouble["done"] else f"  to do: {trouble['fix']}")


VERDICTS = {"fits": "fits", "tight": "tight: close other programs first", "no": "does not fit"}


def print_fit(report: dict[str, Any]) -> None:
    if report["trainable_parameters"] is None:
        return print("This model's shape is not known here, so nothing can be said before it is loaded.")
    print(f"{report['trainable_parameters']:,} trainable of {report['all_parameters']:,} ({report['share']:.4f} %)")
    print(report["explanation"])
    print(f"{memory.gigabytes(report['predicted_bytes'])} needed:")
    for name, size in report["items"].items():
        print(f"  {name:12} {memory.gigabytes(size):>10}")
    for key, made in report["decisions"].items():
        print(f"  {key} = {str(made['value']).lower()}: {made['reason']}")
    if report["calibration"]:
        print(report["calibration"]["text"])
    for place in report["places"]:
        print(f"{place['name'] or 'A GPU'} with {memory.gigabytes(place['available_bytes'])}: {VERDICTS[place['verdict']]}")
    for way in report["advice"]:
        values = [(group, name, value) for group, fields in way["change"].items() for name, value in fields.items() if value is not None]
        sets = " ".join(
            f"--base-model {value}" if name == "base_model" else f"--set {group}.{name}={str(value).lower()}"
            for group, name, value in values
        )
        print(f"  {way['said']['text']}: -{memory.gigabytes(way['saves'])}, then {VERDICTS[way['verdict']]}  ({sets})")
    if report["verdict"] == "no" and not report["advice"]:
        print("No change of settings is enough: choose a smaller base model.")
    if "exact" in report:
        print_exact(report["exact"])


def counted(checking: Iterator[tuple[int, int, dict[str, Any] | None]]) -> dict[str, Any]:
    """The answer of an exact check, its progress said."""
    shown = ""
    answer: dict[str, Any] = {}
    for done, total, found in checking:
        if total and (line := f"checking exactly {done}/{total}") != shown:
            say(shown := line)
        answer = found or answer
    return answer


def print_exact(exact: dict[str, Any]) -> None:
    print(f"checked exactly: {memory.gigabytes(exact['exact_bytes'])}, {VERDICTS[exact['verdict']]}")
    for name, (form, found) in exact["items"].items():
        print(f"  {name:12} {memory.gigabytes(form):>10} estimated {memory.gigabytes(found):>10} exactly")


def warnings(plan: dict[str, Any]) -> list[str]:
    """What a plan lets pass but a person should know before the start."""
    said = [f"{key} has no effect: {reason['text']}" for key, reason in plan["in_vain"].items()]
    if plan["memory"] and plan["memory"]["verdict"] != "fits":
        needed, there = (memory.gigabytes(plan["memory"][name]) for name in ("predicted_bytes", "available_bytes"))
        said.append(f"About {needed} of {there} are needed: {VERDICTS[plan['memory']['verdict']]}. `fit` says what to change.")
    return said


def count_bytes(text: str) -> int:
    """`24GiB` as a number. Raises BadParameter."""
    if (size := memory.read_size(text)) is None:
        raise typer.BadParameter(f"{text!r} is no size; write it as 24GiB")
    return size
