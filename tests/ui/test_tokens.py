"""A typed Hub token: kept for one browser in memory, and nowhere else."""

from __future__ import annotations

import re

import gradio as gr
import httpx
import pytest
from playwright.sync_api import expect

from lora_ui.home import Home
from lora_ui.ui import door, tokens
from tests.running import end_processes
from tests.standin_hub import StandinHub
from tests.tiny import tiny_model


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    monkeypatch.setattr(tokens, "_kept", {})


def by(cookie: str | None, who: str | None = None) -> gr.Request:
    headers = {"cookie": f"a=b; {door.VISITOR}={cookie}"} if cookie else {}
    return gr.Request(None, who, headers=headers)


def test_a_token_is_kept_for_the_browser_and_person_that_typed_it() -> None:
    tokens.keep(by("one", "ann"), ' "hf_abc"\n')
    assert tokens.of(by("one", "ann")) == "hf_abc"
    assert tokens.of(by("two", "ann")) == tokens.of(by("one", "bob")) == tokens.of(by("one")) == tokens.of(by(None)) == ""
    assert tokens.of(by("one", "ann"), "hf_new ") == "hf_new"
    tokens.add(by("one", "ann"), "")
    assert tokens.of(by("one", "ann")) == "hf_abc"
    tokens.keep(by("one", "ann"), "")
    assert tokens.of(by("one", "ann")) == ""


def test_without_the_cookie_nothing_is_kept() -> None:
    tokens.keep(by(None), "hf_abc")
    assert tokens._kept == {}


def test_a_token_is_forgotten_after_hours_without_use_and_when_there_are_too_many(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(tokens.time, "monotonic", lambda: now[0])
    tokens.keep(by("one"), "hf_abc")
    now[0] = tokens.HOURS * 3600 - 1
    assert tokens.of(by("one")) == "hf_abc"
    now[0] += tokens.HOURS * 3600 + 1
    assert tokens.of(by("one")) == "" and tokens._kept == {}
    for number in range(tokens.MOST + 1):
        tokens.keep(by(f"visitor-{number}"), "hf_abc")
    assert len(tokens._kept) == tokens.MOST and tokens.of(by("visitor-0")) == ""


def test_the_cookie_is_long_out_of_reach_of_scripts_and_given_once(app_of, tmp_path) -> None:
    url = app_of(Home.open(tmp_path / "home")).url
    first, second = (httpx.get(url, trust_env=False, headers={"accept-language": "en"}).headers.get_list("set-cookie") for _ in range(2))
    (cookie,) = [line for line in first if line.startswith(door.VISITOR)]
    assert re.fullmatch(rf"{door.VISITOR}=[\w-]{{43}}; Path=/; HttpOnly; SameSite=Lax", cookie)
    assert cookie not in second
    again = httpx.get(url, trust_env=False, headers={"accept-language": "en", "cookie": cookie.split(";")[0]})
    assert not [line for line in again.headers.get_list("set-cookie") if line.startswith(door.VISITOR)]


@pytest.mark.browser
def test_a_gated_model_asks_for_the_token_once(app_of, visit, tmp_path, monkeypatch) -> None:
    home = Home.open(tmp_path / "home")
    with StandinHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add_model("user-a/locked", tiny_model(tmp_path / "base"), gated=True)
        hub.add_dataset(
            "user-a/rows", {"train.csv": b"question,answer\nWhat is a quay?,A landing.\nAnd a pier?,One on stilts.\n"}, gated=True
        )
        page, t = visit()
        page.goto(app_of(home).url)
        page.locator("#example").click()
        page.locator("#use-data").click()
        page.wait_for_url(re.compile("train"))
        box = page.locator("#base-model input")
        box.fill("user-a/locked")
        box.press("Tab")
        expect(page.locator("#hub-token input")).to_be_visible()
        page.locator("#hub-token input").fill(hub.write_token)
        page.locator("#hub-token input").press("Tab")
        expect(page.locator("#hub-token")).to_contain_text(t("train.token_kept"))
        expect(page.locator("#plan .panel")).to_have_count(0)
        page.goto(page.url.replace("/train", "/runs"))
        page.go_back()
        expect(page.locator("#hub-token")).to_contain_text(t("train.token_kept"))
        expect(page.locator("#plan .panel")).to_have_count(0)
        assert page.locator("#hub-token input").input_value() == ""
        stored = page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert hub.write_token not in stored and door.VISITOR not in stored
        assert [p for p in home.root.rglob("*") if p.is_file() and hub.write_token.encode() in p.read_bytes()] == []

        page.goto(page.url.split("/train")[0])  # rows that only the token opens
        page.get_by_role("button", name=t("data.change"), exact=True).first.click()
        page.locator("#hub-data").locator("input, textarea").fill("user-a/rows")
        page.locator("#hub-data").locator("input, textarea").press("Enter")
        expect(page.locator("#row")).to_contain_text("What is a quay?")
        page.close()  # its timer would start another count
        end_processes(home)
