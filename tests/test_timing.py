"""How long a run will take: measured, close to what it takes, and without a trace in the run."""

import inspect
import time
import types

import numpy as np
import pytest
import torch
from small_training import Source, make_config, make_model, rows, same, weights

from minigpt.commands import timing
from minigpt.commands.card import model_card
from minigpt.commands.pipeline import announce
from minigpt.commands.timing import estimate
from minigpt.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


class Clock:
    """A clock that only work moves on, however busy the machine is."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Batches:
    """Validation batches, each of which takes a while."""

    def __init__(self, clock: Clock | None = None, count: int = 9):
        self.clock, self.count = clock or Clock(), count

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        for step in range(self.count):
            self.clock.now += 2.0
            yield Source().batch(1000 + step)


class Slow(Source):
    """Batches of which the later ones take longer, as longer rows do."""

    def __init__(self, clock: Clock):
        super().__init__()
        self.clock = clock

    def batch(self, step):
        self.clock.now += 1.0 if step < 100 else 3.0
        return super().batch(step)


def test_an_estimate_is_within_half_again_of_the_work_that_is_to_do(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    config = make_config(max_steps=200, eval_interval=50, save_interval=200)
    work = Slow(clock), Batches(clock)
    found = estimate(make_model(), *work, config)
    all_of_it = 100 * 1 + 100 * 3 + 4 * 9 * 2
    assert all_of_it / 1.5 < found.training < 1.5 * all_of_it
    assert found.report is None
    late = estimate(make_model(), *work, config, first_step=100)
    rest = 100 * 3 + 2 * 9 * 2
    assert rest / 1.5 < late.training < 1.5 * rest


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


def test_the_report_is_estimated_from_its_parts(monkeypatch):
    """Reading a prompt, writing a token and counting a text each take their own time."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)

    def write(model, prompts, config):
        clock.now += 5.0 + 0.5 * config.max_new_tokens  # reading does not count as writing

    def count(text):
        clock.now += 0.01 * len(text.split())

    monkeypatch.setattr(timing, "generate", write)
    monkeypatch.setattr(timing, "bag_of_words", count)
    model = make_model()
    assert timing.token_seconds(model, 8) == pytest.approx(0.5)
    assert timing.counting_seconds(30) == pytest.approx(0.3)

    lengths = np.array([20, 40])
    validation = types.SimpleNamespace(lengths=lengths)
    monkeypatch.setattr(timing, "EvalDocuments", types.SimpleNamespace)
    text = types.SimpleNamespace(exam=None, dialogues=None)
    assert timing.report_seconds(model, text, validation, 7.0) == 7.0
    stories = types.SimpleNamespace(exam=object(), dialogues=None)
    assert timing.report_seconds(model, stories, validation, 7.0) == 7.0 + 1 * 40 * 0.5
    all_of_it = types.SimpleNamespace(exam=object(), dialogues=object())
    texts, prompts = 8 + 2 * (3 + 9 / 4), 12 * 200  # batches of 128, as long as the longest story
    by_hand = 7 + 0.6 * 7 * prompts / 2 + texts * 40 * 0.5 + 145_000 * 0.01 * 30
    assert timing.report_seconds(model, all_of_it, validation, 7.0) == pytest.approx(by_hand)


def test_nothing_is_said_where_nothing_was_measured(capsys):
    announce(None)
    assert capsys.readouterr().err == ""
    announce(timing.Estimate(61.0, None))
    alone = capsys.readouterr().err
    assert "report" not in alone
    assert "some steps were measured" in alone
    announce(timing.Estimate(61.0, 30.0))
    assert "for the report" in capsys.readouterr().err


def test_the_report_is_as_large_as_the_estimate_says():
    from minigpt.storyworld.exam import TASKS

    usual = inspect.signature(model_card).parameters
    assert (usual["per_task"].default, usual["n_stories"].default) == (
        timing.PER_TASK,
        timing.STORIES,
    )
    assert len(TASKS) == timing.LONG_TASKS + timing.SHORT_TASKS
