"""Recipes: how a model is trained: the settings, how the learning rate moves, which optimizers.

Knows nothing of data, of steps that were taken, or of files.

Sources: Loshchilov & Hutter 2019 (AdamW); Hägele et al. 2024, "Scaling Laws and Compute-Optimal
Training Beyond Fixed Training Durations" (constant rate, then cool-down).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from torch.optim import Optimizer

from minigpt.gpt import GPT
from minigpt.machine.optimizer import AdamW
from minigpt.muon import Muon
from minigpt.support.errors import require
from minigpt.support.settings import above, at_least, at_most, below, check_fields

# What may differ between a checkpoint and its continuation. When max_steps changes, a schedule that
# falls is laid out anew from there on; a change of the others costs bit-identity at most.
CHANGEABLE = {
    "max_steps",
    "learning_rate",
    "muon_learning_rate",
    "micro_batch_size",
    "eval_interval",
    "save_interval",
    "log_interval",
    "keep_checkpoints",
    "stop_on_failed_save",
    "device",
    "dtype",
    "compile",
    "deterministic",
    "shard",
}


@dataclass(frozen=True)
class TrainConfig:
    """Describe how a model is trained; one step is one update of the weights."""

    max_steps: Annotated[int, at_least(1)] = 1000
    """Steps in all, those before a resume included."""
    batch_size: Annotated[int, at_least(1)] = 32
    """Sequences (rows) of one step."""
    micro_batch_size: Annotated[int | None, at_least(1)] = None
    """Sequences per forward pass (None: the whole batch). Smaller values need less memory, give the
    same result, and are slower."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """What trains the matrices inside the blocks; AdamW always trains the rest."""
    learning_rate: Annotated[float, above(0)] = 3e-3
    """Highest learning rate of AdamW."""
    muon_learning_rate: Annotated[float, above(0)] = 0.02
    """Highest learning rate of Muon."""
    muon_momentum: Annotated[float, at_least(0), below(1)] = 0.95
    """Muon's memory of the mean gradient; 0.8 learns faster in runs of some hundred steps."""
    warmup_steps: Annotated[int | None, at_least(0)] = None
    """Steps in which the learning rate rises from near 0 (None: a tenth of all, at most 20)."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after that."""
    cooldown_fraction: Annotated[float, at_least(0), at_most(1)] = 1.0
    """Share of all steps, the last ones, in which the learning rate falls (1: from warm-up on)."""
    final_learning_rate_fraction: Annotated[float, at_least(0), at_most(1)] = 0.0
    """Where the fall ends, as a share of the highest learning rate."""
    second_phase: Annotated[float, at_least(0), below(1)] = 0.0
    """Share of all steps, the last ones, in which the learning rate rises and falls once more, to
    as high as this share: for a run that reads first and then learns to answer."""
    weight_decay: Annotated[float, at_least(0)] = 0.01
    """Decoupled decay of matrices and embeddings, times the learning rate, in each step."""
    beta1: Annotated[float, at_least(0), below(1)] = 0.9
    """AdamW's memory of the mean gradient."""
    beta2: Annotated[float, at_least(0), below(1)] = 0.95
    """AdamW's memory of the mean square; shorter than torch's 0.999 because runs are short."""
    grad_clip: Annotated[float, at_least(0)] = 1.0
    """Greatest norm of the gradient of all parameters together; 0 turns clipping off."""
    eval_interval: Annotated[int, at_least(1)] = 100
    """Steps between two validations; the last step always has one."""
    save_interval: Annotated[int, at_least(1)] = 100
    """Steps between two checkpoints; the last step always has one."""
    log_interval: Annotated[int, at_least(1)] = 10
    """Steps between two rows of metrics.jsonl; the last step always has one."""
    keep_checkpoints: Annotated[int, at_least(2)] = 2
    """Checkpoints that are kept; at least 2, so that a damaged one has a predecessor."""
    stop_on_failed_save: bool = True
    """End the run when a checkpoint cannot be saved, or else warn and go on."""
    seed: Annotated[int, at_least(0)] = 0
    """Seed of dropout (and, by the source, of the batches)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of matrix products; weights stay in float32."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    compile: bool = False
    """Compile the model: a slow start, then faster steps on a GPU."""
    deterministic: bool = False
    """Use only kernels that repeat exactly: makes resume exact on GPUs and for compiled models."""
    shard: bool = False
    """Split the model over the processes that torchrun started, or else each holds all of it."""

    def __post_init__(self):
        check_fields(self)
        warmup, micro = self.warmup_steps or 0, self.micro_batch_size or 1
        wanted = f"at most {self.max_steps} (max_steps)"
        require(warmup <= self.max_steps, "warmup_steps", warmup, wanted)
        wanted = f"at most {self.batch_size} (batch_size)"
        require(micro <= self.batch_size, "micro_batch_size", micro, wanted)


def make_optimizers(model: GPT, config: TrainConfig) -> list[Optimizer]:
    """Return Muon, if it is chosen, for the matrices of blocks, and AdamW for the rest.

    A weight (experts, out, in) is a batch of matrices. Norms are not decayed: pulling a scale
    toward 0 is no simplification.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Muon is for matrices that map vectors to vectors. An embedding is a table of which most steps
    # touch few rows, and AdamW keeps a pace for each of its numbers.
    inside = set(model.blocks.parameters()) if config.optimizer == "muon" else set()
    matrices = [p for p in parameters if p in inside and p.ndim >= 2]
    rest = [p for p in parameters if p not in inside or p.ndim < 2]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas = (config.beta1, config.beta2)
    optimizers = []
    if matrices:
        optimizers.append(
            Muon(matrices, config.muon_learning_rate, config.muon_momentum, config.weight_decay)
        )
    if groups:
        optimizers.append(AdamW(groups, lr=config.learning_rate, betas=betas, fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            # The schedule multiplies this one, since `lr` itself changes in every step.
            group["initial_lr"] = group["lr"]
    return optimizers


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the share of the highest learning rate that step `step` (from 0) trains with."""
    first = round(config.max_steps * (1 - config.second_phase))  # steps of the first phase
    if step < first:
        return rise_and_fall(step, first, config)
    return config.second_phase * rise_and_fall(step - first, config.max_steps - first, config)


def rise_and_fall(step: int, steps: int, config: TrainConfig) -> float:
    """Return the factor of one of `steps` steps in which the learning rate rises and falls once."""
    warmup_steps = config.warmup_steps
    # The first gradients are large and the optimizers' means are not settled yet.
    if warmup_steps is None:
        warmup_steps = min(20, steps // 10)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    begin = max(warmup_steps, steps * (1 - config.cooldown_fraction))
    if config.schedule == "constant" or step < begin:
        return 1.0
    # A resumed run may be longer than its schedule; then the rate stays at its end.
    done = min((step - begin) / (steps - begin), 1.0)  # from 0 to just below 1
    left = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.final_learning_rate_fraction + (1 - config.final_learning_rate_fraction) * left
