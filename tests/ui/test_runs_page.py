"""The Runs page: what its cards say in every state, and what a ticking page must leave alone."""

import math
import re
import shutil
import sys

import pytest
from playwright.sync_api import expect

from lora_ui import errors, runs
from lora_ui.home import write_json
from lora_ui.jobs import Jobs
from lora_ui.ui import charts, run, run_cards
from lora_ui.ui import runs as runs_page
from tests.ui import made

HOSTILE = made.HOSTILE
ESCAPED = "&lt;b&gt;${alert(1)}&lt;/b&gt;"


# cards


def test_every_state_has_its_sentence_in_both_languages(home, t):
    for state, id in made.every_state(home).items():
        shown = runs.show(home, id)
        assert run_cards.truth(t, shown) and run_cards.result(t, shown), state
        card = run_cards.card(t, shown, runs.curves(home, id)["loss"])
        assert f'href="/runs?run={id}"' in card and t(f"state.{shown['state']}") in card


def test_a_hostile_name_is_only_ever_text(home, t):
    shown = runs.show(home, made.running(home, HOSTILE))
    for drawn in (
        run_cards.card(t, shown, []),
        run_cards.head(t, shown),
        run_cards.settings(t, shown),
        run_cards.facts(t, {**shown, "data": {**shown["data"], "name": HOSTILE}}),
    ):
        assert "<b>$" not in drawn
    assert ESCAPED in run_cards.card(t, shown, []) and ESCAPED in run_cards.head(t, shown)
    assert HOSTILE not in str(run_cards.live(t, shown, [])) and HOSTILE not in run_cards.news(t, shown)


def test_phases_behind_are_timed_and_the_current_one_is_marked(home, t):
    drawn = run_cards.phases(t, runs.show(home, made.running(home)))
    states = re.findall(r'<li class="(\w+)">', drawn)
    assert states == ["done"] * 5 + ["now", "ahead"]
    assert f'{t("runs.phase.import")}<span class="num"> {t("time.seconds", n=6)}' in drawn
    ended = run_cards.phases(t, runs.show(home, made.ended(home, "finished")))
    assert re.findall(r'<li class="(\w+)">', ended) == ["done"] * 7


def test_a_run_says_how_much_of_the_machine_it_uses(home, t):
    known = runs.show(home, made.running(home))
    assert known["peak_share"] == 0.31
    assert t("runs.peak_share", n=31) in run_cards.progress(t, known)
    assert t("runs.speed", n=120) in run_cards.progress(t, {**known, "peak_share": None})


def test_the_verdict_is_as_plain_when_training_did_not_help(home, t):
    better, worse = (runs.show(home, made.ended(home, "finished", best=best)) for best in (1.2, 2.9))
    assert run_cards.verdict(t, better) == t("runs.better", base="2.38", now="1.17")
    assert run_cards.verdict(t, worse).startswith(t("runs.worse", base="2.38", now="2.64")[:10])
    assert run_cards.verdict(t, {**better, "eval_loss": {"base": 2.0, "best": 2.001, "last": 2.001}}) == t(
        "runs.equal", base="2.00", now="2.00"
    )
    assert run_cards.verdict(t, {**better, "eval_loss": {"base": None, "best": None, "last": None}}) == ""


def test_the_time_left_is_a_range_at_first(t):
    early = {"state": "running", "step": 3, "total_steps": 69, "eta_seconds": 600}
    assert run_cards.left(t, early) == t("runs.left_range", low=7, high=14)
    assert run_cards.left(t, {**early, "step": 40, "eta_seconds": 240}) == t("runs.left", time=t("time.minutes", n=4))
    assert run_cards.left(t, {**early, "eta_seconds": None}) == ""
    assert run_cards.exact(t, 520) == t("runs.minutes_seconds", m=8, s=40)


@pytest.mark.parametrize(
    ("error", "change"),
    [
        (errors.OutOfMemory(device="the GPU", step=8, detail="full"), {"per_device_train_batch_size": 1}),
        (errors.LossDiverged(step=8, kept=""), {"learning_rate": 1e-4}),
    ],
)
def test_a_known_failure_offers_its_fix(home, t, error, change):
    id = made.ended(home, "failed", step=8, error=error)
    write_json(home.run(id) / "decided.json", {**made.DECIDED, "training.learning_rate": {"value": 1e-4, "reason": "half"}})
    shown = runs.show(home, id)
    switches = run._switches(t, shown)
    assert switches["fix"]["visible"] and switches["fix"]["variant"] == "primary" and switches["go_on"]["variant"] == "secondary"
    mended = run.FIXES[error.kind][1](shown)
    assert {k: v for k, v in mended["training"].items() if shown["settings"]["training"][k] != v} == change
    memory = run._draft(home, {"run": id}, shown, mended)
    assert memory["settings"]["training"].items() >= change.items() and memory["source"] == "example" and memory["run"] == id


@pytest.mark.parametrize("state", ["stopped", "interrupted"])
def test_what_is_said_to_be_kept_is_there(home, t, state):
    id = made.ended(home, state, step=40)
    shutil.rmtree(home.run(id) / "adapter", ignore_errors=True)
    told = {"step": "40", "total": str(made.STEPS)}
    assert run_cards.truth(t, runs.show(home, id)) == t(f"runs.truth.{state}_lost", **told)
    (home.run(id) / "checkpoints" / "step-000020").mkdir(parents=True)
    assert run_cards.truth(t, runs.show(home, id)) == t(f"runs.truth.{state}_kept", **told)
    assert not run_cards.next_steps(t, runs.show(home, id))
    (home.run(id) / "adapter").mkdir()
    assert f'href="/chat?run={id}"' in run_cards.next_steps(t, runs.show(home, id))


def test_a_token_is_asked_for_where_one_can_mend_it(home, t):
    died = errors.WorkerDied(how="signal 9", detail="", kept="")
    for error, asks in ((errors.TokenMissing(), True), (errors.GatedModel(name="a/b"), True), (died, False)):
        shown = runs.show(home, made.ended(home, "interrupted", step=8, error=error))
        assert run._switches(t, shown)["token"]["visible"] is asks


def test_every_state_has_at_most_one_filled_button(home, t):
    for state, id in made.every_state(home).items():
        shown = runs.show(home, id)
        switches = run._switches(t, shown)
        filled = [name for name in ("go_on", "fix") if switches[name]["visible"] and switches[name]["variant"] == "primary"]
        filled += ["link"] * run_cards.next_steps(t, shown).count("primary")
        assert len(filled) == (0 if state in ("running", "queued", "second") else 1), state


def test_a_run_that_ended_is_read_again_when_its_row_changes_and_a_living_one_always(home):
    ended, living = made.ended(home, "stopped", "calm-owl", step=40), made.running(home)
    there, points = runs_page.read(home)
    assert [(entry["id"], len(points[entry["id"]])) for entry in there] == [(living, 43), (ended, 40)]
    made.beat(home, living, 50)
    runs.rename(home, ended, "tidy-newt")
    there, _ = runs_page.read(home)
    assert [(entry["name"], entry["step"]) for entry in there] == [(runs.show(home, living)["name"], 50), ("tidy-newt", 40)]
    (home.run(ended) / "metrics.jsonl").unlink()
    assert runs_page.read(home)[1][ended]
    Jobs(home.database).resume(ended)
    there, points = runs_page.read(home)
    assert there[1]["state"] == "queued" and points[ended] == []


def test_more_runs_on_the_list_ask_the_table_no_more_often(home):
    asked = []
    sys.addaudithook(lambda event, args: asked.append(args) if event == "sqlite3.connect" and home.database in args else None)
    counts = []
    for _ in range(2):
        for _ in range(5):
            made.ended(home, "finished")
        runs_page._ENDED.clear()
        asked.clear()
        assert len(runs_page.read(home)[0]) in (5, 10)
        counts.append(len(asked))
    assert counts[0] == counts[1] > 0


# curves


def test_smoothing_starts_at_the_first_point_and_follows_the_mean():
    points = [(float(n), 2.0 + (-1) ** n) for n in range(200)]
    smooth = charts.smooth(points)
    assert smooth[0] == points[0] and len(smooth) == 200
    assert all(abs(value - 2.0) < 0.2 for _, value in smooth[60:])
    assert charts.smooth(points[:5]) == points[:5]  # a short run is shown as it is


def test_a_long_run_is_thinned_and_keeps_its_spikes():
    points = [(float(n), 1.0) for n in range(5000)]
    points[3333] = (3333.0, 9.0)
    table = charts.frame({charts.TRAINING: points}, {charts.TRAINING: HOSTILE}, "step", "loss", "curve")
    assert len(table) <= 300 and table["loss"].max() == 9.0 and set(table["curve"]) == {HOSTILE}
    assert list(charts.frame({}, {}, "step", "loss", "curve").columns) == ["step", "loss", "curve"]


def test_the_axis_ends_on_a_round_number_with_little_room():
    for steps in (1, 7, 10, 11, 69, 130, 999, 1234, 50_000):
        end = charts.nice_end(steps)
        assert steps <= end <= max(1, steps * 1.1) + 1e-9
    assert charts.nice_end(69) == 70 and charts.nice_end(995) == 1000


def test_held_out_is_drawn_last_and_the_base_is_a_level_line():
    curves = {"loss": [(1, 2.0), (2, 1.5)], "eval_loss": [(0, 2.2), (2, 1.6)]}
    series = charts.loss_series(curves, 2.2, 10, every_step=True)
    assert list(series) == [charts.TRAINING, charts.BASE, charts.HELD_OUT]
    assert series[charts.BASE] == [(0.0, 2.2), (10, 2.2)] and series[charts.HELD_OUT] == curves["eval_loss"]
    assert charts.loss_series({"loss": [], "eval_loss": []}, None, 10, False) == {}


def test_a_sparkline_stays_in_its_box():
    drawn = charts.sparkline([(n, math.sin(n)) for n in range(500)], HOSTILE)
    assert "<b>" not in drawn
    spots = [tuple(map(float, spot.split(","))) for spot in re.search(r'points="([^"]+)"', drawn)[1].split()]
    assert len(spots) <= 60 and all(0 <= x <= 120 and 0 <= y <= 28 for x, y in spots)
    assert charts.sparkline([(1, 2.0)], "") == ""


# in the browser


@pytest.mark.browser
def test_the_list_shows_every_state_and_changes_in_place(home, app_of, visit):
    made_runs = made.every_state(home)
    served = app_of(home)
    page, t = visit()
    page.goto(f"{served.url}/runs")
    cards = page.locator("a.run-card")
    expect(cards).to_have_count(8)
    expect(page.locator(".run-list")).to_contain_text(HOSTILE)
    card = page.locator(f'[data-run="{made_runs["running"]}"]')
    card.focus()
    for step in (46, 49, 52):
        made.beat(home, made_runs["running"], step)
        expect(card.get_by_role("progressbar")).to_have_attribute("aria-valuenow", str(100 * step // made.STEPS))
    assert page.evaluate("document.activeElement.dataset.run") == made_runs["running"]
    lines = page.locator(".lu-run-line")
    expect(lines.first).to_contain_text("rust-wren")
    page.get_by_role("button", name=t("runs.run_next")).click()
    expect(lines.first).to_contain_text("noble-ibis")
    card.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("quiet-otter")
    page.go_back()
    expect(cards).to_have_count(8)


@pytest.mark.browser
def test_ticks_leave_folds_focus_scroll_and_layout_alone(home, app_of, visit):
    id = made.running(home, "quiet-otter")
    (home.run(id) / "log.txt").write_text("".join(f"line {n}\n" for n in range(900)))
    served = app_of(home)
    page, t = visit()
    page.goto(f"{served.url}/runs?run={id}")
    page.get_by_text(t("runs.fold.log"), exact=True).click()
    log = page.locator("#log textarea")
    expect(log).to_have_value(re.compile("line 899"))
    assert len(log.input_value().splitlines()) == 500
    log.evaluate("box => { box.scrollTop = 120 }")
    page.locator("#stop").focus()
    top = page.locator("#fold-settings").bounding_box()["y"]
    for step in (44, 45, 46):
        made.beat(home, id, step)
        with open(home.run(id) / "log.txt", "a") as file:
            file.write(f"step {step}\n")
        expect(page.locator(".run-words")).to_contain_text(t("runs.step_of", step=step, total=made.STEPS))
        expect(log).to_have_value(re.compile(f"step {step}"))
    assert log.is_visible() and log.evaluate("box => box.scrollTop") == 120
    assert page.evaluate("document.activeElement.id") == "stop"
    assert page.locator("#fold-settings").bounding_box()["y"] == top
    assert page.title().startswith("66 % · quiet-otter")


@pytest.mark.browser
def test_delete_goes_to_the_trash_and_back(home, app_of, visit):
    id = made.ended(home, "finished", HOSTILE)
    served = app_of(home)
    page, t = visit(width=390, height=844, language="zh", dark=True)
    page.goto(f"{served.url}/runs?run={id}")
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    page.get_by_text(t("runs.fold.more"), exact=True).click()
    page.locator("#name textarea, #name input").fill("calm-owl")
    page.locator("#rename").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("calm-owl")
    with page.expect_download() as recipe:
        page.locator("#recipe").click()
    assert recipe.value.suggested_filename == f"{id}.yaml" and "learning_rate" in recipe.value.path().read_text()
    page.locator("#delete").click()
    expect(page.locator("body")).to_contain_text(t("runs.delete_ask", name="calm-owl"))
    page.locator("#to-trash").click()
    page.wait_for_url("**/*runs?moved=*")
    expect(page.locator(".note")).to_have_text(t("runs.moved", name="calm-owl"))
    assert runs.list_runs(home) == [] and runs.show(home, id)["adapter_path"]
    page.goto(f"{served.url}/runs?trash")
    expect(page.get_by_role("button", name=t("runs.restore"))).to_be_visible()
    page.goto(f"{served.url}/runs?moved={id}")
    page.locator("#undo").click()
    page.wait_for_url(f"**/*runs?run={id}")
    assert [entry["id"] for entry in runs.list_runs(home)] == [id]
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")


@pytest.mark.browser
def test_a_wrong_address_and_an_empty_list_are_sentences(home, app_of, visit):
    served = app_of(home)
    page, t = visit()
    page.goto(f"{served.url}/runs")
    expect(page.locator(".empty")).to_contain_text(t("runs.none"))
    page.goto(f"{served.url}/runs?run=../../etc")
    page.locator(".panel").get_by_role("link", name=t("runs.see_all")).click()
    expect(page.locator(".empty")).to_contain_text(t("runs.none"))


@pytest.mark.browser
def test_before_the_first_step_there_is_a_sentence_and_no_empty_chart(home, app_of, visit):
    busy, waiting = made.running(home, step=20), made.submit(home).id
    served = app_of(home)
    page, t = visit()
    page.goto(f"{served.url}/runs?run={waiting}")
    expect(page.locator(".block.lu-blank")).to_have_text(t("runs.no_points"))
    assert not page.locator("#curve-loss, #every-step").filter(visible=True).count()
    page.goto(f"{served.url}/runs?run={busy}")
    expect(page.locator("#curve-loss canvas, #curve-loss svg").first).to_be_visible()
    expect(page.locator(".block.lu-blank")).to_be_hidden()


@pytest.mark.browser
def test_a_lost_token_is_asked_for_once_and_kept_nowhere(home, app_of, visit):
    id = made.ended(home, "interrupted", step=0, error=errors.TokenMissing())
    served = app_of(home)
    page, _ = visit()
    page.goto(f"{served.url}/runs?run={id}")
    canary = "hf_canary0123456789"
    page.locator("#resume-token input").fill(f' "{canary}" ')
    page.locator("#continue").click()
    expect(page.locator("#resume-token")).to_be_hidden()
    assert Jobs(home.database).get(id).params["token_handle"]
    stored = page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie]) + document.body.innerHTML")
    assert canary not in stored
    assert [path for path in home.root.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()] == []


@pytest.mark.browser
def test_a_token_is_forgotten_also_when_going_on_is_refused(home, app_of, visit):
    id = made.ended(home, "interrupted", step=0, error=errors.TokenMissing())
    served = app_of(home)
    page, _ = visit()
    page.goto(f"{served.url}/runs?run={id}")
    page.locator("#resume-token input").fill("hf_canary0123456789")
    Jobs(home.database).resume(id)  # from another page meanwhile
    page.locator("#continue").click()
    expect(page.locator(".panel").filter(visible=True).first).to_be_visible()
    expect(page.locator("#resume-token input")).to_have_value("")
