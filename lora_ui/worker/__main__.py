"""`python -m lora_ui.worker JOB_DIR`: do one job, write `outcome.json` last, leave.

Every executor runs this same command. Output goes to the log file that the executor opened.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

KINDS = ("prepare", "train", "merge", "push", "chat")


def main(folder: Path) -> int:
    from lora_ui import errors, hub
    from lora_ui.home import write_json
    from lora_ui.worker.job import Job, Stopped, token_from_stdin

    job = Job(folder, token_from_stdin())
    job.stop_on_sigterm()
    job.beat()
    job.keep_beating()
    state, error, result = "finished", None, None
    try:
        if job.kind not in KINDS:
            raise ValueError(job.kind)
        result = importlib.import_module(f"lora_ui.worker.{job.kind}").run(job)
    except Stopped as e:
        state, result = "stopped", (e.args[0] if e.args else None)
    except errors.LoraUIError as e:
        state, error = "failed", e.as_dict()
    except MemoryError as e:
        state, error = (
            "failed",
            errors.OutOfMemory(device="this machine", step="?", detail=hub.redact(str(e)) or "The memory is full.").as_dict(),
        )
    except Exception as e:
        state, error = "failed", {**_explain(e), "traceback": hub.redact(traceback.format_exc())}
    if error:
        print(hub.redact(traceback.format_exc()), file=sys.stderr, flush=True)
    job.phase("ended")
    phases = {k: round(v, 3) for k, v in job.phases.items()}
    write_json(folder / "outcome.json", {"state": state, "error": error, "result": result, "phases": phases, "time": time.time()})
    return 0 if state in ("finished", "stopped") else 1


def _explain(e: Exception) -> dict[str, Any]:
    """Known causes that reach us as ordinary exceptions: a full GPU and a full disk. The rest is a bug of ours, and said so."""
    import errno

    from lora_ui import errors, hub

    said = hub.redact(f"{type(e).__name__}: {e}".strip())
    if type(e).__name__ == "OutOfMemoryError":
        return errors.OutOfMemory(device="the GPU", step="?", detail=said.split(". ")[0] + ".").as_dict()
    if isinstance(e, OSError) and e.errno == errno.ENOSPC:
        return errors.DiskFull(needed="more", free="0", where=str(e.filename or "the home folder")).as_dict()
    return errors.Bug(detail=said[:400]).as_dict()


if __name__ == "__main__":
    faulthandler.enable()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    sys.exit(main(Path(sys.argv[1])))
