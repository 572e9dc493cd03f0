"""Every word the page can show exists in both languages with the same placeholders, and no page holds a literal of its own."""

from __future__ import annotations

import ast
import inspect
import json
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import lora_ui
from lora_ui import data, errors, methods, presets, settings
from lora_ui.errors import Say
from lora_ui.home import Home
from lora_ui.ui.words import TABLE, Words, table

PACKAGE = Path(lora_ui.__file__).parent
SHOWN = {"label", "value", "placeholder", "info", "title", "choices"}
"""Arguments of components whose text a person reads."""
VALUES = ("chat", "both", "private", "adapter")
"""Of radios: what the program calls a choice; its label is a word."""
MADE_BY_HAND = {"Button", "Textbox", "Markdown", "Dropdown", "Radio", "Checkbox", "Number", "Slider", "File", "Upload", "Accordion", "Code", "Info",
                "Chatbot", "DownloadButton", "LinePlot", "BarPlot", "Warning", "Tab", "CheckboxGroup", "update", "Dataframe"}  # fmt: skip


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def sources() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 30
    return found


def say_templates() -> Iterator[tuple[str, str]]:
    """(place, template) of every `Say("…")` in the package."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and name_of(node) == "Say":
                first = node.args[0]
                if isinstance(first, ast.Constant) and not first.value:
                    continue
                if isinstance(first, ast.Constant):
                    yield f"{path.name}:{node.lineno}", first.value
                elif path.parent.name != "errors" and path.name != "methods.py":
                    pytest.fail(f"{path.name}:{node.lineno}: Say takes a literal template, so that it can be translated")

    for key, method in methods.all_methods().items():
        for said in (*(text for rule in method.refused for text in (rule.why, rule.instead)), *method.idle.values()):
            yield f"methods.yaml: {key}", said


def test_every_word_has_both_languages_with_the_same_placeholders() -> None:
    for key, both in table()["words"].items():
        assert isinstance(both, list) and len(both) == 2, key
        assert all(isinstance(word, str) for word in both) and (bool(both[1]) or not both[0].strip()), key
        assert placeholders(both[0]) == placeholders(both[1]), key


def test_no_key_is_written_twice() -> None:
    def keys(node: yaml.Node) -> Iterator[str]:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if key.value in seen:
                    yield key.value
                seen.add(key.value)
                yield from keys(value)

    assert list(keys(yaml.compose(TABLE.read_text("utf-8")))) == []


def name_of(call: ast.Call) -> str:
    return str(getattr(call.func, "id", getattr(call.func, "attr", "")))


def asked_for() -> Iterator[tuple[str, str, ast.Call]]:
    """(place, key, call) of every `t("key", …)` in the pages."""
    for path in (PACKAGE / "ui").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and name_of(node) == "t" and node.args and isinstance(node.args[0], ast.Constant):
                yield f"{path.name}:{node.lineno}", node.args[0].value, node


def test_every_key_that_is_asked_for_exists() -> None:
    words, asked = table()["words"], list(asked_for())
    assert len(asked) > 100
    for place, key, call in asked:
        assert key in words, f"{place}: {key}"
        given = {word.arg for word in call.keywords}
        assert None in given or placeholders(words[key][0]) <= given, f"{place}: {key}"


def test_no_literal_label_in_the_pages() -> None:
    found = []
    for path in (PACKAGE / "ui").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or name_of(node) not in MADE_BY_HAND:
                continue
            texts = [*node.args[:1], *(word.value for word in node.keywords if word.arg in SHOWN)]
            found += [
                f"{path.name}:{node.lineno}: {text.value!r}"
                for text in texts
                if isinstance(text, ast.Constant) and isinstance(text.value, str) and any(c.isalpha() for c in text.value)
                and not (name_of(node) == "Radio" and text.value in VALUES)
            ]  # fmt: skip
    assert found == []


def error_classes() -> list[type[errors.LoraUIError]]:
    found = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.LoraUIError) and c is not errors.LoraUIError]
    assert len(found) > 40
    return found


def test_every_error_speaks_chinese() -> None:
    wrong = []
    for kind in error_classes():
        known = table()["errors"].get(kind.__name__)
        if not known or len(known) != 3:
            wrong.append(f"{kind.__name__}: {[kind.message, kind.cause, kind.fix]}")
            continue
        for english, chinese in zip((kind.message, kind.cause, kind.fix), known):
            if placeholders(english) != placeholders(chinese):
                wrong.append(f"{kind.__name__}: {english!r} / {chinese!r}")
    assert wrong == []


def test_no_error_is_translated_that_does_not_exist() -> None:
    assert set(table()["errors"]) <= {kind.__name__ for kind in error_classes()}


def test_every_sentence_of_the_core_speaks_chinese() -> None:
    known = table()["sentences"]
    missing = [f"{place}: {template}" for place, template in say_templates() if template not in known]
    assert missing == []
    for english, chinese in known.items():
        assert placeholders(english) == placeholders(chinese), english


def test_no_sentence_is_translated_that_nobody_says() -> None:
    assert set(table()["sentences"]) - {template for _, template in say_templates()} == set()


def test_every_setting_and_preset_speaks_chinese(tmp_path: Path) -> None:
    assert set(table()["fields"]) == {f.key for f in settings.fields()}
    ours = {p.name for p in presets.all_presets(Home.open(tmp_path))}
    assert set(table()["presets"]) == ours
    assert {key: len(words) for key, words in table()["methods"].items()} == dict.fromkeys(methods.all_methods(), 5)
    zh = Words("zh")
    assert all(zh.field(f) != (f.title, f.description) for f in settings.fields())


def test_values_that_are_sentences_are_translated_too() -> None:
    inner = Say("unknown until the first steps")
    error = errors.HubOffline(detail=inner)
    assert Words("en").error(error)["cause"] == "unknown until the first steps"
    assert Words("zh").say(inner) != str(inner)
    assert Words("zh").error(error.as_dict())["cause"] == Words("zh").say(inner)


def test_broken_lines_are_explained_in_chinese(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"question": "a", "answer": "b"}\n' * 6 + '{"question": "a" "answer": "b"}\n')
    with pytest.raises(errors.BrokenRows) as refused:
        data.load(Home.open(tmp_path / "home"), file)
    said = Words("zh").error(json.loads(json.dumps(refused.value.as_dict())))["message"]
    assert said.startswith("x.jsonl 的 7 行里有 1 行读不了")
    assert "第 7 行：第 18 个字符处缺少逗号" in said
    assert said.endswith('{"question": "a" "answer": "b"}')


def test_a_failure_in_the_words_of_an_earlier_version_stays_english() -> None:
    said = {**errors.WorkerLost(step=3, detail="", kept="").as_dict(), "values": {"step": 3, "detail": ""}, "fix": "Resume it."}
    assert Words("zh").error(said)["fix"] == "Resume it."


def test_an_unknown_template_stays_english() -> None:
    said = {"text": "Three blind mice.", "template": "{n} blind mice.", "values": {"n": "Three"}}
    assert Words("zh").say(said) == "Three blind mice."


def test_one_row_is_said_as_one() -> None:
    said = [str(Say("{count} [row has|rows have] an empty answer and [is|are] left out.", count=count)) for count in (1, 2)]
    assert said == ["1 row has an empty answer and is left out.", "2 rows have an empty answer and are left out."]
    assert [Words("en")("data.rows", n=n) for n in ("1", "1,200")] == ["1 row", "1,200 rows"]
