"""Two apps on one home and a third on another, all real processes: one supervisor a home, one run a request, and nobody harms anybody."""

import itertools
import json
import subprocess
import sys

import httpx
import psutil
import pytest

from lora_ui import runs, supervisor
from lora_ui.home import REPOSITORY
from lora_ui.jobs import ENDED, Jobs
from tests.browser.conftest import App
from tests.running import end_processes, tiny_settings
from tests.worker.working import until

pytestmark = pytest.mark.train
NO_HUB = "http://127.0.0.1:9"


@pytest.fixture
def apps(tmp_path):
    there = [App(tmp_path / name, NO_HUB) for name in ("home", "home", "other")]
    yield there
    for app in there:
        app.kill()
        end_processes(app.home)


def supervisors(home):
    there = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return sum(line[-2:] == ["lora_ui.supervisor", str(home.root)] for line in there)


def answers(app):
    return httpx.get(app.url, follow_redirects=True, trust_env=False).status_code == 200


ASKS = "import sys, json; from lora_ui import runs; from lora_ui.home import Home; print(runs.start(Home.open(sys.argv[1]), json.loads(sys.argv[2]), 'the same').id)"


def ask(home, raw):
    """A request from a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", ASKS, str(home.root), json.dumps(raw)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )


def test_two_apps_on_one_home_and_one_on_another_do_not_harm_each_other(apps, tmp_path):
    one, two, elsewhere = apps
    assert [supervisors(app.home) for app in (one, elsewhere)] == [1, 1]
    watching = supervisor.living(elsewhere.home)

    settings = tiny_settings(tmp_path)
    raw, short = settings(max_steps=200, save_steps=100, logging_steps=50), settings(max_steps=2)
    said = [asked.communicate(timeout=120)[0].strip() for asked in [ask(one.home, raw) for _ in range(3)]]
    assert len(set(said)) == 1
    line = [said[0], runs.start(one.home, short, "another").id]
    apart = runs.start(elsewhere.home, short, "the same").id
    assert apart not in line and [job.id for job in Jobs(elsewhere.home.database).all()] == [apart]

    until(lambda: runs.job(one.home, line[0])["phase"] == "train", 240)
    pid = Jobs(one.home.database).get(line[0]).pid
    one.kill()
    assert answers(two) and answers(elsewhere) and psutil.pid_exists(pid)
    for app, ids in ((two, line), (elsewhere, [apart])):
        until(lambda app=app, ids=ids: all(Jobs(app.home.database).get(id).state in ENDED for id in ids), 240)
        there = [Jobs(app.home.database).get(id) for id in ids]
        assert [(job.state, job.attempt, job.interruptions) for job in there] == [("finished", 1, [])] * len(ids)
        assert all(before.ended <= after.started for before, after in itertools.pairwise(there))
    assert len(Jobs(one.home.database).all()) == len(line)
    assert [supervisors(app.home) for app in (two, elsewhere)] == [1, 1] and supervisor.living(elsewhere.home) == watching
