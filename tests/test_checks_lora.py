"""Wrong answers about LoRA fail, each with a word on what to look at."""

import pytest
import torch
from solved import answer_of, fails, passes_always

from minigpt.checks import judge
from minigpt.checks.lora import DIAL, HAND, most_energy

pytestmark = pytest.mark.usefixtures("student")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"change": [4.0, 0.0, 2.0]}, "scale is missing"),
        ({"change": [4.0, 0.0, 4.0]}, "a row for each number of B"),
        ({"thin": 4736}, "two blocks"),
        ({"thin": 4096}, "the attention alone"),
        ({"thin": 5376}, "the MLP alone"),
        ({"thin": 8704}, "160, not 128"),
        ({"share": 0.075}, "in percent"),
        ({"largest_rank": 3}, "round down"),
        ({"moments": 37888}, "two moments"),
        ({"moments": 1009664}, "Only what is trained"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_by_hand(change, words):
    assert judge("lora.by_hand", HAND) == ("passed", "passed")
    fails("lora.by_hand", HAND | change, words)


def test_the_numbers_by_hand_are_those_of_a_model():
    from minigpt.gpt import GPT, GPTConfig
    from minigpt.lora import LoRAConfig, add_lora

    shape = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_hidden": 160, "tie_embeddings": True}
    model = GPT(GPTConfig(vocab_size=500, block_size=8, **shape))
    total = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    add_lora(model, LoRAConfig(rank=4))
    thin = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert thin == HAND["thin"]
    assert 100 * thin / total == pytest.approx(HAND["share"], abs=1e-2)
    assert 8 * thin == HAND["moments"]
    assert 2 * 25 * thin / total < 5 * 1 < 3 * 25 * thin / total  # rank 2 fits, rank 3 does not


def joined(a1, b1, s1, a2, b2, s2):
    return torch.cat([s1 * a1, s2 * a2]), torch.cat([b1, b2], dim=1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda a1, b1, s1, a2, b2, s2: joined(a1, b1, 1, a2, b2, 1), "scales are missing"),
        (lambda a1, b1, s1, a2, b2, s2: joined(a1, b1, s2, a2, b2, s1), "exchanged"),
        (lambda a1, b1, s1, a2, b2, s2: joined(a1, b1, s1, a2, b2, 1), "One scale"),
        (lambda a1, b1, s1, a2, b2, s2: joined(a1, b1, s1**2, a2, b2, s2**2), "and once"),
        (
            lambda a1, b1, s1, a2, b2, s2: (
                torch.cat([s1 * a1, s2 * a2]),
                torch.cat([b2, b1], dim=1),
            ),
            "own columns",
        ),
        (lambda a1, b1, s1, a2, b2, s2: (a1 + a2[:1], b1 + b2[:, :1]), "A has the shape"),
        (
            lambda a1, b1, s1, a2, b2, s2: (
                torch.cat([a1, a2]),
                torch.cat([b1.mT, b2.mT]),
            ),
            "B has the shape",
        ),
        (lambda a1, b1, s1, a2, b2, s2: s1 * b1 @ a1 + s2 * b2 @ a2, "pair of tensors"),
    ],
)
def test_wrong_merge_of_two(answer, words):
    assert judge("lora.merge_two", joined) == ("passed", "passed")
    fails("lora.merge_two", answer, words)


def right_dora(weight, magnitude, a, b, scale):
    moved = weight + scale * b @ a
    return magnitude[:, None] * moved / moved.norm(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda w, m, a, b, s: right_dora(w, m, a, b, 1), "scale is missing"),
        (lambda w, m, a, b, s: w + s * b @ a, "divided row by row"),
        (
            lambda w, m, a, b, s: m[:, None] * (w + s * b @ a) / w.norm(dim=1, keepdim=True),
            "not by that of W",
        ),
        (lambda w, m, a, b, s: right_dora(w, w.norm(dim=1), a, b, s), "divided row by row"),
        (lambda w, m, a, b, s: right_dora(w, torch.ones_like(m), a, b, s), "nothing may change"),
        (
            lambda w, m, a, b, s: (
                m[:, None] * (w + s * b @ a) / (w + s * b @ a).norm(dim=0, keepdim=True)
            ),
            "nothing may change",
        ),
    ],
)
def test_wrong_dora(answer, words):
    assert judge("lora.dora", right_dora) == ("passed", "passed")
    fails("lora.dora", answer, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"best_for_new": 3.0}, "swapped stories"),
        ({"best_for_old": 1.0}, "old order"),
        ({"why": "a"}, "the setting 0"),
        ({"more": 0}, "expected a dict"),
    ],
)
def test_wrong_dial(change, words):
    assert judge("lora.dial", DIAL) == ("passed", "passed")
    fails("lora.dial", DIAL | change, words)


def test_the_dial_measures_what_its_check_expects():
    assert answer_of("lora.dial") == DIAL


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda updates, allowed: dict.fromkeys(updates, 0), "0% of the energy"),
        (lambda updates, allowed: dict.fromkeys(updates, 12), "the ranks cost"),
        (
            lambda updates, allowed: dict.fromkeys(
                updates, allowed // sum(sum(u.shape) for u in updates.values())
            ),
            "of the energy",
        ),
        (lambda updates, allowed: dict.fromkeys(updates, 1.0), "has the rank 1.0"),
        (lambda updates, allowed: dict.fromkeys(updates, 13), "has the rank 13"),
        (lambda updates, allowed: [1] * len(updates), "a dict of ranks"),
        (lambda updates, allowed: {"other": 1}, "a dict of ranks"),
    ],
)
def test_wrong_budget(answer, words):
    fails("lora.budget", answer, words)


@pytest.mark.parametrize(
    "value",
    [
        lambda s, cost: s / cost,  # the root of the energy
        lambda s, cost: s**2,  # whatever it costs
        lambda s, cost: s**2 * cost,
    ],
)
def test_the_best_by_another_measure_keeps_too_little(value):
    def choose(updates, allowed):
        ranks = dict.fromkeys(updates, 0)
        found = [
            (value(s, sum(update.shape)), name)
            for name, update in updates.items()
            for s in torch.linalg.svdvals(update).tolist()
        ]
        for _, name in sorted(found, reverse=True):
            if sum(updates[name].shape) <= allowed:
                allowed -= sum(updates[name].shape)
                ranks[name] += 1
        return ranks

    fails("lora.budget", choose, "of the energy")


def test_the_cheapest_energy_first_always_meets_the_aim(monkeypatch):
    passes_always("lora.budget", monkeypatch, students=40)


def test_the_most_energy_is_that_of_all_choices():
    spectra, costs = {"a": [9.0, 1.0], "b": [5.0, 4.0]}, {"a": 3, "b": 2}
    kept = [most_energy(spectra, costs, allowed) for allowed in range(11)]
    assert kept == [0, 0, 5, 9, 9, 14, 14, 18, 18, 18, 19]
