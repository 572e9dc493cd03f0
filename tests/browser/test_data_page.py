"""The Data page with a file that has something wrong: its findings' buttons, the picture of its lengths, pasted text, several files."""

import csv
import json
import os
import re

import pytest
from playwright.sync_api import expect

from lora_ui import data, errors, settings
from lora_ui.home import Home
from tests.tiny import tiny_model
from tests.ui.made import HOSTILE

pytestmark = pytest.mark.browser

COUNTED = 120_000
"""Milliseconds in which the token count of a small file is there."""
LOOKS = [(1280, "zh", True), (390, "en", False)]


def harbour(path):
    """30 rows: 5 and 9 repeat row 1, row 12 holds a key, row 20 is far too long, row 25 has no answer."""
    rows = [(f"Where do I find the {n}th rope of {n * n} {HOSTILE}?", f"In shed {n}, behind {n + 7} barrels.") for n in range(1, 31)]
    rows[4] = rows[8] = rows[0]
    rows[11] = ("What is the key?", "It is AKIAIOSFODNN7EXAMPLE, and the password: hunter2hunter2.")
    rows[19] = ("Tell me everything.", " ".join(f"Quay {n} is long." for n in range(400)))
    rows[24] = ("And this one?", "")
    with path.open("w", newline="") as f:
        csv.writer(f).writerows([("question", "answer"), *rows])
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return harbour(tmp_path_factory.mktemp("data") / "harbour.csv")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def report(file, tmp_path_factory):
    """What the reader finds in the file, by code."""
    found = data.load(Home.open(tmp_path_factory.mktemp("home") / "home"), str(file)).report["findings"]
    return {finding["code"]: finding for finding in found}


def finding(page, words):
    return page.locator(".lu-finding", has_text=words)


def pictured(page, name):
    """What the page looks like now, to look at by hand."""
    if folder := os.environ.get("LORA_UI_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def sideways(page) -> int:
    return page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")


def with_small_model(page, t, app, model, length="96"):
    """The base model is chosen on the Train page, with the example; the Data page counts its tokens."""
    page.goto(app.url)
    expect(page).to_have_title(f"{t('data.name')} · LoRA UI")  # the page listens from here on
    page.locator("#example").click()
    expect(page.locator("#row")).to_contain_text("What is LoRA UI?")
    page.goto(app.url + "/train")
    expect(page.locator("#start")).to_be_enabled()
    page.locator("#base-model input").fill(model)
    page.locator("#base-model input").press("Enter")
    expect(page.locator("#plan")).to_contain_text("126,016")
    box = page.locator("#set-training-max_length input").first
    box.fill(length)
    box.press("Tab")
    title = next(t.field(field)[0] for field in settings.fields() if field.key == "training.max_length")
    expect(page.locator("body")).to_contain_text(t("train.changed", what=title))
    page.goto(app.url)


def bring(page, t, file):
    """In place of what is there."""
    expect(page.locator("#row")).to_be_visible()
    page.get_by_role("button", name=t("data.change"), exact=True).first.click()
    page.locator("#upload input[type=file]").set_input_files(file)
    expect(page.locator("#row")).to_be_visible()


@pytest.mark.parametrize(("width", "language", "dark"), LOOKS)
def test_a_finding_shows_its_rows_and_leaves_them_out(app, visit, file, small, report, width, language, dark):
    page, t = visit(width=width, height=844, language=language, dark=dark)
    with_small_model(page, t, app, small)
    bring(page, t, file)
    expect(page.locator("body")).to_contain_text(t("data.ready", n=29))
    expect(page.locator("body")).to_contain_text(t("data.tokens_hint"), timeout=COUNTED)

    page.get_by_text(t("data.lengths"), exact=True).click()
    picture = page.locator("#lengths svg")
    expect(picture).to_have_attribute("aria-label", re.compile(r"^96 .*96\.5 %"))
    expect(picture.locator("line.limit")).to_have_count(1)
    assert picture.bounding_box()["height"] == 208

    repeated = finding(page, t.say(report["duplicate"]["message"]))
    for row in (5, 9, 5):  # on through its rows, and from the start again
        repeated.get_by_role("button", name=t("data.show_rows")).click()
        expect(page.locator("#row")).to_contain_text(t("data.where", row=row, at=row, n=29))
    page.locator("#next-row").click()
    expect(page.locator("#row")).to_contain_text(t("data.where", row=6, at=6, n=29))
    wanted = page.locator("#go-to-row").locator("input, textarea")
    wanted.fill("26")
    wanted.press("Enter")
    expect(page.locator("#row")).to_contain_text(t("data.where", row=26, at=25, n=29))
    wanted.fill("25")
    wanted.press("Enter")
    expect(page.locator(".panel")).to_contain_text(t.error(errors.NoSuchRow(row=25))["message"])
    gone = finding(page, t.say(report["empty_answer"]["message"]))
    expect(gone.get_by_role("button")).to_have_count(0)

    with page.expect_download() as saved:
        page.get_by_role("button", name=t("data.report"), exact=True).click()
    assert "AKIA" not in (kept := saved.value.path().read_text("utf-8")) and t.say(report["secret"]["message"]) in kept
    with page.expect_download() as saved:
        page.get_by_role("button", name=t("data.report_json"), exact=True).click()
    kept = json.loads(saved.value.path().read_text("utf-8"))
    assert (saved.value.suggested_filename, kept["kept"], kept["tokens"]["trained"] > 0) == ("report.json", 29, True)

    repeated.get_by_role("button", name=t("data.leave_out", n=2)).click()
    chosen = finding(page, t("data.kind_of.duplicate"))
    expect(chosen.get_by_role("button", name=t("data.use_again"))).to_be_focused()
    expect(page.locator("body")).to_contain_text(t("data.ready", n=27))
    chosen.get_by_role("button", name=t("data.show_rows")).click()
    expect(page.locator("#row")).to_contain_text(t("data.severity.drop"), timeout=COUNTED)
    page.get_by_text(t("data.view_tokens"), exact=True).click()
    expect(page.locator("#row")).to_contain_text(t("data.view_left_out"))
    assert sideways(page) <= 0

    page.reload()
    expect(page.locator("body")).to_contain_text(t("data.ready", n=27))
    finding(page, t("data.kind_of.duplicate")).get_by_role("button", name=t("data.use_again")).click()
    expect(page.locator("body")).to_contain_text(t("data.ready", n=29))
    expect(finding(page, t.say(report["duplicate"]["message"]))).to_be_visible()


def test_training_follows_what_is_left_out_until_other_data_comes(app, visit, file, small, report):
    page, t = visit()
    with_small_model(page, t, app, small)
    bring(page, t, file)
    finding(page, t.say(report["secret"]["message"])).get_by_role("button", name=t("data.leave_out", n=1)).click()
    page.locator("#finding-too_long").get_by_role("button", name=t("data.leave_out", n=1)).click()
    expect(page.locator("body")).to_contain_text(t("data.ready", n=27), timeout=COUNTED)
    page.locator("#use-data").click()
    page.wait_for_url(re.compile("train"))
    expect(page.locator("#start")).to_be_enabled()
    rounds = page.locator("#set-training-num_train_epochs").get_by_role("textbox")
    rounds.fill("2")
    rounds.press("Tab")
    expect(page.locator("#plan")).to_contain_text(re.compile(r"2[0-9] rows are learned in 2 rounds"))
    page.get_by_text(t("train.command"), exact=True).click()
    expect(page.locator("body")).to_contain_text('data.leave_out=["secret", "too_long"]')
    page.goto(app.url)
    bring(page, t, harbour(file.with_name("other.csv")))
    expect(page.locator("body")).to_contain_text(t("data.ready", n=29))


@pytest.mark.parametrize(("width", "language", "dark"), [(390, "en", True), (1280, "zh", False)])
def test_rows_are_trimmed_and_as_they_were_again(app, visit, small, tmp_path, width, language, dark):
    chats = [[("user", f"Is pier {n} free?"), ("assistant", f"Pier {n} is free.")] for n in range(1, 13)]
    chats[3][1] = ("assistant", "  Pier 4 is free.\n\n\n")
    chats[6][1] = ("assistant", "\nPier 7 is free.")
    chats[8] += [("user", "Thank you.")]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps({"messages": [{"role": r, "content": c} for r, c in chat]}) + "\n" for chat in chats))
    page, t = visit(width=width, height=844, language=language, dark=dark)
    with_small_model(page, t, app, small)
    bring(page, t, file)
    expect(page.locator("body")).to_contain_text(t("data.ready", n=11))
    last, blank, row = page.locator("#finding-last_turn"), page.locator("#finding-whitespace"), page.locator("#row")
    expect(blank.get_by_role("button", name=t("data.leave_out", n=2))).to_be_visible()

    last.get_by_role("button", name=t("data.trim", n=1)).click()
    expect(page.locator("body")).to_contain_text(t("data.ready", n=12))
    expect(row).to_contain_text(t("data.where", row=9, at=9, n=12))
    expect(row).not_to_contain_text("Thank you.")
    blank.get_by_role("button", name=t("data.trim", n=2)).click()
    expect(blank).to_contain_text(t("data.severity.trimmed"))
    expect(last).to_contain_text(t("data.severity.trimmed"))
    expect(blank.get_by_role("button", name=t("data.leave_out", n=2))).to_have_count(0)
    expect(row).to_contain_text(t("data.where", row=4, at=4, n=12))
    assert page.locator("#row .row-view mark").inner_text() == "  Pier 4 is free."  # indented by two: it may be meant
    for at, number in ((1, 4), (2, 7)):
        blank.get_by_role("button", name=t("data.show_rows")).click()
        expect(row).to_contain_text(t("data.of_finding", at=at, n=2))
        expect(row).to_contain_text(t("data.where", row=number, at=number, n=12))
    page.get_by_text(t("data.view_reading"), exact=True).click()
    expect(row).to_contain_text("assistant\nPier 7 is free.<|im_end|>", timeout=COUNTED)
    assert sideways(page) <= 0
    pictured(page, f"trimmed-{language}")

    page.reload()
    expect(page.locator("body")).to_contain_text(t("data.ready", n=12))
    page.locator("#use-data").click()
    page.wait_for_url(re.compile("train"))
    expect(page.locator("#start")).to_be_enabled()
    page.get_by_text(t("train.command"), exact=True).click()
    expect(page.locator("body")).to_contain_text('data.trim=["last_turn", "whitespace"]')
    page.goto(app.url)
    blank.get_by_role("button", name=t("data.untrim")).click()
    expect(blank.get_by_role("button", name=t("data.trim", n=2))).to_be_visible()
    expect(row).to_contain_text(t("data.where", row=4, at=4, n=12))
    assert page.locator("#row .row-view mark").inner_text().startswith("  Pier 4 is free.\n")
    last.get_by_role("button", name=t("data.untrim")).click()
    expect(page.locator("body")).to_contain_text(t("data.ready", n=11))


def test_columns_are_joined_by_hand_and_remembered(app, visit, small, tmp_path):
    page, t = visit()
    with_small_model(page, t, app, small)
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text(
            "head,tail,verdict\n" + "".join(f"{name} {n},lies <b>in</b> dock {n},Seen {n}.\n" for n in range(5))
        )
    expect(page.locator("#row")).to_be_visible()
    page.get_by_role("button", name=t("data.change"), exact=True).first.click()
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "one.csv")
    said = t.error(errors.ColumnsNotRecognised(name="one.csv", columns="head, tail, verdict"))
    expect(page.locator(".panel")).to_contain_text(said["message"])
    for role, spec in (("user", "{head}: {tail}"), ("assistant", "verdict")):
        box = page.locator(f"#role-{role} input")
        box.fill(spec)
        box.press("Enter")
        box.press("Tab")
    expect(page.locator("#columns .card")).to_contain_text("one 0: lies <b>in</b> dock 0")
    expect(page.locator("#columns .card")).to_contain_text("Seen 0.")
    pictured(page, "columns")
    page.locator("#read-columns").click()
    expect(page.locator("#row")).to_contain_text("one 0: lies <b>in</b> dock 0")
    expect(page.locator(".facts-head")).to_contain_text(t("data.format.by_hand"))

    bring(page, t, tmp_path / "two.csv")
    expect(page.locator("#row")).to_contain_text("two 0: lies <b>in</b> dock 0")
    expect(page.locator(".facts-head")).to_contain_text("You chose these columns for an earlier file")
    page.get_by_text(t("data.columns"), exact=True).click()
    expect(page.locator("#role-user input")).to_have_value("{head}: {tail}")
    page.get_by_role("button", name=t("data.column_recognised"), exact=True).click()
    expect(page.locator(".panel")).to_contain_text(
        t.error(errors.ColumnsNotRecognised(name="two.csv", columns=""))["message"].split(":")[0]
    )


def test_a_base_model_without_a_chat_format_offers_two(app, visit, tmp_path):
    page, t = visit(width=390, height=844)
    with_small_model(page, t, app, str(tiny_model(tmp_path / "bare", template=None)))
    file = tmp_path / "few.csv"
    file.write_text("question,answer\nIs it far?,No.\nIs it near?,Yes.\nIs it wet?,Yes.\n")
    bring(page, t, file)
    plain = page.get_by_role("radio", name=t("data.layout_plain"))
    plain.check(timeout=COUNTED)
    page.get_by_text(t("data.view_reading"), exact=True).click()
    expect(page.locator("#row .row-view")).to_contain_text("User: Is it far?\nAssistant: No.", timeout=COUNTED)
    assert sideways(page) <= 0
    page.reload()
    expect(plain).to_be_checked(timeout=COUNTED)
    expect(page.locator("#finding-other-0")).to_contain_text("saved with the adapter")


@pytest.mark.parametrize(("width", "language", "dark"), [(1280, "en", True), (390, "zh", False)])
def test_pasted_text_and_several_files_become_rows(app, visit, small, tmp_path, width, language, dark):
    page, t = visit(width=width, height=844, language=language, dark=dark)
    with_small_model(page, t, app, small)
    page.get_by_role("button", name=t("data.change"), exact=True).first.click()
    page.get_by_text(t("data.paste"), exact=True).click()
    read = page.get_by_role("button", name=t("data.paste_read"), exact=True)
    read.click()
    expect(page.locator(".panel")).to_contain_text(t.error(errors.EmptyData(name=t("data.paste_name")))["message"])
    page.reload()
    expect(page).to_have_title(f"{t('data.name')} · LoRA UI")
    page.get_by_text(t("data.paste"), exact=True).click()
    page.locator("#paste-text textarea").fill(f"question\tanswer\nWhat is {HOSTILE}?\tA name.\nAnd a pier?\tA place to land.\n")
    assert sideways(page) <= 0
    read.click()
    expect(page.locator("#row")).to_contain_text(f"What is {HOSTILE}?")
    expect(page.locator("body")).to_contain_text(t("data.ready", n=2))
    expect(page.locator(".panel")).to_have_count(0)

    files = [tmp_path / name for name in ("one.csv", "two.csv")]
    for n, path in enumerate(files):
        path.write_text("question,answer\n" + "".join(f"What is {n} and {i}?,It is {'well ' * 3 * i}{n + i}.\n" for i in range(20)))
    bring(page, t, files)
    expect(page.locator("body")).to_contain_text("one.csv + two.csv")
    expect(page.locator("body")).to_contain_text(t("data.ready", n=40))
    page.get_by_text(t("data.lengths"), exact=True).click()
    expect(page.locator("#lengths rect.kept").first).to_be_visible(timeout=COUNTED)
    assert sideways(page) <= 0
    page.reload()
    expect(page.locator("body")).to_contain_text(t("data.ready", n=40))
    page.get_by_text(t("data.lengths"), exact=True).click()
    expect(page.locator("#lengths rect.cut").first).to_be_visible(timeout=COUNTED)


TICK = re.compile(r'"data":\[null,null,null,"\d*"\]')
"""What the Data page's timer sends: three states that stay with the server, and the turn that is shown."""


def test_the_count_waits_for_what_the_browser_still_waits_for(app, visit, file, small):
    """The answer that shows the data comes late: the timer, which is faster, must not draw the count before it."""
    page, t = visit()
    with_small_model(page, t, app, small)
    bring(page, t, file)
    expect(page.locator("body")).to_contain_text(t("data.tokens_hint"), timeout=COUNTED)
    page.get_by_role("button", name=t("data.change"), exact=True).first.click()
    page.route("**/gradio_api/queue/data**", lambda route: held.append(route) if holding else route.continue_())
    held, holding = [], [True]
    with page.expect_request("**/gradio_api/queue/data**"):
        page.locator("#upload input[type=file]").set_input_files(file)
    for _ in range(3):
        page.wait_for_event("response", lambda answer: bool(TICK.search(answer.request.post_data or "")))
    holding.clear()
    for route in held:
        route.continue_()
    expect(page.locator("body")).to_contain_text(t("data.ready", n=29))
    expect(page.locator("body")).to_contain_text(t("data.tokens_hint"))


def test_a_view_chosen_before_the_count_is_drawn_when_the_count_is_there(app, visit, file, small):
    page, t = visit()
    with_small_model(page, t, app, small)
    held, holding = [], [True]

    def hold(route):
        """The timer's questions wait."""
        if holding and TICK.search(route.request.post_data):
            held.append(route)
        else:
            route.continue_()

    page.route("**/gradio_api/run/**", hold)
    bring(page, t, file)
    page.get_by_text(t("data.view_reading"), exact=True).click()
    expect(page.locator("#row")).to_contain_text(t("data.view_wait"))
    page.locator("#next-row").click()
    expect(page.locator("#row")).to_contain_text(t("data.where", row=2, at=2, n=29))
    holding.clear()
    for request in held:
        request.continue_()
    expect(page.locator("#row")).to_contain_text("<|im_end|>", timeout=COUNTED)
    expect(page.locator("#row")).to_contain_text(t("data.where", row=2, at=2, n=29))
