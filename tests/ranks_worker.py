"""Train tiny models as one of several processes: `ranks_worker.py JSON`, with torchrun's variables.

The JSON is a list of runs, done one after the other: {"run_dir", "config", "resume", ...}. Each
process writes the losses that it was told to run_dir/losses-RANK.json.
"""

import json
import os
import signal
import sys
import warnings
from pathlib import Path

import torch

from minigpt import muon
from minigpt.gpt import GPT, GPTConfig
from minigpt.machine import distributed
from minigpt.machine.distributed import connected
from minigpt.recipe import TrainConfig
from minigpt.support.errors import MinigptError
from minigpt.train import train

# Muon iterates in bfloat16 where that is fast; the last bits of float32 are compared here.
muon.choose_dtype = lambda device: torch.float32


class Source:
    """Give random batches (8, 9), each a pure function of its step; `kill` ends one process."""

    def __init__(self, kill: list | None = None, documents: bool = False):
        self.kill = kill  # rank and step
        self.documents = documents  # whether rows hold several, each apart

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        if self.kill == [distributed.world().rank, step]:
            os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 13, (8, 10), generator=generator)
        targets = ids[:, 1:].clone()
        targets[step % 8, 4:] = -100
        targets[4:6] = -100  # a whole piece of one process predicts nothing
        if not self.documents:
            return ids[:, :-1], targets
        return ids[:, :-1], targets, (ids[:, :-1] < 3).cumsum(dim=1)


def make_model(dropout: float = 0.0) -> GPT:
    torch.manual_seed(5 + distributed.world().rank)  # the first one's weights must win
    return GPT(
        GPTConfig(
            vocab_size=13,
            block_size=9,
            n_layer=2,
            n_head=2,
            n_kv_head=1,
            n_embd=12,
            dropout=dropout,
        )
    )


def run(
    run_dir: str,
    config: dict,
    resume: bool = False,
    dropout: float = 0.0,
    documents: bool = False,
    kill: list | None = None,
    stop_after: int | None = None,
) -> None:
    """Train, and write down what was logged."""
    rows: list[dict] = []
    held_out = Source(documents=documents)
    train(
        make_model(dropout),
        Source(kill, documents),
        TrainConfig(**config),
        Path(run_dir),
        resume=resume,
        validation=[held_out.batch(99), tuple(part[:1] for part in held_out.batch(98))],
        on_log=rows.append,
        should_stop=lambda: len(rows) == stop_after,
    )
    path = Path(run_dir) / f"losses-{distributed.world().rank}.json"
    path.write_text(json.dumps(rows), encoding="utf-8")


def main() -> int:
    """Do the runs; an error is one line, as at the command line."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    distributed.SILENCE = float(os.environ.get("SILENCE", distributed.SILENCE))
    try:
        with connected(torch.device("cpu")):
            for order in json.loads(sys.argv[1]):
                run(**order)
    except MinigptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
