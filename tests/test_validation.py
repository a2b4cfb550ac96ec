"""Validation: every target counts once, and dropout is off."""

import pytest
import torch
from small_training import Source, T, make_model

from minigpt.batching.windows import IGNORE
from minigpt.support.errors import (
    DataError,
)
from minigpt.validation import evaluate_loss

pytestmark = pytest.mark.usefixtures("one_thread")


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
