"""Files of an older format are upgraded; what is no longer possible, or newer, is refused by name.

`format_1/run` was written by commit 5f4726e: `train tiny` on 3,000 bytes, stopped at step 4 of 8.
"""

import json
import shutil
from pathlib import Path

import pytest

from minigpt.commands import main
from minigpt.finetune import FinetuneConfig, load_settings, save_settings
from minigpt.runs.checkpoint import checkpoint_paths, latest_checkpoint, load_checkpoint, to_json
from minigpt.runs.run import load_config, open_run, read_metrics, save_config
from minigpt.runs.upgrades import DELETED_IN_2, FORMAT, STEPS, FormatError, inside, upgrade
from minigpt.support.errors import CheckpointError

OLD = Path(__file__).with_name("format_1")


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    return shutil.copytree(OLD / "run", tmp_path / "run")


def change_model(path: Path, **values: object) -> None:
    """Rewrite a file of settings with other values of its model."""
    content = json.loads(path.read_text("utf-8"))
    content["model"] |= values
    path.write_text(json.dumps(content), "utf-8")


def test_a_run_of_format_1_writes_text(old_run, capsys):
    words = ["generate", "--checkpoint", str(old_run), "--max-new-tokens", "5"]
    assert main(words) == 0
    assert len(capsys.readouterr().out) >= 5
    assert open_run(old_run).step == 4


def test_a_run_from_before_there_were_two_worlds_is_of_the_full_one(old_run):
    assert "world" not in json.loads((old_run / "config.json").read_text("utf-8"))
    assert load_config(old_run).world == "full"


def test_a_run_of_format_1_goes_on_in_format_2(old_run):
    before = read_metrics(old_run)
    assert main(["train", "--out", str(old_run), "--resume"]) == 0
    rows = read_metrics(old_run)
    assert rows[: len(before)] == before
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[4:] == pytest.approx([3.1850, 3.1374, 3.1354, 3.1216], abs=0.01)  # the old code's
    assert [path.name for path in checkpoint_paths(old_run)] == ["step-00000004", "step-00000008"]
    formats = [load_checkpoint(path).manifest["format"] for path in checkpoint_paths(old_run)]
    assert formats == [1, FORMAT]
    assert json.loads((old_run / "config.json").read_text("utf-8"))["format"] == FORMAT


def test_finetune_settings_of_format_1_are_read_and_written_in_format_2(tmp_path):
    shutil.copy(OLD / "finetune.json", tmp_path)
    config = load_settings(tmp_path)
    assert config == FinetuneConfig(data="examples.jsonl")
    save_settings(tmp_path, config)
    assert json.loads((tmp_path / "finetune.json").read_text("utf-8"))["format"] == FORMAT
    assert load_settings(tmp_path) == config


USED = {
    "pointer": True,
    "values": "tokens",
    "sentence_ends": [3, 4],
    "section_starts": [0],
    "separator_id": 0,
    "bigram_size": 100,
    "positions": "sentences",
}


@pytest.mark.parametrize("name", USED)
def test_a_run_that_used_what_is_gone_is_refused_in_one_line(old_run, tmp_path, capsys, name):
    shutil.copy(OLD / "finetune.json", tmp_path)
    for path in (old_run / "config.json", tmp_path / "finetune.json"):
        change_model(path, **{name: USED[name]})
    assert main(["generate", "--checkpoint", str(old_run)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{name} = {USED[name]!r}, which is no longer possible" in err
    assert str(old_run / "config.json") in err
    assert "use commit 5f4726e of minigpt, or train again" in err
    with pytest.raises(CheckpointError, match=f"{name} = .*no longer possible"):
        load_settings(tmp_path)


def test_every_deleted_setting_is_tried():
    assert USED.keys() - {"positions"} == DELETED_IN_2.keys()
    assert all(USED[name] != harmless for name, harmless in DELETED_IN_2.items())


def test_a_checkpoint_that_used_what_is_gone_is_not_passed_over_as_damaged(old_run):
    path = checkpoint_paths(old_run)[-1]
    state = json.loads((path / "state.json").read_text("utf-8"))
    state["facts"]["model"]["pointer"] = True
    rewrite(path, "state.json", to_json(state))
    with pytest.raises(FormatError, match="pointer = True"):
        latest_checkpoint(old_run)


def rewrite(path: Path, name: str, data: bytes) -> None:
    """Replace a file of a checkpoint and make its manifest agree."""
    import hashlib

    (path / name).write_bytes(data)
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    del manifest["sha256"]
    manifest["sha256"] = hashlib.sha256(to_json(manifest)).hexdigest()
    (path / "manifest.json").write_bytes(to_json(manifest))


@pytest.mark.parametrize("version", [0, FORMAT + 1, 99, None, "2", 2.0, True])
def test_a_format_that_this_version_does_not_know_is_refused(version):
    with pytest.raises(FormatError) as caught:
        upgrade("config.json", {}, version, "runs/my/config.json")
    assert f"config.json has format {version!r}, this version reads 1 to {FORMAT}" in str(
        caught.value
    )
    assert "use the version of minigpt that wrote it" in str(caught.value)


def test_todays_format_is_left_as_it_is(tmp_path, old_run):
    content = {"model": {"pointer": True}}
    for kind in STEPS:
        assert upgrade(kind, content, FORMAT, "x") == content
    config = load_config(old_run)
    save_config(tmp_path, config)
    assert load_config(tmp_path) == config


def test_every_kind_has_a_step_from_every_older_format():
    assert all(set(steps) == set(range(1, FORMAT)) for steps in STEPS.values())


def test_a_step_inside_of_an_object_leaves_the_rest_and_what_is_missing():
    step = inside(lambda part, where: part | {"seen": where}, "a", "b")
    assert step({"a": {"b": {"n": 1}, "c": 2}}, "here") == {
        "a": {"b": {"n": 1, "seen": "here"}, "c": 2}
    }
    assert step({"a": []}, "here") == {"a": []}
    assert step({}, "here") == {}
