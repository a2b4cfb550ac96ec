"""Training: exact accumulation and resume, schedules, and stopping before harm is done."""

import dataclasses
import itertools
import json
import math
import shutil
import signal
import time
import warnings
from pathlib import Path
from queue import Queue

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import recipe
from minigpt import trainer as trainer_module
from minigpt.batching.windows import IGNORE
from minigpt.gpt import GPT, GPTConfig
from minigpt.machine.distributed import World
from minigpt.muon import Muon
from minigpt.recipe import TrainConfig, learning_rate_factor, make_optimizers
from minigpt.runs.checkpoint import checkpoint_paths, latest_checkpoint
from minigpt.support.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LockedError,
    TrainingError,
)
from minigpt.support.lock import RunLock
from minigpt.support.settings import rules
from minigpt.train import prefetch, train
from minigpt.trainer import Trainer, seed_step
from minigpt.validation import evaluate_loss

V, T, B = 17, 7, 6

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def ctrl_c():
    """Let Ctrl-C raise KeyboardInterrupt, also where pytest was started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Source:
    """Give random batches (B, T), each a pure function of its step."""

    def __init__(self, rows: int = B, ignored: float = 0.0):
        self.rows, self.ignored = rows, ignored
        self.steps = []

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.steps.append(step)
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, V, (self.rows, T + 1), generator=generator)
        targets = ids[:, 1:].clone()
        targets[torch.rand(self.rows, T, generator=generator) < self.ignored] = IGNORE
        return ids[:, :-1], targets


def make_model(dropout: float = 0.0, **options) -> GPT:
    torch.manual_seed(5)
    config = {"vocab_size": V, "block_size": T, "n_layer": 2, "n_head": 2, "n_embd": 12}
    return GPT(GPTConfig(**config | options, dropout=dropout))


def make_config(**options) -> TrainConfig:
    defaults = {
        "max_steps": 6,
        "batch_size": B,
        "warmup_steps": 2,
        "log_interval": 1,
        "eval_interval": 3,
        "save_interval": 3,
        "device": "cpu",
        "dtype": "float32",
    }
    return TrainConfig(**defaults | options)


def weights(model: GPT) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows(run_dir: Path, *without: str) -> list[dict]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in without} for line in lines]


# ---- the loop


def test_training_learns_writes_rows_and_saves_the_last_step(tmp_path):
    seen, source = [], Source()
    fixed = source.batch(0)
    source.batch = lambda step: fixed
    config = make_config(max_steps=60, save_interval=25, learning_rate=0.03, muon_learning_rate=0.1)
    result = train(
        make_model(),
        source,
        config,
        tmp_path,
        validation=[fixed],
        on_log=seen.append,
    )
    assert (result.step, result.stopped, result.tokens) == (60, False, 60 * B * T)
    assert result.val_loss < 0.5 < math.log(V) - 0.5 < seen[0]["loss"] < math.log(V) + 0.5
    assert rows(tmp_path) == seen
    assert [p.name for p in checkpoint_paths(tmp_path)] == ["step-00000050", "step-00000060"]
    steps = [row["step"] for row in seen if "loss" in row]
    assert steps == list(range(1, 61))
    assert [row["step"] for row in seen if "val_loss" in row] == list(range(3, 61, 3))
    assert set(seen[0]) == {"step", "loss", "learning_rate", "grad_norm", "tokens", "seconds"}


def test_one_step_is_adamw_by_torch_on_the_clipped_gradient(tmp_path):
    config = make_config(
        optimizer="adamw",
        max_steps=1,
        warmup_steps=0,
        grad_clip=0.1,
        weight_decay=0.3,
        learning_rate=0.01,
    )
    model, twin = make_model(), make_model()
    train(model, Source(), config, tmp_path)
    decayed = [p for p in twin.parameters() if p.ndim == 2]
    others = [p for p in twin.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}],
        lr=0.01,
        betas=(0.9, 0.95),
    )
    twin(*Source().batch(0))[1].backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
    optimizer.step()
    for name, p in twin.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], p, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("micro", [1, 2, 4, 5])
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_accumulation_equals_one_big_batch(tmp_path, micro, ignored):
    batch = Source(rows=B, ignored=ignored).batch(3)
    if ignored:
        batch[1][2] = IGNORE  # a row without targets: a piece of its own when micro is 1
    losses, gradients = [], []
    for name, size in (("big", None), ("pieces", micro)):
        trainer = Trainer(make_model(), make_config(micro_batch_size=size), tmp_path / name, {})
        loss, tokens = trainer.accumulate(batch)
        assert tokens == int((batch[1] != IGNORE).sum())
        losses.append(loss.item())
        gradients.append([p.grad for p in trainer.model.parameters()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    expected = make_model()(*batch)[1].item()
    assert losses[0] == pytest.approx(expected, abs=1e-6)


def test_a_short_last_batch_trains_with_its_own_mean(tmp_path):
    trainer = Trainer(make_model(), make_config(micro_batch_size=4), tmp_path, {})
    batch = Source(rows=5).batch(0)
    assert trainer.accumulate(batch)[0].item() == pytest.approx(make_model()(*batch)[1].item())


def test_dropout_is_seeded_by_step_and_piece_and_the_callers_randomness_is_left_alone(tmp_path):
    draws = set()
    for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (11, 1, 0), (1, 11, 0)):
        seed_step(*place)
        draws.add(torch.rand(()).item())
    assert len(draws) == 6
    model = make_model(dropout=0.2)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    train(model, Source(), make_config(max_steps=2), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_each_rank_drops_other_activations_and_each_does_so_again(tmp_path, monkeypatch):
    rows = [part.repeat(2, 1) for part in Source(rows=B // 2).batch(0)]  # both ranks: the same

    def gradient(rank: int) -> torch.Tensor:
        monkeypatch.setattr(trainer_module, "world", lambda: World(rank, 2))
        trainer = Trainer(make_model(dropout=0.5), make_config(), tmp_path / str(rank), {})
        trainer.accumulate((rows[0], rows[1]))
        return trainer.model.embedding.weight.grad

    first, second = gradient(0), gradient(1)
    assert not torch.allclose(first, second)
    assert torch.equal(gradient(0), first)
    assert torch.equal(gradient(1), second)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    finals = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        model = make_model(dropout=0.2)
        train(model, Source(), make_config(seed=seed), tmp_path / name)
        finals.append(weights(model))
    assert same(finals[0], finals[1])
    assert not same(finals[0], finals[2])


def test_muon_has_the_matrices_inside_blocks_and_adamw_the_rest():
    model = make_model()
    muon, adamw = make_optimizers(model, make_config(weight_decay=0.2))
    assert isinstance(muon, Muon)
    names = {id(p): name for name, p in model.named_parameters()}
    matrices = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert matrices == {n for n, p in model.blocks.named_parameters("blocks") if p.ndim == 2}
    decayed = {names[id(p)] for p in adamw.param_groups[0]["params"]}
    assert decayed == {"embedding.weight"}
    assert adamw.param_groups[1]["weight_decay"] == 0
    every = [p for o in (muon, adamw) for group in o.param_groups for p in group["params"]]
    assert sorted(names[id(p)] for p in every) == sorted(names.values())
    assert adamw.defaults["fused"]


def test_frozen_parameters_are_left_alone(tmp_path):
    model = make_model()
    model.embedding.weight.requires_grad_(False)
    before = weights(model)
    train(model, Source(), make_config(max_steps=2, schedule="constant"), tmp_path)
    config = make_config(max_steps=4, schedule="constant")
    train(model, Source(), config, tmp_path, resume=True)
    assert torch.equal(model.embedding.weight, before["embedding.weight"])
    assert not torch.equal(model.norm.weight, before["norm.weight"])


# ---- the schedule


def test_the_schedules_rise_stay_and_fall():
    def factors(**options):
        config = make_config(max_steps=10, warmup_steps=2, **options)
        return [round(learning_rate_factor(step, config), 4) for step in range(10)]

    assert factors(schedule="constant") == [0.5] + 9 * [1.0]
    assert factors() == [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    tail = factors(cooldown_fraction=0.4)
    assert tail == [0.5, *6 * [1.0], 0.75, 0.5, 0.25]
    assert factors(schedule="cosine", final_learning_rate_fraction=0.2)[6] == 0.6
    assert factors(cooldown_fraction=0.0) == [0.5] + 9 * [1.0]


@given(st.integers(1, 50), st.floats(0, 1), st.floats(0, 1), st.data())
@settings(max_examples=100, deadline=None)
def test_the_schedule_is_always_within_its_bounds(max_steps, cooldown, final, data):
    config = make_config(
        max_steps=max_steps,
        warmup_steps=data.draw(st.integers(0, max_steps)),
        cooldown_fraction=cooldown,
        final_learning_rate_fraction=final,
        schedule=data.draw(st.sampled_from(["linear", "cosine", "constant"])),
    )
    factors = [learning_rate_factor(step, config) for step in range(max_steps)]
    after = factors[config.warmup_steps :]
    assert all(0 < f <= 1 for f in factors[: config.warmup_steps])
    assert all(min(final, 1) - 1e-9 <= f <= 1 for f in after)
    assert after == sorted(after, reverse=True)


# ---- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0),
        ("max_steps", 1.5),
        ("max_steps", True),
        ("max_steps", "9"),
        ("batch_size", -1),
        ("micro_batch_size", 0),
        ("learning_rate", 0),
        ("learning_rate", math.nan),
        ("learning_rate", float("1e400")),
        ("learning_rate", "fast"),
        ("muon_learning_rate", -1.0),
        ("weight_decay", -0.1),
        ("beta1", 1.0),
        ("beta2", math.inf),
        ("grad_clip", -1),
        ("cooldown_fraction", 1.1),
        ("final_learning_rate_fraction", -0.1),
        ("keep_checkpoints", 1),
        ("optimizer", "sgd"),
        ("schedule", []),
        ("dtype", "int8"),
        ("device", 3),
        ("seed", -1),
        ("compile", 1),
        ("eval_interval", 0),
        ("warmup_steps", 7),
        ("micro_batch_size", 7),
    ],
)
def test_impossible_settings_show_the_value_and_the_range(name, value):
    with pytest.raises(ConfigError) as caught:
        make_config(**{name: value})
    assert f"{name} = {value!r} is not possible" in str(caught.value)
    assert " — give " in str(caught.value)


def test_compiling_without_a_compiler_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"C\+\+ compiler.*leave --compile out"):
        Trainer(make_model(), make_config(compile=True), tmp_path, {})


def test_every_setting_has_a_reason_and_a_rule():
    source = Path(recipe.__file__).read_text(encoding="utf-8")
    ruled = rules(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        line = source.index(f"    {field.name}: ")
        assert source[source.index("\n", line) :].lstrip().startswith('"""'), field.name
        assert ruled[field.name].kind not in (int, float) or ruled[field.name].bounds, field.name


# ---- what --help promises of each setting


@pytest.mark.parametrize(
    ("max_steps", "warmup"), [(5, 0), (10, 1), (19, 1), (70, 7), (200, 20), (210, 20), (9000, 20)]
)
def test_warm_up_is_a_tenth_of_all_steps_and_at_most_20(max_steps, warmup):
    config = TrainConfig(max_steps=max_steps, schedule="constant")
    factors = [learning_rate_factor(step, config) for step in range(max_steps)]
    assert sum(factor < 1 for factor in factors) == max(warmup - 1, 0)
    assert factors[:warmup] == [(step + 1) / warmup for step in range(warmup)]


@pytest.mark.parametrize("steps", [1, 2, 5, 7])
def test_the_last_step_always_has_a_row_a_validation_and_a_checkpoint(tmp_path, steps):
    config = make_config(
        max_steps=steps, warmup_steps=0, eval_interval=3, log_interval=4, save_interval=5
    )
    result = train(make_model(), Source(), config, tmp_path, validation=[Source().batch(9)])
    found = rows(tmp_path)
    expected = {step for step in range(1, steps + 1) if step % 4 == 0} | {steps}
    assert {row["step"] for row in found if "loss" in row} == expected
    expected = {step for step in range(1, steps + 1) if step % 3 == 0} | {steps}
    assert {row["step"] for row in found if "val_loss" in row} == expected
    assert result.val_loss == found[-1]["val_loss"]
    assert latest_checkpoint(tmp_path).step == steps


@pytest.mark.parametrize("keep", [2, 3, 5])
def test_so_many_checkpoints_are_kept(tmp_path, keep):
    config = make_config(save_interval=1, keep_checkpoints=keep)
    train(make_model(), Source(), config, tmp_path)
    steps = [int(path.name[5:]) for path in checkpoint_paths(tmp_path)]
    assert steps == list(range(7 - keep, 7))


def test_a_clip_of_0_turns_clipping_off_and_any_other_is_the_greatest_norm(tmp_path):
    gradients = {}
    for clip in (0.0, 1e9, 0.01):
        config = make_config(max_steps=1, warmup_steps=0, grad_clip=clip)
        trainer = Trainer(make_model(), config, tmp_path / str(clip), {})
        trainer.train_step(Source().batch(0))
        gradients[clip] = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    assert torch.equal(gradients[0.0], gradients[1e9])
    assert gradients[0.0].norm() > 0.1
    assert gradients[0.01].norm() == pytest.approx(0.01, rel=1e-3)


def test_the_settings_of_the_optimizers_reach_them():
    options = {"learning_rate": 0.007, "muon_learning_rate": 0.03, "muon_momentum": 0.6}
    config = make_config(**options, beta1=0.7, beta2=0.8, weight_decay=0.3)
    muon, adamw = make_optimizers(make_model(), config)
    assert (muon.defaults["lr"], muon.defaults["momentum"]) == (0.03, 0.6)
    assert muon.defaults["weight_decay"] == 0.3
    assert [group["betas"] for group in adamw.param_groups] == [(0.7, 0.8)] * 2
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.3, 0.0]
    assert {group["initial_lr"] for group in adamw.param_groups} == {0.007}


# ---- resume


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("tied", [True, False])
def test_resume_goes_on_bit_for_bit(tmp_path, optimizer, tied):
    config = make_config(optimizer=optimizer, micro_batch_size=4, max_steps=7)

    def run(name, stop_at, resume):
        model, steps = make_model(dropout=0.1, tie_embeddings=tied), []
        result = train(
            model,
            Source(ignored=0.2),
            config,
            tmp_path / name,
            resume=resume,
            validation=[Source().batch(99)],
            on_log=lambda row: steps.append(row["step"]),
            should_stop=lambda: steps[-1] >= stop_at,
        )
        return weights(model), result

    whole, expected = run("whole", 99, False)
    _, result = run("parts", 2, True)
    assert (result.step, result.stopped) == (2, True)
    run("parts", 5, True)
    parts, result = run("parts", 99, True)
    assert same(whole, parts)
    assert not result.stopped
    assert dataclasses.replace(result, seconds=0) == dataclasses.replace(expected, seconds=0)
    assert rows(tmp_path / "whole", "seconds") == rows(tmp_path / "parts", "seconds")
    again, result = run("parts", 99, True)  # a finished run: nothing to do
    assert same(again, whole)
    assert result.step == 7


def test_a_resumed_run_takes_up_the_weights_and_not_those_of_the_given_model(tmp_path):
    model = make_model()
    train(model, Source(), make_config(), tmp_path)
    torch.manual_seed(77)
    other = GPT(model.config)
    train(other, Source(), make_config(), tmp_path, resume=True)
    assert same(weights(other), weights(model))


def test_rows_after_the_checkpoint_and_torn_rows_are_dropped(tmp_path):
    train(make_model(), Source(), make_config(max_steps=3), tmp_path)
    before = rows(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "loss": 1.0}\n[]\n{"step": 2, "lo')
    train(make_model(), Source(), make_config(max_steps=3), tmp_path, resume=True)
    assert rows(tmp_path) == before


def test_the_next_batch_is_made_while_one_trains_and_no_more():
    asked = Queue()

    class Asked:
        def batch(self, step):
            asked.put(step)
            if step == 6:
                raise ValueError("no batch")
            return torch.tensor([[step]]), torch.tensor([[step]])

    batches = prefetch(Asked(), range(3, 9), torch.device("cpu"))
    assert next(batches)[0].item() == 3
    assert [asked.get(timeout=5), asked.get(timeout=5)] == [3, 4]  # 4 before anybody wants it
    for step in (4, 5):
        assert next(batches)[0].item() == step
        assert asked.get(timeout=5) == step + 1
        assert asked.empty()
    with pytest.raises(ValueError, match="no batch"):
        next(batches)
    assert list(prefetch(Asked(), range(5, 5), torch.device("cpu"))) == []


def test_the_step_says_which_batches_are_asked_for(tmp_path):
    first, second = Source(), Source()
    train(make_model(), first, make_config(max_steps=3, schedule="constant"), tmp_path)
    config = make_config(max_steps=5, schedule="constant")
    train(make_model(), second, config, tmp_path, resume=True)
    assert (first.steps, second.steps) == ([0, 1, 2], [3, 4])


@pytest.mark.parametrize(
    ("changed", "diff"),
    [
        ({"learning_rate": 0.5}, "learning_rate 0.003 -> 0.5"),
        ({"seed": 4}, "seed 0 -> 4"),
        ({"batch_size": 4}, "batch_size 6 -> 4"),
        ({"grad_clip": 0}, "grad_clip 1.0 -> 0"),
    ],
)
def test_resume_with_other_settings_is_refused_with_a_diff(tmp_path, changed, diff):
    train(make_model(), Source(), make_config(), tmp_path)
    with pytest.raises(ConfigError) as caught:
        train(make_model(), Source(), make_config(**changed), tmp_path, resume=True)
    assert diff in str(caught.value)
    assert "resume with the old values" in str(caught.value)
    assert "max_steps" in str(caught.value)
    assert latest_checkpoint(tmp_path).step == 6


def test_resume_with_other_data_or_another_model_is_refused(tmp_path):
    facts = {"data_sha256": "aa", "tokenizer_sha256": "bb", "kind": {"x": (1, 2)}}
    train(make_model(), Source(), make_config(), tmp_path, manifest=facts)
    train(make_model(), Source(), make_config(), tmp_path, manifest=facts, resume=True)
    assert latest_checkpoint(tmp_path).manifest["tokenizer_sha256"] == "bb"
    with pytest.raises(ConfigError, match="data_sha256 'aa' -> 'cc'"):
        train(
            make_model(),
            Source(),
            make_config(),
            tmp_path,
            resume=True,
            manifest=facts | {"data_sha256": "cc"},
        )
    with pytest.raises(ConfigError, match=r"model\.n_layer 2 -> 3"):
        train(make_model(n_layer=3), Source(), make_config(), tmp_path, manifest=facts, resume=True)


def test_intervals_are_free_and_what_costs_bits_is_said(tmp_path):
    train(make_model(), Source(), make_config(), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = make_config(log_interval=5, eval_interval=9, save_interval=7, keep_checkpoints=3)
        train(make_model(), Source(), config, tmp_path, resume=True)
    with pytest.warns(UserWarning, match=r"not bit-identical: .*max_steps 6 -> 8"):
        train(make_model(), Source(), make_config(max_steps=8), tmp_path, resume=True)
    config = make_config(max_steps=8, micro_batch_size=2)
    with pytest.warns(UserWarning, match="micro_batch_size None -> 2"):
        train(make_model(), Source(), config, tmp_path, resume=True)


def test_another_number_of_threads_is_said(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        train(make_model(), Source(), make_config(), tmp_path)
        torch.set_num_threads(2)
        with pytest.warns(UserWarning, match="threads 1 -> 2"):
            train(make_model(), Source(), make_config(), tmp_path, resume=True)
    finally:
        torch.set_num_threads(before)
    environment = latest_checkpoint(tmp_path).manifest["environment"]
    assert (environment["threads"], environment["optimizer"]) == (1, "Muon + AdamW fused")


def test_a_damaged_newest_checkpoint_is_passed_over_and_written_again(tmp_path):
    model = make_model(dropout=0.1)
    train(model, Source(), make_config(), tmp_path)
    damaged = tmp_path / "checkpoints" / "step-00000006" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    again = make_model(dropout=0.1)
    with pytest.warns(UserWarning, match=r"passed over a damaged checkpoint: .*step-00000006"):
        train(again, Source(), make_config(), tmp_path, resume=True)
    assert same(weights(again), weights(model))
    assert latest_checkpoint(tmp_path).step == 6


@pytest.mark.filterwarnings("ignore:passed over")
def test_without_any_good_checkpoint_resume_does_not_begin_anew(tmp_path):
    train(make_model(), Source(), make_config(), tmp_path)
    for path in checkpoint_paths(tmp_path):
        (path / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"none of 2 checkpoints verifies.*another directory"):
        train(make_model(), Source(), make_config(), tmp_path, resume=True)


def test_a_new_run_never_overwrites_an_old_one(tmp_path):
    train(make_model(), Source(), make_config(), tmp_path)
    with pytest.raises(ConfigError, match=r"already has a checkpoint \(step-00000006\).*resume it"):
        train(make_model(), Source(), make_config(), tmp_path)


def test_the_lock_is_held_while_training(tmp_path):
    locked = []
    train(
        make_model(),
        Source(),
        make_config(),
        tmp_path,
        on_log=lambda row: locked.append(bool(RunLock.held)),
    )
    assert all(locked)
    assert not RunLock.held
    assert LockedError.exit_code == 4


# ---- numbers that are not finite, memory, data


def test_inf_in_a_weight_stops_before_the_update_and_keeps_the_batch(tmp_path):
    model, source = make_model(), Source()

    def poison(row):
        if row["step"] == 4:
            with torch.no_grad():
                model.norm.weight[0] = math.inf

    with pytest.raises(TrainingError) as caught:
        train(model, source, make_config(), tmp_path, on_log=poison)
    assert "loss nan" in str(caught.value)
    assert "step 4" in str(caught.value)
    assert "lower learning rate (now learning_rate 0.003" in str(caught.value)
    assert TrainingError.exit_code == 3
    assert latest_checkpoint(tmp_path).step == 3
    kept = safetensors.torch.load_file(tmp_path / "bad_batch.safetensors")
    assert torch.equal(kept["idx"], source.batch(4)[0])
    assert torch.equal(kept["targets"], source.batch(4)[1])
    assert (kept["step"], kept["seed"]) == (4, 0)


@pytest.mark.parametrize("k", range(0, 6))
@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_no_update_is_made_with_a_gradient_that_is_not_finite(tmp_path, k, number):
    model, before, source, steps = make_model(), {}, Source(), itertools.count()

    def poison(module, inputs, output):
        if next(steps) < k:
            return output
        before.update(weights(model))
        return output * number

    model.head.register_forward_hook(poison)
    with pytest.raises(TrainingError, match=rf"step {k}, its batch is kept"):
        train(model, source, make_config(save_interval=2), tmp_path)
    assert same(before, weights(model))
    newest = latest_checkpoint(tmp_path)
    assert (newest.step if newest else 0) == k // 2 * 2


def test_an_absurd_learning_rate_leaves_no_broken_checkpoint(tmp_path):
    config = make_config(
        max_steps=20, save_interval=1, learning_rate=1e20, warmup_steps=0, muon_learning_rate=1e20
    )
    with pytest.raises(TrainingError, match="learning rate"):
        train(make_model(), Source(), config, tmp_path)
    newest = latest_checkpoint(tmp_path)
    assert newest is None or all(t.isfinite().all() for t in newest.model.values())


def test_a_validation_loss_that_is_not_finite_ends_the_run_unsaved(tmp_path):
    model = make_model()
    bad = Source().batch(5)

    def poison(row):
        if row["step"] == 3 and "loss" in row:
            model.norm.weight.data[0] = math.nan

    with pytest.raises(TrainingError, match=r"validation loss nan — step 3 — .*lower learning"):
        train(
            model, Source(), make_config(save_interval=1), tmp_path, validation=[bad], on_log=poison
        )
    assert latest_checkpoint(tmp_path).step == 2
    assert model.training


class Overflowing(torch.amp.GradScaler):
    """Scale losses so far that gradients overflow, as float16 does, in the chosen steps."""

    steps: range = range(0)

    def __init__(self):
        super().__init__("cpu", init_scale=2.0)
        self.calls = 0

    def scale(self, loss):
        self.calls += 1
        return super().scale(loss) * (math.inf if self.calls - 1 in self.steps else 1)


@pytest.mark.slow
@pytest.mark.parametrize(("overflows", "ends"), [(range(1, 51), False), (range(0, 99), True)])
def test_float16_skips_steps_and_gives_up_after_50(tmp_path, monkeypatch, overflows, ends):
    monkeypatch.setattr(trainer_module, "make_scaler", lambda device, dtype: Overflowing())
    monkeypatch.setattr(Overflowing, "steps", overflows)
    config = make_config(max_steps=60, save_interval=10)
    model = make_model()
    if ends:
        with pytest.raises(TrainingError, match=r"after 50 skipped steps.*step 50"):
            train(model, Source(), config, tmp_path)
        assert same(weights(model), weights(make_model()))
    else:
        assert train(model, Source(), config, tmp_path).step == 60
        skipped = [row["skipped"] for row in rows(tmp_path) if "skipped" in row]
        assert skipped == list(range(1, 51))
        monkeypatch.setattr(Overflowing, "steps", range(0))
        state = latest_checkpoint(tmp_path).state
        assert state["scaler"]["scale"] == 2.0 * 0.5**50
    for path in checkpoint_paths(tmp_path):  # also one whose every step was skipped is usable
        assert path.is_dir()
    if ends:
        monkeypatch.setattr(Overflowing, "steps", range(0))
        assert train(model, Source(), config, tmp_path, resume=True).step == 60


def test_a_batch_without_targets_is_refused_with_its_rows_and_step(tmp_path):
    source = Source()
    good = source.batch
    source.batch = lambda step: (
        (good(step)[0], good(step)[1] * 0 + IGNORE) if step == 4 else good(step)
    )
    with pytest.raises(DataError, match=r"rows 0 to 5 are -100.*step 4.*at least one target"):
        train(make_model(), source, make_config(), tmp_path)
    assert latest_checkpoint(tmp_path).step == 3


def test_a_validation_without_targets_is_refused(tmp_path):
    for validation in ([], [(torch.zeros(2, T).long(), torch.full((2, T), IGNORE))]):
        with pytest.raises(DataError, match=r"no target to predict.*more validation text"):
            evaluate_loss(make_model(), validation, torch.device("cpu"), torch.float32)


def test_validation_weighs_every_target_the_same_and_switches_dropout_off():
    model = make_model(dropout=0.5)
    batches = [Source(rows=n, ignored=0.5).batch(n) for n in (1, 2, 5)]
    found = evaluate_loss(model, batches, torch.device("cpu"), torch.float32)
    assert model.training
    model.eval()
    total = sum(
        torch.nn.functional.cross_entropy(
            model(idx)[0].flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=IGNORE
        ).item()
        for idx, targets in batches
    )
    count = sum(int((targets != IGNORE).sum()) for _, targets in batches)
    assert found == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
        ),
    ],
)
@pytest.mark.parametrize(("micro", "advice"), [(4, "micro_batch_size 2"), (1, "block_size 3")])
def test_out_of_memory_says_what_to_make_smaller(tmp_path, error, micro, advice):
    model = make_model()

    def no_memory(module, inputs):
        if latest_checkpoint(tmp_path):
            raise error

    model.register_forward_pre_hook(no_memory)
    with pytest.raises(TrainingError) as caught:
        train(model, Source(), make_config(micro_batch_size=micro), tmp_path)
    assert f"out of memory with {micro} rows of {T} tokens" in str(caught.value)
    assert "step 3" in str(caught.value)
    assert advice in str(caught.value)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_other_errors_are_not_taken_for_memory(tmp_path):
    source = Source()
    source.batch = lambda step: (torch.full((B, T), V), torch.zeros(B, T).long())
    with pytest.raises(IndexError):
        train(make_model(), source, make_config(), tmp_path)


# ---- saving fails


@pytest.mark.parametrize("stop", [True, False])
def test_a_failed_save_ends_the_run_or_not_by_choice(tmp_path, monkeypatch, stop):
    real, calls = trainer_module.save_checkpoint, []

    def full(run_dir, step, *rest):
        calls.append(step)
        if step == 4:
            raise CheckpointError("disk full: need 2 MB, have 1 MB", "here", "free some space")
        return real(run_dir, step, *rest)

    monkeypatch.setattr(trainer_module, "save_checkpoint", full)
    config = make_config(save_interval=2, stop_on_failed_save=stop)
    if stop:
        with pytest.raises(CheckpointError, match="disk full"):
            train(make_model(), Source(), config, tmp_path)
        assert latest_checkpoint(tmp_path).step == 2
    else:
        with pytest.warns(UserWarning, match="going on without a new checkpoint: disk full"):
            assert train(make_model(), Source(), config, tmp_path).step == 6
        assert calls == [2, 4, 6]
        assert latest_checkpoint(tmp_path).step == 6


# ---- Ctrl-C (real processes: test_crash.py)


def test_a_keyboard_interrupt_saves_the_last_whole_step_and_the_model_stays_usable(
    tmp_path,
):
    whole = make_model(dropout=0.1)
    train(whole, Source(), make_config(), tmp_path / "whole")
    model, source = make_model(dropout=0.1), Source()
    forward = model.head.register_forward_hook(interrupt_at_call(5))
    with pytest.raises(KeyboardInterrupt):
        train(model, source, make_config(save_interval=100), tmp_path / "run")
    forward.remove()
    assert latest_checkpoint(tmp_path / "run").step == 4
    assert all(p.grad is None for p in model.parameters())
    assert not RunLock.held
    model.generate_works = model(source.batch(0)[0])[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, source, make_config(), tmp_path / "run", resume=True)
    assert same(weights(model), weights(whole))


def interrupt_at_call(number: int):
    calls = []

    def hook(module, inputs, output):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt

    return hook


def test_ctrl_c_in_the_middle_of_an_update_waits_for_its_end(tmp_path, monkeypatch):
    whole = make_model()
    train(whole, Source(), make_config(), tmp_path / "whole")
    update, calls = Muon.step, []

    def step(self, closure=None):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return update(self, closure)

    monkeypatch.setattr(Muon, "step", step)
    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        train(model, Source(), make_config(save_interval=100), tmp_path / "run")
    assert latest_checkpoint(tmp_path / "run").step == 4
    monkeypatch.undo()
    train(model, Source(), make_config(), tmp_path / "run", resume=True)
    assert same(weights(model), weights(whole))


def test_should_stop_saves_the_step(tmp_path):
    answers = iter([False, True])
    result = train(
        make_model(),
        Source(),
        make_config(save_interval=100),
        tmp_path,
        should_stop=lambda: next(answers),
    )
    assert (result.step, result.stopped) == (2, True)
    assert latest_checkpoint(tmp_path).step == 2


# ---- kernels


def test_the_deterministic_switch_is_set_for_the_run_only(tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    seen = []
    train(
        make_model(),
        Source(),
        make_config(max_steps=2, deterministic=True),
        tmp_path,
        on_log=lambda row: seen.append(torch.are_deterministic_algorithms_enabled()),
    )
    assert seen == [True, True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_bfloat16_computes_in_it_and_keeps_weights_in_float32(tmp_path):
    model, seen = make_model(), set()
    model.head.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    train(model, Source(), make_config(dtype="bfloat16"), tmp_path)
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.soak
def test_soak_the_loop_costs_at_most_a_fifth_more_than_a_bare_torch_loop(tmp_path):
    """Time a step of about 1 M parameters, in turns; the best of three rounds of each counts."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=512, block_size=64, n_layer=4, n_head=4, n_embd=128))
    ids = torch.randint(0, 512, (16, 65))
    source = Source()
    source.batch = lambda step: (ids[:, :-1], ids[:, 1:])
    config = make_config(max_steps=50, batch_size=16, log_interval=10, save_interval=1000)
    ours, bare = [], []
    for round_ in range(3):
        begin = time.perf_counter()
        train(model, source, config, tmp_path / str(round_))
        ours.append(time.perf_counter() - begin)
        optimizers = make_optimizers(model, config)
        begin = time.perf_counter()
        for _ in range(config.max_steps):
            model.zero_grad()
            model(ids[:, :-1], ids[:, 1:])[1].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
        bare.append(time.perf_counter() - begin)
    assert min(ours) < 1.2 * min(bare) + 0.5, "0.5 s for the two checkpoints"


def test_gradients_are_clipped_and_reported_without_the_scale_of_float16(tmp_path):
    """A scale changes no number of a step: it is taken off before anything looks at gradients."""
    steps = []
    for scale in (None, 2.0**10):
        trainer = Trainer(make_model(), make_config(grad_clip=0.5), tmp_path / str(scale), {})
        if scale is not None:
            trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainer.train_step(Source().batch(0))
        steps.append((trainer.progress.grad_norm, weights(trainer.model)))
    (norm, plain), (scaled_norm, scaled) = steps
    assert scaled_norm == pytest.approx(norm, rel=1e-4)
    for name, weight in plain.items():
        torch.testing.assert_close(scaled[name], weight, rtol=1e-4, atol=1e-6)
