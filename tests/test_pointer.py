"""The pointer: a share of the probability goes to tokens of the context."""

import pytest
import torch
from torch.nn import functional as F

from minigpt.batching.windows import IGNORE
from minigpt.gpt import GPT, GPTConfig
from minigpt.pointer import Pointed, Pointer
from minigpt.recipe import TrainConfig, make_optimizers

B, T, S, V, C, H, G, D = 2, 5, 7, 11, 12, 4, 2, 6


def random_pointed() -> Pointed:
    return Pointed(torch.randn(B, T, S).softmax(-1), torch.randint(V, (B, S)), torch.randn(B, T))


def test_the_mixture_by_hand():
    # The context holds 3, 1, 3. The head is sure of nothing; half of the probability is pointed.
    weights, ids = torch.tensor([[[0.5, 0.25, 0.25]]]), torch.tensor([[3, 1, 3]])
    pointed = Pointed(weights, ids, torch.zeros(1, 1))
    found = pointed.log_probabilities(torch.zeros(1, 1, 4)).exp()
    torch.testing.assert_close(found[0, 0], torch.tensor([0.125, 0.25, 0.125, 0.5]))


def test_probabilities_add_up_to_one_and_the_losses_are_theirs():
    pointed, logits = random_pointed(), torch.randn(B, T, V)
    log_p, targets = pointed.log_probabilities(logits), torch.randint(V, (B, T))
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(B, T))
    head = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    losses = pointed.losses(head, targets)
    torch.testing.assert_close(losses, -log_p.gather(2, targets[:, :, None])[:, :, 0])


def test_one_position_of_each_row_is_that_of_all():
    pointed, logits = random_pointed(), torch.randn(B, T, V)
    rows, places = torch.arange(B), torch.tensor([3, 1])
    some = pointed.at(rows, places).log_probabilities(logits[rows, places][:, None])
    torch.testing.assert_close(some[:, 0], pointed.log_probabilities(logits)[rows, places])


@pytest.mark.parametrize("documents", [False, True])
def test_it_points_to_the_past_and_to_its_own_document_alone(documents):
    pointer = Pointer(C, H, G, D, 1e-6)
    x, ids = torch.randn(B, T, C), torch.randint(V, (B, T))
    mask = torch.ones(T, T, dtype=torch.bool).tril()
    if documents:
        mask = mask & (torch.arange(T)[:, None] // 2 == torch.arange(T) // 2)
    found = pointer(x, ids, None, None, 0, mask if documents else None)
    assert found.weights.shape == (B, T, T)
    assert torch.equal(found.weights > 0, mask.expand(B, T, T))
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(B, T))


@pytest.mark.parametrize(
    "options", [{}, {"separator_id": 3}, {"n_kv_head": 2, "n_head": 4, "head_dim": 6}]
)
def test_training_loss_is_the_cross_entropy_of_the_predicted_probabilities(options, monkeypatch):
    torch.manual_seed(1)
    model = GPT(
        GPTConfig(
            **{
                "vocab_size": V,
                "block_size": T,
                "n_layer": 1,
                "n_head": 2,
                "n_embd": C,
                "pointer": True,
            }
            | options
        )
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    idx = torch.tensor([[3, 5, 1, 5, 1], [3, 7, 7, 2, 8]])  # one document a row
    targets = torch.tensor([[5, 1, IGNORE, 1, 5], [7, 7, 2, IGNORE, 9]])
    expected = F.cross_entropy(model(idx)[0].transpose(1, 2), targets, ignore_index=IGNORE)
    torch.testing.assert_close(model(idx, targets)[1], expected)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False, raising=False)  # logits for all, as on GPUs
    torch.testing.assert_close(model(idx, targets)[1], expected)


def test_a_target_that_is_nowhere_in_the_context_has_finite_loss_and_gradient():
    pointed = Pointed(
        torch.ones(1, 1, 1, requires_grad=True),
        torch.tensor([[4]]),
        torch.full((1, 1), 30.0, requires_grad=True),
    )
    loss = pointed.losses(torch.full((1, 1), 2.0), torch.tensor([[5]])).sum()
    loss.backward()
    assert loss.item() == pytest.approx(32.0)  # the gate leaves e^-30 to the head
    assert pointed.weights.grad.isfinite().all()
    assert pointed.gate.grad.item() == pytest.approx(1.0)


def test_what_recurs_is_learned_for_tokens_that_training_never_showed():
    """The aim: after a marker comes the token that stood at the beginning, whichever it is."""
    sizes = {"vocab_size": 64, "block_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 32}
    right = {}
    for has_pointer in (False, True):
        torch.manual_seed(0)
        model = GPT(GPTConfig(**sizes, pointer=has_pointer))
        optimizers = make_optimizers(model, TrainConfig(learning_rate=1e-2))
        for _ in range(300):
            idx = torch.randint(2, 32, (32, 8))  # 32 to 63 never occur
            idx[:, 6] = 1
            targets = torch.full_like(idx, IGNORE)
            targets[:, 6] = idx[:, 0]
            model(idx, targets)[1].backward()
            for optimizer in optimizers:
                optimizer.step()
            model.zero_grad()
        idx = torch.randint(32, 64, (200, 8))
        idx[:, 6] = 1
        right[has_pointer] = (model(idx)[0][:, 6].argmax(-1) == idx[:, 0]).float().mean().item()
    assert right[True] > 0.5, right
    assert right[False] < 0.1, right


def test_a_processor_points_in_float32_under_autocast():
    torch.manual_seed(0)
    pointer, x, ids = Pointer(C, H, G, D, 1e-6), torch.randn(B, T, C), torch.randint(V, (B, T))
    for part in (pointer.query, pointer.key):
        torch.nn.init.normal_(part.weight)
    expected = pointer(x, ids, None, None, 0, None)
    with torch.autocast("cpu", torch.bfloat16):
        found = pointer(x, ids, None, None, 0, None)
    assert torch.equal(found.weights, expected.weights)
    assert torch.equal(found.gate, expected.gate)
