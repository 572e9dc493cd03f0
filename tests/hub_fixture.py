"""The `standin_hub` fixture. huggingface_hub reads most of its settings once, at import: they are set here, before it is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
    os.environ.pop(name, None)

import pytest  # noqa: E402

from tests.standin_hub import StandinHub  # noqa: E402


@pytest.fixture
def standin_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandinHub]:
    """A running stand-in Hub that this process' `lora_ui.hub` and every subprocess (own HF_HOME) talk to.

    Direct calls of huggingface_hub in the same process need `HfApi(endpoint=standin_hub.url)`.
    """
    with StandinHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
        yield hub
