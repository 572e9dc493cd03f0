"""The Train page in a browser: presets with time and fit, ways to make it fit, fields that change nothing, undo, numbers."""

import json
import re

import pytest
from playwright.sync_api import expect

from lora_ui import methods, presets, settings, ways
from lora_ui.errors import Say
from lora_ui.home import Home
from lora_ui.memory import Rows, another
from lora_ui.models import catalogue
from lora_ui.ui import draft, fitting
from lora_ui.ui.words import Words
from tests.running import end_processes
from tests.tiny import tiny_model

pytestmark = pytest.mark.browser
BIG = "Qwen/Qwen3-8B"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Without a Hub; the supervisor that counting tokens starts is ended."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    home = Home.open(tmp_path / "home")
    yield home
    end_processes(home)


def trained_on(page, app):
    page.goto(app.url + "/")
    page.locator("#example").click()
    page.locator("#use-data").click()
    page.wait_for_url(re.compile("train"))
    expect(page.locator("#plan")).to_contain_text("180")


def type_in(page, where, text):
    box = page.locator(where).locator("input, textarea").first
    box.fill(text)
    box.press("Tab")


def ask(page, size):
    page.locator("#memory-items .label-wrap").click()
    type_in(page, "#another-gpu", size)


def test_presets_and_base_models_say_whether_they_fit(app_of, visit, home):
    page, t = visit()
    trained_on(page, app_of(home))
    labels = page.locator("#preset label")
    expect(labels).to_have_count(fitting.FIRST)
    for label in labels.all():
        expect(label).to_contain_text(t("fit.badge.fits"))
    page.get_by_role("button", name=t("train.more_presets", n=6)).click()
    expect(labels).to_have_count(9)
    page.locator("#base-model input").click()
    options = page.get_by_role("option").all_inner_texts()
    verdicts = [next((v for v in ("fits", "tight", "no") if t("fit.badge." + v) in option), None) for option in options]
    assert len(options) == len(catalogue()) and "no" in verdicts
    assert verdicts[verdicts.index("no") :] == ["no"] * (len(verdicts) - verdicts.index("no"))


def test_what_does_not_fit_is_made_to_fit_with_one_click(app_of, visit, home, tmp_path):
    base = tiny_model(tmp_path / "base")
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **sizes}))
    page, t = visit()
    trained_on(page, app_of(home))
    type_in(page, "#base-model", str(base))
    ask(page, "12 lots")
    expect(page.locator("#another-gpu")).to_contain_text(t("fit.another_wrong"))
    type_in(page, "#another-gpu", "12 GiB")
    see = page.locator("#see-ways")
    expect(see).to_be_visible()
    expect(page.locator("#start")).to_be_hidden()
    expect(page.locator("#ways")).to_contain_text(t("fit.anyway"))
    see.click()
    first = page.locator("#ways button").first
    expect(first).to_be_focused()
    first.click()
    expect(page.locator("#start")).to_be_visible()
    expect(page.locator("#ways")).to_be_hidden()
    expect(page.locator("#changed li")).not_to_have_count(0)
    page.locator("#changed [data-undo]").first.click()
    expect(see).to_be_visible()
    page.reload()
    expect(see).to_be_visible()


def test_a_field_that_changes_nothing_is_out_of_reach_with_its_reason(app_of, visit, home):
    page, t = visit()
    trained_on(page, app_of(home))
    page.get_by_text(t("train.expert", n=0), exact=True).click()
    warm = page.locator("#set-training-warmup_steps")
    expect(warm.locator("input, textarea").first).to_be_enabled()
    curve = page.locator("#set-training-lr_scheduler_type input")
    curve.fill("constant")
    curve.press("Enter")
    expect(warm.locator("input, textarea").first).to_be_disabled()
    expect(warm).to_contain_text("constant")
    expect(page.locator("#set-training-lr_scheduler_type")).to_have_class(re.compile("lu-changed"))
    page.locator("#changed [data-undo='training.lr_scheduler_type']").click()
    expect(warm.locator("input, textarea").first).to_be_enabled()
    expect(page.locator("#set-training-lr_scheduler_type")).not_to_have_class(re.compile("lu-changed"))
    expect(page.locator("#expert")).to_contain_text(t("train.expert", n=0))


def choose(page, title):
    page.locator("#method input").click()
    page.get_by_role("option", name=re.compile(f"^{re.escape(title)} ")).click()


def test_how_to_adapt_is_one_choice_and_what_does_not_go_with_it_is_mended_by_a_click(app_of, visit, home):
    page, t = visit()
    trained_on(page, app_of(home))
    method = methods.all_methods()["dora"]
    expect(page.locator("#method input")).to_have_value(re.compile("^LoRA "))
    choose(page, "DoRA")
    expect(page.locator("#method-about")).to_contain_text(method.does)
    expect(page.locator("#method-about a")).to_have_attribute("href", method.link)
    expect(page.locator("#changed [data-undo='adapter.use_dora']")).to_be_visible()
    page.locator("#expert > button, #expert .label-wrap").first.click()
    page.locator("#set-model-load_in_8bit input").check()
    expect(page.locator("#start")).to_be_disabled()
    expect(page.locator("#plan")).to_contain_text(method.refused[0].why)
    page.locator("#mend").click()
    expect(page.locator("#start")).to_be_enabled()
    expect(page.locator("#mend")).to_be_hidden()
    expect(page.locator("#set-model-load_in_4bit input")).to_have_value(t("form.on"))
    choose(page, "LoRA-FA")
    expect(page.locator("#set-training-optim")).to_contain_text(
        t("form.idle", why=t.say(Say(methods.all_methods()["lorafa"].idle["training.optim"])))
    )
    expect(page.locator("#set-adapter-use_dora input")).not_to_be_checked()
    page.locator("#changed [data-undo='adapter.method']").click()
    expect(page.locator("#method input")).to_have_value(re.compile("^QLoRA "))


def test_a_learning_rate_is_written_back_one_way(app_of, visit, home):
    page, t = visit()
    trained_on(page, app_of(home))
    page.get_by_text(t("train.expert", n=0), exact=True).click()
    type_in(page, "#set-training-learning_rate", "２·10⁻⁴")
    expect(page.locator("#set-training-learning_rate").locator("input, textarea").first).to_have_value("2e-4")
    expect(page.locator("#changed")).to_contain_text("2e-4")


def test_memory_is_checked_exactly_beside_the_estimate(app_of, visit, home, tmp_path):
    page, t = visit()
    trained_on(page, app_of(home))
    model = page.locator("#base-model input")
    model.fill(str(tiny_model(tmp_path / "base")))
    model.press("Enter")
    page.locator("#memory-items .label-wrap").click()
    check, exact = page.locator("#check-exactly"), page.locator("#exact")
    check.click()
    expect(page.locator("#stop-checking")).to_be_visible()
    page.locator("#stop-checking").click()
    expect(exact).to_contain_text(t("exact.stopped"), timeout=60_000)
    expect(check).to_be_visible()
    check.click()
    expect(exact.locator("th[scope=col]")).to_have_text([t("exact.estimated"), t("exact.found")], timeout=240_000)
    expect(exact).to_contain_text(t("fit.item.working"))
    expect(check).to_be_visible()


# without a browser


def test_presets_that_do_not_fit_come_last(home):
    t = Words("en")
    raw = {"model": {"base_model": BIG}}
    now = draft.Draft(presets.get(home, "cpu"), raw, {"source": "example"})
    found = presets.all_presets(home)
    glances = fitting.glances(home, now, found, "", another(8 * 2**30).whole)
    too_big = {one.name for one in found if glances[fitting.of_preset(one)]["verdict"] == "no"}
    assert too_big == {"cpu", "knowledge", "long-context", "high-quality"}  # the others take 4 bits where 16 do not fit
    labels, more, unfit = fitting.preset_choices(t, home, now, 200, glances, everything=False)
    assert labels[-1][1] == "cpu" and not too_big & {name for _, name in labels[:-1]} and (more, unfit) == (9 - len(labels), 3)
    assert t("fit.badge.fits") in labels[0][0].split("\n")[0]


def test_lists_stand_without_fit_where_the_plan_cannot_be_made(home):
    now = draft.Draft(presets.get(home, "cpu"), {"adapter": {"r": -1}}, {"source": "example"})
    assert fitting.glances(home, now, presets.all_presets(home), "", None) == {}
    labels, more, unfit = fitting.preset_choices(Words("zh"), home, now, 200, {}, everything=True)
    assert len(labels) == 9 and (more, unfit) == (0, 0)


def test_taking_a_way_gives_settings_that_parse():
    for model in catalogue():
        chosen = settings.parse({"model": {"base_model": model.name}, "training": {"activation_checkpointing": False}})
        for way in ways.ways(model, chosen, Rows(100, 10), another(8 * 2**30), catalogue()):
            settings.parse(settings.merge(chosen.model_dump(), way.change))
