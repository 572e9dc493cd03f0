"""`python -m tests.train.killed RUN_FOLDER EVERY`: kill a run at every EVERYth write of a save, each time in a fresh copy, then resume it.

One process loads the libraries and forks: a child that ends itself with SIGKILL at its n-th write below `checkpoints/` or `adapter`, once
its first save point is there; then a child that goes on. One JSON line
for each: {n, at, killed, damaged, points, adapter, resumed, folder}; the last has no `at`: that child came to its end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_ui.home import read_json, write_json
from lora_ui.worker import checkpoints, load, prepare, train, trainer  # noqa: F401 - before the forks
from tests.train import inside

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "ctypes.dlsym")


def die_at(n: int, folder: Path, log: Path) -> None:
    """SIGKILL at the n-th change on the disk that belongs to a save; names it in `log` first."""
    seen, armed, fsync = 0, False, os.fsync

    def count(event: str, path: str) -> None:
        nonlocal seen, armed
        armed = armed or bool(checkpoints.points(folder / "checkpoints"))
        if armed and (event == "ctypes.dlsym" or str(folder / "checkpoints") in path or "adapter" in path):
            seen += 1
            if seen == n:
                log.write_text(f"{event} {path.removeprefix(str(folder))}")
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if (event == "open" and args[2] and args[2] & (os.O_WRONLY | os.O_RDWR) and log.name not in str(args[0])) or event in CHANGES:
            count(event, str(args[0]))

    def synced(fd: int) -> None:
        count("fsync", str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    os.fsync = synced
    sys.addaudithook(hook)


def forked(work: Callable[[], None]) -> int:
    """The child's exit status."""
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr
        try:
            work()
            os._exit(0)
        except BaseException as e:
            print(type(e).__name__, e, file=sys.stderr)
            os._exit(1)
    return os.waitpid(child, 0)[1]


def sweep(template: Path, every: int) -> None:
    n = 1
    while True:
        folder = template.with_name(f"killed-{n}")
        shutil.copytree(template, folder)
        write_json(folder / "job.json", {**read_json(folder / "job.json"), "id": folder.name})
        log = folder / "killed-at.txt"

        def killed(n: int = n, folder: Path = folder, log: Path = log) -> None:
            die_at(n, folder, log)
            inside.train(folder)

        status = forked(killed)
        if status == 0:
            print(json.dumps({"n": n, "at": None}), flush=True)
            return
        points = [checkpoints.damage(point) for point in checkpoints.points(folder / "checkpoints")]
        damaged = [str(problem) for problem in points if problem]
        adapter = sorted(p.name for p in (folder / "adapter").iterdir()) if (folder / "adapter").exists() else None
        resumed = forked(lambda folder=folder: inside.train(folder))
        told = {"n": n, "at": log.read_text(), "killed": status, "damaged": damaged, "points": len(points), "adapter": adapter}
        print(json.dumps({**told, "resumed": resumed, "folder": str(folder)}), flush=True)
        n += every


if __name__ == "__main__":
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sweep(Path(sys.argv[1]), int(sys.argv[2]))
