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
    """Give random batches (6, 9), each a pure function of its step; `kill` ends one process."""

    def __init__(self, kill: tuple[int, int] | None = None):
        self.kill = kill  # rank and step

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.kill == [distributed.world().rank, step]:
            os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 13, (8, 10), generator=generator)
        targets = ids[:, 1:].clone()
        targets[step % 8, 4:] = -100
        targets[4:6] = -100  # a whole piece of one process predicts nothing
        return ids[:, :-1], targets


RECALL = {
    "pointer": True,
    "values": "tokens",
    "positions": "sentences",
    "sentence_ends": (3, 4, 5),
    "section_starts": (0,),
}  # as in the main job


def make_model(dropout: float = 0.0, recall: bool = False) -> GPT:
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
            **(RECALL if recall else {}),
        )
    )


def run(
    run_dir: str,
    config: dict,
    resume: bool = False,
    dropout: float = 0.0,
    recall: bool = False,
    kill: list | None = None,
    stop_after: int | None = None,
) -> None:
    """Train, and write down what was logged."""
    rows: list[dict] = []
    train(
        make_model(dropout, recall),
        Source(kill),
        TrainConfig(**config),
        Path(run_dir),
        resume=resume,
        validation=[Source().batch(99), tuple(part[:1] for part in Source().batch(98))],
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
