"""Classification: a head on a GPT, whose best fit is that of scikit-learn; what a run keeps."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refused
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler

import minigpt
from minigpt.batching.examples import Example
from minigpt.batching.packing import Bucketed
from minigpt.classification import (
    Classifier,
    begin_with_best_head,
    classify,
    encode_labeled,
    encode_texts,
    fit_head,
    label_probabilities,
    text_features,
    train_last,
)
from minigpt.evaluate import answers, token_losses
from minigpt.finetune import FinetuneConfig, Sides, phases, start
from minigpt.generate import generate
from minigpt.gpt import GPT, GPTConfig
from minigpt.metrics import adjusted_rand_index, purity
from minigpt.recipe import TrainConfig
from minigpt.runs.run import open_run
from minigpt.sampling import SampleConfig
from minigpt.support.errors import ConfigError, DataError
from minigpt.tokenizer import BPETokenizer
from minigpt.train import train

LABELS = ["bad", "good", "mixed"]
TRAINING = TrainConfig(max_steps=3, batch_size=4, device="cpu", dtype="float32")


def body(seed: int = 0, **settings) -> GPT:
    torch.manual_seed(seed)
    shape = {"block_size": 17, "n_layer": 3, "n_head": 3, "n_embd": 12, "init": "gpt2"}
    return GPT(GPTConfig(vocab_size=37, **(shape | settings))).eval()


def classifier(pooling="mean", **settings) -> Classifier:
    model = Classifier(body(**settings), LABELS, pooling)
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


def some_rows(count: int = 11, longest: int = 15) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, 37, size=rng.integers(2, longest)).tolist() for _ in range(count)]


# --- the model ---


def test_the_loss_begins_at_ln_k_and_the_logits_have_a_place_for_each_label():
    model = Classifier(body(), LABELS)
    idx = torch.randint(37, (5, 7))
    logits, _ = model(idx)
    assert logits.shape == (5, 7, 3)
    _, loss = model(idx, torch.full((5, 7), 2))
    assert loss.item() == pytest.approx(np.log(3))


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_what_the_head_sees_is_the_mean_or_the_last_vector(pooling):
    model = classifier(pooling)
    rows = some_rows()
    found = text_features(model, rows)
    for row, vector in zip(rows, found, strict=True):
        x = GPT.hidden(model, torch.tensor([row]))[0]  # (T, C)
        wanted = model.norm(x.mean(dim=0) if pooling == "mean" else x[-1])
        assert torch.allclose(vector, wanted, atol=1e-5)
    assert found.shape == (11, 12)


def test_what_follows_a_text_changes_nothing():
    model = classifier()
    row = some_rows()[0]
    before, _ = model(torch.tensor([row]))
    after, _ = model(torch.tensor([[*row, 5, 6]]))
    assert torch.allclose(before, after[:, : len(row)], atol=1e-5)


def test_many_rows_at_once_are_as_each_alone(monkeypatch):
    model, rows = classifier(), some_rows(23)
    alone = torch.cat([text_features(model, [row]) for row in rows])
    monkeypatch.setattr("minigpt.classification.TOKENS_AT_A_TIME", 40)
    assert torch.allclose(text_features(model, rows), alone, atol=1e-5)


def test_reading_leaves_the_mode_as_it_was():
    model = classifier(dropout=0.5).train()
    rows = some_rows()
    assert torch.equal(text_features(model, rows), text_features(model, rows))  # no dropout
    assert model.training
    assert model.blocks[0].training


def test_a_body_is_shared_with_the_model_that_reads():
    model = Classifier(body(), LABELS)
    reader = model.reader()
    idx = torch.randint(37, (2, 9))
    expected, _ = body()(idx)
    assert torch.allclose(reader(idx)[0], expected, atol=1e-5)
    before, after = (text_features(model, [[3, 4]]), None)
    with torch.no_grad():
        reader.blocks[0].mlp.down.weight.add_(1.0)
    after = text_features(model, [[3, 4]])
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("labels", [["one"], [], ["a", "b", "a"]])
def test_labels_that_are_none_are_refused(labels):
    with pytest.raises(DataError, match="at least two labels"):
        Classifier(body(), labels)


@pytest.mark.parametrize("blocks", [None, 0, 1, 3])
def test_only_the_last_blocks_learn(blocks, tmp_path):
    model = Classifier(body(), LABELS)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    train_last(model, blocks)
    encoded = encode_labeled(some_rows(), ["bad", "good", "mixed", "bad"] * 2 + LABELS, LABELS)
    train(model, Bucketed(encoded, 4, 17, 0), TRAINING, tmp_path)
    moved = {name for name, p in model.state_dict().items() if not torch.equal(p, before[name])}
    learned = range(3 - (3 if blocks is None else blocks), 3)
    assert {int(n.split(".")[1]) for n in moved if n.startswith("blocks")} == set(learned)
    assert "head.weight" in moved
    assert ("norm.weight" in moved) == (blocks != 0)
    assert ("embedding.weight" in moved) == (blocks is None)


def test_more_blocks_than_there_are_cannot_learn():
    with pytest.raises(ConfigError, match="0 to 3"):
        train_last(Classifier(body(), LABELS), 4)


# --- rows ---


def test_the_label_is_the_only_target_and_stands_at_the_last_token():
    rows, targets = [[0, 7, 8, 9], [0, 5]], ["mixed", "bad"]
    source = Bucketed(encode_labeled(rows, targets, LABELS), 2, 17, seed=0)
    idx, wanted = source.batch(0)
    for row, target in zip(rows, targets, strict=True):
        place = next(i for i in range(2) if idx[i, : len(row)].tolist() == row)
        assert wanted[place, len(row) - 1] == LABELS.index(target)
        assert (wanted[place] != -100).sum() == 1


def test_the_loss_of_a_batch_is_the_cross_entropy_of_its_texts():
    """So the head sees the whole text, and never the label that stands behind it."""
    model = classifier()
    rows = some_rows(8)
    targets = [LABELS[i % 3] for i in range(8)]
    source = Bucketed(encode_labeled(rows, targets, LABELS), 8, 17, seed=0, tokens=10_000)
    _, loss = model(*source.batch(0))
    logits = model.head(text_features(model, rows))
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor([i % 3 for i in range(8)]))
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)


def test_long_texts_lose_their_middle():
    tokenizer = BPETokenizer.train(["a b c d e f"], 270)
    (row,) = encode_texts(["abcdefghij" * 3], tokenizer, block_size=9)
    assert len(row) == 9
    assert row[0] == tokenizer.eot_id
    assert tokenizer.decode(row[1:]).startswith("a")
    assert tokenizer.decode(row[1:]).endswith("j")


# --- the best head ---


@pytest.mark.parametrize(("decay", "K"), [(1.0, 3), (10.0, 3), (0.3, 4)])
def test_the_best_head_is_scikit_learns(decay, K):
    rng = np.random.default_rng(1)
    x = rng.normal(3, [1, 5, 0.1, 2, 1], size=(70, 5))
    y = (x[:, 0] + x[:, 1] / 5 + rng.normal(size=70)).argsort().argsort() * K // 70
    weight, bias = fit_head(torch.from_numpy(x).float(), torch.from_numpy(y), K, decay)
    scaled = StandardScaler().fit_transform(x)
    oracle = LogisticRegression(C=1 / decay, max_iter=5000, tol=1e-10).fit(scaled, y)
    shares = (torch.from_numpy(x).float() @ weight.T + bias).softmax(dim=1).numpy()
    assert np.abs(shares - oracle.predict_proba(scaled)).max() < 1e-3


def test_a_feature_that_never_changes_does_no_harm():
    x = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [4.0, 5.0]])
    weight, bias = fit_head(x, torch.tensor([0, 0, 1, 1]), 2)
    assert weight.isfinite().all()
    assert (x @ weight.T + bias).argmax(dim=1).tolist() == [0, 0, 1, 1]


def test_a_classifier_begins_with_the_best_head():
    model, rows = Classifier(body(), LABELS), some_rows(30)
    targets = [LABELS[row[0] % 3] for row in rows]
    begin_with_best_head(model, rows, targets)
    found = model.head(text_features(model, rows)).argmax(dim=1)
    right = sum(LABELS[k] == target for k, target in zip(found.tolist(), targets, strict=True))
    assert right > 20


# --- clusters ---


def test_the_adjusted_rand_index_is_scikit_learns():
    rng = np.random.default_rng(0)
    for k in (1, 2, 5, 60):
        clusters = rng.integers(k, size=60).tolist()
        targets = rng.choice(["a", "b", "c"], size=60).tolist()
        expected = adjusted_rand_score(targets, clusters)
        assert adjusted_rand_index(clusters, targets) == pytest.approx(expected, abs=1e-12)
    assert adjusted_rand_index([3, 3, 1], ["x", "x", "y"]) == 1.0
    assert adjusted_rand_index([0], ["x"]) == 1.0


def test_purity_counts_the_most_common_class_of_each_cluster():
    assert purity([0, 0, 0, 1, 1], list("aabbb")) == pytest.approx(4 / 5)
    assert purity([0, 1, 2], list("aab")) == 1.0
    with pytest.raises(DataError, match="2 predictions for 1"):
        purity([0, 1], ["a"])


# --- fine-tuning, opening, asking ---


def example(text: str, label: str, n: int) -> Example:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": label}]
    return Example(messages, f"my.csv, line {n}", text, "")


@pytest.fixture(scope="module")
def sides() -> Sides:
    words = {"good": "fine", "bad": "dull"}
    labels = ["good", "bad", "bad", "good", "good"] * 8
    examples = [example(f"Film {n} was {words[y]}.", y, n) for n, y in enumerate(labels)]
    return Sides(examples[:34], [*examples[34:], example("Film 99 was odd.", "odd", 99)], {})


SMALL = FinetuneConfig(
    data="my.csv",
    task="classify",
    pretrain_epochs=2,
    model=GPTConfig(vocab_size=300, block_size=64, n_layer=1, n_head=1, n_embd=16),
    training=dataclasses.replace(TRAINING, max_steps=6),
)


def finetuned(tmp_path, config, sides):
    model, tokenizer = start(tmp_path, config, sides.train)
    for phase in phases(tmp_path, config, model, tokenizer, sides):
        phase.run()
    return model, tokenizer


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, sides):
    folder = tmp_path_factory.mktemp("run")
    finetuned(folder, SMALL, sides)
    return folder


def test_a_run_reads_first_and_then_learns_labels(run_dir, sides):
    assert type(open_run(run_dir / "pretrained", "cpu").model) is GPT
    run = open_run(run_dir, "cpu")
    assert isinstance(run.model, Classifier)
    assert run.model.labels == ("bad", "good")
    texts = [example.messages[0]["content"] for example in sides.held_out[:-1]]
    right = [example.messages[1]["content"] for example in sides.held_out[:-1]]
    assert classify(run.model, run.tokenizer, texts) == right
    asked = [example.messages[:1] for example in sides.held_out[:-1]]
    assert answers(run.model, run.tokenizer, asked) == right  # the way in which commands ask


def test_probabilities_come_by_label_the_likeliest_first(run_dir):
    loaded = minigpt.load(run_dir, device="cpu")
    rows = loaded.classify(["Film 3 was fine.", "Film 4 was dull."])
    assert [next(iter(row)) for row in rows] == ["good", "bad"]
    assert all(sum(row.values()) == pytest.approx(1) for row in rows)
    assert loaded.classify([]) == []
    shares = label_probabilities(loaded.model, loaded.tokenizer, ["Film 3 was fine."])
    assert rows[0]["good"] == pytest.approx(shares[0, 1])
    with pytest.raises(ConfigError, match="no classifier"):
        minigpt.load("little", device="cpu").classify(["a"])


def test_a_classifier_writes_no_text_and_says_what_it_can_do(run_dir):
    run = open_run(run_dir, "cpu")
    with pytest.raises(ConfigError, match=r"cannot write — .*classify"):
        generate(run.model, [[1, 2]], SampleConfig(max_new_tokens=2))
    with pytest.raises(ConfigError, match="cannot predict text"):
        token_losses(run.model, [[1, 2, 3]])
    config = dataclasses.replace(SMALL, checkpoint=run_dir)
    with pytest.raises(ConfigError, match="cannot be tuned further"):
        start(run_dir.parent, config, [example("a", "b", 1)])


@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_a_classifier_is_not_exported(run_dir, tmp_path, capsys, format):
    words = ("--checkpoint", run_dir, "--out", tmp_path / "out", "--format", format)
    assert "cannot be exported" in refused(capsys, "export", *words)
    assert not (tmp_path / "out").exists()


def test_a_stopped_classifier_goes_on_to_the_same_bits(tmp_path, sides, run_dir):
    config = dataclasses.replace(
        SMALL, training=dataclasses.replace(SMALL.training, save_interval=2)
    )
    model, tokenizer = start(tmp_path, config, sides.train)
    first, last = phases(tmp_path, config, model, tokenizer, sides)
    first.run()
    stops = iter([False, False, True])
    assert last.run(should_stop=lambda: next(stops)).stopped
    again, tokenizer = start(tmp_path, config, sides.train, resume=True)
    (phase,) = phases(tmp_path, config, again, tokenizer, sides)
    assert phase.run(resume=True).step == 6
    whole = open_run(run_dir, "cpu").model.state_dict()
    assert all(torch.equal(p, whole[name]) for name, p in again.state_dict().items())


def test_other_labels_on_resume_are_refused(run_dir, sides):
    changed = [
        e._replace(
            messages=[e.messages[0], {**e.messages[1], "content": "x" + e.messages[1]["content"]}]
        )
        for e in sides.train
    ]
    model, tokenizer = start(run_dir, SMALL, changed, resume=True)
    (phase,) = phases(run_dir, SMALL, model, tokenizer, Sides(changed, changed, {}))
    with pytest.raises(ConfigError, match="labels"):
        phase.run(resume=True)


def test_a_checkpoint_gives_its_body_and_some_blocks_learn(tmp_path, sides):
    config = dataclasses.replace(SMALL, checkpoint=Path("little-base"))
    config = dataclasses.replace(config, train_blocks=1, pretrain_epochs=None)
    model, _ = finetuned(tmp_path, config, sides)
    base = open_run(Path("little-base"), "cpu").model
    assert torch.equal(model.embedding.weight, base.embedding.weight)
    assert torch.equal(model.blocks[1].mlp.down.weight, base.blocks[1].mlp.down.weight)
    assert not torch.equal(model.blocks[2].mlp.down.weight, base.blocks[2].mlp.down.weight)
    assert not (tmp_path / "pretrained").exists()


def test_blocks_belong_to_classification_and_texts_are_no_labels(tmp_path):
    with pytest.raises(ConfigError, match="train_blocks"):
        FinetuneConfig(data="x", train_blocks=1)
    texts = [example(f"text {n}", f"answer {n}", n) for n in range(9)]
    with pytest.raises(DataError, match="9 different answers in 9 examples are no labels"):
        start(tmp_path, SMALL, texts)
