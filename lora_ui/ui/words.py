"""Every word on the page, in English and Chinese, from `words.yaml`: one table, no literal label anywhere else in `ui/`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

from lora_ui import errors
from lora_ui.methods import Method
from lora_ui.presets import Preset
from lora_ui.settings import SettingsField

LANGUAGES = ("en", "zh")
TABLE = Path(__file__).with_name("words.yaml")


@functools.cache
def table() -> dict[str, Any]:
    """`{words: {key: [English, Chinese]}, sentences: {English template: Chinese}, fields, presets, methods, errors: {class: [message, cause, fix]}}`."""
    with TABLE.open(encoding="utf-8") as f:
        return yaml.load(f, yaml.CSafeLoader)


class Words:
    """The words of one language: `t("data.title")`, `t("data.rows", n=3)`, `t.say(say)`, `t.error(error)`."""

    def __init__(self, language: str):
        assert language in LANGUAGES
        self.language = language
        self._column = LANGUAGES.index(language)

    def __call__(self, key: str, **values: Any) -> str:
        """Plain text (escape it before it enters HTML). Numbers lose nothing here: format them before. Raises KeyError for an unknown key."""
        word = table()["words"][key][self._column]
        return errors.fill(word, values) if values else word

    def has(self, key: str) -> bool:
        return key in table()["words"]

    def field(self, field: SettingsField) -> tuple[str, str]:
        """(title, hint) of a setting: English from settings.py, where it is said once."""
        return (field.title, field.description) if self.language == "en" else tuple(table()["fields"][field.key])

    def preset(self, preset: Preset) -> tuple[str, str]:
        """(title, summary); presets that the person saved have only their own words."""
        known = None if preset.own or self.language == "en" else table()["presets"].get(preset.name)
        return tuple(known) if known else (preset.title, preset.summary)

    def method(self, method: Method) -> tuple[str, str, str, str, str]:
        """(title, family, what it does, what it trades, when to pick it)."""
        if self.language == "en":
            return method.title, method.family, method.does, method.trades, method.pick
        return tuple(table()["methods"][method.key])

    def say(self, said: errors.Say | dict[str, Any]) -> str:
        """A sentence of the core: a `Say`, or its dict (`text`, or `reason` in a decision). Unknown templates stay English."""
        if isinstance(said, errors.Say):
            said = said.as_dict()
        if self.language == "en":
            return said.get("text") or said["reason"]
        return self._fill(said["template"], said["values"])

    def error(self, error: errors.LoraUIError | dict[str, Any]) -> dict[str, str]:
        """`{message, cause, fix}` of a failure."""
        if isinstance(error, errors.LoraUIError):
            error = error.as_dict()
        known = table()["errors"].get(error["kind"]) if self.language == "zh" else None
        if known is None:
            return {part: error[part] for part in ("message", "cause", "fix")}
        values = {name: self._value(value) for name, value in error["values"].items()}
        if error["kind"] == "InvalidSettings":
            values["problems"] = "\n".join(self.say(line) for line in error["values"]["lines"])
        if error["kind"] == "BrokenRows":
            values["problems"] = self._lines(error["values"])
        try:
            return {part: text.format(**values) for part, text in zip(("message", "cause", "fix"), known)}
        except KeyError:  # of an earlier version, whose words needed less
            return {part: error[part] for part in ("message", "cause", "fix")}

    def _lines(self, values: dict[str, Any]) -> str:
        """The quoted lines of BrokenRows, each with its reason: `lines` and `why` say what `problems` says in English."""
        said = []
        for english, line, why in zip(values["problems"].split("\n"), values["lines"], values["why"]):
            quoted = english.removeprefix(f"Line {line}: {why['text']}: ")
            said.append(self._fill("Line {line}: {why}: {quoted}", {"line": line, "why": why, "quoted": quoted}))
        return "\n".join(said)

    def _fill(self, template: str, values: dict[str, Any]) -> str:
        return errors.fill(table()["sentences"].get(template, template), {k: self._value(v) for k, v in values.items()})

    def _value(self, value: Any) -> Any:
        """A value may itself be a sentence: a Say, or its dict from a file."""
        if isinstance(value, errors.Say) or (isinstance(value, dict) and "template" in value):
            return self.say(value)
        return value
