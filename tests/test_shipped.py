"""Models that come with the package: found by name, checked, never written to; and little itself.

Most tests use a stand-in that is made as little was, from a run of a few steps; the last ones need
little, and fail without it.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import helpers
import pytest
import tokenizers
import torch

import minigpt
from minigpt.chat import SPECIAL
from minigpt.commands.card import training_facts
from minigpt.data.corpora import Corpus, open_corpus
from minigpt.gpt import GPT, GPTConfig
from minigpt.metrics import language_of
from minigpt.recipe import TrainConfig
from minigpt.runs import shipped
from minigpt.runs.checkpoint import load_checkpoint
from minigpt.runs.report import write_report
from minigpt.runs.run import RunConfig, load_config, open_run, save_config
from minigpt.storyworld.tables import World
from minigpt.storyworld.told import find_fault
from minigpt.support.errors import CheckpointError, ConfigError
from minigpt.tokenizer import BPETokenizer
from minigpt.train import train

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import make_little  # noqa: E402

LITTLE = shipped.MODELS / "little"
TEXT = "Once there was a fox. 从前有一只狐狸。" * 20
EXAMPLES = [{"prompt": f"Say {n}.", "answer": f"{n}!"} for n in range(12)]


def train_run(path: Path, data: str = "storyworld", **options) -> Path:
    """Train for six steps and keep the checkpoints of steps 2, 4 and 6."""
    path.mkdir()
    tokenizer = BPETokenizer.train([TEXT], 300, special_tokens=SPECIAL)
    tokenizer.save(path / "tokenizer.json")
    model_config = GPTConfig(tokenizer.vocab_size, block_size=1200, n_layer=1, n_head=1, n_embd=8)
    training = TrainConfig(
        max_steps=6, batch_size=2, save_interval=2, keep_checkpoints=9, device="cpu", **options
    )
    config = RunConfig(data, tuning_fraction=1 / 3, model=model_config, training=training)
    save_config(path, config)
    torch.manual_seed(training.seed)
    ids = torch.tensor([tokenizer.encode(TEXT)[:20]] * 2)

    class Rows:
        def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
            return ids[:, :-1], ids[:, 1:]

    facts = {"tokenizer_sha256": tokenizer.fingerprint, "seed": training.seed}
    result = train(GPT(model_config), Rows(), training, path, manifest=facts)
    write_report(path, training_facts(config, result))
    return path


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return train_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def made(run_dir, tmp_path_factory) -> Path:
    """A folder like minigpt/models, with a stand-in for little."""
    models = tmp_path_factory.mktemp("models")
    make_little.make_model(
        run_dir, checkpoint(run_dir, 4), models / "little", "train six steps", "two cores"
    )
    return models


@pytest.fixture
def models(made, tmp_path, monkeypatch) -> Path:
    """A copy of it in place of the package's, and an empty working directory."""
    models = shutil.copytree(made, tmp_path / "models")
    monkeypatch.setattr(shipped, "MODELS", models)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return models


@pytest.fixture
def examples(tmp_path) -> Path:
    lines = "".join(json.dumps(example) + "\n" for example in EXAMPLES)
    return helpers.write(tmp_path / "examples.jsonl", lines)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- names ---


@pytest.mark.parametrize(("name", "step"), [("little", 6), ("little-base", 4)])
def test_a_name_opens_the_weights_of_its_step(models, run_dir, name, step):
    run = open_run(Path(name), device="cpu")
    assert run.step == step
    assert run.folder is None
    assert run.notes == ()
    trained = load_checkpoint(checkpoint(run_dir, step)).model
    for key, weight in run.model.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, trained[key].half().float()), key
    assert run.model.head.weight is run.model.embedding.weight


def test_base_and_tuned_are_two_models(models):
    tuned, base = minigpt.load("little", "cpu"), minigpt.load("little-base", "cpu")
    assert not torch.equal(tuned.model.embedding.weight, base.model.embedding.weight)


def test_python_loads_little_by_itself(models):
    model = minigpt.load(device="cpu")
    assert model.run.step == 6
    settings = {"max_new_tokens": 5, "temperature": 0.0}
    assert model.write("Once", **settings) == minigpt.load("little", "cpu").write(
        "Once", **settings
    )


def test_chat_without_a_checkpoint_talks_to_little(models, capsys):
    asked = ["--message", "Hello", "--max-new-tokens", 5]
    code, out, _ = helpers.run(capsys, "chat", *asked)
    assert code == 0
    assert helpers.run(capsys, "chat", "--checkpoint", "little", *asked)[1] == out
    assert helpers.run(capsys, "chat", "--checkpoint", "little-base", *asked)[0] == 0


def test_generate_writes_with_little(models, capsys):
    words = ["--prompt", "Once", "--max-new-tokens", 5]
    code, out, _ = helpers.run(capsys, "generate", "--checkpoint", "little", *words)
    assert code == 0
    assert out.startswith("Once")


def test_a_directory_of_that_name_comes_first_and_is_said(models, run_dir, capsys):
    shutil.copytree(checkpoint(run_dir, 2).parent, "little/checkpoints")
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(run_dir / name, Path("little") / name)
    shutil.rmtree(Path("little/checkpoints") / checkpoint(run_dir, 6).name)
    run = open_run(Path("little"), device="cpu")
    assert run.step == 4
    assert run.folder == Path("little")
    words = ["--checkpoint", "little", "--max-new-tokens", 2]
    assert "the directory of that name here" in helpers.run(capsys, "generate", *words)[2]
    assert open_run(Path("little-base"), device="cpu").folder is None


@pytest.mark.parametrize("command", ["chat", "generate", "evaluate", "finetune"])
def test_an_unknown_checkpoint_names_little(models, examples, capsys, command):
    words = ["--checkpoint", "litle"]
    words += ["--data", examples, "--out", "tuned"] if command == "finetune" else []
    line = helpers.refused(capsys, command, *words)
    assert "no config.json — litle — " in line
    assert "or little: the model that comes with the package" in line


@pytest.mark.parametrize("command", ["train", "finetune"])
@pytest.mark.parametrize("name", ["little", "little-base"])
def test_it_cannot_be_resumed(models, capsys, command, name):
    line = helpers.refused(capsys, command, "--out", name, "--resume")
    assert f"{name} comes with the package and cannot be resumed" in line
    assert f"finetune --checkpoint {name}" in line


# --- nothing is written beside it ---


def test_evaluate_prints_and_writes_only_where_it_is_told_to(models, examples, capsys):
    before = contents(models)
    words = ["--checkpoint", "little", "--data", examples, "--max-answer-tokens", 3]
    code, out, _ = helpers.run(capsys, "evaluate", *words)
    assert code == 0
    assert "exact match" in out
    assert "written" not in out
    assert contents(models) == before
    assert list(Path().iterdir()) == []
    assert helpers.run(capsys, "evaluate", *words, "--out", "report")[0] == 0
    assert json.loads(Path("report/report.json").read_text("utf-8"))["steps"] == 6
    assert contents(models) == before


@pytest.mark.slow
def test_evaluate_tells_its_texts_again(models, capsys):
    before = contents(models)
    code, out, err = helpers.run(capsys, "evaluate", "--checkpoint", "little", "--stories", 10)
    assert code == 0, err
    for word in ("validation loss", "floor", "best n-gram", "consistent"):
        assert word in out
    assert contents(models) == before
    assert list(Path().iterdir()) == []


def test_finetune_learns_on_from_it(models, examples, capsys):
    before = contents(models)
    words = ["--data", examples, "--max-steps", 2, "--batch-size", 2]
    start = ["--checkpoint", "little", "--out", "tuned"]
    assert helpers.run(capsys, "finetune", *words, *start)[0] == 0
    assert contents(models) == before
    assert load_config(Path("tuned")).tokenizer == "little"
    words = ["--out", "tuned", "--resume", "--max-steps", 3]
    assert helpers.run(capsys, "finetune", *words)[0] == 0
    assert open_run(Path("tuned")).step == 3


# --- damage ---


@pytest.mark.parametrize(
    "name",
    ["tuned.safetensors", "base.safetensors", "config.json", "tokenizer.json", "report.json"],
)
def test_a_flipped_byte_is_found(models, capsys, name):
    path = models / "little" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    line = helpers.refused(capsys, "chat", "--message", "Hello")
    assert f"its SHA-256 is wrong — {path} — install minigpt again" in line


@pytest.mark.parametrize("name", ["tuned.safetensors", "config.json", "SHA256SUMS"])
def test_a_missing_file_is_found(models, capsys, name):
    (models / "little" / name).unlink()
    line = helpers.refused(capsys, "chat", "--message", "Hello")
    assert str(models / "little" / name) in line
    assert "install minigpt again" in line


@pytest.mark.parametrize("text", ["a b c", "a  b  c\n", "\n"])
def test_sums_that_are_none(models, text):
    (models / "little" / "SHA256SUMS").write_text(text, "utf-8")
    with pytest.raises(CheckpointError, match="a line is not a sum and a name"):
        open_run(Path("little"))


# --- how such a model is made ---


def test_the_maker_leaves_a_record(made, run_dir):
    folder = made / "little"
    assert set(shipped.read_sums(folder)) == set(contents(folder)) - {"SHA256SUMS"}
    text = (folder / "README.md").read_text("utf-8")
    for words in ("`train six steps`", "two cores", "after step 6", "after step 4", "tokens a s"):
        assert words in text
    assert load_config(folder) == load_config(run_dir)
    size = (folder / "tuned.safetensors").stat().st_size
    assert size < 0.6 * (checkpoint(run_dir, 6) / "model.safetensors").stat().st_size


def test_the_maker_refuses_a_run_that_names_a_file(tmp_path):
    run = train_run(tmp_path / "run", data="my.txt")
    with pytest.raises(ConfigError, match=r"its settings name a file \(my\.txt, bpe\)"):
        make_little.make_model(run, checkpoint(run, 2), tmp_path / "out", "", "")


def test_the_maker_refuses_the_base_of_another_run(run_dir, tmp_path):
    other = train_run(tmp_path / "run", seed=1)
    with pytest.raises(CheckpointError, match="another run"):
        make_little.make_model(run_dir, checkpoint(other, 2), tmp_path / "out", "", "")


def test_the_maker_refuses_a_base_that_has_learned_answers(tmp_path):
    run = train_run(tmp_path / "run")
    settings = json.loads((run / "config.json").read_text("utf-8"))
    (run / "config.json").write_text(json.dumps(settings | {"dialogue_share": 0.5}), "utf-8")
    with pytest.raises(CheckpointError, match=r"step 6 has begun to learn answers \(from 4 on\)"):
        make_little.make_model(run, checkpoint(run, 6), tmp_path / "out", "", "")
    make_little.make_model(run, checkpoint(run, 4), tmp_path / "out", "", "")


def test_the_maker_refuses_the_card_of_another_step(run_dir, tmp_path):
    run = shutil.copytree(run_dir, tmp_path / "run")
    shutil.rmtree(checkpoint(run, 6))
    with pytest.raises(CheckpointError, match="step 6, the newest checkpoint of step 4"):
        make_little.make_model(run, checkpoint(run, 2), tmp_path / "out", "", "")


def test_the_maker_refuses_weights_that_are_too_large(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(make_little, "MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match="more than 1,000"):
        make_little.make_model(run_dir, checkpoint(run_dir, 4), tmp_path / "out", "", "")


# --- little itself: these fail where it is missing ---


def test_little_is_whole_and_small():
    shipped.check_sums(LITTLE)
    assert set(shipped.read_sums(LITTLE)) == set(contents(LITTLE)) - {"SHA256SUMS"}
    weights = [(shipped.MODELS / name).stat().st_size for name in shipped.NAMES.values()]
    assert len(weights) == 2
    assert sum(weights) <= 5_000_000
    config = load_config(LITTLE)
    assert (config.data, config.world, config.tokenizer) == ("storyworld", "little", "bpe")
    assert config.dialogue_share > 0  # so that it has learned to answer


def corpus_of(config: RunConfig) -> Corpus:
    return open_corpus(config.data, world=config.world)


def right_answers(task: dict) -> int:
    """Return how many answers are right; of translations, how many without any slip."""
    score = task["also"]["exact"] if task["metric"] == "sentences" else task["score"]
    return round(score * task["n"])


def tail(right: int, n: int, share: float) -> float:
    """Return how probable a number of right answers is that is at least as far from the mean."""
    chances = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
    return min(sum(chances[: right + 1]), sum(chances[right:]))


def test_how_probable_a_sample_is():
    assert tail(20, 20, 0.5) == pytest.approx(0.5**20)
    assert tail(0, 3, 0.1) == pytest.approx(0.9**3)
    assert tail(1, 2, 0.5) == pytest.approx(0.75)


@pytest.mark.slow
def test_a_sample_of_the_report_card_of_little_is_reproduced():
    card = json.loads((LITTLE / "report.json").read_text(encoding="utf-8"))["tasks"]
    run = open_run(Path("little"), device="cpu")
    found = corpus_of(run.config).exam(run.model, run.tokenizer, per_task=20, n_stories=50)["tasks"]
    assert found.keys() == card.keys()
    assert {"translation_en_zh", "question_who_has", "consistent_stories"} <= card.keys()
    for name in card:
        # Half an answer more of each kind: no share that was measured is 0 or 1 for certain.
        share = (right_answers(card[name]) + 0.5) / (card[name]["n"] + 1)
        likely = tail(right_answers(found[name]), found[name]["n"], share)
        assert likely > 1e-4, (name, found[name]["score"], card[name]["score"])


def test_the_tokenizer_of_little_is_read_by_the_library():
    ours = open_run(Path("little"), device="cpu").tokenizer
    theirs = tokenizers.Tokenizer.from_file(str(LITTLE / "tokenizer.json"))
    assert theirs.get_vocab_size() == ours.vocab_size
    corpus = corpus_of(load_config(LITTLE))
    texts = corpus.held_out().texts[:80]
    texts += [message["content"] for talk in corpus.conversations(80) for message in talk]
    assert {language_of(text) for text in texts} == {"en", "zh"}
    for text in texts:
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
    chat = "<|user|>Where is Tom?<|end|><|assistant|>"
    assert theirs.encode(chat).ids == ours.encode(chat, allowed_special=SPECIAL)


@pytest.mark.parametrize("asked", ["Tell me a story.", "给我讲个故事吧。"])
def test_little_tells_a_consistent_story(asked):
    model = minigpt.load(device="cpu")
    told = model.chat([{"role": "user", "content": asked}])
    assert find_fault(told, World.named(model.config.world)).fault is None, told
