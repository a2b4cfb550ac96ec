"""Quantize: keep each weight of a trained model in 8 or 4 bits instead of 32.

A weight becomes a small whole number, its code, times a scale that it shares with others: those of
its row, of a group in its row, or of the whole matrix. The scale is the largest magnitude among
them divided by the largest code, and codes are rounded to nearest (symmetric, absmax). Activations,
norms and the cache stay in float32, and a quantized model is read, never trained.

Knows nothing of files; `runs.quantized` has the settings beside a run.

Shapes: B batch, T time, N out, K in, G scales in a row.

Sources: Dettmers et al. 2022, "LLM.int8()", section 2; Jacob et al. 2018, "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", section 2.1.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.classification import refuse_classifier
from minigpt.counts import count_parameters, matrix_parameters
from minigpt.gpt import GPT, GPTConfig
from minigpt.machine import kernels
from minigpt.support.errors import ConfigError, require
from minigpt.support.settings import check_fields

Sharing = Literal["tensor", "row"] | int


@dataclass(frozen=True)
class QuantConfig:
    """Say how many bits a weight gets, and how many weights share a scale."""

    bits: Literal[8, 4] = 8
    """8: a quarter of float32's size; 4: an eighth, and the scales beside it."""
    group: Sharing = "row"
    """Who shares a scale: the weights of a row, the whole tensor, or so many neighbors in a row."""

    def __post_init__(self):
        check_fields(self)
        is_size = type(self.group) is int and self.group >= 2
        wanted = "row, tensor, or a number of weights from 2 on"
        require(is_size or self.group in ("row", "tensor"), "group", self.group, wanted)


# --- weights to codes, and back ---


def round_to_codes(
    weights: Tensor, bits: int, scale_dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return the codes (..., K), int8, of weights (..., K), and the scale (..., 1) of each K.

    Codes reach from -top to top, where top = 2^(bits - 1) - 1. The scale is rounded to its own type
    before the weights are divided by it, so that its rounding costs nothing more.

    >>> round_to_codes(torch.tensor([0.7, -0.32, 0.04]), bits=4)[0].tolist()
    [7, -3, 0]
    """
    top = 2 ** (bits - 1) - 1
    scales = (weights.abs().amax(dim=-1, keepdim=True) / top).to(scale_dtype)  # (..., 1)
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))  # all weights are 0
    codes = (weights / scales).round().clamp(-top, top)
    return codes.to(torch.int8), scales


def quantize_matrix(weight: Tensor, bits: int, group: Sharing = "row") -> tuple[Tensor, Tensor]:
    """Return the codes (N, K), int8, of a matrix, and its scales (N, G); (1, 1) for one in all.

    Scales of groups take 2 bytes each, since there are many; the few others take 4.
    """
    if group == "tensor":
        parts = weight.reshape(1, 1, -1)
    else:
        parts = weight.unflatten(1, (-1, weight.size(1) if group == "row" else int(group)))
    dtype = torch.float16 if isinstance(group, int) else torch.float32
    codes, scales = round_to_codes(parts, bits, dtype)  # (N, G, K / G), (N, G, 1)
    return codes.view(weight.shape), scales.squeeze(-1)


def dequantize(codes: Tensor, scales: Tensor) -> Tensor:
    """Return the weights (..., K), float32, that codes (..., K) and scales (..., G) stand for."""
    groups = codes.unflatten(-1, (scales.size(-1), -1))  # (..., G, K / G)
    return (groups * scales.float().unsqueeze(-1)).flatten(-2)


def pack_int4(codes: Tensor) -> Tensor:
    """Put neighbors of codes (..., K) from -8 to 7 into one byte each: (..., K / 2), uint8.

    The first of two is in the byte's lower half. Negative numbers are kept as in a computer's
    integers: -1 is 1111.

    >>> pack_int4(torch.tensor([3, -1], dtype=torch.int8)).tolist()  # 1111 0011
    [243]
    """
    halves = codes.to(torch.uint8) & 0b1111  # -1 is 11111111, and then 00001111
    return halves[..., 0::2] | (halves[..., 1::2] << 4)


def unpack_int4(packed: Tensor) -> Tensor:
    """Return the codes (..., K), int8, that `pack_int4` put into (..., K / 2) bytes."""
    halves = torch.stack((packed & 0b1111, packed >> 4), dim=-1).flatten(-2)  # (..., K)
    codes = halves.to(torch.int8)
    return torch.where(codes > 7, codes - 16, codes)


# --- layers ---


class QuantizedMatrix(nn.Module):
    """A matrix (N, K) as codes and scales; `weight` is what they stand for, made at each call.

    persistent: whether a saved model holds this matrix; not where another module has it already.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, codes: Tensor, scales: Tensor, bits: int, persistent: bool = True):
        super().__init__()
        self.bits = bits
        self.register_buffer("codes", codes, persistent)  # (N, K) int8, or (N, K / 2) uint8
        self.register_buffer("scales", scales, persistent)  # (N, G)

    @property
    def weight(self) -> Tensor:
        """The matrix (N, K) in float32."""
        return dequantize(unpack_int4(self.codes) if self.bits == 4 else self.codes, self.scales)


class QuantizedLinear(QuantizedMatrix):
    """A linear layer whose matrix is quantized; its bias, if any, is not."""

    def __init__(
        self,
        codes: Tensor,
        scales: Tensor,
        bits: int,
        bias: nn.Parameter | None = None,
        persistent: bool = True,
    ):
        super().__init__(codes, scales, bits, persistent)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., K) to (..., N)."""
        if self.bits == 8 and self.scales.size(1) == 1:  # the scale can wait until after the sum
            y = kernels.int8_linear(x, self.codes, self.scales[:, 0])
            return y if self.bias is None else y + self.bias
        return F.linear(x, self.weight, self.bias)


class QuantizedEmbedding(QuantizedMatrix):
    """An embedding whose table is quantized: only the rows that are asked for become floats."""

    def forward(self, idx: Tensor) -> Tensor:
        """Map ids (B, T) to vectors (B, T, K)."""
        codes = self.codes[idx]
        scales = self.scales.expand(self.codes.size(0), -1)[idx]  # (B, T, G)
        return dequantize(unpack_int4(codes) if self.bits == 4 else codes, scales)


# --- models ---


@torch.no_grad()
def quantize(model: GPT, config: QuantConfig) -> GPT:
    """Replace every matrix of a model by its codes and scales, in place; return the model.

    A head that is tied to the embedding stays tied. Norms, biases and learned positions stay in
    float32. Raises ConfigError for a model that is quantized already, a classifier, a mixture of
    experts, and a group that does not divide the width of a matrix.
    """
    refuse_quantized(model, "be quantized again")
    refuse_classifier(model, "be quantized")
    if model.config.mlp == "experts":
        raise ConfigError("experts cannot be quantized", "quantize", "use a model without them")
    is_tied = model.head.weight is model.embedding.weight
    for parent in list(model.modules()):
        for name, linear in list(parent.named_children()):
            if isinstance(linear, nn.Linear) and linear is not model.head:
                matrix = coded(linear.weight, config, name)
                setattr(parent, name, QuantizedLinear(*matrix, config.bits, linear.bias))
    table = coded(model.embedding.weight, config, "embedding")
    head = table if is_tied else coded(model.head.weight, config, "head")
    model.embedding = QuantizedEmbedding(*table, config.bits)  # pyright: ignore[reportAttributeAccessIssue]
    model.head = QuantizedLinear(*head, config.bits, persistent=not is_tied)  # pyright: ignore[reportAttributeAccessIssue]
    return model.eval()


def coded(weight: Tensor, config: QuantConfig, name: str) -> tuple[Tensor, Tensor]:
    """Return a matrix as a quantized layer keeps it: codes, packed where they have 4 bits."""
    width, group = weight.size(1), config.group
    if isinstance(group, int) and width % group:
        what = f"rows of {width} weights ({name}) cannot be cut into groups of {group}"
        raise ConfigError(what, "quantize", "choose a --group that divides them, or row")
    if config.bits == 4 and width % 2:
        what = f"rows of {width} weights ({name}) cannot be packed in pairs"
        raise ConfigError(what, "quantize", "use --bits 8, or a model of even widths")
    codes, scales = quantize_matrix(weight.detach(), config.bits, group)
    return pack_int4(codes) if config.bits == 4 else codes, scales


def is_quantized(model: nn.Module) -> bool:
    """Tell whether a model's matrices are codes and scales."""
    return any(isinstance(module, QuantizedMatrix) for module in model.modules())


def refuse_quantized(model: nn.Module, doing: str) -> None:
    """Raise ConfigError where something asks for weights that a quantized model has no more."""
    if is_quantized(model):
        raise ConfigError(
            f"the model is quantized and cannot {doing}",
            "the checkpoint",
            "give the run that it was made from",
        )


def quantized_bytes(model: GPTConfig, config: QuantConfig) -> int:
    """Return the bytes of a quantized model by formula, without making it: codes, scales, rest."""
    c = model.resolved()
    n_tables = 1 if c.tie_embeddings else 2
    n_weights = c.n_layer * matrix_parameters(c) + n_tables * c.vocab_size * c.n_embd
    n_queries, n_keys = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
    inside = c.n_hidden * (2 if c.mlp == "swiglu" else 1)
    rows = c.n_layer * (n_queries + 2 * n_keys + inside + 2 * c.n_embd) + n_tables * c.vocab_size
    if config.group == "tensor":
        n_matrices = c.n_layer * (7 if c.mlp == "swiglu" else 6) + n_tables
        scale_bytes = 4 * n_matrices
    else:
        scale_bytes = 4 * rows if config.group == "row" else 2 * n_weights // int(config.group)
    rest = count_parameters(model) - n_weights  # norms and whatever else stays as it is
    return n_weights * config.bits // 8 + scale_bytes + 4 * rest
