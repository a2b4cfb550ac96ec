"""Wrong answers about GPT fail, each with a word on what to look at."""

import pytest
import torch
from solved import fails, passes_always, solution
from torch.nn import functional as F

from minigpt.checks import exercises, judge
from minigpt.checks.gpt import alibi_biases, block_output, gpt2_logits, random_weights
from minigpt.gpt import ARCHITECTURES, GPT, Block, GPTConfig

pytestmark = pytest.mark.usefixtures("student")

HAND = {
    "normalized": [0.2, 1.4],
    "stream": [8.0, 8.0],
    "logits": [1.0, 2.0, 0.0],
    "loss": 1.41,
    "rotated": 0.5,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normalized": [0.04, 0.28]}, "take its root"),
        ({"normalized": [0.14, 0.99]}, "MEAN of the squares"),
        ({"normalized": [0.2]}, "list of 2 numbers"),
        ({"normalized": ["0.2", 1.4]}, "should be a number"),
        ({"stream": [7.0, 1.0]}, "does not replace"),
        ({"stream": [36.0, 12.0]}, "normalized copy"),
        ({"stream": [7.2, 2.4]}, "not normalized"),
        ({"logits": [8.0, 16.0, 0.0]}, "last norm"),
        ({"logits": [1.0, 1.0, 0.0]}, "each row of the table"),
        ({"loss": 0.245}, "minus its natural logarithm"),
        ({"loss": 0.41}, "minus the logit"),
        ({"rotated": -1.0}, "one position apart"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_gpt_by_hand(change, words):
    assert judge("gpt.by_hand", HAND) == ("passed", "passed")
    fails("gpt.by_hand", HAND | change, words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"positions": False}, "wpe"),
        ({"last_norm": False}, "ln_f"),
        ({"centered": False}, "subtracts the mean"),
        ({"attention": False, "mlp": False}, "blocks are still missing"),
        ({"mlp": False}, "MLP is still missing"),
        ({"attention": False}, "Attention is still missing"),
        ({"early": True}, "after attention has added"),
        ({"residual": False}, "does not replace it"),
        ({"post_norm": True}, "before each box"),
        ({"cut": False}, "changes earlier logits"),
        ({"swapped": True}, "exchanged"),
        ({"scale": 1.0}, "not divided"),
        ({"activation": lambda h: h}, "bend of the MLP is missing"),
        ({"activation": F.relu}, "here it is ReLU"),
        ({"activation": F.gelu}, "tanh"),
        ({"mlp": False, "positions": False}, "wpe"),  # no blocks: the positions alone are missing
        ({"swapped": True, "early": True}, "Take one part away"),
    ],
)
def test_wrong_blank_file(options, words):
    assert judge("gpt.blank_file", lambda *a: gpt2_logits(*a)) == ("passed", "passed")
    fails("gpt.blank_file", lambda *a: gpt2_logits(*a, **options), words)


def unmasked(idx, weights, n_head):
    logits = gpt2_logits(idx, weights, n_head)
    if "h.0.ln_1.weight" not in weights:
        return logits
    return logits + weights["wte.weight"][idx].mean(dim=1, keepdim=True).sum(-1, keepdim=True)


def spoils_weights(idx, weights, n_head):
    weights.clear()
    return idx


def test_a_blank_file_that_sees_the_future_or_scales_by_the_whole_width():
    fails("gpt.blank_file", unmasked, "the last token changes earlier")
    wide = lambda idx, w, n: gpt2_logits(idx, w, n, scale=w["wte.weight"].size(1) ** -0.5)  # noqa: E731
    fails("gpt.blank_file", wide, "D = C / n_head")
    fails("gpt.blank_file", lambda *a: gpt2_logits(*a)[:, -1], "shape")
    fails("gpt.blank_file", spoils_weights, "the shape is")


def test_the_oracle_of_the_blank_file_is_the_packages_gpt2():
    generator = torch.Generator().manual_seed(0)
    V, length, n_layer, n_head, C = 13, 9, 2, 2, 6
    weights = random_weights(V, length, n_layer, C, generator)
    sizes = {"vocab_size": V, "block_size": length, "n_layer": n_layer, "n_head": n_head}
    model = GPT(GPTConfig(**sizes, n_embd=C, **ARCHITECTURES["gpt2"]))
    ours = model.state_dict()
    names = {
        "attention_norm": "ln_1",
        "mlp_norm": "ln_2",
        "attention.output": "attn.c_proj",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    for layer in range(n_layer):
        for mine, theirs in names.items():
            for kind in ("weight", "bias"):
                value = weights[f"h.{layer}.{theirs}.{kind}"]
                ours[f"blocks.{layer}.{mine}.{kind}"] = value.T if value.ndim == 2 else value
        for part, name in enumerate(("query", "key", "value")):
            for kind in ("weight", "bias"):
                value = weights[f"h.{layer}.attn.c_attn.{kind}"].chunk(3, dim=-1)[part]
                ours[f"blocks.{layer}.attention.{name}.{kind}"] = (
                    value.T if value.ndim == 2 else value
                )
    ours |= {"embedding.weight": weights["wte.weight"], "head.weight": weights["wte.weight"]}
    ours |= {"positions.weight": weights["wpe.weight"]}
    ours |= {f"norm.{kind}": weights[f"ln_f.{kind}"] for kind in ("weight", "bias")}
    model.load_state_dict(ours)
    idx = torch.randint(V, (3, 7), generator=generator)
    torch.testing.assert_close(gpt2_logits(idx, weights, n_head), model(idx)[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"root": False}, "ROOT"),
        ({"turn_values": True}, "Values are not rotated"),
        ({"early": True}, "after attention has added"),
        ({"bend": "up"}, "belongs to the gate"),
        ({"turn": False}, "must be rotated"),
        ({"keep": False}, "x is lost"),
        ({"root": False, "bend": "up"}, "More than one fault"),
    ],
)
def test_each_fault_left_in_the_block_is_named(options, words):
    assert judge("gpt.repair", lambda *a: block_output(*a)) == ("passed", "passed")
    fails("gpt.repair", lambda *a: block_output(*a, **options), words)


def test_the_planted_block_fails_as_it_is():
    fails("gpt.repair", solution("gpt.repair").names["broken"], "More than one fault")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda T, H: alibi_biases(T, H, first=0), "counted from 1"),
        (lambda T, H: alibi_biases(T, H, sign=-1), "The sign"),
        (lambda T, H: alibi_biases(T, H, hidden=0.0), "-inf belongs in the future"),
        (lambda T, H: alibi_biases(T, H).transpose(1, 2), "-inf belongs in the future"),
        (lambda T, H: alibi_biases(T, H).flip(0), "steepest"),
        (lambda T, H: alibi_biases(T, H)[0], "shape"),
        (lambda T, H: 3 * alibi_biases(T, H), "minus slope times"),
        (lambda T, H: alibi_biases(T, H) * 0, "NaN"),
        (lambda T, H: alibi_biases(T, H).double(), "dtype"),
    ],
)
def test_wrong_alibi(answer, words):
    assert judge("gpt.alibi", lambda *a: alibi_biases(*a)) == ("passed", "passed")
    fails("gpt.alibi", answer, words)


OWN_WORD = {"loss_16": 16.4, "loss_64": 64.0, "std": 0.046, "why": "c"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss_16": 6.2}, "tied table"),
        ({"loss_64": 16.0}, "tied table"),
        ({"std": 0.08}, "above"),
        ({"std": 0.02}, "not the largest"),
        ({"std": 0}, "no standard deviation"),
        ({"std": "0.05"}, "no standard deviation"),
        ({"why": "a"}, "what is the stream"),
        ({"why": "b"}, "what is the stream"),
        ({"why": "d"}, "what is the stream"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_own_word(change, words):
    assert judge("gpt.own_word", OWN_WORD) == ("passed", "passed")
    fails("gpt.own_word", OWN_WORD | change, words)


PHONE = {"n_layer": 9, "n_head": 10, "n_kv_head": 2, "n_embd": 520}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_layer": 10, "n_kv_head": 1}, "30,000,000 are the limit"),
        ({"n_layer": 8}, "use them all"),
        ({"n_layer": 5}, "at least 6"),
        ({"n_kv_head": 10}, "bytes of keys and values"),
        ({"n_embd": 1600}, "heads of width"),
        ({"n_head": 7}, "no such model"),
        ({"n_kv_head": 3}, "no such model"),
        ({"n_layer": "9"}, "no such model"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_phone(change, words):
    assert judge("gpt.phone", PHONE) == ("passed", "passed")
    fails("gpt.phone", PHONE | change, words)


def test_other_phones_pass():
    for sizes in ((6, 7, 1, 630), (9, 12, 1, 528), (11, 12, 1, 480)):
        other = dict(zip(PHONE, sizes, strict=True))
        assert judge("gpt.phone", other) == ("passed", "passed")


def block_of_the_package(x, w, cos, sin):
    return Block(GPTConfig(vocab_size=9, n_head=1, n_embd=x.size(-1)).resolved(), 0)(x, (cos, sin))


def model_of_the_package(idx, weights, n_head):
    V, C = weights["wte.weight"].shape
    return GPT(GPTConfig(vocab_size=V, n_embd=C, n_head=n_head, **ARCHITECTURES["gpt2"]))(idx)[0]


def test_the_packages_own_parts_are_no_answer():
    fails("gpt.repair", block_of_the_package, "minigpt's own Block")
    fails("gpt.blank_file", model_of_the_package, "minigpt's own GPT")


@pytest.mark.slow
@pytest.mark.parametrize("name", exercises("gpt"))
def test_right_answers_never_fail(name, monkeypatch):
    students = 20 if name == "gpt.own_word" else 200  # it measures 34 models at each call
    passes_always(name, monkeypatch, students)
