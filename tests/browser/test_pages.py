"""Every page from an empty home: the two-click way in, languages, themes, widths, reload, restart, ticks."""

import json
import re

import pytest
from playwright.sync_api import expect

from lora_ui import runs
from lora_ui.jobs import Jobs
from tests.tiny import tiny_model
from tests.ui.made import HOSTILE

pytestmark = pytest.mark.browser

PAGES = ("/", "/train", "/runs", "/chat", "/ship")
LOOKS = [(1280, "en", False), (1280, "zh", True), (390, "en", True), (390, "zh", False)]
NAMES = """LoRA UI CPU GB MB Hub Hugging Face jsonl json csv tsv xlsx parquet txt md gz gguf SmolLM2 Instruct starter apache id Space rsLoRA DoRA QLoRA NEFTune
    Python Ollama vLLM token zip README md EN owner name LoRA GPU"""


def sideways(page) -> int:
    return page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")


FILLED = "[...document.querySelectorAll('button.primary, a.primary')].filter(e => e.checkVisibility() && !e.disabled).map(e => e.innerText.trim())"


def filled(page) -> list[str]:
    """The words on every visible filled button, once there is one."""
    page.wait_for_function(f"() => {FILLED}.length > 0")
    return page.evaluate(f"() => {FILLED}")


@pytest.mark.parametrize(("width", "language", "dark"), LOOKS)
def test_empty_pages_say_one_sentence_and_offer_one_button(app, visit, width, language, dark):
    page, t = visit(width=width, height=844, language=language, dark=dark)
    lines = {"/": "data.lead", "/train": "train.no_data", "/runs": "runs.none", "/chat": "chat.nothing", "/ship": "ship.nothing"}
    for address in PAGES:
        page.goto(app.url + address)
        expect(page.get_by_text(t(lines[address]), exact=True)).to_be_visible()
        assert len(filled(page)) == 1, (address, filled(page))
        assert sideways(page) <= 0, address
        assert page.get_by_role("heading", level=1).count() == 1
        assert page.evaluate("() => document.documentElement.lang").startswith(language)
        assert page.evaluate("() => document.body.classList.contains('dark')") == dark
        if language == "zh":
            words = set(re.findall(r"[A-Za-z]{2,}", page.locator("body").inner_text()))
            assert words <= set(NAMES.split()) | {"Top", "English", "LoRAUI"}, (address, words - set(NAMES.split()))


@pytest.mark.parametrize(("width", "language", "dark"), LOOKS)
def test_the_example_is_two_clicks_from_start(app, visit, width, language, dark):
    page, t = visit(width=width, height=844, language=language, dark=dark)
    page.goto(app.url)
    page.locator("#example").click()
    expect(page.locator("#row")).to_contain_text("What is LoRA UI?")
    assert filled(page) == [t("data.use")]
    assert sideways(page) <= 0
    page.locator("#use-data").click()
    page.wait_for_url(re.compile("train"))
    expect(page.locator("#start")).to_be_enabled()
    assert filled(page) == [t("train.start")]
    expect(page.locator("#plan")).to_contain_text("180")
    assert sideways(page) <= 0
    page.reload()
    expect(page.locator("#plan")).to_contain_text("180")
    page.goto(app.url + "/runs")
    page.go_back()
    expect(page.locator("#plan")).to_contain_text("180")


def test_every_plain_field_and_no_other_is_open(app, visit):
    page, t = visit()
    page.goto(app.url)
    page.locator("#example").click()
    page.locator("#use-data").click()
    page.wait_for_url(re.compile("train"))
    expect(page.locator("#start")).to_be_enabled()
    shown = page.evaluate("() => [...document.querySelectorAll('[id^=set-]')].filter(e => e.checkVisibility()).map(e => e.id)")
    assert sorted(shown) == ["set-data-held_out_rows", "set-training-max_length", "set-training-num_train_epochs"]
    page.get_by_text(t("train.expert", n=0), exact=True).click()
    page.locator("#find-setting").get_by_role("textbox").fill("lora_alpha")
    expect(page.locator("#set-adapter-lora_alpha")).to_be_visible()
    expect(page.locator("#set-adapter-lora_dropout")).to_be_hidden()


def test_a_wrong_field_is_named_beside_the_button_until_it_is_mended(app, visit):
    page, _ = visit()
    page.goto(app.url)
    page.locator("#example").click()
    page.locator("#use-data").click()
    page.wait_for_url(re.compile("train"))
    rounds = page.locator("#set-training-num_train_epochs").get_by_role("textbox")
    rounds.fill("many")
    rounds.press("Tab")
    expect(page.locator("body")).to_contain_text("training.num_train_epochs: 'many'")
    rounds.fill("2")
    rounds.press("Tab")
    expect(page.locator("body")).not_to_contain_text("training.num_train_epochs: 'many'")


def tiny_settings(tmp_path, **training):
    """Settings that train the tiny model on 24 rows of a file with a hostile name and a hostile column."""
    base = tiny_model(tmp_path / "tiny")
    data = tmp_path / HOSTILE.replace("/", "")
    data = data.with_name(data.name + ".csv")
    data.write_text(f"question,answer,{HOSTILE}\n" + "".join(f"What is {n} {HOSTILE}?,It is {n}.,x\n" for n in range(24)))
    return {"model": {"base_model": str(base)}, "data": {"source": str(data)}, "training": {"max_length": 64, **training}}


def wait_until(page, home, id, when):
    """Poll the run on disk, with the browser's own clock."""
    for _ in range(1200):
        if when(runs.show(home, id)):
            return
        page.wait_for_timeout(100)
    raise AssertionError(runs.show(home, id))


def test_a_hostile_name_is_shown_letter_by_letter_everywhere(app, visit, tmp_path):
    id = runs.start(app.home, tiny_settings(tmp_path, max_steps=3), None, HOSTILE).id
    page, _ = visit()
    wait_until(page, app.home, id, lambda shown: shown["state"] == "finished")
    for language in ("en", "zh"):
        page, _ = visit(language=language)
        for address in ("/runs", f"/runs?run={id}"):
            page.goto(app.url + address)
            expect(page.locator("main, body").first).to_contain_text(HOSTILE)
        page.goto(f"{app.url}/chat?run={id}")
        expect(page.locator("#panes")).to_contain_text(HOSTILE)
        expect(page.locator("#chip-0")).to_contain_text(HOSTILE)
        page.goto(f"{app.url}/ship?run={id}")
        expect(page.locator("#ship-run input")).to_have_value(HOSTILE)
        assert page.locator("b", has_text="alert").count() == 0


def test_ticks_leave_folds_focus_and_scroll_alone_and_neither_closed_tabs_nor_a_killed_page_cost_anything(app, visit, tmp_path):
    id = runs.start(app.home, tiny_settings(tmp_path, max_steps=3000, logging_steps=1, save_steps=3000), None, "outlives the page").id
    page, t = visit()
    page.goto(f"{app.url}/runs?run={id}")
    wait_until(page, app.home, id, lambda shown: (shown["step"] or 0) > 60)
    page.get_by_text(t("runs.fold.log"), exact=True).click()
    box = page.locator("#log textarea")
    expect(box).to_have_value(re.compile("'loss'"))
    box.evaluate("e => { e.scrollTop = 40 }")
    page.locator("#stop").focus()
    progress = page.locator("[role=progressbar]").first
    for _ in range(3):
        seen = progress.get_attribute("aria-valuenow")
        expect(progress).not_to_have_attribute("aria-valuenow", seen)
    expect(box).to_be_visible()
    assert box.evaluate("e => e.scrollTop") == 40
    assert page.evaluate("() => document.activeElement.closest('[id]').id") == "stop"

    pid = Jobs(app.home.database).get(id).pid
    step = runs.show(app.home, id)["step"]
    page.close()  # the only tab: nobody looks any more
    elsewhere, _ = visit()
    wait_until(elsewhere, app.home, id, lambda shown: shown["step"] > step + 20)
    assert Jobs(app.home.database).get(id).pid == pid
    app.kill()
    app.start()
    step = runs.show(app.home, id)["step"]
    page, _ = visit()  # the old page reloads by itself when its server is back, at a moment of its own
    page.goto(f"{app.url}/runs?run={id}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("outlives the page")
    wait_until(page, app.home, id, lambda shown: shown["step"] > step + 5)
    assert Jobs(app.home.database).get(id).pid == pid
    page.locator("#stop").click()
    expect(page.locator("#continue")).to_be_visible(timeout=120_000)
    shown = runs.show(app.home, id)
    assert shown["state"] == "stopped" and shown["adapter_path"] and shown["step"] > step


def test_gpt2_says_its_published_count_from_its_config_alone(app, shared_hub, visit):
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}
    files = {"config.json": json.dumps({**config, "n_positions": 1024}).encode(), "model.safetensors": b"", "tokenizer.json": b"{}"}
    shared_hub.add_model("openai-community/gpt2", files)
    page, t = visit()
    page.goto(app.url)
    page.locator("#example").click()
    page.locator("#use-data").click()
    page.wait_for_url(re.compile("train"))
    expect(page.locator("#start")).to_be_enabled()
    page.locator("#base-model input").fill("openai-community/gpt2")
    page.locator("#base-model input").press("Enter")
    page.get_by_text(t("train.expert", n=0), exact=True).click()
    for name, value in (("r", "8"), ("target_modules", "c_attn")):
        box = page.locator(f"#set-adapter-{name}").locator("input, textarea").first
        box.fill(value)
        box.press("Tab")
    expect(page.locator("#plan")).to_contain_text("294,912")
    expect(page.locator("#plan")).to_contain_text("124,734,720")
    expect(page.locator("#plan")).to_contain_text("0.2364")
