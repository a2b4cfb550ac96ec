"""The benchmarks run at tiny sizes, compare like with like, and say by name what they skip."""

import json
import math
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch

from benchmarks import Peers, Row, clone, measure, report, table, timing
from benchmarks.decoding import greedy_hf, greedy_ours, make_model
from benchmarks.derivatives import train_minigpt
from benchmarks.gpu import time_to
from benchmarks.peers import huggingface_model
from benchmarks.timing import take_turns
from benchmarks.training import (
    T,
    by_characters,
    full_loss,
    race,
    same_size,
    shakespeare_rows,
    with_bigrams,
)
from minigpt.commands.bench import PARTS
from minigpt.counts import count_parameters
from minigpt.gpt import ARCHITECTURES, GPT, GPTConfig
from minigpt.support.errors import ConfigError

TEXT = "First Citizen: before we proceed any further, hear me speak.\n" * 60
MODEL = '''
"""Stands in for nanoGPT: the same calls, a model that only counts."""
from dataclasses import dataclass
import torch

@dataclass
class GPTConfig:
    block_size: int = 8
    vocab_size: int = 8
    n_layer: int = 1
    n_head: int = 1
    n_embd: int = 8
    dropout: float = 0.0
    bias: bool = True

class Parts(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        C, b = c.n_embd, c.bias
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(C), torch.nn.LayerNorm(C)
        self.attn, self.mlp = torch.nn.Module(), torch.nn.Module()
        self.attn.c_attn, self.attn.c_proj = torch.nn.Linear(C, 3 * C), torch.nn.Linear(C, C)
        self.mlp.c_fc, self.mlp.c_proj = torch.nn.Linear(C, 4 * C), torch.nn.Linear(4 * C, C)

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        print("number of parameters: 0.01M")
        self.transformer = torch.nn.Module()
        self.transformer.wte = torch.nn.Embedding(config.vocab_size, config.n_embd)
        self.transformer.wpe = torch.nn.Embedding(config.block_size, config.n_embd)
        self.transformer.ln_f = torch.nn.LayerNorm(config.n_embd)
        self.transformer.h = torch.nn.ModuleList(Parts(config) for _ in range(config.n_layer))

    def forward(self, idx, targets=None):
        logits = self.transformer.wte(idx) @ self.transformer.wte.weight.T
        flat = None if targets is None else targets.reshape(-1)
        return logits, flat if flat is None else torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), flat)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas)

    def generate(self, idx, max_new_tokens, temperature=1.0, top_k=None):
        return torch.cat((idx, idx[:, -1:].repeat(1, max_new_tokens)), dim=1)
'''


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def nanogpt(tmp_path_factory) -> Path:
    """Return a folder that looks like a clone of nanoGPT."""
    folder = tmp_path_factory.mktemp("nanoGPT")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    return folder


def run(capsys, *words: object) -> tuple[int, str, str]:
    return helpers.run(capsys, "bench", *words)


# ---- timing


def test_ways_take_turns_and_the_median_counts(monkeypatch):
    order, now = [], [0.0]
    slow = {"a": iter([50, 1, 9, 2]), "b": iter([50, 4, 4, 4])}

    def way(name: str):
        def work() -> str:
            order.append(name)
            now[0] += next(slow[name])
            return name + str(len(order))

        return work

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    seconds, results = take_turns({"a": way("a"), "b": way("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert seconds == {"a": 2, "b": 4}  # the first round only warms up
    assert results == {"a": "a7", "b": "b8"}


@pytest.mark.parametrize(
    ("value", "goal", "at_most", "met"),
    [
        (10, 10, False, True),
        (9.9, 10, False, False),
        (3, 3, True, True),
        (3.1, 3, True, False),
        (math.inf, 30, True, False),
        (5, None, False, None),
    ],
)
def test_a_goal_is_met_or_not(value, goal, at_most, met):
    row = Row("training", "speed", value, "x", goal, at_most)
    assert row.met is met
    line = table([row]).splitlines()[2]
    assert {True: "| yes |", False: "| no |", None: "|  |"}[met] in line
    kept = json.loads(report([row], ["minbpe"]))
    assert kept["skipped"] == ["minbpe"]
    assert kept["rows"][0]["value"] == (value if math.isfinite(value) else None)


# ---- like is compared with like


def test_the_same_size_is_nanogpts_and_has_no_tables():
    config = same_size(65, 9).model
    assert same_size(65, 9).kind is GPT
    nanogpt = GPTConfig(65, T, 4, 4, None, 128, **ARCHITECTURES["gpt2"] | {"biases": False})
    ratio = count_parameters(config) / count_parameters(nanogpt)
    assert ratio < 1.03
    assert (config.n_layer, config.n_embd, config.block_size) == (4, 128, 64)


def test_a_table_of_pairs_adds_a_vector_for_each_token_and_the_one_before():
    recipe = with_bigrams(5, 9)
    model, idx = recipe.kind(recipe.model), torch.tensor([[3, 1, 4]])
    plain = GPT(recipe.model)
    plain.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(model(idx)[0], plain(idx)[0])  # the table begins with zeros
    model(idx, idx)[1].backward()
    used = model.embedding.pairs.grad.abs().sum(dim=1).nonzero()[:, 0].tolist()
    assert used == sorted([0 * 5 + 3, 3 * 5 + 1, 1 * 5 + 4])


def test_characters_are_numbered_and_split_as_nanogpt_does(tmp_path):
    data = by_characters(TEXT, tmp_path)
    characters = sorted(set(TEXT))
    cut = int(0.9 * len(TEXT))
    assert "".join(characters[i] for i in data.train.tokens) == TEXT[:cut]
    validation = "".join(characters[i] for i in data.validation.tokens)
    assert TEXT[cut:].startswith(validation)
    assert len(validation) % T == 1
    assert len(TEXT) - cut - len(validation) < T


def test_the_full_loss_predicts_each_token_once(tmp_path):
    data = by_characters(TEXT, tmp_path)
    torch.manual_seed(0)
    model = GPT(GPTConfig(data.train.vocab_size, T, 1, 1, None, 8))
    ids = torch.from_numpy(data.validation.tokens.astype(np.int64))
    losses = [
        model(ids[None, i : i + T], ids[None, i + 1 : i + T + 1])[1].item()
        for i in range(0, len(ids) - 1, T)
    ]
    assert full_loss(model, data.validation) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_a_run_that_has_not_reached_the_loss_is_not_faster():
    found = {
        "nanogpt": [(60, 1.9)] * 3,
        "same": [(5, 1.95), (5, 1.91), (9, 1.8)],
        "any": [(4, 1.8)],
        "long": [(60, 1.5)],
    }
    found |= {f"{name}, in time": found[name] for name in ("same", "any")}
    rows = {row.what: row for row in shakespeare_rows(found)}
    same = rows["nanoGPT's loss sooner, same size"]
    assert (same.value, same.met) == (0, False)
    assert "not reached" in same.note
    other = rows["nanoGPT's loss sooner, any architecture"]
    assert (other.value, other.met) == (15, True)
    assert rows["loss in nanoGPT's time"].met


def test_a_run_that_comes_later_than_its_goal_says_how_far_it_was_in_time():
    found = {
        "nanogpt": [(60, 1.9)],
        "same, in time": [(6, 2.2)],
        "same": [(12, 1.88)],
        "any, in time": [(4, 1.8)],
        "any": [(4, 1.8)],
        "long": [(60, 1.5)],
    }
    rows = {row.what: row for row in shakespeare_rows(found)}
    same = rows["nanoGPT's loss sooner, same size"]
    assert (same.value, same.met) == (5, False)
    assert same.note == "12.00 s, loss 1.880; 2.200 after 6.00 s"
    assert rows["nanoGPT's loss sooner, any architecture"].note == "4.00 s, loss 1.800"


@pytest.mark.parametrize(
    ("losses", "most", "given"),
    [
        ([1.8], 100, [4]),  # there at once
        ([2.2, 2.0, 1.9], 100, [4, 7.5, 11.25]),  # a run may take longer than it was given
        ([2.2, 2.1], 10, [4, 7.5]),  # a third would come too late
        ([2.2], 0, [4]),
    ],
)
def test_a_race_goes_on_until_the_loss_is_there_or_the_time_is_up(losses, most, given):
    taken, told = [6, 9, 13.5], []

    def run(seconds: float) -> tuple[float, float]:
        told.append(seconds)
        return taken[len(told) - 1], losses[len(told) - 1]

    assert race(run, 4, 1.9, most) == list(zip(taken, losses, strict=False))
    assert told == given


@pytest.mark.slow
def test_transformers_decodes_the_same_tokens_from_our_weights():
    transformers = pytest.importorskip("transformers")
    ours = make_model(GPTConfig(17, 24, 2, 2, None, 16, **ARCHITECTURES["gpt2"]))
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(torch.randn_like(p) * 0.1)  # biases and norms count too
    theirs = huggingface_model(transformers, ours)
    prompts = torch.randint(17, (3, 5))
    torch.testing.assert_close(theirs(prompts).logits, ours(prompts)[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(greedy_hf(theirs, prompts, 12), greedy_ours(ours, prompts, 12))


def test_the_moons_are_learned():
    from benchmarks.derivatives import moons

    losses = train_minigpt(*moons(np.random.default_rng(0)), steps=40)
    assert losses[-1] < 0.5 * losses[0]


def test_time_to_a_loss_leaves_the_first_step_out():
    rows = [
        {"step": 1, "loss": 4.0, "seconds": 20.0},
        {"step": 9, "loss": 2.0, "seconds": 25.0},
        {"step": 9, "val_loss": 1.6},
        {"step": 19, "loss": 1.4, "seconds": 31.0},
        {"step": 19, "val_loss": 1.46},
        {"step": 29, "loss": 1.3, "seconds": 50.0},
    ]
    assert time_to(rows, 1.4697).value == 11
    missed = time_to(rows[:3], 1.4697)
    assert (missed.value, missed.met) == (math.inf, False)
    assert "1.6000: not reached" in missed.note


# ---- the command


@pytest.mark.slow
def test_quick_measures_every_part_and_writes_both_files(capsys, tmp_path, nanogpt):
    text = tmp_path / "input.txt"
    text.write_text(TEXT, encoding="utf-8")
    out = tmp_path / "out"
    code, printed, _ = run(
        capsys, "--out", str(out), "--quick", "--data", str(text), "--nanogpt", str(nanogpt)
    )
    assert code == 0
    found = json.loads((out / "bench.json").read_text(encoding="utf-8"))
    assert {row["part"] for row in found["rows"]} == set(PARTS)
    assert found["torch"] == torch.__version__
    measured = " ".join(row["what"] for row in found["rows"])
    for words in (
        "same size",
        "beside nanoGPT",
        "beside tokenizers",
        "share of that peak",
        "790 TFLOP/s",
        "1.4697",
        "attention not fused",
    ):
        assert words in measured
    assert "number of parameters" not in printed  # what peers print is left out
    assert (out / "bench.md").read_text(encoding="utf-8").strip() == printed.strip()
    assert "skipped: minbpe: give the folder of its clone by --minbpe" in printed
    assert "skipped: micrograd: give the folder of its clone by --micrograd" in printed


def test_what_is_missing_is_skipped_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.installed", lambda name: None)
    skipped: list[str] = []
    for part in ("generation", "tokenizer", "gpu"):
        rows = list(measure(part, Peers(), tmp_path, part != "gpu", skipped.append))
        assert not any("beside" in row.what for row in rows)
    words = " ".join(skipped)
    for name in ("nanogpt", "transformers", "minbpe", "Tiny Shakespeare"):
        assert name in words
    if not torch.cuda.is_available():
        assert "gpu: there is none here" in words


def test_a_folder_without_the_clone_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no model there — .* — name the folder of the clone"):
        clone(tmp_path, "model", "nanogpt", print)


def test_only_some_parts(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("MINIGPT_DATA", raising=False)
    code, printed, _ = run(capsys, "--out", str(tmp_path), "--quick", "--only", "autograd")
    assert code == 0
    assert "| autograd |" in printed
    assert "| training |" not in printed


@pytest.mark.parametrize("flag", ["--data", "--nanogpt"])
def test_a_wrong_path_is_one_line(capsys, tmp_path, flag):
    words = ["--out", str(tmp_path / "out"), "--quick", flag, str(tmp_path / "none")]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert str(tmp_path / "none") in err
    assert "Traceback" not in err
