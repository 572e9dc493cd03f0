"""One person, from a dropped file to a published model, with real clicks: the starter model, real training, a stand-in Hub."""

import json
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

from lora_ui import runs

pytestmark = pytest.mark.browser

THINGS = [
    "bread",
    "rain",
    "iron",
    "copper",
    "glass",
    "rope",
    "salt",
    "tar",
    "wool",
    "timber",
    "coal",
    "fish",
    "bells",
    "lamps",
    "anchors",
    "sails",
    "maps",
    "compasses",
    "barrels",
    "bricks",
    "honey",
    "cheese",
    "apples",
    "onions",
    "pepper",
    "cloth",
    "leather",
    "paper",
    "ink",
    "candles",
    "soap",
    "nails",
]
QUESTION = "Where do I find lemons?"
HOSTILE = "<b>${alert(1)}</b>"
SLOW = 420_000


def rows(path: Path) -> Path:
    """32 rows in a style that the starter does not have; one column and one row are hostile."""
    lines = [
        {
            "question": f"Where do I find {thing}?",
            "answer": f"Harbour desk: {thing} are kept in shed {n % 9 + 1}, on the north quay. Ask for Mara.",
            HOSTILE: "x",
        }
        for n, thing in enumerate(THINGS)
    ]
    lines[0]["question"] = f"Where do I find {HOSTILE}?"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def storage(page) -> str:
    return page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")


def test_from_a_dropped_file_to_a_published_model(app, shared_hub, visit, tmp_path):
    page, t = visit()
    page.goto(app.url)

    # Data: every word of the file is shown letter by letter.
    page.locator("#upload input[type=file]").set_input_files(rows(tmp_path / "harbour.jsonl"))
    expect(page.locator("#row")).to_contain_text(f"Where do I find {HOSTILE}?")
    expect(page.locator("body")).to_contain_text("32")
    expect(page.locator("#row mark, #row .lu-learned, #row .learned").first).to_contain_text("Harbour desk")
    page.get_by_text(t("data.view_tokens"), exact=True).click(timeout=SLOW)  # the first time the starter model is fetched
    expect(page.locator("#row")).to_contain_text("<|im_end|>", timeout=SLOW)
    button(page, t("data.use")).click()

    # Train: nothing to type but a name.
    page.wait_for_url("**/train*")
    expect(page.locator("#plan")).to_contain_text("139,399,488")
    expect(page.locator("#plan")).to_contain_text("40", timeout=SLOW)  # steps, once the tokens are counted
    page.locator("#run-name").get_by_role("textbox").fill(HOSTILE)
    button(page, t("train.start")).click()

    # Runs: the page follows by itself; folds stay open through the ticks.
    page.wait_for_url("**/runs?run=*", timeout=60_000)
    run_page, id = page.url, page.url.split("run=")[1]
    expect(page.get_by_role("heading", level=1)).to_contain_text(HOSTILE)
    page.get_by_text(t("runs.fold.settings"), exact=True).click()
    expect(page.get_by_text("training.learning_rate").first).to_be_visible()
    expect(page.locator("body")).to_contain_text(t("runs.phase.train"))
    expect(page.get_by_role("link", name=t("runs.chat"), exact=True)).to_be_visible(timeout=SLOW)
    expect(page.get_by_text("training.learning_rate").first).to_be_visible()
    shown = runs.show(app.home, id)
    assert shown["state"] == "finished" and shown["name"] == HOSTILE and shown["step"] == shown["total_steps"] == 40
    assert shown["train_loss"]["last"] < shown["train_loss"]["first"] / 4
    assert shown["eval_loss"]["best"] < shown["eval_loss"]["base"] / 4
    again, _ = visit()
    again.goto(run_page)
    expect(again.get_by_role("heading", level=1)).to_contain_text(HOSTILE)

    # Chat: base and adapter answer the same question, each in its own way.
    page.get_by_role("link", name=t("runs.chat"), exact=True).click()
    page.wait_for_url("**/chat*")
    expect(page.locator("#chip-0")).to_contain_text("Where do I find", timeout=60_000)
    page.get_by_text(t("chat.expert"), exact=True).click()
    page.get_by_label(t("chat.temperature"), exact=False).first.fill("0")
    page.get_by_label(t("chat.longest"), exact=False).first.fill("40")
    page.locator("#ask textarea").fill(QUESTION)
    page.locator("#ask textarea").press("Enter")
    expect(page.locator("#panes")).to_contain_text("on the north quay. Ask for Mara.", timeout=SLOW)
    expect(page.locator("#panes").get_by_text("tokens/s")).to_have_count(2, timeout=SLOW)
    said = page.locator("#panes").inner_text()
    assert said.count("Harbour desk: lemons") == 1

    # Ship: download, merge, publish.
    page.goto(f"{app.url}/ship?run={id}")
    with page.expect_download() as download:
        button(page, t("ship.download_action")).click()
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(names)
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    button(page, t("ship.merge_action")).click()
    expect(page.locator("body")).to_contain_text(t("ship.merge_done").split("{")[0], timeout=SLOW)
    page.locator("#repo").get_by_role("textbox").fill("harbour")
    page.locator("#token input").fill(shared_hub.write_token)
    button(page, t("ship.publish_action")).click()
    expect(page.locator("body")).to_contain_text(t("ship.published_private"), timeout=SLOW)
    assert page.locator("#token input").input_value() == ""
    assert shared_hub.write_token not in storage(page)
    pushed = shared_hub.files(f"{shared_hub.user}/harbour")
    assert pushed["adapter_model.safetensors"] == (Path(shown["adapter_path"]) / "adapter_model.safetensors").read_bytes()
    assert {"README.md", "adapter_config.json"} <= set(pushed) and b"training_args.bin" not in b" ".join(name.encode() for name in pushed)
    assert [p for p in app.home.root.rglob("*") if p.is_file() and shared_hub.write_token.encode() in p.read_bytes()] == []

    the_merged_model_answers_as_the_adapter_does(app, id, shown)


def the_merged_model_answers_as_the_adapter_does(app, id, shown):
    """With plain transformers and PEFT, from the folders that were left on disk."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = app.home.run(id) / "merged"
    tokenizer = AutoTokenizer.from_pretrained(merged)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt")[
        "input_ids"
    ]
    answers = []
    base = AutoModelForCausalLM.from_pretrained(shown["base_model_path"], dtype=torch.float32)
    for model in (
        PeftModel.from_pretrained(base, shown["adapter_path"]),
        AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32),
    ):
        made = model.generate(input_ids=asked, max_new_tokens=30, do_sample=False)
        answers.append(tokenizer.decode(made[0][asked.shape[1] :], skip_special_tokens=True))
    assert answers[0] == answers[1] and answers[0].startswith("Harbour desk: lemons are kept in shed")
