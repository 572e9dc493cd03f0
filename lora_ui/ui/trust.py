"""What a browser may name as data. Its memory is the visitor's to write: a path in it would read any file of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_ui import errors
from lora_ui.data import sources
from lora_ui.data.uploads import PREFIX
from lora_ui.home import Home
from lora_ui.jobs import Jobs


def source(home: Home, named: str) -> str:
    """`named` itself if every line of it is the example, an upload, a dataset on the Hub, or what a run here was given from the
    terminal. Raises DataNotFound."""
    given = {job.params["settings"]["data"]["source"] for job in Jobs(home.database).all("train")}
    if named in given:
        return named
    for line in named.splitlines() or [""]:
        on_the_hub = sources.hub_name(line) and not Path(line).expanduser().exists()  # a path that is there would be taken first
        if not (line == "example" or line.startswith(PREFIX) or on_the_hub):
            raise errors.DataNotFound(name=line)
    return named


def changes(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings from a browser's memory without those that name data."""
    group = {key: value for key, value in settings.get("data", {}).items() if key not in ("source", "held_out_source")}
    return {**{key: value for key, value in settings.items() if key != "data"}, **({"data": group} if group else {})}
