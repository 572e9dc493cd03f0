"""This machine as data: GPUs, memory, cores, disk, versions. NVML and psutil, no torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil
import pynvml

GIB = 1024**3


@dataclass(frozen=True)
class Gpu:
    uuid: str
    name: str
    memory_bytes: int
    free_bytes: int
    capability: tuple[int, int]
    """CUDA compute capability; bf16 needs (8, 0)."""


@dataclass(frozen=True)
class Machine:
    device: str
    """cuda, mps or cpu: what a run will use."""
    name: str
    cores: int
    """CPU cores this process may use (affinity and container quota)."""
    memory_bytes: int
    free_bytes: int
    bf16_is_fast: bool
    """On a CPU: AMX is there. Without it bf16 runs at half the speed of fp32 (measured, benchmarks/RESULTS.md)."""
    gpus: list[Gpu] = field(default_factory=list)

    @property
    def dtype(self) -> str:
        """The number format a run calculates in."""
        if self.device == "cuda":
            return "bfloat16" if not self.gpus or self.gpus[0].capability >= (8, 0) else "float16"
        return "bfloat16" if self.device == "cpu" and self.bf16_is_fast else "float32"

    @property
    def whole_bytes(self) -> int:
        """Memory that a run can have to itself: the smallest GPU's, since any may be lent to it, else the machine's."""
        return min((gpu.memory_bytes for gpu in self.gpus), default=self.memory_bytes)

    @property
    def leases(self) -> list[str]:
        """One per device that a job can hold: `gpu:<uuid>`, `mps` or `cpu`."""
        return [f"gpu:{gpu.uuid}" for gpu in self.gpus] or [self.device]


def look() -> Machine:
    """Ask the machine now. Takes a few milliseconds."""
    gpus = _gpus()
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    memory = psutil.virtual_memory()
    limit = _container_memory()
    total = min(memory.total, limit) if limit else memory.total
    return Machine(
        device="cuda" if gpus else "mps" if apple else "cpu",
        name=gpus[0].name if gpus else _cpu_name(),
        cores=usable_cores(),
        memory_bytes=total,
        free_bytes=min(memory.available, total),
        bf16_is_fast="amx_bf16" in _cpu_flags(),
        gpus=gpus,
    )


def _gpus() -> list[Gpu]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            capability = tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle))
            found.append(
                Gpu(pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle), int(memory.total), int(memory.free), capability)
            )
        return found
    finally:
        pynvml.nvmlShutdown()


def usable_cores() -> int:
    """Cores by affinity, lowered to the container's CPU quota where there is one; at least 1."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: affinity is all there is to know
    return cores


def _container_memory() -> int | None:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return None if text == "max" else int(text)
    except (OSError, ValueError):
        return None


@cache
def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1] for line in lines if line.startswith(("flags", "Features"))), "").split())


@cache
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def oom_kills() -> int:
    """How many processes the kernel has killed for memory so far, in this process' group where that is counted, else on the machine;
    0 where nobody counts."""
    for path in (*_memory_groups(), Path("/proc/vmstat")):
        try:
            words = [line.split() for line in path.read_text().splitlines()]
        except OSError:
            continue
        for name, *count in words:
            if name == "oom_kill":
                return int(count[0])
    return 0


def _memory_groups() -> list[Path]:
    """This process' control group, version 2 or 1."""
    try:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    root, found = Path("/sys/fs/cgroup"), []
    for _, controllers, path in lines:
        if controllers == "memory":
            found.append(root / "memory" / path.lstrip("/") / "memory.oom_control")
        elif not controllers:
            found += [root / path.lstrip("/") / "memory.events", root / "memory.events"]
    return found


def boot_id() -> str:
    """Changes with every start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))


def process_start(pid: int) -> float | None:
    """When the process started (seconds since the epoch), or None when it is gone or a zombie: with the pid, its identity."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def versions() -> dict[str, str]:
    """Installed versions of the stack, read from metadata without importing it."""
    names = ("torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "accelerate", "gradio", "huggingface_hub", "pydantic")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}
