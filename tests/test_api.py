"""The Python door: what a run writes and says, as the commands do; and what `import` costs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import minigpt
from minigpt.api import Model, with_settings
from minigpt.chat import SPECIAL, fit_messages
from minigpt.commands import main
from minigpt.generate import generate
from minigpt.gpt import GPT, GPTConfig
from minigpt.recipe import TrainConfig
from minigpt.runs.run import RunConfig, save_config
from minigpt.sampling import SampleConfig
from minigpt.support.errors import CheckpointError, ConfigError, DataError
from minigpt.tokenizer import BPETokenizer
from minigpt.train import train

ROOT = Path(__file__).resolve().parents[1]
TEXT = "Once there was a fox. 从前有一只狐狸。" * 20


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run that was trained for two steps."""
    path = tmp_path_factory.mktemp("run")
    tokenizer = BPETokenizer.train([TEXT], 300, special_tokens=SPECIAL)
    tokenizer.save(path / "tokenizer.json")
    model_config = GPTConfig(tokenizer.vocab_size, block_size=48, n_layer=1, n_head=1, n_embd=8)
    training = TrainConfig(max_steps=2, batch_size=2, device="cpu", dtype="float32")
    save_config(path, RunConfig("my.txt", model=model_config, training=training))
    torch.manual_seed(0)
    ids = torch.tensor([tokenizer.encode(TEXT)[:20]] * 2)

    class Rows:
        def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
            return ids[:, :-1], ids[:, 1:]

    facts = {"tokenizer_sha256": tokenizer.fingerprint}
    train(GPT(model_config), Rows(), training, path, manifest=facts)
    return path


@pytest.fixture(scope="module")
def run(run_dir) -> Model:
    return minigpt.load(run_dir, device="cpu")


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# --- writing ---


def test_write_gives_the_prompt_and_what_comes_after_it(run):
    text = run.write("Once", max_new_tokens=9, temperature=0.0)
    ids = [run.tokenizer.eot_id, *run.tokenizer.encode("Once")]
    config = SampleConfig(9, temperature=0.0)
    (new,) = generate(run.model, [ids], config, stop_ids=[run.tokenizer.eot_id])
    assert text == "Once" + run.tokenizer.decode(new)
    assert text == run.write("Once", sampling=config)


def test_the_stream_joined_is_what_write_returns(run):
    for seed in range(3):
        pieces = run.stream("狐", max_new_tokens=12, temperature=1.5, seed=seed)
        assert isinstance(pieces, Iterator)
        parts = list(pieces)
        assert "".join(parts) == run.write("狐", max_new_tokens=12, temperature=1.5, seed=seed)
        assert len(parts) > 5
    assert run.write("a", seed=1, max_new_tokens=20) != run.write("a", seed=2, max_new_tokens=20)


def test_a_stop_string_ends_the_text_before_it(run):
    whole = run.write("Once", max_new_tokens=20)
    stop = whole[10:12]
    cut = run.write("Once", max_new_tokens=20, stop=[stop])
    assert cut == "Once" + whole[4:][: whole[4:].index(stop)]
    with pytest.raises(ConfigError, match="--stop"):
        run.write("Once", stop="END")


def test_the_command_prints_what_the_door_writes(run, run_dir, capsys):
    words = ["generate", "--checkpoint", str(run_dir), "--prompt", "Once", "--max-new-tokens", "9"]
    assert main([*words, "--seed", "5", "--device", "cpu", "--count", "2"]) == 0
    expected = [run.write("Once", max_new_tokens=9, seed=seed) for seed in (5, 6)]
    assert capsys.readouterr().out == "\n".join(expected) + "\n"


# --- talking ---


def test_chat_answers_like_the_command(run, run_dir, capsys):
    words = ["chat", "--checkpoint", str(run_dir), "--device", "cpu", "--message", "Where is Tom?"]
    assert main([*words, "--max-new-tokens", "8"]) == 0
    answer = run.chat(ask("Where is Tom?"), max_new_tokens=8)
    assert capsys.readouterr().out == answer + "\n"
    pieces = list(run.stream_chat(ask("Where is Tom?"), max_new_tokens=8))
    assert "".join(pieces) == answer
    assert len(pieces) == 9, "one for each token, and what the last one held back"


def test_chat_needs_no_setting_in_a_short_context(run):
    assert isinstance(run.chat(ask("Who?")), str)
    with pytest.raises(ConfigError, match=r"max_new_tokens = 48.*less than 48"):
        run.chat(ask("Who?"), max_new_tokens=48)


def test_a_long_conversation_loses_its_oldest_turns(run):
    turns = [*ask("Once there was a fox."), {"role": "assistant", "content": "Yes."}] * 9
    kept, forgotten = fit_messages([*turns, *ask("Who?")], run.tokenizer, room=48 - 8)
    assert forgotten > 0
    expected = run.chat(kept, max_new_tokens=8)
    assert run.chat([*turns, *ask("Who?")], max_new_tokens=8) == expected
    with pytest.raises(DataError, match="room for 40"):
        run.chat(ask("Once there was a fox. " * 30), max_new_tokens=8)


# --- what is refused ---


def test_a_folder_without_a_run_is_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "nothing there", str(tmp_path)):
        with pytest.raises(CheckpointError) as caught:
            minigpt.load(path)
        assert str(caught.value).count(" — ") == 2
        assert "\n" not in str(caught.value)
        assert "config.json" in str(caught.value)


def test_an_unknown_setting_is_named(run):
    with pytest.raises(ConfigError, match=r"no setting 'temprature'.*temperature"):
        run.write("Once", temprature=0.5)
    with pytest.raises(ConfigError, match="temperature = -1"):
        run.chat(ask("Who?"), temperature=-1)
    assert with_settings(SampleConfig(), {"top_k": 3}) == SampleConfig(top_k=3)


# --- the front door itself ---


def test_import_minigpt_loads_neither_torch_nor_numpy():
    code = "import sys, minigpt; print(sorted({'torch', 'numpy', 'tqdm'} & sys.modules.keys()))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"


def test_loading_needs_no_command_and_no_storyworld(run_dir):
    code = (
        "import sys, minigpt\n"
        f"minigpt.load({str(run_dir)!r}, 'cpu').write('Once', max_new_tokens=2)\n"
        "names = {name.split('.')[1] for name in sys.modules if name.startswith('minigpt.')}\n"
        "print(sorted(names & {'commands', 'storyworld', 'train', 'trainer', 'evaluate', 'data'}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize(("page", "times"), [("README.md", 0), ("docs/guide.md", 2)])
def test_the_lines_of_a_page_run(run_dir, tmp_path, monkeypatch, capsys, page, times):
    text = (ROOT / page).read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shutil.copytree(run_dir, tmp_path / "runs" / "my")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, page, "exec"), {})
    printed = capsys.readouterr().out
    assert "morning" in printed
    assert printed.count("Once") >= times
