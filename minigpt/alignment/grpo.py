"""Fine-tune by rewards (GRPO): what is better than its group's mean becomes likelier.

The source of each step is the model itself (`rl.Rollouts`), graded by a reward; rewards.jsonl tells
step by step what its answers were like. What changed is measured on prompts that were held out.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from minigpt.alignment.measures import Own, change, fitting, open_reference, own_answers
from minigpt.alignment.rewards import Reward
from minigpt.batching.examples import Example
from minigpt.batching.windows import Batch
from minigpt.chat import encode_prompts, end_id
from minigpt.evaluate import Progress
from minigpt.finetune import FinetuneConfig, Phase, Sides, run_config
from minigpt.gpt import GPT
from minigpt.lora import fingerprint_weights
from minigpt.machine.device import choose_device
from minigpt.metrics import bootstrap_interval
from minigpt.rl import RLConfig, Rollouts, rl_objective
from minigpt.runs.resume import Metrics
from minigpt.sampling import SampleConfig
from minigpt.tokenizer import Tokenizer

ANSWERED = 100  # held-out prompts that are answered before and after
FILE = "rewards.jsonl"
ABOUT_CHANGE = (
    "Of held-out prompts. The policy's own answers are drawn at the temperature of training; the "
    "likeliest one is what chat gives. A reward that rises while entropy, the share of different "
    "answers or the length collapses has often been hacked: read some answers."
)

Asked = tuple[list[Example], list[list[int]]]  # examples, and the ids of their prompts


class WrittenRollouts(Rollouts):
    """Rollouts that write a row for each step into a file, also over a resume."""

    def __init__(self, path: Path, *args, **options):
        super().__init__(*args, **options)
        self.path, self.rows = path, None

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, and write down what its answers were like."""
        batch = super().batch(step)
        if self.rows is None:
            self.rows = Metrics(self.path, step, None)
        self.rows.write(self.history[-1] | {"step": step + 1})
        return batch

    def last(self) -> dict[str, float]:
        """Return the mean reward of the newest step, for a progress bar."""
        return {"reward": self.history[-1]["reward"]} if self.history else {}

    def close(self) -> None:
        """Close the file."""
        if self.rows is not None:
            self.rows.file.close()


class GRPOPhase(Phase):
    """One run over prompts, whose answers are the model's own."""

    def __init__(
        self,
        run_dir: Path,
        config: FinetuneConfig,
        model: GPT,
        tokenizer: Tokenizer,
        sides: Sides,
        reward: Reward,
    ):
        training, rewards = config.tuning(), config.rewards
        self.reward, self.group_size = reward, rewards.group_size
        self.stops = [end_id(tokenizer), tokenizer.eot_id]
        self.rl = RLConfig(
            n_prompts=training.batch_size // rewards.group_size,
            group_size=rewards.group_size,
            max_answer_tokens=config.max_answer_tokens or 1,
            temperature=rewards.answer_temperature,
            divide_by_deviation=rewards.divide_by_deviation,
            kl=rewards.kl,
            seed=training.seed,
        )
        room = self.rl.max_answer_tokens
        self.taught = to_prompts(sides.train, room, model, tokenizer, config.over_long)
        self.held_out = to_prompts(sides.held_out[:ANSWERED], room, model, tokenizer, "drop")
        self.n_long = len(sides.train) - len(self.taught[0])
        self.reference = open_reference(run_dir, config)
        steps = training.max_steps
        if config.epochs is not None:
            steps = math.ceil(config.epochs * len(self.taught[0]) / self.rl.n_prompts)
        device = choose_device(training.device)
        self.told = WrittenRollouts(
            run_dir / FILE, model.to(device), self.taught[1], self.graded, self.rl, self.stops
        )
        run = run_config(config, model, training, steps)
        objective = rl_objective(self.reference if self.rl.kl else None, self.rl.kl)
        super().__init__("training", run_dir, run, model, tokenizer, self.told, None, objective)

    def describe(self) -> str:
        """Say in a line what will be learned."""
        long = f"; {self.n_long:,} prompts were too long" if self.n_long else ""
        return (
            f"{len(self.taught[0]):,} prompts; {self.config.training.max_steps:,} steps of "
            f"{self.rl.n_prompts} prompts with {self.group_size} answers each, up to "
            f"{self.rl.max_answer_tokens} tokens long; reward: {self.reward.name}{long}"
        )

    def facts(self) -> dict:
        """Return what a run that goes on must share, beside its settings."""
        c = self.rl
        settings = (c.group_size, c.max_answer_tokens, c.temperature, c.divide_by_deviation, c.kl)
        return super().facts() | {
            "train_sha256": hashlib.sha256(repr(self.taught[1]).encode()).hexdigest(),
            "reference_sha256": fingerprint_weights(self.reference.state_dict()),
            "reward": self.reward.name,
            "reward_sha256": self.reward.sha256,
            "rollouts": ", ".join(map(str, settings)),
        }

    def graded(self, number: int, ids: list[int]) -> float:
        """Return the reward of an answer to the prompt of a number."""
        text = self.tokenizer.decode(ids).strip()
        return self.reward.grade(self.taught[0][number], text)

    def asked(self) -> list[Example]:
        """Return the held-out examples whose answers the report shows, in their order."""
        return self.held_out[0]

    def report(self, on_progress: Progress | None = None) -> dict:
        """Return what has changed since the checkpoint, for report.json."""
        examples, prompts = self.held_out
        rows, found = [], []
        for temperature in (self.rl.temperature, 0.0):
            sampling = SampleConfig(
                self.rl.max_answer_tokens, temperature=temperature, seed=self.rl.seed
            )
            args = prompts, sampling, self.stops, on_progress
            found.append(
                [own_answers(m, self.reference, *args) for m in (self.reference, self.model)]
            )
        for what, pair in zip(("own", "likeliest"), found, strict=True):
            cells = [self.mean_reward(examples, own) for own in pair]
            name = f"reward of the {what} answer, 95 % interval"
            rows.append({"name": name, "before": cells[0], "after": cells[1]})
        (old, new), (_, greedy) = found
        rows += [
            change("tokens of an own answer", old.length, new.length, "{:.1f}"),
            change("entropy, nats a token", old.entropy, new.entropy),
            change("share of different answers", old.distinct, new.distinct),
            change("KL from the checkpoint, nats a token", old.kl, new.kl),
        ]
        texts = [self.tokenizer.decode(ids).strip() for ids in greedy.answers]
        return {"changes": rows, "about_changes": ABOUT_CHANGE, "own_answers": texts}

    def mean_reward(self, examples: Sequence[Example], own: Own) -> str:
        """Return the mean reward of answers to held-out prompts, with its interval, as text."""
        texts = [self.tokenizer.decode(ids).strip() for ids in own.answers]
        rewards = [self.reward.grade(e, text) for e, text in zip(examples, texts, strict=True)]
        low, high = bootstrap_interval(rewards)
        return f"{sum(rewards) / len(rewards):.3f} ({low:.3f} to {high:.3f})"


def to_prompts(
    examples: Sequence[Example], room: int, model: GPT, tokenizer: Tokenizer, over_long: str
) -> Asked:
    """Return examples and their prompts as ids, as they fit into the context beside an answer."""
    encoded = encode_prompts([example.messages[:-1] for example in examples], tokenizer)
    prompts = fitting(
        encoded,
        [room] * len(examples),
        model.config.block_size,
        over_long,
        tokenizer,
        lambda number: examples[number].where,
    )
    kept = [(e, ids) for e, ids in zip(examples, prompts, strict=True) if ids is not None]
    return [example for example, _ in kept], [ids for _, ids in kept]
