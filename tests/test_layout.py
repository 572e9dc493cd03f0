"""The shape of the code: import arrows, sizes, names, and what must never stand in it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lora_ui"
FILES = [*sorted(PACKAGE.rglob("*.py")), ROOT / "app.py"]
LEVELS = [
    {"errors"},
    {"settings", "home"},
    {"recipes"},
    {"machine", "metrics", "hub", "models", "data", "presets", "jobs"},
    {"learned", "fit", "memory", "settling", "methods", "ways", "effects", "card"},
    {"preflight", "calibration", "exactly", "executors", "endings", "space"},
    {"rescue"},
    {"supervisor"},
    {"chats", "runs", "doctor"},
    {"cli", "terminal", "ui"},
    {"app", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(LEVELS) for name in names}
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "accelerate"}
REFUSED_NAMES = {"utils", "helpers", "common", "manager", "base", "core", "misc", "handler"}


def module(path: Path) -> str:
    """`settings` for lora_ui/settings.py, `data` for anything in lora_ui/data/, `worker` for the island."""
    return path.stem if path.parent in (PACKAGE, ROOT) else path.relative_to(PACKAGE).parts[0]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module in ("lora_ui", "lora_ui.worker") else {node.module}
            )
    return found


def test_imports_point_down_the_list():
    wrong = []
    for path in FILES:
        here = module(path)
        for name in imports(path):
            if not name.startswith("lora_ui.") or name == "lora_ui.__version__":
                continue
            there = name.split(".")[1]
            if here == "worker":
                allowed = there == "worker" or (RANK[there] <= RANK["fit"] and there != "jobs")
            elif here == "__init__":
                allowed = False
            else:
                allowed = there == here or (there in RANK and RANK[there] <= RANK[here])
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert len(FILES) > 40
    assert wrong == []


def test_heavy_libraries_stay_on_the_island_and_gradio_in_the_page():
    wrong = []
    for path in FILES:
        tops = {name.split(".")[0] for name in imports(path)}
        if module(path) != "worker" and tops & HEAVY:
            wrong.append(f"{path.relative_to(ROOT)}: {tops & HEAVY}")
        if module(path) not in ("ui", "app") and "gradio" in tops:
            wrong.append(f"{path.relative_to(ROOT)}: gradio")
    assert wrong == []


def test_files_and_functions_stay_small():
    wrong = []
    for path in FILES:
        text = path.read_text("utf-8")
        if text.count("\n") > 400:
            wrong.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                limit = 120 if path == PACKAGE / "worker" / "train.py" and node.name == "run" else 60
                if size > limit:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {size} lines")
    assert wrong == []


def test_no_file_is_named_after_a_role():
    assert [p for p in FILES if p.stem in REFUSED_NAMES] == []


def test_nothing_dangerous_stands_in_the_code():
    refused = {
        "remote code": r"trust_remote_code\s*=\s*True",
        "a shell": r"shell\s*=\s*True|os\.system\(|os\.popen\(",
        "a pickle": r"pickle\.loads?\(|torch\.load\((?!.*weights_only=True)",
        "a swallowed exception": r"except Exception:\s*\n\s*pass|except:\s*\n",
        "something unfinished": r"\bTODO\b|\bFIXME\b|raise NotImplementedError",
        "a share link": r"share\s*=\s*True",
    }
    wrong = [f"{p.relative_to(ROOT)}: {why}" for p in FILES for why, pattern in refused.items() if re.search(pattern, p.read_text("utf-8"))]
    assert wrong == []
