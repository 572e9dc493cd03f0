"""`python -m tests.train.killed FOLDER EVERY`: kill a run, or a merge, at every EVERYth write of a save, each time in a fresh copy.

FOLDER is a run's; with `jobs/merge` in it that is what is killed, else the training, once its first save point is there. One process loads
the libraries and forks: a child that ends itself with SIGKILL at its n-th write, and for a training a second one, which goes on. One JSON
line for each: {n, at, killed, damaged, points, folders, resumed, folder}; the last has no `at`: that child came to its end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_ui.home import read_json, write_json
from lora_ui.worker import checkpoints, load, merge, prepare, train, trainer  # noqa: F401 - before the forks
from lora_ui.worker.job import Job
from tests.train import inside

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "ctypes.dlsym")


def die_at(n: int, folder: Path, merging: bool, log: Path) -> None:
    """SIGKILL at the n-th change on the disk that belongs to a save; names it in `log` first."""
    seen, armed, fsync = 0, merging, os.fsync
    ours = ("merged",) if merging else (str(folder / "checkpoints"), "adapter")

    def count(event: str, path: str) -> None:
        nonlocal seen, armed
        armed = armed or bool(checkpoints.points(folder / "checkpoints"))
        if armed and (event == "ctypes.dlsym" or any(part in path for part in ours)):
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


def contents(folder: Path) -> str | None:
    """A digest of all names and bytes; None when there is no such folder."""
    files = {p.name: hashlib.sha256(_bytes(p)).hexdigest() for p in sorted(folder.iterdir())} if folder.is_dir() else None
    return hashlib.sha256(json.dumps(files).encode()).hexdigest() if files is not None else None


def _bytes(path: Path) -> bytes:
    if path.name != "adapter_config.json":
        return path.read_bytes()
    told = read_json(path)
    return json.dumps({**told, "target_modules": sorted(told["target_modules"])}).encode()  # PEFT writes this set in any order


def copied(template: Path, n: int) -> Path:
    folder = template.with_name(f"killed-{n}")
    shutil.copytree(template, folder)
    for path in (folder / "job.json", folder / "jobs/merge/job.json"):
        if told := read_json(path):
            params = {**told["params"], "run_id": folder.name}
            write_json(path, {**told, "id": folder.name, "run_id": folder.name, "params": params})
    return folder


def sweep(template: Path, every: int) -> None:
    n, merging = 1, (template / "jobs/merge").is_dir()
    while True:
        folder = copied(template, n)
        log = folder / "killed-at.txt"

        def killed(n: int = n, folder: Path = folder, log: Path = log) -> None:
            die_at(n, folder, merging, log)
            if merging:
                merge.run(Job(folder / "jobs/merge"))
            else:
                inside.train(folder)

        status = forked(killed)
        told: dict[str, Any] = {"n": n, "at": None, "killed": status, "folder": str(folder)}
        told["folders"] = {name: contents(folder / name) for name in ("adapter", "merged")}
        if status:
            told["at"] = log.read_text()
            points = [checkpoints.damage(point) for point in checkpoints.points(folder / "checkpoints")]
            told |= {"points": len(points), "damaged": [str(problem) for problem in points if problem]}
            if not merging:
                told["resumed"] = forked(lambda folder=folder: inside.train(folder))
        print(json.dumps(told), flush=True)
        if not status:
            return
        n += every


if __name__ == "__main__":
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sweep(Path(sys.argv[1]), int(sys.argv[2]))
