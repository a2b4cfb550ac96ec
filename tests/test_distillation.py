"""Distillation: the loss against its definition, and what it does to a student."""

import pytest
import torch
from torch.nn import functional as F

from minigpt.distillation import distillation_loss


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, 5, generator=generator)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_the_definition_written_out(logits, temperature):
    student, teacher = logits
    total = 0.0
    for s, t in zip(student.view(-1, 5), teacher.view(-1, 5), strict=True):
        p, q = (t / temperature).softmax(0), (s / temperature).softmax(0)
        total += float((p * (p / q).log()).sum()) * temperature**2 / 6
    assert distillation_loss(student, teacher, temperature).item() == pytest.approx(total, rel=1e-5)


def test_no_gradient_reaches_the_teacher_and_the_students_is_the_gap(logits):
    student, teacher = (each.clone().requires_grad_() for each in logits)
    distillation_loss(student, teacher).backward()
    assert teacher.grad is None
    gap = (student.softmax(-1) - teacher.softmax(-1)) / 6
    torch.testing.assert_close(student.grad, gap.detach(), atol=1e-6, rtol=1e-4)


def test_at_a_high_temperature_the_gradient_is_that_of_the_logits_distance(logits):
    """Hinton et al. 2015, section 2.1: T^2 keeps its size, whatever T is."""
    student, teacher = logits[0].clone().requires_grad_(), logits[1]
    distillation_loss(student, teacher, 1000.0).backward()
    centered = [x - x.mean(-1, keepdim=True) for x in (student.detach(), teacher)]
    torch.testing.assert_close(student.grad, (centered[0] - centered[1]) / 5 / 6, atol=1e-3, rtol=0)


def test_a_sure_teacher_is_a_label(logits):
    targets = torch.tensor([[1, 0, 4], [2, 2, 3]])
    sure = 1000.0 * F.one_hot(targets, 5)
    expected = F.cross_entropy(logits[0].flatten(0, 1), targets.flatten())
    torch.testing.assert_close(distillation_loss(logits[0], sure), expected)
