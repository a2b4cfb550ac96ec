"""Our GPT against transformers' Qwen3, Llama and GPT-2; its counts, its settings' limits."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch
from helpers import TINY, VARIANTS, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minigpt import gpt
from minigpt.attention import document_mask
from minigpt.batching.windows import IGNORE
from minigpt.counts import count_parameters, flops_per_token
from minigpt.generate import prefill
from minigpt.gpt import ARCHITECTURES, GPT, GPTConfig
from minigpt.recipe import TrainConfig, make_optimizers
from minigpt.runs.run import build, open_run
from minigpt.support.errors import ConfigError
from minigpt.train import train

# Parity with transformers

LLAMA_NAMES = {  # Qwen3's are the same
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
GPT2_NAMES = {
    "^embedding.": "transformer.wte.",
    "^positions.": "transformer.wpe.",
    "^norm.": "transformer.ln_f.",
    "^head.": "lm_head.",
    "^blocks.": "transformer.h.",
    "attention_norm.": "ln_1.",
    "mlp_norm.": "ln_2.",
    "attention.query.": "attn.c_attn.",
    "attention.key.": "attn.c_attn.",
    "attention.value.": "attn.c_attn.",
    "attention.output.": "attn.c_proj.",
    "mlp.up.": "mlp.c_fc.",
    "mlp.down.": "mlp.c_proj.",
}


def translate(name: str, names: dict[str, str]) -> str:
    """Translate one of our parameter names to transformers'."""
    for ours, theirs in names.items():
        name = re.sub(ours.replace(".", r"\."), theirs, name)
    return name


def same_tensor(name: str, tensors: dict[str, torch.Tensor], form: str) -> torch.Tensor:
    """Return transformers' counterpart of our tensor `name`, as a view: from weights or gradients.

    GPT-2 keeps its matrices turned over, and query, key and value in one.
    """
    if form != "gpt2":
        return tensors[translate(name, LLAMA_NAMES)]
    tensor = tensors[translate(name, GPT2_NAMES)]
    if re.search(r"(attention|mlp)\..*weight", name):
        tensor = tensor.T
    part = re.search(r"attention\.(query|key|value)\.", name)
    if part is None:
        return tensor
    return tensor.chunk(3)[("query", "key", "value").index(part[1])]


def reference(model: GPT, form: str):
    """Return transformers' model of this form with our model's weights."""
    transformers, c = pytest.importorskip("transformers"), model.config
    if form == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=c.vocab_size,
            n_positions=c.block_size,
            n_embd=c.n_embd,
            n_layer=c.n_layer,
            n_head=c.n_head,
            n_inner=c.n_hidden,
            activation_function="gelu_new",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            layer_norm_epsilon=c.norm_eps,
            use_cache=False,
            tie_word_embeddings=c.tie_embeddings,
        )
        theirs = transformers.GPT2LMHeadModel(config).eval()
    else:
        sizes = {
            "vocab_size": c.vocab_size,
            "hidden_size": c.n_embd,
            "intermediate_size": c.n_hidden,
            "num_hidden_layers": c.n_layer,
            "num_attention_heads": c.n_head,
            "num_key_value_heads": c.n_kv_head,
            "head_dim": c.head_dim,
            "rms_norm_eps": c.norm_eps,
            "max_position_embeddings": c.block_size,
            "tie_word_embeddings": c.tie_embeddings,
            "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
            "attention_dropout": 0.0,
            "use_cache": False,
        }
        if form == "qwen3":
            theirs = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes)).eval()
        else:
            biases = {"attention_bias": c.biases, "mlp_bias": c.biases}
            config = transformers.LlamaConfig(**sizes, **biases)
            theirs = transformers.LlamaForCausalLM(config).eval()
    tensors = dict(theirs.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            same_tensor(name, tensors, form).copy_(parameter)
    ours = sum(p.numel() for p in model.parameters())
    assert ours == sum(p.numel() for p in theirs.parameters())  # so nothing of theirs is left out
    return theirs


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("qwen3", {}),
        ("qwen3", {"tie_embeddings": False}),
        ("qwen3", {"n_kv_head": 2}),
        ("qwen3", {"n_kv_head": 1, "head_dim": 10}),
        ("qwen3", {"n_head": 6, "n_kv_head": 3, "head_dim": 8, "n_hidden": 50}),
        ("qwen3", {"norm_eps": 0.1, "rope_theta": 1_000_000.0, "n_layer": 3}),
        ("llama", {}),
        ("llama", {"n_kv_head": 2, "tie_embeddings": False, "norm_eps": 1e-5}),
        ("llama", {"n_kv_head": 1, "head_dim": 10, "biases": True, "rope_theta": 500.0}),
        ("gpt2", {}),
        ("gpt2", {"n_hidden": 50, "n_layer": 3, "tie_embeddings": False}),
        ("gpt2", {"norm_eps": 0.1, "n_head": 2}),
    ],
    ids=str,
)
def test_logits_loss_and_gradients_equal_transformers(form, options):
    model = random_model(**{**ARCHITECTURES[form], **options})
    theirs = reference(model, form)
    idx = torch.randint(37, (3, 11))
    targets = torch.randint(37, (3, 11))
    expected = theirs(input_ids=idx).logits
    expected_loss = torch.nn.functional.cross_entropy(expected.flatten(0, 1), targets.flatten())
    expected_loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters(remove_duplicate=False)}
    _, loss = model(idx, targets)
    torch.testing.assert_close(model(idx)[0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
    loss.backward()
    for name, parameter in model.named_parameters():
        gradient = same_tensor(name, gradients, form)
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


def test_the_model_that_comes_with_the_package_is_a_qwen3():
    run = open_run(Path("little"), device="cpu")
    theirs = reference(run.model, "qwen3")
    idx = torch.tensor([run.tokenizer.encode("Once upon a time 从前有一只狐狸。" * 9)])
    idx = torch.cat((idx, torch.randint(run.tokenizer.vocab_size, idx.shape)), dim=1)
    idx = idx[:, : run.config.model.block_size]
    with torch.no_grad():
        found, expected = run.model(idx)[0], theirs(input_ids=idx).logits
    assert expected.std() > 0.1  # a model of zeros would be equal, too
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# Behavior


def test_shapes_and_the_loss_of_marked_targets_alone():
    model = random_model()
    idx, targets = torch.randint(37, (3, 7)), torch.randint(37, (3, 7))
    logits, loss = model(idx)
    assert logits.shape == (3, 7, 37)
    assert loss is None
    targets[0, 2:] = targets[2] = IGNORE
    none, loss = model(idx, targets)
    assert none is None
    log_probs = logits.log_softmax(-1)
    counted = [-log_probs[b, t, targets[b, t]] for b, t in (targets != IGNORE).nonzero().tolist()]
    assert len(counted) == 2 + 7
    torch.testing.assert_close(loss, torch.stack(counted).mean())
    assert model(idx, torch.full_like(targets, IGNORE))[1].isnan()


@pytest.mark.parametrize("rows", [1, 3, 7, 21, 100])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_loss_in_pieces_equals_the_loss_of_all_logits_with_gradients(rows, share, monkeypatch):
    monkeypatch.setattr(gpt, "logits_at_once", lambda device: 37 * rows + 36)
    model, idx = random_model(tie_embeddings=False), torch.randint(37, (3, 7))
    targets = torch.randint(37, (3, 7)).masked_fill(torch.rand(3, 7) < share, IGNORE)
    logits = model(idx)[0]
    whole = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    shapes = []
    model.head.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))
    loss = model(idx, targets)[1]
    torch.testing.assert_close(loss, whole)
    counted = int((targets != IGNORE).sum())
    assert sum(n for n, _ in shapes) == counted  # no logits where no target counts
    assert max(n for n, _ in shapes) == min(rows, counted)
    parameters = list(model.parameters())
    for ours, theirs in zip(
        *(torch.autograd.grad(x, parameters) for x in (loss, whole)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_change_changes_nothing_before_it(options):
    model, idx = random_model(**options), torch.randint(37, (2, 11))
    before = model(idx)[0]
    for t in range(11):
        changed = idx.clone()
        changed[:, t] = (changed[:, t] + 1) % 37
        difference = (model(changed)[0] - before).abs().amax(dim=(0, 2))  # (T,)
        # Other tokens may go to other experts, whose products then have more or fewer rows.
        rounding = 1e-5 if options.get("mlp") == "experts" else 0
        assert (difference[:t] <= rounding).all()
        seen = options.get("window", 11) - 1  # places that a layer looks back
        reach = t + 1 + TINY["n_layer"] * seen
        assert (difference[t:reach] > 0).all()
        assert (difference[reach:] <= rounding).all()


def test_longer_than_the_context_is_an_assertion_with_both_numbers():
    with pytest.raises(AssertionError, match=r"\(12, 11\)"):
        random_model()(torch.zeros(1, 12, dtype=torch.long))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_cached_equals_uncached_however_the_time_is_split(options):
    model, idx = random_model(**options), torch.randint(37, (3, 11))
    with torch.no_grad():
        expected = model(idx)[0]
        for parts in ([11], [1] * 11, [4, 1, 1, 5]):
            cache = model.new_cache(3)
            found = [model(part, cache=cache)[0] for part in idx.split(parts, dim=1)]
            torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_cached_rows_of_unequal_length_equal_each_row_alone(options):
    model, idx, lengths = random_model(**options), torch.randint(37, (3, 11)), [7, 1, 4]
    with torch.no_grad():
        cache = model.new_cache(3)
        model.hidden(idx[:, :7], cache)
        cache.advance(torch.tensor(lengths))
        for step in range(4):
            new = torch.stack([idx[row, n + step] for row, n in enumerate(lengths)])[:, None]
            found = model(new, cache=cache)[0]
            for row, n in enumerate(lengths):
                alone = model(idx[row : row + 1, : n + step + 1])[0][0, -1]
                torch.testing.assert_close(found[row, -1], alone, atol=1e-5, rtol=1e-4)


def test_order_matters_in_every_form_but_without_positions():
    idx = torch.tensor([[1, 2, 3, 4, 5], [3, 1, 4, 2, 5]])  # the same past in another order
    for options in VARIANTS:
        first, second = random_model(**{**options, "n_layer": 1})(idx)[0][:, -1].detach()
        knows = options.get("positions") != "none"
        assert ((first - second).abs().max() > 1e-3) == knows, options


def test_prefill_computes_the_logits_after_each_rows_last_token_and_no_others():
    model, idx, lengths = random_model(), torch.randint(37, (3, 7)), torch.tensor([7, 1, 4])
    expected = model(idx)[0][torch.arange(3), lengths - 1]
    cache, shapes = model.new_cache(3), []
    model.head.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))
    windows = [row[:n] for row, n in zip(idx.tolist(), lengths.tolist(), strict=True)]
    found = prefill(model, cache, windows)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert shapes == [(3, 37)]
    assert cache.positions.tolist() == lengths.tolist()


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize(("vocab_size", "n_embd"), [(65, 32), (1000, 64), (50, 256)])
@pytest.mark.parametrize("form", [*ARCHITECTURES, "research"])
def test_first_loss_is_near_ln_vocab_size(vocab_size, n_embd, tie_embeddings, form):
    torch.manual_seed(0)
    research = {"mlp": "relu2", "positions": "learned", "biases": True}
    options = {**ARCHITECTURES.get(form, research), "tie_embeddings": tie_embeddings}
    model = GPT(GPTConfig(vocab_size, 16, 2, n_embd=n_embd, **options))
    idx, targets = torch.randint(vocab_size, (64, 16)), torch.randint(vocab_size, (64, 16))
    assert abs(model(idx, targets)[1].item() / math.log(vocab_size) - 1) < 0.02


def test_gpt2s_first_weights_have_its_sizes():
    torch.manual_seed(0)
    model = GPT(GPTConfig(500, 100, n_layer=8, n_embd=128, **ARCHITECTURES["gpt2"]))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            writes = "output" in name or "down" in name
            expected = 0.02 / math.sqrt(2 * 8) if writes else 0.02
            assert abs(parameter.std() / expected - 1) < 0.03, name


def test_identity_makes_blocks_that_add_nothing_in_every_form():
    idx = torch.randint(37, (2, 11))
    for options in VARIANTS:
        if options.get("init", "identity") == "identity":
            model = GPT(GPTConfig(**TINY, **options))
            x, _ = model.positions(model.embedding(idx), slice(0, 11))
            torch.testing.assert_close(model(idx)[0], model.head(model.norm(x)))


def test_copying_lets_attention_add_a_part_of_what_it_looks_at_and_the_mlps_nothing():
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**TINY, "init": "copying"}))
    for block in model.blocks:
        attention, x = block.attention, torch.randn(2, 1, model.config.n_embd)
        n_groups = attention.n_head // attention.n_kv_head
        read = attention.value.weight  # (G * D, C): orthonormal directions
        torch.testing.assert_close(read @ read.T, torch.eye(len(read)))
        # One token looks at itself alone: what it gets back lies in those directions.
        torch.testing.assert_close(attention(x), n_groups * (x @ read.T @ read))
        assert not block.mlp(x).any()
    idx = torch.randint(37, (4, 11))
    _, loss = model(idx, torch.randint(37, (4, 11)))
    assert abs(loss.item() - math.log(37)) < 0.3


@pytest.mark.parametrize(
    "options",
    [
        {},
        ARCHITECTURES["gpt2"],
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ({"tie_embeddings": False}, VARIANTS[-1])
        ),
    ],
    ids=str,
)
def test_one_batch_is_learned_by_heart(options):
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**TINY, "n_kv_head": 2, **options}))
    idx, targets = torch.randint(37, (4, 11)), torch.randint(37, (4, 11))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(100):
        loss = model(idx, targets)[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.15  # of ln 37 = 3.6


@pytest.mark.parametrize("options", [{"tie_embeddings": False}, *VARIANTS], ids=str)
def test_every_parameter_receives_a_gradient_after_the_first_steps(options):
    model = random_model(**options)
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


# Settings

NUMBERS = (
    "vocab_size",
    "block_size",
    "n_layer",
    "n_head",
    "n_kv_head",
    "n_embd",
    "head_dim",
    "n_hidden",
)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -3, 2.0, True, math.nan, "8", 10**400])
def test_whole_numbers_out_of_range_show_name_value_and_remedy(name, value):
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
def test_real_numbers_out_of_range_show_name_value_and_remedy(name, value):
    with pytest.raises(ConfigError) as error:
        GPTConfig(**{**TINY, name: value})
    message = str(error.value)
    assert f"{name} = {value!r}" in message
    assert "give a" in message


@pytest.mark.parametrize("name", ["tie_embeddings", "qk_norm", "biases"])
@pytest.mark.parametrize("value", [1, 0, None, "yes"])
def test_switches_are_true_or_false(name, value):
    with pytest.raises(ConfigError, match=rf"{name} = .* give True or False"):
        GPTConfig(**TINY, **{name: value})


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("norm", "rms, layer"),
        ("mlp", "swiglu, gelu, relu2"),
        ("positions", "rotary, learned, none"),
        ("init", "identity, copying, gpt2"),
    ],
)
@pytest.mark.parametrize("value", ["", "batch", None, 1, True, ["rms"]])
def test_unknown_choices_name_the_known_ones(name, choices, value):
    with pytest.raises(ConfigError) as error:
        GPTConfig(**TINY, **{name: value})
    assert f"{name} = {value!r}" in str(error.value)
    assert f"give one of {choices}" in str(error.value)


BEFORE_FORMS = {  # the settings of a model as they were written before there were forms
    "vocab_size": 37,
    "block_size": 11,
    "n_layer": 2,
    "n_head": 4,
    "n_kv_head": None,
    "n_embd": 24,
    "head_dim": None,
    "n_hidden": None,
    "dropout": 0.0,
    "rope_theta": 10000.0,
    "norm_eps": 1e-06,
    "tie_embeddings": True,
}


def test_settings_written_before_the_forms_existed_mean_the_default_form():
    assert build(GPTConfig, BEFORE_FORMS, "model") == GPTConfig(**TINY, **ARCHITECTURES["qwen3"])
    names = {re.sub(r"\d+", "0", name) for name in GPT(GPTConfig(**TINY)).state_dict()}
    block = [
        "attention_norm",
        "mlp_norm",
        *(
            f"attention.{part}"
            for part in ("query", "key", "value", "output", "query_norm", "key_norm")
        ),
        "mlp.gate",
        "mlp.up",
        "mlp.down",
    ]
    expected = ["embedding", "norm", "head", *(f"blocks.0.{part}" for part in block)]
    assert names == {f"{name}.weight" for name in expected}


def test_a_run_begun_before_the_forms_existed_can_be_resumed_with_the_default_form_alone(tmp_path):
    class Source:
        def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.full((2, 11), step), torch.full((2, 11), step + 1)

    options = {"device": "cpu", "dtype": "float32", "schedule": "constant"}
    one, two = (TrainConfig(max_steps=steps, **options) for steps in (1, 2))
    train(GPT(GPTConfig(**TINY)), Source(), one, tmp_path, manifest={"model": BEFORE_FORMS})
    for options in ({"mlp": "relu2"}, {}):
        config = GPTConfig(**TINY, **options)
        now = {"manifest": {"model": dataclasses.asdict(config)}, "resume": True}
        arguments = GPT(config), Source(), two, tmp_path
        if options:
            with pytest.raises(ConfigError, match=r"model\.mlp 'swiglu' -> 'relu2'"):
                train(*arguments, **now)
        else:
            assert train(*arguments, **now).step == 2


def test_widths_are_free_of_rotary_pairs_without_rotary_positions():
    for positions in ("learned", "none"):
        model = random_model(head_dim=9, positions=positions)
        assert model(torch.zeros(1, 3, dtype=torch.long))[0].shape == (1, 3, 37)


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
def test_impossible_combinations_name_both_settings(options, name, remedy):
    with pytest.raises(ConfigError) as error:
        GPTConfig(**{**TINY, **options})
    assert name in str(error.value)
    assert remedy in str(error.value)


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers(-2, 40)
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from([10**400, -(10**400), b"1", [], {}, 1j])
)
FIELDS = [field.name for field in dataclasses.fields(GPTConfig)]


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=4))
def test_any_setting_is_taken_or_refused_by_a_config_error(options):
    try:
        config = GPTConfig(**{**TINY, **options})
    except ConfigError:
        return
    assert count_parameters(config) > 0
    assert flops_per_token(config) > 0
    assert math.isfinite(float(count_parameters(config)))


# Documents of one row


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_documents_apart_have_the_loss_and_gradients_of_separate_rows(options, dtype):
    """Also in bfloat16 on a CPU, where attention leaves autocast: the mask must come along."""
    if options.get("positions") == "learned":
        return  # a document later in its row has other positions
    model = random_model(**options).eval()  # a layer's own loss is no sum over documents
    parts = (torch.randint(37, (1, 5)), torch.randint(37, (1, 6)))
    row, targets = torch.cat(parts, dim=1), torch.randint(37, (1, 11))
    documents = torch.tensor([[0] * 5 + [1] * 6])
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 5e-2}[dtype]

    def loss(*call: Tensor, mask: Tensor | None = None) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return model(*call, mask=mask)[1]

    together = loss(row, targets, mask=document_mask(documents))
    wanted = targets.split((5, 6), dim=1)
    separate = [loss(part, right) for part, right in zip(parts, wanted, strict=True)]
    apart = (5 * separate[0] + 6 * separate[1]) / 11
    torch.testing.assert_close(together, apart, atol=0, rtol=tolerance / 5)
    assert (loss(row, targets) - together).abs() > 5 * (together - apart).abs()  # masks count
    names, parameters = zip(*model.named_parameters(), strict=True)
    found, expected = (torch.autograd.grad(each, parameters) for each in (together, apart))
    for name, a, b in zip(names, found, expected, strict=True):
        assert (a - b).norm() <= tolerance * b.norm(), name


def test_a_window_narrows_a_mask_that_is_given():
    wide, near = (random_model(n_layer=1, window=w) for w in (None, 4))
    near.load_state_dict(wide.state_dict())
    idx, t = torch.randint(37, (2, 11)), torch.arange(11)
    mask = document_mask(torch.tensor([[0] * 6 + [1] * 5, [0] * 11]))
    both = mask & (t[:, None] - t < 4)
    torch.testing.assert_close(near(idx, mask=mask)[0], wide(idx, mask=both)[0])
    assert (near(idx, mask=mask)[0] - wide(idx, mask=mask)[0]).abs().max() > 1e-3


def test_a_mask_may_be_anything():
    """A mask that is neither causal nor of documents reaches every layer."""
    model, idx = random_model(n_layer=1), torch.randint(37, (2, 11))
    mask = torch.ones(2, 1, 11, 11, dtype=torch.bool).tril()
    mask[1, :, 7, 2] = False
    before, logits = model(idx)[0], model(idx, mask=mask)[0]
    differs = (logits - before).abs().amax(dim=-1) > 1e-6
    assert differs.nonzero().tolist() == [[1, 7]]


# A layer of another kind, with a loss of its own: three things that it needs of the model


class Experts(torch.nn.Module):
    """Two hidden layers as one weight each (experts, out, in), mixed by a router."""

    def __init__(self, C: int, hidden: int, n_expert: int = 3):
        super().__init__()
        self.router = torch.nn.Linear(C, n_expert, bias=False)
        self.up = torch.nn.Parameter(torch.empty(n_expert, hidden, C))
        self.down = torch.nn.Parameter(torch.empty(n_expert, C, hidden))

    def forward(self, x: Tensor) -> Tensor:
        share = self.router(x).softmax(dim=-1)  # (B, T, E)
        self.auxiliary_loss = 0.01 * share.mean(dim=(0, 1)).square().sum() * share.size(-1)
        hidden = torch.einsum("btc,ehc->bteh", x, self.up).relu()
        return torch.einsum("bteh,ech,bte->btc", hidden, self.down, share)


@pytest.fixture
def experts(monkeypatch) -> GPT:
    torch.manual_seed(0)
    monkeypatch.setitem(gpt.MLPS, "gelu", lambda c: Experts(c.n_embd, 10))
    return GPT(GPTConfig(**TINY, mlp="gelu"))


def test_experts_are_drawn_as_matrices_are(experts):
    for block in experts.blocks:
        assert abs(block.mlp.up.std() / TINY["n_embd"] ** -0.5 - 1) < 0.1
        assert (block.mlp.down == 0).all()
    loss = experts(torch.randint(37, (64, 11)), torch.randint(37, (64, 11)))[1]
    assert abs(loss.item() / math.log(37) - 1) < 0.02


def test_a_layers_own_loss_is_added_in_training_alone(experts):
    batch = torch.randint(37, (2, 3, 11))
    trained = experts.train()(*batch)[1]
    own = [block.mlp.auxiliary_loss for block in experts.blocks]
    assert len(own) == 2
    assert min(own) > 0
    torch.testing.assert_close(trained - sum(own), experts.eval()(*batch)[1])
    trained.backward()
    assert experts.blocks[0].mlp.router.weight.grad.abs().max() > 0


def test_experts_are_trained_by_muon_and_learn(experts):
    config = TrainConfig(batch_size=4, muon_learning_rate=0.05)
    muon, adamw = make_optimizers(experts, config)
    by_muon = {p for group in muon.param_groups for p in group["params"]}
    assert {p for b in experts.blocks for p in (b.mlp.up, b.mlp.down)} < by_muon
    assert not by_muon & {p for group in adamw.param_groups for p in group["params"]}
    idx, targets = torch.randint(37, (2, 4, 11))
    for _ in range(60):
        loss = experts(idx, targets)[1]
        experts.zero_grad()
        loss.backward()
        muon.step()
        adamw.step()
    assert loss < 1.5  # of ln 37 = 3.6
