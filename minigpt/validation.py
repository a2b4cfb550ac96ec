"""Measure the loss of a model on batches that training does not use.

Shapes: B batch, T time.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from minigpt.attention import document_mask
from minigpt.batching.windows import IGNORE, Batch
from minigpt.gpt import GPT
from minigpt.machine.device import autocast
from minigpt.support.errors import DataError

# How a batch becomes a loss: gets the model's forward and the batch, all on the model's device, and
# returns the mean over the targets that count.
Objective = Callable[[Callable, Sequence[Tensor]], Tensor]


def next_token_loss(forward: Callable, batch: Sequence[Tensor]) -> Tensor:
    """Return the mean of -log p of each target that counts, in nats: the usual objective.

    A third part of the batch says which document each token is of.
    """
    idx, targets, *documents = batch  # (B, T) each
    mask = document_mask(*documents) if documents else None
    _, loss = forward(idx, targets, mask=mask)
    return loss


def evaluate_loss(
    model: GPT, validation: Iterable[Batch], device: torch.device, dtype: torch.dtype
) -> float:
    """Return the mean loss per predicted token (nats) over all batches (B, T), without dropout."""
    return mean_loss(*sum_losses(model, validation, device, dtype))


@torch.no_grad()
def sum_losses(
    model: GPT,
    validation: Iterable[Batch],
    device: torch.device,
    dtype: torch.dtype,
    objective: Objective = next_token_loss,
) -> tuple[float, int]:
    """Return the sum of the losses of all targets (nats) and their number, without dropout."""
    was_training, loss_sum, count = model.training, 0.0, 0
    model.eval()
    try:
        for idx, targets, *more in validation:
            predicted = int((targets != IGNORE).sum())
            if predicted == 0:  # other processes may wait: any targets, weighed with 0
                targets = torch.zeros_like(targets)
            with autocast(device, dtype):
                loss = objective(model, [part.to(device) for part in (idx, targets, *more)])
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
