"""Measure a model's own answers before and after: how long, how sure, how far from the reference.

Shapes: B rows, T time, V vocab_size.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from minigpt.batching.conversations import fit_prompts
from minigpt.batching.windows import IGNORE, answer_rows
from minigpt.chat import mark_ids
from minigpt.evaluate import Progress, generate_texts
from minigpt.finetune import FinetuneConfig
from minigpt.generate import evaluating
from minigpt.gpt import GPT
from minigpt.metrics import bootstrap_interval
from minigpt.rl import kl_estimate, masked_mean, token_entropy, token_log_probs
from minigpt.runs.adapters import read_adapter
from minigpt.runs.run import open_run
from minigpt.sampling import SampleConfig
from minigpt.support.errors import CheckpointError, DataError, MinigptError
from minigpt.tokenizer import Tokenizer

ROWS = 32  # that go through the models at once
Place = Callable[[int], str]  # where the prompt of a number stands


def open_reference(run_dir: Path, config: FinetuneConfig) -> GPT:
    """Open the model that a run began with, frozen: an adapter's base, or else the checkpoint."""
    adapter = read_adapter(run_dir)
    path = adapter.base_path(run_dir) if adapter else config.checkpoint
    assert path is not None, "dpo and grpo begin with a checkpoint"
    try:
        model = open_run(path, config.training.device).model
    except MinigptError as error:
        what = f"the model that the run began with cannot be opened: {error.what}"
        remedy = "put it back: the new model is compared with it all the time"
        raise CheckpointError(what, error.where, remedy) from None
    return model.requires_grad_(False).eval()


class Own(NamedTuple):
    """A model's own answers to some prompts, and what they are like on average."""

    answers: list[list[int]]
    length: float  # tokens of an answer
    entropy: float  # of the next token, nats
    kl: float  # from the reference, nats a token
    distinct: float  # share of answers that differ


def own_answers(
    model: GPT,
    reference: GPT,
    prompts: Sequence[Sequence[int]],
    sampling: SampleConfig,
    stop_ids: Sequence[int],
    on_progress: Progress | None = None,
) -> Own:
    """Let a model answer prompts, and measure the tokens that it drew."""
    found = generate_texts(model, prompts, sampling, stop_ids, on_progress=on_progress)
    ended = [[*ids, stop_ids[0]] if len(ids) < sampling.max_new_tokens else ids for ids in found]
    sums = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(prompts), ROWS):
        some = slice(start, start + ROWS)
        sums += token_sums(model, reference, prompts[some], ended[some])
    entropy, kl = (sums[:2] / sums[2].clamp(min=1)).tolist()
    length = sum(map(len, found)) / len(found)
    return Own(found, length, entropy, kl, len({tuple(ids) for ids in found}) / len(found))


@torch.no_grad()
def token_sums(
    model: GPT, reference: GPT, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Return the sums over all tokens of answers of entropy and KL in nats, and their number."""
    idx, targets = (part.to(device_of(model)) for part in answer_rows(prompts, answers))  # (B, T)
    counted = targets != IGNORE
    with evaluating(model), evaluating(reference):
        logits, anchor = model(idx)[0], reference.to(idx.device)(idx)[0]  # (B, T, V)
    entropy = token_entropy(logits)
    kl = kl_estimate(token_log_probs(logits, targets), token_log_probs(anchor, targets))
    means = [masked_mean(values.double(), counted) for values in (entropy, kl)]
    number = counted.sum().double()
    return torch.stack([*(mean * number for mean in means), number]).cpu()


def device_of(model: GPT) -> torch.device:
    return model.embedding.weight.device


# --- rows of a report ---


def change(name: str, before: float, after: float, form: str = "{:.3f}") -> dict:
    """Return a line of the report's table "Before and after"."""
    return {"name": name, "before": form.format(before), "after": form.format(after)}


def share_change(name: str, before: Sequence[float], after: Sequence[float]) -> dict:
    """Return such a line for two shares of the same items, each with its 95 % interval."""
    cells = []
    for values in (before, after):
        low, high = bootstrap_interval(values)
        mean = sum(values) / len(values)
        cells.append(f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f})")
    return {"name": name, "before": cells[0], "after": cells[1]}


# --- what is too long ---


def fitting(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[int],
    block_size: int,
    over_long: str,
    tokenizer: Tokenizer,
    where: Place,
) -> list[list[int] | None]:
    """Return each prompt as it fits into the context beside an answer of so many tokens, or None.

    over_long: "refuse" raises DataError naming the place, "drop" gives None, "cut" takes the middle
    out of the prompt, where the answer leaves room for some of it.
    """
    keep, found = mark_ids(tokenizer), []
    for number, (prompt, length) in enumerate(zip(prompts, answers, strict=True)):
        room = block_size + 1 - length
        if len(prompt) <= room:
            found.append(list(prompt))
        elif over_long == "refuse":
            what = f"{len(prompt)} tokens and {length} of an answer; the context has {block_size}"
            remedy = "leave such ones out or cut them: --over-long drop|cut"
            raise DataError(what, where(number), remedy)
        else:
            cuts = over_long == "cut" and room > block_size // 4
            found.append(fit_prompts([prompt], room, keep)[0][0] if cuts else None)
    if not any(found):
        raise DataError("nothing fits into the context", where(0), "give shorter prompts")
    return found
