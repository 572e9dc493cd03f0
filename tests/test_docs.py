"""The documents against the code. `python -m tests.test_docs` writes the generated parts of the README anew."""

import re
from pathlib import Path

import typer.main
import yaml

from lora_ui import cli, methods, presets, settings
from lora_ui.home import Home

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def settings_table() -> str:
    lines = ["| Key | Label | Default | Takes | |", "|---|---|---|---|---|"]
    for field in settings.fields():
        bounds = "" if field.minimum is None else f"{'above' if field.above else 'from'} {field.minimum:g} to {field.maximum:g}"
        choices = [field.kind, *field.choices] if field.kind == "switch" else field.choices
        takes = ", ".join(map(str, choices)).lower() if choices else bounds or field.kind
        takes += ", or auto" if field.auto else ""
        default = (
            str(field.default).lower() if isinstance(field.default, bool) else "" if field.default in (None, "", {}, []) else field.default
        )
        lines.append(f"| `{field.key}` | {field.title} | {default} | {takes} | {field.description} |")
    return "\n".join(lines)


def presets_table(home: Home) -> str:
    lines = ["| Name | | For |", "|---|---|---|"]
    for preset in presets.all_presets(home):
        if not preset.own:
            lines.append(f"| `{preset.name}` | {preset.title} | {preset.summary} |")
    return "\n".join(lines)


def methods_table() -> str:
    lines = ["| Method | Family | | Set by |", "|---|---|---|---|"]
    for method in methods.all_methods().values():
        paper = f" [{method.paper}]({method.link})" if method.link else ""
        set_by = ", ".join(f"`{place}={'16' if value == 'set' else str(value).lower()}`" for place, value in methods._flat(method.settings))
        lines.append(f"| {method.title} | {method.family} | {method.does} {method.trades}{paper} | {set_by} |")
    return "\n".join(lines)


def generated(text: str, home: Home) -> str:
    for name, table in (("settings", settings_table()), ("presets", presets_table(home)), ("methods", methods_table())):
        text = re.sub(
            rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, n=name, t=table: f"<!-- {n} -->\n{t}\n<!-- /{n} -->", text, flags=re.S
        )
    return text


def test_the_readme_tables_are_those_of_the_code(tmp_path):
    assert README.read_text() == generated(README.read_text(), Home(tmp_path))


def test_every_verb_and_option_of_the_command_line_is_described():
    text = README.read_text()
    group = typer.main.get_command(cli.app)
    missing = [name for name in group.commands if not re.search(rf"`{name}[ `]", text)]
    options = {o for command in group.commands.values() for p in command.params for o in p.opts if o.startswith("--")}
    spoken = {
        "--home",
        "--json",
        "--preset",
        "--settings",
        "--set",
        "--map",
        "--key",
        "--base-model",
        "--detach",
        "--name",
        "--prompt",
        "--compare",
    }
    spoken |= {"--merged", "--public", "--data", "--report"}
    assert missing == []
    assert spoken <= options and all(f"`{o}" in text or f"{o} " in text for o in spoken)


def test_the_space_front_matter_fits_the_requirements():
    header = yaml.safe_load(README.read_text().split("---")[1])
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    assert (header["sdk"], header["sdk_version"], header["app_file"]) == ("gradio", pins["gradio"], "app.py")
    assert header["license"] == "apache-2.0" and (ROOT / "LICENSE").read_text().strip().startswith("Apache License")


def test_every_requirement_is_pinned_and_installed_as_pinned():
    from importlib.metadata import version

    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) >= 14
    for line in lines:
        name, sign, pin = line.partition("==")
        assert sign and version(name).split("+")[0] == pin


def test_the_pictures_of_the_readme_are_there():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README.read_text())
    assert len(pictures) >= 6
    assert [p for p in pictures if not (ROOT / p).is_file()] == []


if __name__ == "__main__":
    README.write_text(generated(README.read_text(), Home(Path("/nonexistent"))))
