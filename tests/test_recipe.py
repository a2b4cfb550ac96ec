"""Recipes: settings, the schedule of the learning rate, and which optimizer trains what."""

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import make_config, make_model

from minigpt import recipe
from minigpt.muon import Muon
from minigpt.recipe import TrainConfig, learning_rate_factor, make_optimizers
from minigpt.support.errors import (
    ConfigError,
)
from minigpt.support.settings import rules

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_every_setting_has_a_reason_and_a_rule():
    source = Path(recipe.__file__).read_text(encoding="utf-8")
    ruled = rules(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        line = source.index(f"    {field.name}: ")
        assert source[source.index("\n", line) :].lstrip().startswith('"""'), field.name
        assert ruled[field.name].kind not in (int, float) or ruled[field.name].bounds, field.name


@pytest.mark.parametrize(
    ("max_steps", "warmup"), [(5, 0), (10, 1), (19, 1), (70, 7), (200, 20), (210, 20), (9000, 20)]
)
def test_warm_up_is_a_tenth_of_all_steps_and_at_most_20(max_steps, warmup):
    config = TrainConfig(max_steps=max_steps, schedule="constant")
    factors = [learning_rate_factor(step, config) for step in range(max_steps)]
    assert sum(factor < 1 for factor in factors) == max(warmup - 1, 0)
    assert factors[:warmup] == [(step + 1) / warmup for step in range(warmup)]


def test_the_settings_of_the_optimizers_reach_them():
    options = {"learning_rate": 0.007, "muon_learning_rate": 0.03, "muon_momentum": 0.6}
    config = make_config(**options, beta1=0.7, beta2=0.8, weight_decay=0.3)
    muon, adamw = make_optimizers(make_model(), config)
    assert (muon.defaults["lr"], muon.defaults["momentum"]) == (0.03, 0.6)
    assert muon.defaults["weight_decay"] == 0.3
    assert [group["betas"] for group in adamw.param_groups] == [(0.7, 0.8)] * 2
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.3, 0.0]
    assert {group["initial_lr"] for group in adamw.param_groups} == {0.007}


def test_a_second_phase_rises_and_falls_once_more_to_its_share():
    config = TrainConfig(max_steps=100, warmup_steps=5, second_phase=0.6)
    factors = [learning_rate_factor(step, config) for step in range(100)]
    alone = [learning_rate_factor(s, TrainConfig(max_steps=40, warmup_steps=5)) for s in range(40)]
    assert factors[:40] == alone, "the first phase is a whole run of 40 steps"
    again = [learning_rate_factor(s, TrainConfig(max_steps=60, warmup_steps=5)) for s in range(60)]
    assert factors[40:] == [0.6 * factor for factor in again]
    assert factors[39] < 0.03 < factors[44] == 0.6 > factors[99] > 0
