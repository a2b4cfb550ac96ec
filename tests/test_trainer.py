"""One step of training: exact gradients, seeds, and stopping before harm is done."""

import itertools
import math
import shutil

import pytest
import safetensors.torch
import torch
from small_training import B, Source, T, V, make_config, make_model, rows, same, weights

from minigpt import trainer as trainer_module
from minigpt.batching.windows import IGNORE
from minigpt.machine.distributed import World
from minigpt.runs.checkpoint import checkpoint_paths, latest_checkpoint
from minigpt.support.errors import (
    ConfigError,
    DataError,
    TrainingError,
)
from minigpt.train import train
from minigpt.trainer import Trainer, seed_step

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_frozen_parameters_are_left_alone(tmp_path):
    model = make_model()
    model.embedding.weight.requires_grad_(False)
    before = weights(model)
    train(model, Source(), make_config(max_steps=2, schedule="constant"), tmp_path)
    config = make_config(max_steps=4, schedule="constant")
    train(model, Source(), config, tmp_path, resume=True)
    assert torch.equal(model.embedding.weight, before["embedding.weight"])
    assert not torch.equal(model.norm.weight, before["norm.weight"])


def test_compiling_without_a_compiler_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"C\+\+ compiler.*leave --compile out"):
        Trainer(make_model(), make_config(compile=True), tmp_path, {})


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
    assert "lower learning rate: --resume --learning-rate 0.001 --muon-" in str(caught.value)
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


def test_bfloat16_computes_in_it_and_keeps_weights_in_float32(tmp_path):
    model, seen = make_model(), set()
    model.head.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    train(model, Source(), make_config(dtype="bfloat16"), tmp_path)
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


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
