"""Distillation: a small model learns from a large one's probabilities, not from texts alone.

A text says which token came next; a teacher says how likely each one was. At a temperature above 1
the unlikely ones count for more, which is where a teacher knows more than the text.

Shapes: B batch, T time, V vocab_size.

Source: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the mean of temperature^2 KL(teacher || student) of logits (..., V), in nats.

    Both are softened by the temperature. Its gradients shrink with the square of the temperature,
    so the loss is multiplied by it and keeps its weight beside others. No gradient reaches the
    teacher.

    >>> same = torch.tensor([[1.0, 2.0]])
    >>> distillation_loss(same, same).item()
    0.0
    """
    with torch.no_grad():
        p = (teacher / temperature).log_softmax(dim=-1).flatten(0, -2)  # (N, V)
    q = (student / temperature).log_softmax(dim=-1).flatten(0, -2)
    return temperature**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)
