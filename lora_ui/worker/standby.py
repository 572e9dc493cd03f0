"""`python -m lora_ui.worker.standby LOG`: load what every job with torch needs, say `ready`, and wait on standard input for one job.

`LOG` only says whose it is. What comes is one line of JSON: the job's folder, how its processes are marked, the Hub token. It is answered
with `mine`, and from there on this process is a worker like any other. When the other end closes instead, it leaves.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import traceback
from pathlib import Path

import numpy  # noqa: F401 - threads that it and pyarrow start keep the priority of the thread that loads them
import pyarrow  # noqa: F401


def main() -> int:
    threading.Thread(target=_prepare, daemon=True).start()
    try:
        line = sys.stdin.readline()
    except ConnectionResetError:
        line = ""
    if not line:
        os._exit(0)  # whoever started it is gone, having heard `ready` or not
    told = json.loads(line)
    folder = Path(told["folder"])
    os.environ[told["mark"][0]] = told["mark"][1]
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.write(0, b"mine\n")
    from lora_ui.worker.__main__ import main as work

    return work(folder, told["token"])


def _prepare() -> None:
    """In a thread of its own, because a low priority cannot be given back."""
    try:
        if sys.platform == "linux":  # elsewhere it would be the whole process'
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        load()
        os.write(0, b"ready\n")
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def load() -> None:
    """Everything that a job loads before its first step."""
    import bitsandbytes  # noqa: F401
    import torch  # noqa: F401

    from lora_ui.worker import __main__, attention, chat, merge, prepare, push, train, trainer  # noqa: F401


if __name__ == "__main__":
    faulthandler.enable()
    os._exit(main())
