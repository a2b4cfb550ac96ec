"""Measure decoding: tokens a second beside nanoGPT and `transformers`, with equal greedy tokens."""

from types import ModuleType

import torch

from benchmarks.peers import copy_weights, huggingface_model, nanogpt_model
from benchmarks.timing import Row, take_turns
from minigpt.generate import generate
from minigpt.gpt import ARCHITECTURES, GPT, GPTConfig
from minigpt.machine.device import can_compile
from minigpt.sampling import SampleConfig

PART = "generation"
GOALS = {1: {"nanoGPT": 10, "transformers": 3}, 16: {"nanoGPT": 24, "transformers": 2}}


def make_model(config: GPTConfig) -> GPT:
    """Return a GPT-2 whose random weights are large enough that its next tokens differ clearly."""
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(5)
    return model


def measure_decoding(
    nanogpt: ModuleType | None, transformers: ModuleType | None, quick: bool
) -> list[Row]:
    """Decode greedily with the same weights in each package, one row and 16 rows at once."""
    sizes = (65, 32, 2, 2, None, 32) if quick else (65, 256, 6, 6, None, 384)
    config = GPTConfig(*sizes, **ARCHITECTURES["gpt2"])
    ours, prompt_length, rounds = make_model(config), 8, 1 if quick else 3
    count = config.block_size - prompt_length
    others = {}
    if nanogpt is not None:
        others["nanoGPT"] = nanogpt_model(nanogpt, config, bias=True).eval()
        copy_weights(ours, dict(others["nanoGPT"].named_parameters()))
    if transformers is not None:
        others["transformers"] = huggingface_model(transformers, ours)
    rows: list[Row] = []
    for B in (1, 16):
        prompts = torch.randint(config.vocab_size, (B, prompt_length))
        ways = {"minigpt": lambda p=prompts: greedy_ours(ours, p, count)}
        if not quick and can_compile(torch.device("cpu")):
            ways["compiled"] = lambda p=prompts: greedy_ours(ours, p, count, compile=True)
        if "nanoGPT" in others:
            ways["nanoGPT"] = lambda p=prompts: greedy_nanogpt(others["nanoGPT"], p, count)
        if "transformers" in others:
            ways["transformers"] = lambda p=prompts: greedy_hf(others["transformers"], p, count)
        seconds, ids = take_turns(ways, rounds)
        own = [way for way in ("minigpt", "compiled") if way in seconds]
        rows += [
            Row(
                PART,
                f"decoding, {B} at once{', compiled' * (way == 'compiled')}",
                B * count / seconds[way],
                "tokens a second",
            )
            for way in own
        ]
        fastest = min(own, key=lambda way: seconds[way])
        for name in others:
            same = greedy_share(ours, prompts, ids[name])
            rows.append(
                Row(
                    PART,
                    f"decoding, {B} at once, beside {name}",
                    seconds[name] / seconds[fastest],
                    "x faster",
                    GOALS[B][name],
                    note=f"{same:.1%} equal greedy tokens",
                )
            )
    return rows


@torch.inference_mode()
def greedy_share(model: GPT, prompts: torch.Tensor, tokens: torch.Tensor) -> float:
    """Return how many of another package's tokens (B, count) our logits call the greatest too.

    Two that are equal but for rounding both count: after such a tie texts go different ways.
    """
    whole = torch.cat((prompts, tokens), dim=1)  # (B, T)
    logits, _ = model(whole[:, :-1])
    logits = logits[:, prompts.size(1) - 1 :]  # (B, count, V)
    gaps = logits.amax(dim=-1) - logits.gather(-1, tokens[:, :, None])[:, :, 0]
    return (gaps <= 1e-4 * logits.abs().amax()).float().mean().item()


def greedy_ours(
    model: GPT, prompts: torch.Tensor, count: int, compile: bool = False
) -> torch.Tensor:
    """Return the next `count` tokens of each prompt, (B, count)."""
    config = SampleConfig(max_new_tokens=count, temperature=0, compile=compile)
    return torch.tensor(generate(model, prompts.tolist(), config))


@torch.inference_mode()
def greedy_nanogpt(model, prompts: torch.Tensor, count: int) -> torch.Tensor:
    """Return the same from nanoGPT, whose sampling is greedy when one token is left."""
    return model.generate(prompts, count, top_k=1)[:, prompts.size(1) :]


@torch.inference_mode()
def greedy_hf(model, prompts: torch.Tensor, count: int) -> torch.Tensor:
    """Return the same from transformers, with its key-value cache."""
    ids = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=count,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
    )
    return ids[:, prompts.size(1) :]
