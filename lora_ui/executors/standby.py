"""A worker that has loaded the libraries and waits for the next job, so that it begins at once.

It is a process of its own, started (never forked) with the very environment that the job will have: what libraries and graphics driver
read once, as they are loaded, is right from the start. It is used by a job of the same environment and of the same code on disk, or
ended. It leaves by itself when the supervisor is gone, because the other end of its standard input closes with it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import psutil

from lora_ui import machine
from lora_ui.home import REPOSITORY

MARK = "LORA_UI_JOB"
"""In the environment of a worker and all it starts: its job folder. By this they are found, whatever session they are in."""
BORN = ".standby"
"""In the folder of a job that a standby does: the mark with which it was born, which no process can change."""
SWITCH = "LORA_UI_STANDBY"
"""In the supervisor's environment: `on` or `off`; else there is one where there is a GPU."""
START_BYTES, STAY_BYTES = 4 * machine.GIB, 2 * machine.GIB
"""Free memory with which one is started, and with less than which it is ended."""
ANSWER_SECONDS = 2.0


class Standby:
    def __init__(self, environment: dict[str, str], log: Path):
        """`log`: where it says what goes wrong while it loads. Raises OSError."""
        self.environment, self._code, self._ready = environment, code(), False
        self._mark = f"standby-{secrets.token_hex(8)}"
        self._channel, theirs = socket.socketpair()
        with theirs, open(log, "wb") as said:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "lora_ui.worker.standby", str(log)],
                stdin=theirs.fileno(),
                stdout=said,
                stderr=said,
                cwd=REPOSITORY,
                env=environment | {MARK: self._mark},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def alive(self) -> bool:
        return self._child.poll() is None

    def ready(self) -> bool:
        """Whether everything is loaded."""
        try:
            self._ready = self._ready or self._channel.recv(16, socket.MSG_DONTWAIT) == b"ready\n"
        except OSError:
            pass  # nothing said yet, or gone
        return self._ready

    def take(self, environment: dict[str, str], folder: Path, token: str | None) -> subprocess.Popen[bytes] | None:
        """Its process, which does the job of `folder` from now on. None when it does not suit or does not answer: then it is gone, and
        nothing has been done in the folder that a worker that died would not have done."""
        if self.ready() and self.environment == environment and self._code == code():
            try:
                (folder / BORN).write_text(self._mark)
                self._channel.settimeout(ANSWER_SECONDS)
                self._channel.sendall(json.dumps({"folder": str(folder), "mark": [MARK, str(folder)], "token": token}).encode() + b"\n")
                if self._channel.recv(16) == b"mine\n":
                    self._channel.close()
                    return self._child
            except OSError:
                pass  # killed, frozen, or no room on the disk
        self.end()
        return None

    def end(self) -> None:
        """It holds no work: nothing is lost."""
        self._child.kill()
        self._child.wait()
        self._channel.close()


def wanted(lease: str) -> bool:
    said = os.environ.get(SWITCH)
    return said == "on" or (said != "off" and lease.startswith("gpu:"))


def room(there: bool) -> bool:
    """Whether free memory allows one to stay that is there, or to be started."""
    return psutil.virtual_memory().available >= (STAY_BYTES if there else START_BYTES)


def code() -> list[tuple[str, int, int]]:
    """What a worker that is started now would load: our files, and when packages were last added or removed."""
    ours = sorted((REPOSITORY / "lora_ui").rglob("*.py"))
    libraries = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in (*ours, *libraries) if path.exists()]
