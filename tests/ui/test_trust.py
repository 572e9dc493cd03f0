"""A browser's memory names no path."""

import pytest

from lora_ui import errors
from lora_ui.jobs import Jobs
from lora_ui.ui import draft, trust

NAMED = ["/etc", "/etc/passwd", "README.md", "presets/examples", "~/.ssh", "../x", "", "example\n/etc/hosts", "file:///etc/passwd"]


@pytest.mark.parametrize("named", NAMED)
def test_a_path_is_refused(home, named):
    with pytest.raises(errors.DataNotFound):
        trust.source(home, named)


@pytest.mark.parametrize("named", ["example", "upload:0a1b2c", "owner/name", "owner/name@main", "upload:1\nupload:2"])
def test_what_a_page_brings_itself_is_taken(home, named):
    assert trust.source(home, named) == named


def test_what_a_run_here_was_given_can_be_used_again(home):
    Jobs(home.database).submit("train", {"settings": {"data": {"source": "/data/rows.jsonl"}}})
    assert trust.source(home, "/data/rows.jsonl") == "/data/rows.jsonl"


def test_settings_from_a_browser_name_no_data(home):
    memory = {"source": "example", "settings": {"data": {"held_out_source": "/etc", "leave_out": ["secret"]}, "adapter": {"r": 4}}}
    assert draft.of(home, memory, 200).changes == {"adapter": {"r": 4}, "data": {"leave_out": ["secret"]}}
    with pytest.raises(errors.DataNotFound):
        draft.of(home, {**memory, "source": "/etc/passwd"}, 200)
