"""A model, settings and batches so small that a training run takes no time."""

import json
from pathlib import Path

import torch

from minigpt.batching.windows import IGNORE
from minigpt.gpt import GPT, GPTConfig
from minigpt.recipe import TrainConfig

V, T, B = 17, 7, 6


class Source:
    """Give random batches (B, T), each a pure function of its step."""

    def __init__(self, rows: int = B, ignored: float = 0.0):
        self.rows, self.ignored = rows, ignored
        self.steps = []

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.steps.append(step)
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, V, (self.rows, T + 1), generator=generator)
        targets = ids[:, 1:].clone()
        targets[torch.rand(self.rows, T, generator=generator) < self.ignored] = IGNORE
        return ids[:, :-1], targets


def make_model(dropout: float = 0.0, **options) -> GPT:
    torch.manual_seed(5)
    config = {"vocab_size": V, "block_size": T, "n_layer": 2, "n_head": 2, "n_embd": 12}
    return GPT(GPTConfig(**config | options, dropout=dropout))


def make_config(**options) -> TrainConfig:
    defaults = {
        "max_steps": 6,
        "batch_size": B,
        "warmup_steps": 2,
        "log_interval": 1,
        "eval_interval": 3,
        "save_interval": 3,
        "device": "cpu",
        "dtype": "float32",
    }
    return TrainConfig(**defaults | options)


def weights(model: GPT) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows(run_dir: Path, *without: str) -> list[dict]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in without} for line in lines]
