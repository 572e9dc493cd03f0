"""Fixtures for all tests."""

from tests.hub_fixture import standin_hub

__all__ = ["standin_hub"]
