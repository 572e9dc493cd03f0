"""Fixtures for all tests."""

from tests.hub_fixture import standin_hub
from tests.running import home, tiny, until

__all__ = ["home", "standin_hub", "tiny", "until"]
