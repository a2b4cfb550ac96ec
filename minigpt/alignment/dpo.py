"""Fine-tune by preferences (DPO): the better answer of each pair becomes likelier than the worse.

The reference is the checkpoint, frozen. What changed is measured on pairs that were held out, and
on answers of the model's own: the loss shows neither what became of the better answers nor how far
the model has moved.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from minigpt.alignment.measures import (
    ROWS,
    change,
    device_of,
    fitting,
    open_reference,
    own_answers,
    share_change,
)
from minigpt.batching.examples import Example
from minigpt.chat import encode_chats, end_id
from minigpt.evaluate import Progress
from minigpt.finetune import (
    LEAST_PAIR_STEPS,
    FinetuneConfig,
    Phase,
    Sides,
    run_config,
)
from minigpt.generate import evaluating
from minigpt.gpt import GPT
from minigpt.lora import fingerprint_weights
from minigpt.metrics import bootstrap_interval
from minigpt.preference import (
    Pair,
    PairSource,
    dpo_objective,
    implicit_rewards,
    pair_batch,
    sequence_log_probs,
)
from minigpt.sampling import SampleConfig
from minigpt.tokenizer import Tokenizer

VALIDATED = 100  # held-out pairs whose loss is shown while training
SCORED = 300  # held-out pairs that are ranked
ANSWERED = 50  # of their prompts that are answered before and after
ABOUT = (
    "Ranked right: the model has moved the better answer of a held-out pair up more than the worse "
    "one, since the checkpoint. The baseline is the best of a coin, the longer answer, the shorter."
)
ABOUT_CHANGE = (
    "Of held-out pairs, and of answers that the model draws itself. The better answers usually "
    "become less likely too, only by less than the worse ones; KL says how far the model has moved."
)


class DPOPhase(Phase):
    """One run over pairs of answers."""

    def __init__(
        self, run_dir: Path, config: FinetuneConfig, model: GPT, tokenizer: Tokenizer, sides: Sides
    ):
        training = config.tuning()
        self.beta, self.room = config.preferences.beta, config.max_answer_tokens or 1
        self.taught, _ = to_pairs(sides.train, model, tokenizer, config.over_long)
        self.held_out, self.examples = to_pairs(sides.held_out[:SCORED], model, tokenizer, "drop")
        self.n_long = len(sides.train) - len(self.taught)
        n_pairs = max(training.batch_size // 2, 1)
        n_batches = math.ceil(len(self.taught) / n_pairs)
        steps = max(n_batches, LEAST_PAIR_STEPS)
        steps = steps if config.epochs is None else math.ceil(config.epochs * n_batches)
        self.reference = open_reference(run_dir, config)
        some = self.held_out[:VALIDATED]
        super().__init__(
            "training",
            run_dir,
            run_config(config, model, training, steps),
            model,
            tokenizer,
            PairSource(self.taught, n_pairs, model.config.block_size, training.seed),
            [pair_batch(some[start : start + ROWS]) for start in range(0, len(some), ROWS)],
            dpo_objective(self.reference, self.beta),
        )

    def describe(self) -> str:
        """Say in a line what will be learned."""
        long = f"; {self.n_long:,} were too long" if self.n_long else ""
        answers = [ids for pair in self.taught for ids in (pair.chosen, pair.rejected)]
        return (
            f"{len(self.taught):,} pairs of answers of {mean_length(answers):.0f} tokens on "
            f"average; {self.config.training.max_steps:,} steps, beta {self.beta:g}{long}"
        )

    def facts(self) -> dict:
        """Return what a run that goes on must share, beside its settings."""
        pairs = hashlib.sha256(repr([tuple(map(list, pair)) for pair in self.taught]).encode())
        return super().facts() | {
            "train_sha256": pairs.hexdigest(),
            "reference_sha256": fingerprint_weights(self.reference.state_dict()),
            "beta": self.beta,
        }

    def asked(self) -> list[Example]:
        """Return the held-out examples whose answers the report shows, in their order."""
        return self.examples

    def report(self, on_progress: Progress | None = None) -> dict:
        """Return what has changed since the checkpoint, for report.json."""
        pairs = self.held_out
        was, now = (pair_log_probs(model, pairs) for model in (self.reference, self.model))
        better, worse = implicit_rewards(now, was, self.beta)
        before, after = (log_p[0::2] > log_p[1::2] for log_p in (was, now))
        prompts = [pair.prompt for pair in pairs[:ANSWERED]]
        sampling = SampleConfig(self.room, temperature=1.0, seed=self.config.training.seed)
        stops = end_id(self.tokenizer), self.tokenizer.eot_id
        old, new = (
            own_answers(model, self.reference, prompts, sampling, stops, on_progress)
            for model in (self.reference, self.model)
        )
        rows = [
            share_change("better answer likelier", before.tolist(), after.tolist()),
            change(
                "margin: beta times the log ratio's difference, nats", 0, mean_of(better - worse)
            ),
            change(
                "log p of a better answer, nats", mean_of(was[0::2]), mean_of(now[0::2]), "{:.2f}"
            ),
            change(
                "log p of a worse answer, nats", mean_of(was[1::2]), mean_of(now[1::2]), "{:.2f}"
            ),
            change("tokens of an own answer", old.length, new.length, "{:.1f}"),
            change("KL from the checkpoint, nats a token", old.kl, new.kl),
        ]
        task = ranked(pairs, (better > worse).double().tolist())
        texts = [self.tokenizer.decode(ids).strip() for ids in new.answers]
        return {
            "tasks": {"ranked_right": task},
            "about_tasks": ABOUT,
            "changes": rows,
            "about_changes": ABOUT_CHANGE,
            "own_answers": texts,
        }


def to_pairs(
    examples: Sequence[Example], model: GPT, tokenizer: Tokenizer, over_long: str
) -> tuple[list[Pair], list[Example]]:
    """Return pairs of ids that fit into the context, and the examples that they are made of."""
    better, worse = (
        [split_answer(*row) for row in encode_chats(side, tokenizer)]
        for side in (
            [example.messages for example in examples],
            [with_answer(example, example.rejected) for example in examples],
        )
    )
    longest = [max(len(b[1]), len(w[1])) for b, w in zip(better, worse, strict=True)]
    prompts = fitting(
        [prompt for prompt, _ in better],
        longest,
        model.config.block_size,
        over_long,
        tokenizer,
        lambda number: examples[number].where,
    )
    pairs = [
        (Pair(prompt, chosen, rejected), example)
        for prompt, (_, chosen), (_, rejected), example in zip(
            prompts, better, worse, examples, strict=True
        )
        if prompt is not None and chosen != rejected
    ]
    return [pair for pair, _ in pairs], [example for _, example in pairs]


def with_answer(example: Example, answer: str) -> list[dict[str, str]]:
    """Return an example's conversation with another last answer."""
    return [*example.messages[:-1], {"role": "assistant", "content": answer}]


def split_answer(ids: Sequence[int], trained: Sequence[bool]) -> tuple[list[int], list[int]]:
    """Return what stands before the last answer of a conversation, and that answer with its end.

    >>> split_answer([1, 2, 3, 4, 5], [False, True, False, True, True])
    ([1, 2, 3], [4, 5])
    """
    end = max(place for place, is_trained in enumerate(trained) if is_trained) + 1
    start = end
    while start > 0 and trained[start - 1]:
        start -= 1
    return list(ids[:start]), list(ids[start:end])


@torch.no_grad()
def pair_log_probs(model: GPT, pairs: Sequence[Pair]) -> Tensor:
    """Return log p of each answer, better before worse: (2 P,) in nats, on the CPU."""
    found = []
    with evaluating(model):
        for start in range(0, len(pairs), ROWS):
            batch = pair_batch(pairs[start : start + ROWS])
            idx, targets = (part.to(device_of(model)) for part in batch[:2])
            found.append(sequence_log_probs(model(idx)[0], targets).cpu())
    return torch.cat(found)


def ranked(pairs: Sequence[Pair], right: Sequence[float]) -> dict:
    """Return the score of pairs ranked right, beside rankings that have learned nothing."""
    longer = [float(len(pair.chosen) > len(pair.rejected)) for pair in pairs]
    shorter = [float(len(pair.chosen) < len(pair.rejected)) for pair in pairs]
    shares = {"coin": 0.5, "longer": mean_of(longer), "shorter": mean_of(shorter)}
    best = max(shares, key=lambda name: shares[name])
    low, high = bootstrap_interval(right)
    return {
        "metric": "implicit reward",
        "score": mean_of(right),
        "low": low,
        "high": high,
        "n": len(pairs),
        "baseline": shares[best],
        "baseline_name": best,
        "baselines": shares,
    }


def mean_of(values: Tensor | Sequence[float]) -> float:
    return float(torch.as_tensor(values, dtype=torch.float64).mean())


def mean_length(rows: Sequence[Sequence[int]]) -> float:
    return sum(map(len, rows)) / len(rows)
