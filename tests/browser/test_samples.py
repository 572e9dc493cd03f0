"""A file of every public form, in every kind of file, from its upload to its tokens, in one app and one page."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.samples import CHATML, SAMPLES
from tests.browser.test_data_page import COUNTED, pictured, sideways, with_small_model
from tests.tiny import tiny_model

pytestmark = pytest.mark.browser


def test_every_form_of_data_is_shown_as_it_will_be_learned(app, visit, tmp_path):
    page, t = visit()
    with_small_model(page, t, app, str(tiny_model(tmp_path / "tiny", template=CHATML)), length="500")
    for at, sample in enumerate(SAMPLES):
        sample.write(tmp_path / sample.name)
        expect(page.locator("#row")).to_be_visible()
        page.get_by_role("button", name=t("data.change"), exact=True).first.click()
        page.locator("#upload input[type=file]").set_input_files(tmp_path / sample.name)

        head = page.locator(".facts-head")
        expect(head).to_contain_text(sample.name)
        kind = t("data.kind", kind=t("data.format." + sample.format), sure=t("data.confidence." + sample.sure))
        expect(head).to_contain_text(f"{kind}")
        expect(head).to_contain_text(sample.why)
        expect(page.locator("#row")).to_contain_text(t("data.where", row=1, at=1, n=6))
        for words in (*sample.shown, *sample.learned):
            expect(page.locator("#row .row-view")).to_contain_text(words)
        taught = "".join(page.locator("#row .row-view mark.learned").all_inner_texts())
        assert all(words in taught for words in sample.learned) and not any(words in taught for words in sample.shown), taught
        pictured(page, f"sample-{at:02}-chat")

        page.get_by_text(t("data.view_reading"), exact=True).click()
        expect(page.locator("#row")).to_contain_text("<|im_end|>", timeout=COUNTED)
        reading = page.locator("#row .row-view").text_content()
        learned = "".join(page.locator("#row .row-view mark").all_text_contents())
        for words in (*sample.shown, *sample.learned):
            assert all(word in reading for word in words.split()), (words, reading)
        said = re.findall(r"\w+", " ".join(sample.learned))[sample.format == "text" :]  # nothing comes before the first token of a text
        assert all(word in learned for word in said), learned
        assert "<|im_end|>" in learned and not any(words in learned for words in sample.shown)
        pictured(page, f"sample-{at:02}-reading")

        page.get_by_text(t("data.view_tokens"), exact=True).click()
        chips = page.locator("#row .tok")
        expect(chips.first).to_be_visible()
        written = "".join(page.locator("#row .tok.learned").all_text_contents())
        assert written.replace("∅", "") == learned.replace("\n", "⏎").replace(" ", "·")  # ∅: more of one character
        assert chips.last.get_attribute("title").isdecimal()
        pictured(page, f"sample-{at:02}-tokens")
        assert sideways(page) <= 0
