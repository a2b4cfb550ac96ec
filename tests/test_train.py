"""Training: exact accumulation and resume, schedules, and stopping before harm is done."""

import dataclasses
import math
import signal
import time
import warnings
from queue import Queue

import pytest
import torch
from small_training import B, Source, T, V, make_config, make_model, rows, same, weights

from minigpt import trainer as trainer_module
from minigpt.gpt import GPT, GPTConfig
from minigpt.muon import Muon
from minigpt.recipe import make_optimizers
from minigpt.runs.checkpoint import checkpoint_paths, latest_checkpoint
from minigpt.support.errors import (
    CheckpointError,
    ConfigError,
    LockedError,
    TrainingError,
)
from minigpt.support.lock import RunLock
from minigpt.train import prefetch, train

pytestmark = pytest.mark.usefixtures("one_thread", "ctrl_c")


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


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    finals = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        model = make_model(dropout=0.2)
        train(model, Source(), make_config(seed=seed), tmp_path / name)
        finals.append(weights(model))
    assert same(finals[0], finals[1])
    assert not same(finals[0], finals[2])


# ---- the schedule


# ---- settings


# ---- what --help promises of each setting


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
        ({"beta2": 0.5}, "beta2 0.95 -> 0.5"),
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


def test_learning_rates_may_change_and_then_the_bits_are_others(tmp_path):
    train(make_model(), Source(), make_config(), tmp_path)
    changed = make_config(learning_rate=0.001, max_steps=7)
    with pytest.warns(UserWarning, match=r"not bit-identical: .*learning_rate 0.003 -> 0.001"):
        train(make_model(), Source(), changed, tmp_path, resume=True)
    assert latest_checkpoint(tmp_path).step == 7


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
