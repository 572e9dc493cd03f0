"""The shell from outside: a real server is asked over raw HTTP, with the headers a hostile page would make a browser send."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
import uvicorn
import yaml

from lora_ui import errors
from lora_ui.home import REPOSITORY
from lora_ui.ui import app as ui
from lora_ui.ui import door, shell, theme
from lora_ui.ui.data_parts import Upload
from lora_ui.ui.words import Words

HOSTILE = "<b>${alert(1)}</b>{{x}}"


class App:
    """`app.py` as its own process."""

    def __init__(self, home: Path, *flags: str, **environment: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SPACE_", "LORA_UI_"))}
        self.process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(self.port), "--home", str(home), *flags],
            cwd=REPOSITORY, env={**clean, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if line.startswith("LoRA UI is at"):
                break

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": f"127.0.0.1:{self.port}", **given}.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        answer.text = answer.read().decode("utf-8", "replace")  # type: ignore[attr-defined]
        return answer

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    running = App(tmp_path_factory.mktemp("home"))
    yield running
    running.close()


def test_all_pages_answer_in_both_languages(app: App) -> None:
    for address, chinese in door.CHINESE.items():
        english = app.ask(address, Accept_Language="en-US,en;q=0.9")
        assert english.status == 200
        moved = app.ask(address + "?run=x-1", Accept_Language="zh-CN,zh;q=0.9")
        assert (moved.status, moved.getheader("location")) == (303, chinese + "?run=x-1")
        assert app.ask(chinese, Accept_Language="zh-CN").status == 200
        assert app.ask(chinese, Accept_Language="en").getheader("location") == address


def test_the_switch_wins_over_the_browser_and_keeps_the_rest_of_the_address(app: App) -> None:
    switched = app.ask("/runs?run=x-1&lang=zh", Accept_Language="en")
    assert switched.getheader("location") == "/zh-runs?run=x-1"
    cookie = (switched.getheader("set-cookie") or "").split(";")[0]
    assert cookie == "lora-ui-language=zh"
    assert app.ask("/train", Accept_Language="en", Cookie=cookie).getheader("location") == "/zh-train"
    assert app.ask("/zh-train?lang=en", Cookie=cookie).getheader("location") == "/train"


@pytest.mark.parametrize(
    "host", ["evil.com", "evil.com:7860", "127.0.0.1.evil.com", "localhost@evil.com", "", "[::1", "127.0.0.1, evil.com"]
)
def test_a_foreign_host_is_refused(app: App, host: str) -> None:
    assert app.ask("/", Host=host).status == 403
    assert app.ask("/gradio_api/info", Host=host).status == 403


@pytest.mark.parametrize("origin", ["http://evil.com", "null", "http://localhost:1", "https://127.0.0.1.evil.com", "file://"])
def test_a_foreign_origin_cannot_post(app: App, origin: str) -> None:
    for path in ("/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/run/predict", "/login"):
        assert app.ask(path, "POST", b"{}", Origin=origin, Content_Type="application/json").status == 403
    assert app.ask("/gradio_api/upload", "OPTIONS", Origin=origin, Access_Control_Request_Method="POST").status == 403


def test_our_own_origin_may(app: App) -> None:
    own = {"Host": f"localhost:{app.port}", "Origin": f"http://localhost:{app.port}"}
    assert app.ask("/gradio_api/queue/join", "POST", b"{}", Content_Type="application/json", **own).status != 403


def test_two_host_headers_are_refused() -> None:
    from starlette.datastructures import Headers

    two = Headers(raw=[(b"host", b"127.0.0.1"), (b"host", b"evil.com")])
    assert not door.is_ours(two, door.LOOPBACK)


def test_files_of_the_machine_are_not_served(app: App, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    for path in ("/etc/passwd", str(secret), str(REPOSITORY / "app.py")):
        assert app.ask(f"/gradio_api/file={path}").status in (403, 404)


def test_nothing_of_gradio_stands_around(app: App) -> None:
    page = app.ask("/").text  # type: ignore[attr-defined]
    assert '"footer_links":[]' in page
    assert '"run_history":false' in page
    assert '"analytics_enabled":false' in page
    assert app.ask("/monitoring").status in (403, 404)


def test_a_taken_port_is_said_plainly(app: App, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "app.py", "--port", str(app.port), "--home", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert f"Port {app.port} is already in use." in ended.stderr
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "0.0.0.0"], "Refusing to listen on 0.0.0.0 without a password."),
        (["--auth-file", "nowhere.txt"], "The passwords in nowhere.txt cannot be read."),
    ],
)
def test_what_app_refuses(flags: list[str], said: str, tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SPACE_", "LORA_UI_"))}
    ended = subprocess.run(
        [sys.executable, "app.py", "--port", "0", "--home", str(tmp_path), *flags],
        cwd=REPOSITORY, env=clean, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_password_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "auth"
    file.write_text("ann:secret word\n")
    running = App(tmp_path / "home", "--auth-file", str(file))
    try:
        assert '"auth_required":true' in running.ask("/").text  # type: ignore[attr-defined]
        assert running.ask("/gradio_api/queue/join", "POST", b"{}", Content_Type="application/json").status == 401
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        assert running.ask("/login", "POST", b"username=ann&password=wrong", **form).status == 400
        assert running.ask("/login", "POST", b"username=ann&password=secret+word", **form).status == 200
    finally:
        running.close()


def test_a_space_without_a_password_shows_only_how_to_set_one(tmp_path: Path) -> None:
    running = App(tmp_path, SPACE_ID="ann/lora", SPACE_HOST="ann-lora.hf.space")
    try:
        page = running.ask("/", Host="ann-lora.hf.space").text  # type: ignore[attr-defined]
        assert "LORA_UI_AUTH" in page
        assert "Teach a model" not in page
        assert running.ask("/train", Host="ann-lora.hf.space").status == 404
        assert not (tmp_path / "supervisor.lock").exists()
    finally:
        running.close()


def test_the_web_app_loads_no_torch() -> None:
    code = "import sys, lora_ui.ui.app; print([m for m in ('torch', 'transformers', 'datasets', 'peft') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip() == "[]"


# problems on the page


def test_a_problem_shows_other_peoples_text_letter_by_letter() -> None:
    for language in ("en", "zh"):
        drawn = shell.panel(Words(language), errors.DataNotFound(name=HOSTILE), actions=[(HOSTILE, f'/"{HOSTILE}')], report=HOSTILE)
        assert "<b>" not in drawn
        assert drawn.count("&lt;b&gt;${alert(1)}&lt;/b&gt;{{x}}") >= 4


def page_with(fn: Any, outputs: int) -> tuple[Any, Any, list[Any]]:
    """(the guarded handler, the problem's place, its outputs)."""
    with gr.Blocks():
        boxes, place = [gr.Textbox() for _ in range(outputs)], gr.HTML()
    return shell._guarded(fn, boxes, place, Words("en"), clears=True), place, boxes


def test_a_known_failure_becomes_a_panel_and_leaves_the_rest_alone() -> None:
    def fails() -> Any:
        raise errors.EmptyData(name=HOSTILE)

    handler, _, _ = page_with(fails, 2)
    *rest, problem = handler()
    assert rest == [gr.skip(), gr.skip()]
    assert problem["visible"] is True
    assert "is empty." in problem["value"]
    assert "<b>" not in problem["value"]


def test_an_unexpected_exception_becomes_the_same_panel_with_a_report() -> None:
    def fails() -> Any:
        return {}[HOSTILE]

    handler, _, _ = page_with(fails, 1)
    problem = handler()[-1]["value"]
    assert "Something went wrong that this app does not know" in problem
    assert "KeyError" in problem
    assert "Copy report" in problem
    assert "<b>" not in problem


def test_a_stream_that_breaks_keeps_what_it_gave() -> None:
    def streams() -> Iterator[str]:
        yield "one"
        raise errors.ChatUnavailable(detail="gone")

    handler, _, _ = page_with(streams, 1)
    first, last = list(handler())
    assert first[0] == "one"
    assert "does not answer" in last[-1]["value"]


@pytest.mark.parametrize(("given", "outputs"), [(None, 0), ("a", 1), (("a", "b"), 2), (gr.skip(), 2), (gr.update(value="a"), 1)])
def test_success_empties_the_problem_whatever_shape_the_answer_has(given: Any, outputs: int) -> None:
    handler, _, _ = page_with(lambda: given, outputs)
    answered = handler()
    assert len(answered) == outputs + 1
    assert answered[-1]["visible"] is False


def test_an_answer_by_component_keeps_its_shape() -> None:
    def answers() -> dict[Any, Any]:
        return {boxes[1]: "x"}

    handler, place, boxes = page_with(answers, 2)
    answered = handler()
    assert answered[boxes[1]] == "x"
    assert answered[place]["visible"] is False


# looks


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("side", [0, 1])
def test_every_pair_of_colours_that_meets_can_be_read(side: int) -> None:
    colours = {name: pair[side] for name, pair in theme.TOKENS.items()}
    grounds = ("canvas", "surface", "sunken")
    states = ("queued", "running", "finished", "stopped", "failed", "interrupted")
    texts = [(text, ground) for text in ("ink", "ink-2", "accent") for ground in grounds]
    texts += [(state, f"{state}-fill") for state in states] + [
        ("learned-ink", "learned"),
        ("on-accent", "accent"),
        ("on-accent", "accent-hover"),
    ]
    for text, ground in texts:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for line, ground in (("edge", "surface"), ("curve-train", "surface"), ("curve-held-out", "surface"), ("curve-base", "surface")):
        assert contrast(colours[line], colours[ground]) >= 3, (line, ground)


def test_no_selector_in_a_media_query_starts_where_gradio_breaks_it() -> None:
    inside = theme.css().split("@media")[1:]
    assert inside
    assert not any("\n  .gradio-container" in block for block in inside)


def test_the_words_file_is_the_only_place_of_page_words() -> None:
    assert yaml.safe_load((REPOSITORY / "lora_ui" / "ui" / "words.yaml").read_text("utf-8"))["words"]["data.name"] == ["Data", "数据"]


@pytest.mark.parametrize("path", ["/etc/hosts", "/proc/self/environ", "http://127.0.0.1:9/x"])
def test_a_path_that_a_visitor_names_is_never_read(tmp_path: Path, path: str) -> None:
    """What a browser sends after an upload, with a path of this machine in it."""
    running = App(tmp_path / "home")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{running.port}", trust_env=False, timeout=60) as client:
            config = client.get("/config").json()
            event = next(d for d in config["dependencies"] if any(kind == "upload" for _, kind in d["targets"]))
            file = {"path": path, "orig_name": "notes.txt", "meta": {"_type": "gradio.FileData"}}
            data = [file, *[{}] * (len(event["inputs"]) - 1)]
            assert (
                client.post("/gradio_api/queue/join", json={"fn_index": event["id"], "session_hash": "abc", "data": data}).status_code
                == 200
            )
            with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "abc"}) as events:
                heard = next(line for line in events.iter_lines() if "process_completed" in line or "unexpected_error" in line)
        assert '"success":false' in heard.replace(" ", "") or "unexpected_error" in heard
        assert list((tmp_path / "home" / "uploads").iterdir()) == []
    finally:
        running.close()


def test_an_upload_is_never_fetched_from_an_address() -> None:
    with gr.Blocks(), pytest.raises(errors.DataNotFound, match="example"):
        asyncio.run(Upload().async_move_resource_to_block_cache("https://example.org/rows.csv"))


@pytest.fixture
def served() -> Iterator[tuple[gr.Blocks, str]]:
    """A page that forgets as ours do, served by this process, so that its sessions can be counted."""
    with gr.Blocks() as demo:
        gr.State("")
        demo.unload(lambda: ui.forget_closed(demo))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(ui.web(demo, "127.0.0.1", None), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield demo, f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


def test_sessions_of_closed_pages_are_forgotten_but_for_the_last(served: tuple[gr.Blocks, str], monkeypatch: pytest.MonkeyPatch) -> None:
    demo, url = served
    monkeypatch.setattr(ui, "KEPT_CLOSED", 2)
    for number in range(6):
        demo.state_holder[f"page-{number}"]
    for number in (0, 2, 3, 4):
        with httpx.stream("GET", f"{url}/gradio_api/heartbeat/page-{number}", trust_env=False, timeout=20) as beats:
            next(beats.iter_bytes())
    sessions, pause, deadline = demo.state_holder.session_data, threading.Event(), time.monotonic() + 60
    while len(sessions) > 4 and time.monotonic() < deadline:
        pause.wait(0.05)  # nobody sets it
    assert len(sessions) == 4 and {"page-1", "page-5"} <= set(sessions) == set(demo.state_holder.time_last_used)
