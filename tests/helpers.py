"""What several test files share: running a command, writing a file, a small model."""

from pathlib import Path

import pytest
import torch

from minigpt.batching.token_files import TokenFile, write_tokens
from minigpt.commands import main
from minigpt.gpt import ARCHITECTURES, GPT, GPTConfig

TINY = {"vocab_size": 37, "block_size": 11, "n_layer": 2, "n_head": 4, "n_embd": 24}
VARIANTS = [  # each option off its default at least once, alone and together
    {},
    ARCHITECTURES["llama"],
    ARCHITECTURES["gpt2"],
    {"norm": "layer"},
    {"mlp": "gelu"},
    {"mlp": "relu2"},
    {"positions": "learned"},
    {"positions": "none"},
    {"qk_norm": False},
    {"biases": True},
    {"init": "gpt2"},
    {"window": 3},
    {"mlp": "experts", "n_expert": 3, "n_active": 2, "n_hidden": 40},
    {"mlp": "experts", "window": 4, "positions": "learned", "n_kv_head": 2},
    {"n_kv_head": 2, "norm": "layer", "biases": True},
    {**ARCHITECTURES["gpt2"], "tie_embeddings": False, "mlp": "relu2", "n_kv_head": 2},
]
EOT = 0  # the id that ends a document in the token files of tests


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run one command in this process; return exit code, output and errors."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that must fail; return its one error line."""
    code, _, err = run(capsys, *words)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code != 0
    assert len(lines) == 1, err
    assert lines[0].count(" — ") == 2, "what — where — what to do"
    assert "Traceback" not in err
    return lines[0]


def write(path: Path, data: bytes | str) -> Path:
    """Write a file, and the folders above it; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return path


def token_file(folder: Path, ids: list[int], vocab_size: int = 1000) -> TokenFile:
    """Write a file of tokens as one piece and open it."""
    return write_tokens(folder / "tokens.bin", [ids], vocab_size, EOT, "a" * 64)


def tiny_model(block_size: int = 9, seed: int = 0, **changes) -> GPT:
    """Return a random model whose predictions differ clearly from token to token."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 13, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 20}
    model = GPT(GPTConfig(**{**sizes, "head_dim": 6, "block_size": block_size, **changes}))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def random_model(**options) -> GPT:
    """Return a tiny model with every weight random, norms and output projections included."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**TINY, **options}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    return model
