"""Tell beforehand how long a run will take: some real steps are taken on a copy, and timed."""

import copy
import math
import time
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch

from minigpt.baselines import bag_of_words
from minigpt.batching.packing import EvalPacked
from minigpt.batching.windows import Batch, EvalDocuments, EvalWindows
from minigpt.commands.inputs import Data
from minigpt.generate import generate
from minigpt.gpt import GPT
from minigpt.recipe import TrainConfig
from minigpt.sampling import SampleConfig
from minigpt.train import Source, prefetch
from minigpt.trainer import Trainer
from minigpt.validation import Objective, next_token_loss

WARMUP, TIMED = 2, 6  # steps; the first ones load kernels and are slower
LEAST_STEPS = 10 * (WARMUP + TIMED)  # a shorter run is nearly over when its steps are timed
TIMED_BATCHES = 3  # of the validation, spread over all of it
TIMED_TOKENS = 8  # of each text in a batch
ROWS = 128  # texts that the report writes together


class Estimate(NamedTuple):
    """How long a run will take, in seconds."""

    training: float  # validations included
    report: float | None


Validation = EvalWindows | EvalDocuments | EvalPacked | Collection[Batch]


def estimate(
    model: GPT,
    source: Source,
    validation: Validation,
    config: TrainConfig,
    first_step: int = 0,
    data: Data | None = None,
    objective: Objective = next_token_loss,
) -> Estimate | None:
    """Return how long training from `first_step` on and, of a run on `data`, its report will take.

    All is done on a copy of the model; weights, random numbers and batches of the real training
    stay as they are. None: the run is too short to be measured.
    """
    steps = config.max_steps - first_step
    if steps < LEAST_STEPS:
        return None
    with torch.random.fork_rng():
        trainer = Trainer(copy.deepcopy(model), config, Path(), {}, objective)
        a_step = step_seconds(trainer, source, first_step, steps)
        a_validation = validation_seconds(trainer, validation)
        validations = math.ceil(config.max_steps / config.eval_interval)
        validations -= first_step // config.eval_interval
        report = data and report_seconds(trainer.model, data, validation, a_validation)
    return Estimate(steps * a_step + validations * a_validation, report)


def step_seconds(trainer: Trainer, source: Source, first_step: int, steps: int) -> float:
    """Return how long a step takes, by some from all parts of the run: their rows may differ."""
    stride, n = steps // (WARMUP + TIMED), WARMUP + TIMED
    batches = prefetch(source, range(first_step, first_step + n * stride, stride), trainer.device)
    for batch in islice(batches, WARMUP):
        trainer.train_step(batch)
    before = trainer.progress.seconds
    for batch in batches:
        trainer.train_step(batch)
    return (trainer.progress.seconds - before) / TIMED


def validation_seconds(trainer: Trainer, validation: Validation) -> float:
    """Return how long one validation takes, by some of its batches."""
    n_batches = len(validation)
    stride = max(n_batches // TIMED_BATCHES, 1)
    some = list(islice(validation, stride // 2, None, stride))
    trainer.lap()
    trainer.validate(some)
    return trainer.lap() * n_batches / len(some)


# What the report does (see `card.model_card` and `storyworld.exam`; a test compares the counts).
STORIES, PER_TASK, LONG_TASKS, SHORT_TASKS = 1000, 200, 3, 9  # long: as long as a story
SHORT_ANSWER = 0.25  # of a story's length
PREFILL = 0.6  # of the time that validation takes for as many stories: no losses are computed
TEXTS_COUNTED = 145_000  # as much Python as the baselines, the n-gram's stories and grading take


def report_seconds(model: GPT, data: Data, validation: Validation, a_validation: float) -> float:
    """Return how long the report takes: it reads texts as validation does, and writes others.

    A batch of texts is written until the longest of them ends.
    """
    if data.exam is None or not isinstance(validation, EvalDocuments):
        return a_validation
    length, mean = int(validation.lengths.max()), int(validation.lengths.mean())
    a_token = token_seconds(model, length // 2)
    if data.dialogues is None:
        return a_validation + math.ceil(STORIES / 10 / ROWS) * length * a_token
    batches = math.ceil(STORIES / ROWS)
    batches += math.ceil(PER_TASK / ROWS) * (LONG_TASKS + SHORT_TASKS * SHORT_ANSWER)
    prompts = (LONG_TASKS + SHORT_TASKS) * PER_TASK / len(validation.lengths)
    reading = (1 + PREFILL * prompts) * a_validation
    return reading + batches * length * a_token + TEXTS_COUNTED * counting_seconds(mean)


def counting_seconds(length: int, texts: int = 200) -> float:
    """Return how long plain Python takes to count the words of a text."""
    text = " ".join(map(str, range(length)))
    start = time.perf_counter()
    for _ in range(texts):
        bag_of_words(text)
    return (time.perf_counter() - start) / texts


def token_seconds(model: GPT, length: int) -> float:
    """Return how long the next token of ROWS texts takes that have `length` tokens already."""
    prompts, times = [[0] * length] * ROWS, []
    for n in (1, 1 + TIMED_TOKENS):
        start = time.perf_counter()
        generate(model, prompts, SampleConfig(max_new_tokens=n))
        times.append(time.perf_counter() - start)
    return (times[1] - times[0]) / TIMED_TOKENS
