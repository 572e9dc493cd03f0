"""What was rescued, and the fold "Disk space" in a real browser: sizes, the trash, the switch; on a phone and in the dark, too."""

import json
import re

import pytest
from playwright.sync_api import expect

from lora_ui import rescue, runs
from lora_ui.ui import runs as runs_page
from tests.ui import made

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("language", "width", "dark"), [("en", 1280, False), ("zh", 390, True)])
def test_the_trash_is_emptied_after_a_question_and_the_switch_is_kept(home, app_of, visit, language, width, dark):
    kept, gone = made.ended(home, "finished", "calm-owl"), made.ended(home, "finished", "tidy-newt")
    runs.delete(home, gone)
    page, t = visit(width=width, language=language, dark=dark)
    page.goto(f"{app_of(home).url}/runs")
    page.get_by_role("button", name=t("space.title")).click()
    expect(page.locator("table.facts")).to_contain_text(t("space.trash"))
    page.locator("#empty-trash").click()
    page.locator("#keep-trash").click()
    page.locator("#empty-trash").click()
    page.locator("#empty-sure").click()
    expect(page.locator("#empty-trash")).to_be_hidden()
    expect(page.locator("table.facts")).to_contain_text(re.compile(re.escape(t("space.trash")) + r"\s*0 B"))
    assert not home.run(gone).exists() and home.run(kept).exists()
    switch = page.get_by_label(t("space.goes_on"))
    expect(switch).to_be_checked()
    switch.uncheck()
    expect(page.locator(".panel")).to_have_count(0)
    page.reload()
    page.get_by_role("button", name=t("space.title")).click()
    expect(page.get_by_label(t("space.goes_on"))).not_to_be_checked()
    assert json.loads(home.preferences.read_text()) == {"goes_on": False}
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize(("language", "width", "dark"), [("en", 1280, False), ("zh", 390, True)])
def test_a_rescued_list_says_what_is_back_and_what_is_lost_until_it_is_read(home, app_of, visit, language, width, dark):
    made.ended(home, "finished", "calm-owl")
    home.database.write_bytes(b"not a database" * 1000)
    for ending in ("-wal", "-shm"):
        home.database.with_name(home.database.name + ending).unlink(missing_ok=True)
    rescue.table(home)
    page, t = visit(width=width, language=language, dark=dark)
    page.goto(f"{app_of(home).url}/runs")
    note = page.locator(".note")
    expect(note).to_contain_text(t("runs.rescued_lost"))
    expect(note).to_contain_text(t("runs.rescued_found", n=1))
    expect(note).to_contain_text(rescue.note(home)["aside"])
    expect(page.locator(".run-list")).to_contain_text("calm-owl")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.locator("#rescued-ok").click()
    expect(note).to_be_hidden()
    expect(page.locator("#rescued-ok")).to_be_hidden()
    page.reload()
    expect(page.locator(".run-list")).to_contain_text("calm-owl")
    expect(note).to_be_hidden()


def test_of_many_runs_the_newest_are_shown_and_the_others_when_asked_for(home, app_of, visit):
    for n in range(runs_page.SHOWN + 5):
        made.ended(home, "finished", f"run-{n}")
    page, t = visit()
    page.goto(f"{app_of(home).url}/runs")
    expect(page.locator(".run-list > li")).to_have_count(runs_page.SHOWN)
    expect(page.locator(".run-list > li").first).to_contain_text(f"run-{runs_page.SHOWN + 4}")
    made.submit(home, "comes while it is open")
    expect(page.locator(".run-list > li").first).to_contain_text("comes while it is open")
    page.get_by_role("link", name=t("runs.older", n=6)).click()
    expect(page.locator(".run-list > li")).to_have_count(runs_page.SHOWN + 6)
    made.submit(home, "comes after that")
    expect(page.locator(".run-list > li")).to_have_count(runs_page.SHOWN + 7)
