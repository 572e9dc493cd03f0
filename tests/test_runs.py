"""What page and command line share, as far as no worker is needed."""

import pytest

from lora_ui import data, errors, runs
from lora_ui.home import write_json
from tests.tiny import tiny_model
from tests.ui import made


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "colours.csv"
    path.write_text("colour,weight\n" + "".join(f"shade {n},{n} kilos\n" for n in range(20)))
    return {"model": {"base_model": str(tiny_model(tmp_path / "tiny"))}, "data": {"source": str(path)}}


def test_columns_remembered_from_an_earlier_file_stand_in_the_recipe(home, raw):
    with pytest.raises(errors.ColumnsNotRecognised):
        runs.startable(home, raw)
    chosen = {"user": "colour", "assistant": "weight"}
    data.load(home, raw["data"]["source"], chosen)
    assert runs.startable(home, raw).chosen.data.mapping == chosen


def test_a_plan_says_numbers_before_anything_is_counted(home, raw):
    raw["data"]["mapping"] = {"user": "colour", "assistant": "weight"}
    plan = runs.plan(home, raw)
    assert (plan["rows"], plan["train_rows"], plan["held_out_rows"], plan["tokens"], plan["seconds"]) == (20, 18, 2, None, None)
    assert plan["basis"]["template"] == "unknown until the rows are counted"
    assert plan["trainable_parameters"] > 0 and plan["findings"] == []


def test_holding_everything_out_is_a_finding_and_no_start(home, raw):
    raw["data"] |= {"mapping": {"user": "colour", "assistant": "weight"}, "held_out_rows": 20}
    assert [f["kind"] for f in runs.plan(home, raw)["findings"]] == ["NothingLeftToTrain"]
    with pytest.raises(errors.NothingLeftToTrain):
        runs.start(home, raw, None)
    assert runs.list_runs(home) == []


def test_only_save_points_that_are_there_in_full_are_offered(home):
    points = home.run("quiet-otter-000001") / "checkpoints"
    for step, there, said in ((40, 3, 3), (100, 3, 4), (60, 3, None), (9, 3, 3), (20, None, 3)):
        folder = points / f"step-{step:06d}"
        folder.mkdir(parents=True)
        if there:
            (folder / "adapter_model.safetensors").write_bytes(b"x" * there)
        if said:
            write_json(folder / "manifest.json", {"step": step, "files": {"adapter_model.safetensors": {"size": said, "sha256": ""}}})
    assert runs.save_points(home, "quiet-otter-000001") == [40, 9]


def test_the_whole_log_is_given_and_holds_no_token(home):
    id = made.ended(home, "finished")
    secret = "hf_" + "a" * 34
    home.run(id).joinpath("log.1.txt").write_text("first\n")
    home.run(id).joinpath("log.txt").write_text("line\n" * 100_000 + f"token {secret}\nlast\n")
    whole = runs.whole_log(home, id)
    assert whole.startswith("first\nline") and whole.endswith("last\n") and whole.count("line") == 100_000 and secret not in whole
