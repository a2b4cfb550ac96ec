"""How long a run will take: measured, close to what it takes, and without a trace in the run."""

import inspect
import time

import pytest
import torch
from small_training import Source, make_config, make_model, rows, same, weights

from minigpt.commands import timing
from minigpt.commands.card import model_card
from minigpt.commands.timing import estimate
from minigpt.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


class Batches:
    """Validation batches, each of which takes a while."""

    def __init__(self, seconds: float = 0.0, count: int = 9):
        self.seconds, self.count = seconds, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        for step in range(self.count):
            time.sleep(self.seconds)
            yield Source().batch(1000 + step)


class Slow(Source):
    """Batches of which the later ones take longer, as longer rows do."""

    def batch(self, step):
        time.sleep(0.01 if step < 100 else 0.03)
        return super().batch(step)


def test_an_estimate_is_within_half_again_of_the_time_that_training_takes(tmp_path):
    config = make_config(max_steps=200, eval_interval=50, save_interval=200)
    validation = Batches(0.02)
    found = estimate(make_model(), Slow(), validation, config)
    start = time.perf_counter()
    train(make_model(), Slow(), config, tmp_path, validation=validation)
    took = time.perf_counter() - start
    assert took / 1.5 < found.training < 1.5 * took
    assert found.report is None
    late = estimate(make_model(), Slow(), validation, config, first_step=100)
    assert 0.4 * took < late.training < took


def test_measuring_leaves_training_as_it_was(tmp_path):
    config = make_config(max_steps=80, eval_interval=20, save_interval=40)
    finals, states = [], []
    for name in ("plain", "measured"):
        model, source = make_model(dropout=0.2), Source()
        before = torch.random.get_rng_state()
        if name == "measured":
            start = weights(model)
            assert estimate(model, source, Batches(), config) is not None
            assert same(start, weights(model))
            assert model.training
        assert torch.equal(before, torch.random.get_rng_state())
        train(model, source, config, tmp_path / name, validation=Batches())
        finals.append(weights(model))
        states.append(rows(tmp_path / name, "seconds"))
    assert len(states[0]) == 84
    assert states[0] == states[1]
    assert same(*finals)
    assert sorted(path.name for path in (tmp_path / "measured").iterdir()) == sorted(
        path.name for path in (tmp_path / "plain").iterdir()
    )


def test_a_short_run_is_not_measured():
    source = Source()
    config = make_config(max_steps=timing.LEAST_STEPS - 1)
    assert estimate(make_model(), source, Batches(), config) is None
    assert source.steps == []


def test_the_report_is_as_large_as_the_estimate_says():
    from minigpt.storyworld.exam import TASKS

    usual = inspect.signature(model_card).parameters
    assert (usual["per_task"].default, usual["n_stories"].default) == (
        timing.PER_TASK,
        timing.STORIES,
    )
    assert len(TASKS) == timing.LONG_TASKS + timing.SHORT_TASKS
