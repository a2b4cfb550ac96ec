"""Load the packages that are measured beside minigpt, from a clone or an installation.

Knows how to call nanoGPT, minbpe and micrograd (github.com/karpathy) and GPT-2 of `transformers`,
and how to give them our weights, so that all compute the same thing.
"""

import contextlib
import importlib
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from minigpt.gpt import GPT, Block, GPTConfig
from minigpt.support.errors import ConfigError


def load_clone(folder: Path, module: str) -> ModuleType:
    """Import a module from the clone of a repository; its code is run, so name only what you trust.

    Raises a ConfigError where it is not there.
    """
    path = Path(folder) / Path(*module.split("."))
    if not path.with_suffix(".py").is_file() and not (path / "__init__.py").is_file():
        raise ConfigError(f"no {path.name} there", str(folder), "name the folder of the clone")
    sys.path.insert(0, str(folder))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(module)
    finally:
        sys.path.remove(str(folder))


def installed(name: str) -> ModuleType | None:
    """Return an installed package, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def nanogpt_model(peer: ModuleType, config: GPTConfig, bias: bool = False) -> torch.nn.Module:
    """Return nanoGPT's model of these sizes; what it prints is left out."""
    with contextlib.redirect_stdout(io.StringIO()):
        return peer.GPT(
            peer.GPTConfig(
                block_size=config.block_size,
                vocab_size=config.vocab_size,
                dropout=0.0,
                n_layer=config.n_layer,
                n_head=config.n_head,
                n_embd=config.n_embd,
                bias=bias,
            )
        )


def nanogpt_optimizer(model: Any, device: torch.device) -> torch.optim.Optimizer:
    """Return nanoGPT's AdamW with the settings of its Shakespeare recipe."""
    with contextlib.redirect_stdout(io.StringIO()):
        return model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), device.type)


def huggingface_model(transformers: ModuleType, ours: GPT) -> torch.nn.Module:
    """Return transformers' GPT-2 with our model's weights."""
    c = ours.config
    config = transformers.GPT2Config(
        vocab_size=c.vocab_size,
        n_positions=c.block_size,
        n_embd=c.n_embd,
        n_layer=c.n_layer,
        n_head=c.n_head,
        layer_norm_epsilon=c.norm_eps,
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    copy_weights(ours, dict(theirs.named_parameters()), turned=True)
    return theirs


@torch.no_grad()
def copy_weights(ours: GPT, theirs: dict[str, Tensor], turned: bool = False) -> None:
    """Give a GPT-2 with its usual names our weights; turned: its matrices stand (in, out)."""

    def put(name: str, *sources: Any) -> None:
        value = torch.cat(sources)
        theirs[name].copy_(value.T if turned and ".h." in name and value.ndim == 2 else value)

    put("transformer.wte.weight", ours.embedding.weight)
    put("transformer.wpe.weight", ours.positions.weight)
    for kind in ("weight", "bias"):
        put(f"transformer.ln_f.{kind}", getattr(ours.norm, kind))
        for number, block in enumerate(ours.blocks):
            assert isinstance(block, Block)
            place, attention = f"transformer.h.{number}", block.attention
            parts = (attention.query, attention.key, attention.value)
            put(f"{place}.attn.c_attn.{kind}", *(getattr(part, kind) for part in parts))
            put(f"{place}.attn.c_proj.{kind}", getattr(attention.output, kind))
            put(f"{place}.mlp.c_fc.{kind}", getattr(block.mlp.up, kind))
            put(f"{place}.mlp.c_proj.{kind}", getattr(block.mlp.down, kind))
            put(f"{place}.ln_1.{kind}", getattr(block.attention_norm, kind))
            put(f"{place}.ln_2.{kind}", getattr(block.mlp_norm, kind))
