"""Our GPT against transformers' Qwen3, its counts against measurement, its settings' limits."""

import dataclasses
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from minigpt import attention
from minigpt.batches import IGNORE
from minigpt.errors import ConfigError
from minigpt.gpt import GPT, GPTConfig, count_parameters, flops_per_token

TINY = {"vocab_size": 37, "block_size": 11, "n_layer": 2, "n_head": 4, "n_embd": 24}


def random_model(**options) -> GPT:
    """Return a tiny model with every weight random, norms and output projections included."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**TINY, **options}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    return model


# Parity with transformers

QWEN3_NAMES = {
    "^embedding.": "model.embed_tokens.",
    "^norm.": "model.norm.",
    "^head.": "lm_head.",
    "^blocks.": "model.layers.",
    "attention_norm.": "input_layernorm.",
    "mlp_norm.": "post_attention_layernorm.",
    "attention.query.": "self_attn.q_proj.",
    "attention.key.": "self_attn.k_proj.",
    "attention.value.": "self_attn.v_proj.",
    "attention.output.": "self_attn.o_proj.",
    "attention.query_norm.": "self_attn.q_norm.",
    "attention.key_norm.": "self_attn.k_norm.",
    "mlp.gate.": "mlp.gate_proj.",
    "mlp.up.": "mlp.up_proj.",
    "mlp.down.": "mlp.down_proj.",
}


def qwen3_name(name: str) -> str:
    """Translate one of our parameter names to transformers'."""
    for ours, theirs in QWEN3_NAMES.items():
        name = re.sub(ours.replace(".", r"\."), theirs, name)
    return name


def as_qwen3(model: GPT):
    """Return transformers' Qwen3 with this model's weights."""
    transformers = pytest.importorskip("transformers")
    c = model.config
    config = transformers.Qwen3Config(
        vocab_size=c.vocab_size, hidden_size=c.n_embd, intermediate_size=c.n_hidden,
        num_hidden_layers=c.n_layer, num_attention_heads=c.n_head,
        num_key_value_heads=c.n_kv_head, head_dim=c.head_dim, rms_norm_eps=c.norm_eps,
        max_position_embeddings=c.block_size, tie_word_embeddings=c.tie_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        attention_dropout=0.0, use_cache=False,
    )  # fmt: skip
    theirs = transformers.Qwen3ForCausalLM(config).eval()
    weights = {qwen3_name(name): tensor for name, tensor in model.state_dict().items()}
    theirs.load_state_dict(weights, strict=True)
    return theirs


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_embeddings": False},
        {"n_kv_head": 2},
        {"n_kv_head": 1, "head_dim": 10},
        {"n_head": 6, "n_kv_head": 3, "head_dim": 8, "n_hidden": 50, "tie_embeddings": False},
        {"norm_eps": 0.1, "rope_theta": 1_000_000.0, "n_layer": 3},
    ],
    ids=str,
)
def test_logits_loss_and_gradients_equal_transformers_qwen3(options, monkeypatch):
    model = random_model(**options)
    theirs = as_qwen3(model)
    idx = torch.randint(37, (3, 11))
    targets = torch.randint(37, (3, 11))
    expected = theirs(input_ids=idx).logits
    expected_loss = torch.nn.functional.cross_entropy(expected.flatten(0, 1), targets.flatten())
    expected_loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for limit in (0, 10**9):  # fused, explicit
        monkeypatch.setattr(attention, "EXPLICIT_ON_CPU_UP_TO", limit)
        model.zero_grad()
        logits, loss = model(idx, targets)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
        loss.backward()
        for name, parameter in model.named_parameters():
            gradient = gradients[qwen3_name(name)]
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


# Behaviour


def test_shapes_and_the_loss_of_marked_targets_alone():
    model = random_model()
    idx, targets = torch.randint(37, (3, 7)), torch.randint(37, (3, 7))
    logits, loss = model(idx)
    assert logits.shape == (3, 7, 37)
    assert loss is None
    targets[0, 2:] = targets[2] = IGNORE
    loss = model(idx, targets)[1]
    log_probs = logits.log_softmax(-1)
    counted = [-log_probs[b, t, targets[b, t]] for b, t in (targets != IGNORE).nonzero().tolist()]
    assert len(counted) == 2 + 7
    torch.testing.assert_close(loss, torch.stack(counted).mean())


def test_a_change_changes_nothing_before_it():
    model, idx = random_model(n_kv_head=2), torch.randint(37, (2, 11))
    before = model(idx)[0]
    for t in range(11):
        changed = idx.clone()
        changed[:, t] = (changed[:, t] + 1) % 37
        difference = (model(changed)[0] - before).abs().amax(dim=(0, 2))  # (T,)
        assert (difference[:t] == 0).all()
        assert (difference[t:] > 0).all()


def test_longer_than_the_context_is_an_assertion_with_both_numbers():
    with pytest.raises(AssertionError, match=r"\(12, 11\)"):
        random_model()(torch.zeros(1, 12, dtype=torch.long))


def test_lengths_give_the_logits_after_each_rows_last_real_token():
    model, idx, lengths = random_model(), torch.randint(37, (3, 7)), torch.tensor([7, 1, 4])
    full, cache = model(idx)[0], model.new_cache(3)
    expected = full[torch.arange(3), lengths - 1]
    for options in ({}, {"cache": cache}):
        found = model(idx, lengths=lengths, **options)[0]
        assert found.shape == (3, 1, 37)
        torch.testing.assert_close(found[:, 0], expected, atol=1e-5, rtol=1e-5)
    assert cache.positions.tolist() == lengths.tolist()


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize(("vocab_size", "n_embd"), [(65, 32), (1000, 64), (50, 256)])
def test_first_loss_is_near_ln_vocab_size(vocab_size, n_embd, tie_embeddings):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size, 16, 2, n_embd=n_embd, tie_embeddings=tie_embeddings))
    idx, targets = torch.randint(vocab_size, (64, 16)), torch.randint(vocab_size, (64, 16))
    assert abs(model(idx, targets)[1].item() / math.log(vocab_size) - 1) < 0.02


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_one_batch_is_learned_by_heart(tie_embeddings):
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**TINY, "n_kv_head": 2}, tie_embeddings=tie_embeddings))
    idx, targets = torch.randint(37, (4, 11)), torch.randint(37, (4, 11))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(150):
        loss = model(idx, targets)[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_every_parameter_receives_a_gradient_after_the_first_steps():
    model = random_model(tie_embeddings=False)
    idx = torch.arange(11)[None].repeat(4, 1) + torch.arange(4)[:, None] * 9
    model(idx % 37, idx % 37)[1].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_dropout_acts_in_training_only():
    model, idx = random_model(dropout=0.3), torch.randint(37, (2, 11))
    assert not torch.equal(model(idx)[0], model(idx)[0])
    model.eval()
    assert torch.equal(model(idx)[0], model(idx)[0])


def test_state_dict_holds_the_parameters_and_nothing_else():
    for tie_embeddings in (True, False):
        model = random_model(tie_embeddings=tie_embeddings)
        names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        assert set(model.state_dict()) == names


# Counts


@st.composite
def configs(draw) -> GPTConfig:
    """Draw any small valid config."""
    n_kv_head, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    half_head = draw(st.integers(1, 6))
    free_width = draw(st.booleans())
    return GPTConfig(
        vocab_size=draw(st.integers(1, 40)),
        block_size=draw(st.integers(1, 12)),
        n_layer=draw(st.integers(1, 3)),
        n_head=n_kv_head * group,
        n_kv_head=draw(st.sampled_from([n_kv_head, None])),
        n_embd=draw(st.integers(1, 30)) if free_width else n_kv_head * group * half_head * 2,
        head_dim=half_head * 2 if free_width else None,
        n_hidden=draw(st.none() | st.integers(1, 40)),
        tie_embeddings=draw(st.booleans()),
    )


@settings(max_examples=40, deadline=None)
@given(configs())
def test_count_parameters_is_exact_and_resolved_changes_nothing(config):
    model = GPT(config)
    assert count_parameters(config) == sum(p.numel() for p in model.parameters())
    assert model.config == config.resolved() == config.resolved().resolved()
    assert count_parameters(model.config) == count_parameters(config)
    idx = torch.zeros(1, config.block_size, dtype=torch.long)
    assert model(idx)[0].shape == (1, config.block_size, config.vocab_size)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_kv_head": 2, "head_dim": 10},
        {"n_layer": 1, "vocab_size": 500, "tie_embeddings": False, "n_hidden": 100},
    ],
    ids=str,
)
@pytest.mark.parametrize("T", [None, 5])
def test_flops_agree_with_torchs_counter_within_1_percent(options, T, monkeypatch):
    monkeypatch.setattr(attention, "EXPLICIT_ON_CPU_UP_TO", 10**9)
    model = random_model(**options)
    length = T or model.config.block_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(3, length, dtype=torch.long))
    counted = counter.get_total_flops() / (3 * length)
    assert abs(flops_per_token(model.config, T) / counted - 1) < 0.01


# Settings (faults C18 and C19)

NUMBERS = ("vocab_size", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "head_dim",
           "n_hidden")  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -3, 2.0, True, math.nan, "8", 10**400])
def test_fault_C18_whole_numbers_out_of_range_show_name_value_and_remedy(name, value):
    with pytest.raises(ConfigError) as error:
        GPTConfig(**{**TINY, name: value})
    message = str(error.value)
    assert name in message
    assert repr(value) in message
    assert "give a whole number" in message


@pytest.mark.parametrize("name", ["dropout", "rope_theta", "norm_eps"])
@pytest.mark.parametrize(
    "value", [-1.0, math.nan, math.inf, float("1e400"), 10**400, True, False, "0.1", None, []]
)
def test_fault_C18_real_numbers_out_of_range_show_name_value_and_remedy(name, value):
    with pytest.raises(ConfigError) as error:
        GPTConfig(**{**TINY, name: value})
    message = str(error.value)
    assert f"{name} = {value!r}" in message
    assert "give a" in message


@pytest.mark.parametrize("value", [1, 0, None, "yes"])
def test_fault_C18_tie_embeddings_is_true_or_false(value):
    with pytest.raises(ConfigError, match=r"tie_embeddings = .* give True or False"):
        GPTConfig(**TINY, tie_embeddings=value)


@pytest.mark.parametrize(
    ("options", "name", "remedy"),
    [
        ({"n_head": 5}, "n_embd = 24", "a multiple of n_head (5)"),
        ({"n_embd": 28}, "head_dim = 7", "even"),
        ({"head_dim": 9}, "head_dim = 9", "even"),
        ({"n_kv_head": 3}, "n_kv_head = 3", "a divisor of n_head (4)"),
        ({"n_kv_head": 8}, "n_kv_head = 8", "a divisor of n_head (4)"),
        ({"block_size": 0}, "block_size = 0", "a whole number"),
    ],
)
def test_fault_C19_impossible_combinations_name_both_settings(options, name, remedy):
    with pytest.raises(ConfigError) as error:
        GPTConfig(**{**TINY, **options})
    assert name in str(error.value)
    assert remedy in str(error.value)


ANYTHING = (
    st.none() | st.booleans() | st.integers(-2, 40) | st.integers() | st.floats()
    | st.text(max_size=4) | st.sampled_from([10**400, -(10**400), b"1", [], {}, 1j])
)  # fmt: skip
FIELDS = [field.name for field in dataclasses.fields(GPTConfig)]


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=4))
def test_fault_C18_any_setting_is_taken_or_refused_by_a_config_error(options):
    try:
        config = GPTConfig(**{**TINY, **options})
    except ConfigError:
        return
    assert count_parameters(config) > 0
    assert flops_per_token(config) > 0
    assert math.isfinite(float(count_parameters(config)))
