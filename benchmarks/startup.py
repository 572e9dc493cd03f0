"""How long until the page answers, as a multiple of `import gradio` alone. Promise: at most 2. Prints one line."""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5


def import_seconds() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import gradio"], check=True)
    return time.monotonic() - began


def page_seconds(home: Path) -> float:
    """From starting the process to the first answer with code 200. The supervisor is alive already, as it is after a first start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    app = subprocess.Popen([sys.executable, "app.py", "--port", str(port), "--home", str(home)], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/", timeout=10, trust_env=False, follow_redirects=True).status_code == 200:
                    return time.monotonic() - began
            except httpx.TransportError:
                time.sleep(0.01)
    finally:
        app.terminate()
        app.wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        import_seconds(), page_seconds(home)  # warm the page cache
        pairs = [(import_seconds(), page_seconds(home)) for _ in range(ROUNDS)]
        (home / "supervisor.lock").unlink()  # sends the supervisor home
        ratios = sorted(page / alone for alone, page in pairs)
        alone, page = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"page up {page:.2f} s, import gradio {alone:.2f} s: ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
