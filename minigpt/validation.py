"""Measure the loss of a model on batches that training does not use.

Shapes: B batch, T time.
"""

from collections.abc import Iterable

import torch

from minigpt.attention import document_mask
from minigpt.batching.windows import IGNORE, Batch
from minigpt.gpt import GPT
from minigpt.machine.device import autocast
from minigpt.support.errors import DataError


def evaluate_loss(
    model: GPT, validation: Iterable[Batch], device: torch.device, dtype: torch.dtype
) -> float:
    """Return the mean loss per predicted token (nats) over all batches (B, T), without dropout."""
    return mean_loss(*sum_losses(model, validation, device, dtype))


@torch.no_grad()
def sum_losses(
    model: GPT, validation: Iterable[Batch], device: torch.device, dtype: torch.dtype
) -> tuple[float, int]:
    """Return the sum of the losses of all targets (nats) and their number, without dropout."""
    was_training, loss_sum, count = model.training, 0.0, 0
    model.eval()
    try:
        for idx, targets, *documents in validation:
            predicted = int((targets != IGNORE).sum())
            if predicted == 0:  # other processes may wait: any targets, weighed with 0
                targets = torch.zeros_like(targets)
            mask = {"mask": document_mask(documents[0].to(device))} if documents else {}
            with autocast(device, dtype):
                _, loss = model(idx.to(device), targets.to(device), **mask)
            # Weighed by targets: batches differ in length, and every token counts the same.
            loss_sum += loss.item() * predicted
            count += predicted
    finally:
        # Also where a batch fails: the caller may go on training with dropout.
        model.train(was_training)
    return loss_sum, count


def mean_loss(loss_sum: float, count: float) -> float:
    """Divide, or raise a DataError where there is nothing to divide by."""
    if count == 0:
        raise DataError(
            "validation has no target to predict", "validation data", "give more validation text"
        )
    return loss_sum / count
