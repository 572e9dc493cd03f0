"""The Chat page: two answers at once, other people's text letter by letter, stop, retry, edit, and what survives a reload."""

import json
import os
import threading

import pytest
from playwright.sync_api import expect

from lora_ui import errors, machine, runs
from lora_ui.jobs import Jobs
from lora_ui.ui import answering, chat, conversation
from tests.ui import made

SPEAKERS = {"base": "base", "yours": "run-1"}


def turn(ask="Why?", **answers):
    return {
        "ask": ask,
        "answers": {
            pane: {"text": text, "speed": 12.3, "tokens": 3, "model": SPEAKERS[pane], "state": "done"} for pane, text in answers.items()
        },
    }


def test_other_peoples_text_is_only_ever_text(t):
    hostile = made.HOSTILE + "<img src=x onerror=alert(2)> &lt;i&gt;\n  two  spaces"
    titles = {"base": made.HOSTILE, "run-1": made.HOSTILE}
    drawn = conversation.draw(t, [{**turn(hostile, base=hostile, yours=hostile), "wanted": hostile}], SPEAKERS, titles, "", hostile)
    assert "<b>$" not in drawn and "<img" not in drawn
    assert drawn.count("&amp;lt;i&amp;gt;\n  two  spaces") == 4


def test_a_heading_names_the_model_that_the_worker_says_has_answered(t):
    swapped = turn(base="x", yours="y")
    swapped["answers"]["yours"]["model"] = "base"
    drawn = conversation.draw(t, [swapped], SPEAKERS, {"base": "The base", "run-1": "The run"}, "")
    assert drawn.count('<h3 class="answer-title">The base') == 1 and drawn.count('<h3 class="answer-title other">The base') == 1


def test_each_model_reads_its_own_answers():
    turns = [turn("one", base="b1", yours="y1"), turn("two", base="b2"), {"ask": "three", "answers": {}}]
    read = {pane: [m["content"] for m in conversation.messages(turns, pane, "Be kind.")] for pane in SPEAKERS}
    assert read == {"base": ["Be kind.", "one", "b1", "two", "b2", "three"], "yours": ["Be kind.", "one", "y1", "three"]}
    assert conversation.messages([{"ask": "a", "answers": {}}], "base", " ")[0]["role"] == "user"


def test_two_streams_come_as_one_and_both_end_when_it_is_stopped():
    gate, closed, stopping = threading.Event(), [], threading.Event()

    def speak(name, endless):
        try:
            yield {"text": name}
            while endless:
                gate.wait(0.001)
                yield {"text": "."}
        finally:
            closed.append(name)

    found = [news for news in conversation.merged({"a": speak("a", False), "b": speak("b", False)}, stopping) if news]
    assert sorted(found, key=str) == [("a", {"text": "a"}), ("b", {"text": "b"})] and sorted(closed) == ["a", "b"]
    for _ in conversation.merged({"a": speak("a", True), "b": speak("b", True)}, stopping):
        stopping.set()
    for thread in threading.enumerate():
        if thread.name.startswith("answer-"):
            thread.join(5)
    assert sorted(closed) == ["a", "a", "b", "b"]


def test_a_question_asked_before_the_browser_has_stored_the_last_answer_loses_nothing():
    first = {"ask": "One?", "answers": {}}
    assert answering._turns({"run": "run-1", "turns": [first]}, {}, "run-1@60") == [first]
    assert answering._turns({"run": "run-2", "turns": [first]}, {"runs": {"run-1": []}}, "run-1") == []
    assert answering._turns({}, {"runs": {"run-1": [first]}}, "run-1") == [first]


def test_a_stream_that_fails_says_so():
    def broken():
        yield {"text": "so far"}
        raise errors.ChatUnavailable(detail="it died")

    with pytest.raises(errors.ChatUnavailable):
        list(conversation.merged({"a": broken()}, threading.Event()))


def test_only_runs_with_an_adapter_can_be_talked_with(home, t):
    ids = made.every_state(home)
    assert {id for _, id in chat.choices(home, t)} == {ids["finished"], ids["worse"], ids["stopped"], "starter"}
    shown = runs.show(home, ids["finished"])
    assert chat.points(t, home, shown) == [(t("chat.point.best", step=60), ids["finished"])]
    assert chat.points(t, home, {**shown, "saved_step": 69})[0][0] == t("chat.point.last", step=69)
    assert chat.points(t, home, {**shown, "saved_step": None})[0][0] == t("chat.point.kept")  # it went on and died before its end
    assert answering.speakers("starter", "both") == {"base": "base"}
    assert answering.speakers("run-1", "yours") == {"yours": "run-1"}


@pytest.mark.browser
@pytest.mark.train
def test_asking_stopping_editing_and_coming_back(home, tiny, until, app_of, visit):
    job = runs.start(home, tiny(), None, name=made.HOSTILE)
    until(job.id)
    served = app_of(home)
    page, t = visit()
    page.goto(f"{served.url}/chat?run={job.id}")
    expect(page.locator(".pane-title").nth(1)).to_have_text(t("chat.yours_title", name=made.HOSTILE))
    held_out = chat.held_out_questions(home, runs.show(home, job.id))
    assert len(held_out) == 3
    learned = (home.dataset(runs.show(home, job.id)["prepare"]["digest"]) / "prepared").rglob("train.parquet")
    assert next(learned, None) is not None
    expect(page.locator("#chip-0")).to_contain_text(held_out[0]["ask"])
    page.get_by_text(t("chat.expert"), exact=True).click()
    page.locator("#chat-longest input[type=number]").fill("16")  # the tiny model never ends by itself and reads 512 tokens
    page.locator("#chat-longest input[type=number]").press("Tab")
    page.locator("#chip-0").click()
    expect(page.locator("#panes [data-act=retry]")).to_have_count(2, timeout=120_000)
    expect(page.locator("#panes footer").get_by_text("tokens/s")).to_have_count(2)
    expect(page.locator(".wanted")).to_contain_text(held_out[0]["wanted"])

    kept = page.evaluate("localStorage['lora-ui-chats']")
    page.locator("#ask textarea").fill(made.HOSTILE)
    page.locator("#ask textarea").press("Enter")
    expect(page.locator(".ask .text").nth(1)).to_have_text(made.HOSTILE)
    expect(page.locator("#panes [data-act=retry]")).to_have_count(2, timeout=120_000)
    page.wait_for_function("before => localStorage['lora-ui-chats'] !== before", arg=kept)
    stored = page.evaluate("localStorage['lora-ui-chat-draft']")
    page.locator("#ask textarea").fill("half a que")
    page.wait_for_function("before => localStorage['lora-ui-chat-draft'] !== before", arg=stored)
    said = page.locator(".conversation").inner_text()
    page.reload()
    expect(page.locator(".turn")).to_have_count(2)
    assert page.locator(".conversation").inner_text() == said
    expect(page.locator("#ask textarea")).to_have_value("half a que")
    page.locator("[data-act=edit]").first.click()
    expect(page.locator("#ask textarea")).to_have_value(held_out[0]["ask"])
    page.locator("#ask textarea").fill("Another?")
    page.locator("#ask textarea").press("Enter")
    expect(page.locator(".turn")).to_have_count(1)
    expect(page.locator("#panes [data-act=retry]")).to_have_count(2, timeout=120_000)
    assert json.dumps(made.HOSTILE) not in page.content()

    there = chat.points(t, home, runs.show(home, job.id))
    assert len(there) > 1 and there[0][1] == job.id
    page.locator("#chat-point input").click()
    page.get_by_role("option", name=there[-1][0], exact=True).click()
    expect(page.locator(".pane-title").nth(1)).to_have_text(t("chat.yours_point", name=made.HOSTILE, step=there[-1][1].split("@")[1]))
    expect(page.locator(".answer-title.other:visible")).to_have_text(t("chat.yours_title", name=made.HOSTILE))
    page.locator("#panes [data-act=retry]").first.click()
    expect(page.locator(".answer-title.other:visible")).to_have_count(0)
    expect(page.locator("#panes [data-act=retry]")).to_have_count(2, timeout=120_000)
    assert len(Jobs(home.database).all("chat")) == 1

    too_long = ("river " * 600).strip()
    page.locator("#ask textarea").fill(too_long)
    page.locator("#ask textarea").press("Enter")
    expect(page.locator(".panel .what")).to_contain_text("512")
    expect(page.locator("#ask textarea")).to_have_value(too_long)
    expect(page.locator(".turn")).to_have_count(1)
    page.reload()
    expect(page.locator(".turn")).to_have_count(1)
    expect(page.locator("#panes [data-act=retry]")).to_have_count(2)


@pytest.mark.browser
def test_while_a_run_holds_the_machine_a_question_waits_and_can_be_taken_back(home, app_of, visit):
    id, busy, jobs = made.ended(home, "finished"), made.submit(home, made.HOSTILE).id, Jobs(home.database)
    jobs.claim(machine.look().leases)
    jobs.started(busy, os.getpid(), machine.process_start(os.getpid()), machine.boot_id())
    served = app_of(home)
    page, t = visit()
    page.goto(f"{served.url}/chat?run={id}")
    said = answering.busy(home, t)
    assert made.HOSTILE in said
    expect(page.locator(".note:visible")).to_have_text(said)
    box, leave = page.locator("#ask textarea"), page.locator("#leave")

    box.fill("Why?")
    box.press("Enter")
    expect(page.locator(".answer.yours")).to_contain_text(t("chat.wait.queue", n="?").split("?")[0])
    leave.click()
    expect(leave).to_be_hidden()
    assert [job.state for job in jobs.all("chat")] == ["stopped"]

    box.fill("Why?")  # Esc stops it too, but not while one types the next question
    box.press("Enter")
    expect(leave).to_be_visible()
    page.evaluate(
        "document.querySelector('#ask [data-testid=stop-button]').addEventListener('click', () => { window.stops = (window.stops || 0) + 1 })"
    )
    box.fill("What?")
    box.press("Escape")
    box.press("?")
    assert page.evaluate("[window.stops, document.querySelector('#keys').open]") == [None, False]
    box.fill("")
    box.press("Escape")
    assert page.evaluate("window.stops") == 1
    expect(leave).to_be_hidden()
    assert [job.state for job in jobs.all("chat")] == ["stopped", "stopped"]


@pytest.mark.browser
def test_a_question_mark_lists_the_keys(home, app_of, visit):
    served = app_of(home)
    page, t = visit()
    page.goto(f"{served.url}/ship")
    expect(page.locator(".empty")).to_be_visible()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_contain_text(t("shell.keys.stop"))
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.get_by_role("button", name=t("shell.keys")).click()
    page.get_by_role("button", name=t("shell.close")).click()
    expect(page.locator("#keys")).to_be_hidden()


@pytest.mark.browser
def test_with_nothing_trained_there_is_one_sentence_and_one_button(home, app_of, visit):
    served = app_of(home)
    page, t = visit(width=390, height=844, language="zh")
    page.goto(f"{served.url}/chat")
    expect(page.locator(".empty")).to_contain_text(t("chat.nothing"))
    page.get_by_role("link", name=t("chat.nothing_action")).click()
    expect(page.locator(".pane-heads, .conversation").first).to_be_attached()
    expect(page.locator("#ask textarea")).to_be_visible()
