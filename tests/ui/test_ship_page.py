"""The Ship page: what it says before a click, and a token that is gone after it."""

import zipfile
from pathlib import Path

import pytest
from gradio.utils import get_upload_folder
from playwright.sync_api import expect

from lora_ui import runs
from lora_ui.ui import ship, ship_cards, tokens
from tests.ui import made


@pytest.mark.parametrize(
    ("name", "repo"),
    [("quiet-otter", "quiet-otter"), (made.HOSTILE, "b-alert-1-b"), ("../../etc", "etc"), ("水獭", "my-adapter"), ("a" * 200, "a" * 90)],
)
def test_a_runs_name_becomes_one_the_hub_takes(name, repo):
    assert ship.repo_name(name) == repo


@pytest.mark.parametrize("pasted", ["hf_abc", ' "hf_abc"\n', "“hf_abc”", "'hf_abc' "])
def test_a_pasted_token_loses_its_quotes(pasted):
    assert tokens.clean(pasted) == "hf_abc"


def test_a_hostile_name_or_path_stays_one_word_in_code_to_copy(home, t):
    shown = runs.show(home, made.ended(home, "finished", made.HOSTILE))
    shown |= {"adapter_path": "/tmp/a'; rm -rf $(x)/adapter", "base_model_path": "/tmp/it's here", "merged_path": "/tmp/$(touch x)/merged"}
    compile(ship_cards.python(shown), "copied", "exec")
    import shlex

    assert shlex.split(ship_cards.vllm(t, shown))[-1] == f"{shown['id']}={shown['adapter_path']}"
    assert shlex.split(ship_cards.ollama(t, shown).splitlines()[0])[1] == "FROM /tmp/$(touch x)/merged"


def test_the_result_of_a_job_stays_and_its_failure_has_four_parts(t):
    done = {"state": "finished", "error": None, "result": {"url": "https://hub.example/me/<b>", "check": {"private": True}}}
    said = ship_cards.publish_news(t, done)
    assert t("ship.published_private") in said and "<b>" not in said.replace("&lt;b&gt;", "")
    failed = {
        "state": "failed",
        "result": None,
        "error": {"kind": "Bug", "message": "m", "cause": "c", "fix": "f", "values": {"detail": "d"}, "traceback": "<b>"},
    }
    panel = ship_cards.publish_news(t, failed)
    assert t("ship.safe") in panel and "&lt;b&gt;" in panel and 'role="alert"' in panel
    assert ship_cards.publish_news(t, None) == ""


@pytest.mark.browser
def test_download_then_publish_is_the_next_step_and_the_token_is_forgotten(home, app_of, visit, standin_hub):
    id = made.ended(home, "finished", made.HOSTILE)
    served = app_of(home)
    page, t = visit()
    page.goto(f"{served.url}/ship?run={id}")
    primary = page.locator("button.primary:visible")
    expect(primary).to_have_text(t("ship.download_action"))
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == f"{id}.zip"
    zips = list(Path(get_upload_folder()).glob(f"*/{id}.zip"))
    assert len(zips) == 1
    assert set(zipfile.ZipFile(download.value.path()).namelist()) == {"adapter_model.safetensors", "adapter_config.json"}
    expect(primary).to_have_text(t("ship.publish_action"))
    page.get_by_role("button", name=t("ship.preview")).click()
    card = page.locator("#card .cm-content")
    expect(card).to_contain_text("lora_ui_run: " + id)
    expect(card).to_contain_text("library_name: peft")
    page.locator("#what").get_by_label(t("ship.merged"), exact=True).check()
    expect(card).to_contain_text("library_name: transformers")
    page.locator("#what").get_by_label(t("ship.adapter"), exact=True).check()
    page.locator("#repo").locator("input, textarea").fill("me/river")
    page.locator("#repo").locator("input, textarea").press("Enter")
    expect(card).to_contain_text("# river")
    page.locator("#token input").fill(standin_hub.read_token)
    page.locator("#publish").click()
    expect(page.locator(".panel")).to_be_visible()
    expect(page.locator("#token input")).to_have_value("")
    stored = page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie]) + document.body.innerHTML")
    assert standin_hub.read_token not in stored
    page.reload()
    expect(primary).to_have_text(t("ship.publish_action"))
    page.close()
    served.end()
    assert not zips[0].exists()


@pytest.mark.browser
def test_with_nothing_to_ship_there_is_one_sentence_and_one_button(home, app_of, visit):
    served = app_of(home)
    page, t = visit()
    page.goto(f"{served.url}/ship")
    expect(page.locator(".empty")).to_contain_text(t("ship.nothing"))
