"""Limits on other people's code: how much processor time and memory rendering one row may take."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 2.0
"""Of processor time for a short row; a long one gets more in proportion."""
MEMORY = 2 * 2**30
_LAST_RESORT = 20
"""Seconds after which the system ends the process: some single operations (a huge power) hear no signal."""


class TooMuch(Exception):
    """The time is used up."""


@contextmanager
def limited_memory(extra: int = MEMORY) -> Iterator[None]:
    """At most `extra` bytes of address space beyond what the process uses now; more is a MemoryError. Linux only."""
    if sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    wanted = now + extra if before[1] == resource.RLIM_INFINITY else min(now + extra, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (wanted, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Raises TooMuch after `seconds` of processor time (a busy machine does not count). Main thread only."""

    def stop(*_: object) -> None:
        raise TooMuch

    cpu = resource.getrlimit(resource.RLIMIT_CPU)
    last = int(time.process_time() + seconds + _LAST_RESORT)
    resource.setrlimit(resource.RLIMIT_CPU, (last if cpu[1] == resource.RLIM_INFINITY else min(last, cpu[1]), cpu[1]))
    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_CPU, cpu)
