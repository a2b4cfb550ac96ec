"""Quantized weights against torch's own rounding, as layers, as models, and as runs in files."""

import copy
import warnings

import numpy as np
import pytest
import torch
from helpers import VARIANTS, random_model
from torch.nn import functional as F

import minigpt
from minigpt.classification import Classifier
from minigpt.evaluate import token_losses
from minigpt.generate import generate
from minigpt.machine import kernels
from minigpt.quantize import (
    QuantConfig,
    QuantizedLinear,
    dequantize,
    is_quantized,
    pack_int4,
    quantize,
    quantize_matrix,
    quantized_bytes,
    round_to_codes,
    unpack_int4,
)
from minigpt.sampling import SampleConfig
from minigpt.storyworld import World, story
from minigpt.support.errors import ConfigError

FORMS = [
    QuantConfig(8, "row"),
    QuantConfig(8, "tensor"),
    QuantConfig(8, 8),
    QuantConfig(4, "row"),
    QuantConfig(4, "tensor"),
    QuantConfig(4, 8),
]
PLAIN = [options for options in VARIANTS if options.get("mlp") != "experts"]
IDX = torch.tensor([[1, 5, 9, 2, 7], [3, 3, 8, 0, 11]])


@pytest.fixture
def weight():
    return torch.randn(6, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def little():
    return minigpt.load("little", "cpu")


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDX)[0]


# --- rounding ---


def test_by_hand():
    codes, scales = round_to_codes(torch.tensor([0.7, -0.32, 0.04, -0.7, 0.26, 0.0]), bits=4)
    assert codes.tolist() == [7, -3, 0, -7, 3, 0]
    assert codes.dtype == torch.int8
    assert scales.item() == pytest.approx(0.1)


@pytest.mark.parametrize("bits", range(2, 9))
def test_each_row_is_rounded_as_torch_rounds_channels(weight, bits):
    codes, scales = round_to_codes(weight, bits)
    top = 2 ** (bits - 1) - 1
    assert codes.abs().amax(dim=1).tolist() == [top] * 6
    theirs = torch.fake_quantize_per_channel_affine(
        weight, scales[:, 0], torch.zeros(6, dtype=torch.int32), 0, -top, top
    )
    torch.testing.assert_close(codes * scales, theirs, atol=1e-6, rtol=0)
    if bits == 8:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.13 calls this form deprecated
            theirs = torch.quantize_per_channel(
                weight, scales[:, 0], torch.zeros(6), 0, torch.qint8
            )
        assert torch.equal(codes, theirs.int_repr())


@pytest.mark.parametrize("group", ["tensor", "row", 8, 4])
@pytest.mark.parametrize("bits", [8, 4])
def test_no_weight_moves_by_more_than_half_a_scale(weight, bits, group):
    codes, scales = quantize_matrix(weight, bits, group)
    n_groups = {"tensor": 1, "row": 1, 8: 2, 4: 4}[group]
    assert scales.shape == (1 if group == "tensor" else 6, n_groups)
    assert scales.dtype == (torch.float16 if isinstance(group, int) else torch.float32)
    found = dequantize(codes, scales)
    steps = scales.float().expand(6, n_groups).repeat_interleave(16 // n_groups, dim=1)
    assert ((found - weight).abs() <= 0.501 * steps).all()
    assert (found - weight).abs().max() > 0.2 * steps.min(), "something was rounded"


def test_groups_have_scales_of_their_own(weight):
    weight[2, 8:12] *= 100
    codes, scales = quantize_matrix(weight, 4, 4)
    assert codes.unflatten(1, (4, 4)).abs().amax(dim=2).min() == 7
    assert scales[2, 2] > 10 * scales[2, [0, 1, 3]].max()


def test_rows_of_zeros_and_tiny_weights_stay_finite():
    zeros, scales = quantize_matrix(torch.zeros(2, 8), 4, 4)
    assert not dequantize(zeros, scales).any()
    tiny = torch.full((1, 8), 1e-9)  # its scale is 0 in half precision
    assert dequantize(*quantize_matrix(tiny, 8, 4)).isfinite().all()


def test_packing_keeps_every_pair():
    codes = torch.arange(-8, 8, dtype=torch.int8)
    pairs = torch.cartesian_prod(codes, codes)  # (256, 2)
    packed = pack_int4(pairs)
    assert packed.dtype == torch.uint8
    assert packed.shape == (256, 1)
    assert len(packed.unique()) == 256
    assert torch.equal(unpack_int4(packed), pairs)
    assert pack_int4(torch.tensor([[3, -1, 7, -8]], dtype=torch.int8)).tolist() == [[243, 135]]


# --- layers ---


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("by_row", [True, False])
def test_the_kernel_for_large_matrices_is_near_the_plain_product(monkeypatch, rows, by_row):
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(600, 512, generator=generator)
    weight *= torch.rand(600, 1, generator=generator) + 0.1  # each row has another scale
    codes, scales = quantize_matrix(weight, 8, "row" if by_row else "tensor")
    x = torch.randn(rows, 512, generator=generator)
    expected = F.linear(x, codes.float() * scales)
    calls = []
    op = torch.ops.aten._weight_int8pack_mm
    monkeypatch.setattr(torch.ops.aten, "_weight_int8pack_mm", lambda *a: calls.append(1) or op(*a))
    found = kernels.int8_linear(x, codes, scales[:, 0])
    assert calls, "the kernel was not asked"
    assert found.dtype == torch.float32
    assert ((found - expected).norm() / expected.norm()) < 0.005
    many = x.repeat(9, 1)
    torch.testing.assert_close(
        kernels.int8_linear(many, codes, scales[:, 0]), expected.repeat(9, 1), atol=1e-3, rtol=1e-4
    )
    assert len(calls) == 1, "many rows are one product of floats"


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("n_scales", [6, 1])
def test_the_kernel_computes_what_it_says(weight, rows, n_scales):
    codes, scales = quantize_matrix(weight, 8, "row" if n_scales == 6 else "tensor")
    x = torch.randn(rows, 2, 16)[:, :1]  # not contiguous
    expected = F.linear(x, codes.float() * scales)
    found = kernels.int8_linear(x, codes, scales[:, 0])
    assert found.shape == (rows, 1, 6)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    half = kernels.int8_linear(x.to(torch.bfloat16), codes, scales[:, 0].to(torch.bfloat16))
    torch.testing.assert_close(half.float(), expected, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("config", FORMS, ids=str)
def test_a_layer_multiplies_by_its_own_weight(weight, config):
    codes, scales = quantize_matrix(weight, config.bits, config.group)
    codes = pack_int4(codes) if config.bits == 4 else codes
    bias = torch.nn.Parameter(torch.randn(6))
    layer = QuantizedLinear(codes, scales, config.bits, bias)
    x = torch.randn(2, 3, 16)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, bias), atol=1e-5, rtol=1e-5)


# --- models ---


@pytest.mark.parametrize("config", FORMS, ids=str)
@pytest.mark.parametrize("options", PLAIN, ids=str)
def test_a_quantized_model_computes_what_its_rounded_weights_say(options, config):
    model = random_model(**options).eval()
    before, rounded = logits(model), copy.deepcopy(model)
    with torch.no_grad():
        for name, p in rounded.named_parameters():
            if p.ndim == 2 and not name.startswith("positions"):
                p.copy_(dequantize(*quantize_matrix(p, config.bits, config.group)))
    assert quantize(model, config) is model
    torch.testing.assert_close(logits(model), logits(rounded), atol=1e-4, rtol=1e-4)
    assert not torch.equal(logits(model), before)
    assert is_quantized(model)
    assert not model.training
    prompts = [[1, 5], [3, 2, 4]]
    setting = SampleConfig(5, temperature=0.0)
    assert generate(model, prompts, setting) == generate(rounded, prompts, setting)


@pytest.mark.parametrize("config", FORMS, ids=str)
@pytest.mark.parametrize("options", PLAIN, ids=str)
def test_bytes_are_foreseen_by_formula(options, config):
    model = quantize(random_model(**options), config)
    stored = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert stored == quantized_bytes(model.config, config)


def test_a_tied_head_reads_the_embeddings_codes():
    tied = quantize(random_model(), QuantConfig())
    assert tied.head.codes is tied.embedding.codes
    assert not any(name.startswith("head") for name in tied.state_dict())
    free = quantize(random_model(tie_embeddings=False), QuantConfig())
    assert not torch.equal(free.head.codes, free.embedding.codes)
    assert {"head.codes", "head.scales"} <= free.state_dict().keys()


@pytest.mark.parametrize(
    ("make", "config", "words"),
    [
        (lambda: quantize(random_model(), QuantConfig()), QuantConfig(), "quantized again"),
        (lambda: random_model(mlp="experts"), QuantConfig(), "experts"),
        (lambda: Classifier(random_model(), ["a", "b"]), QuantConfig(), "be quantized"),
        (random_model, QuantConfig(4, 7), "groups of 7"),
        (lambda: random_model(n_hidden=33), QuantConfig(4), "packed in pairs"),
    ],
)
def test_what_cannot_be_quantized_is_refused(make, config, words):
    with pytest.raises(ConfigError, match=words):
        quantize(make(), config)


@pytest.mark.parametrize("wrong", [{"bits": 5}, {"group": 1}, {"group": "column"}, {"group": 2.5}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        QuantConfig(**wrong)


def test_the_shipped_model_loses_little(little):
    """The goals of chapter 23: int8 below 0.5 %, int4 in groups below 3 %."""
    texts = [story(seed, World.little()).english for seed in range(70_000, 70_060)]
    rows = [[little.tokenizer.bos_id, *little.tokenizer.encode(text)] for text in texts]

    def loss(model):
        return np.concatenate(token_losses(model, rows)).mean()

    before = loss(little.model)
    for config, most in ((QuantConfig(8), 0.005), (QuantConfig(4, 32), 0.03)):
        model = quantize(copy.deepcopy(little.model), config)
        assert loss(model) < before * (1 + most), config
