"""A few of the kills and stops that `make chaos` does by the hundred."""

import pytest

from tests.chaos.chaos import Chaos

pytestmark = pytest.mark.train


@pytest.fixture
def chaos(home, tiny):
    chaos = Chaos(home, tiny(max_steps=80, save_steps=5, packing=False), seed=7, web=False)
    yield chaos
    chaos.end()


def test_ten_kills_and_ten_stops_at_random_instants_cost_nothing(chaos):
    chaos.kill(10)
    chaos.stop(10)
    assert sum(n for what, n in chaos.counts.items() if what.startswith("killed")) == 10
    assert sum(n for what, n in chaos.counts.items() if what.startswith("stopped")) == 10
