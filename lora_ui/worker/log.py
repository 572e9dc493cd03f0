"""What a worker says: into its job's `log.txt`, line by line, without secrets, never more than two files of LIMIT bytes.

The executor opened the file as descriptors 1 and 2, so what C code prints lands there too. A log that cannot be written (the disk is
full) ends nothing.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

LIMIT = 8_000_000
LONGEST_LINE = 20_000


class Log(io.TextIOBase):
    """Takes the place of sys.stdout and sys.stderr."""

    def __init__(self, path: Path, clean: Callable[[str], str]):
        self.path, self.clean = path, clean
        self._rest = ""
        self._lock = threading.RLock()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._say(line)
            while len(self._rest) > LONGEST_LINE:
                self._say(self._rest[:LONGEST_LINE])
                self._rest = self._rest[LONGEST_LINE:]
        return len(text)

    def flush(self) -> None:
        """Nothing waits but an unfinished line: half a secret is not recognised as one."""

    def end(self) -> None:
        with self._lock:
            if self._rest:
                self._say(self._rest)
            self._rest = ""

    def _say(self, line: str) -> None:
        if len(line) > LONGEST_LINE:
            line = line[:LONGEST_LINE] + " …"
        try:
            if os.fstat(1).st_size > LIMIT:
                self._turn()
            os.write(1, (self.clean(line) + "\n").encode("utf-8", "replace"))
        except OSError:
            pass  # a full disk: the work is worth more than this line

    def _turn(self) -> None:
        """The file so far becomes `log.1.txt`, in the place of an older one; unless the output goes elsewhere."""
        if not self.path.exists() or not os.path.samestat(os.fstat(1), os.stat(self.path)):
            return
        os.replace(self.path, self.path.with_name("log.1.txt"))
        fresh = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(fresh, 1)
        os.dup2(fresh, 2)
        os.close(fresh)
        os.write(1, b"(What was said before this is in log.1.txt.)\n")


def take_over(path: Path, clean: Callable[[str], str]) -> Log:
    """From now on whatever Python prints goes through `clean` into `path`."""
    log = Log(path, clean)
    sys.stdout = sys.stderr = log
    return log
