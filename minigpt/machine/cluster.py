"""Count what many GPUs hold, send and wait for, by formula, before anybody rents them.

A collective is an exchange in which every process takes part: all_gather (everybody gets all
parts), reduce_scatter (everybody gets the sum of one part), all_reduce (everybody gets the whole
sum, which is the one after the other). In a ring of n each process sends to the next one only.

The formulas know nothing of stragglers, congestion or storage: they say what is possible at best.
The speeds of a `Cluster` are data-sheet values, its utilization and latency are assumptions.

Sources: Patarasuk and Yuan 2009, "Bandwidth Optimal All-reduce Algorithms for Clusters of
Workstations"; Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion
Parameter Models", sections 5 and 7; Huang et al. 2019, "GPipe", section 2.3.
"""

from dataclasses import dataclass

WEIGHT, GRADIENT, STATE = 4, 4, 8  # bytes of a parameter in float32; AdamW keeps two averages


@dataclass(frozen=True)
class Cluster:
    """Describe the machines; the defaults are nodes of eight H200."""

    gpus_per_node: int = 8
    flops: float = 989e12  # of a GPU in bfloat16, each second (data sheet, dense)
    utilization: float = 0.4  # the share of it that a GPU alone reaches (an assumption)
    memory: float = 141e9  # bytes of a GPU
    inside: float = 450e9  # bytes a GPU sends each second to one in its node (NVLink 4)
    between: float = 50e9  # bytes it sends each second to one in another node (400 Gbit/s)
    latency: float = 10e-6  # seconds before a message's first byte (an assumption)

    def link(self, size: int) -> float:
        """Return the speed of the slowest link of a ring of `size` GPUs, in bytes each second."""
        return self.inside if size <= self.gpus_per_node else self.between


H200_NODES = Cluster()


def all_gather_bytes(whole: float, size: int) -> float:
    """Return the bytes that each of `size` processes sends to gather a tensor of `whole` bytes.

    A reduce_scatter sends as many. Each of the size - 1 rounds moves one part on.
    """
    return (size - 1) / size * whole


def all_reduce_bytes(whole: float, size: int) -> float:
    """Return the bytes that each process sends to sum up a tensor: a reduce_scatter, then a gather.

    >>> all_reduce_bytes(12, 3)  # three numbers of four bytes
    16.0
    """
    return 2 * all_gather_bytes(whole, size)


def step_bytes(parameters: int, size: int, is_sharded: bool) -> float:
    """Return the bytes that each process sends in one step, all numbers float32.

    Copies add up their gradients. Parts are gathered before the forward pass and before the
    backward pass, and each process gets the sum of its own part of the gradient.
    """
    whole = WEIGHT * parameters
    return 3 * all_gather_bytes(whole, size) if is_sharded else all_reduce_bytes(whole, size)


def rank_bytes(parameters: int, size: int, stage: int) -> float:
    """Return the bytes of weights, gradients and AdamW's averages on each of `size` processes.

    stage: of ZeRO; 0: all are copies (DDP), 1: the averages are split, 2: the gradients too, 3: the
    weights too (FSDP2). The activations, and the block gathered at the moment, come on top.
    """
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"stage = {stage}, expected 0, 1, 2 or 3")
    parts = [size if stage >= first else 1 for first in (3, 2, 1)]
    costs = (WEIGHT, GRADIENT, STATE)
    return sum(parameters * cost / part for cost, part in zip(costs, parts, strict=True))


@dataclass(frozen=True)
class Step:
    """Say what one step of training is expected to cost, in seconds."""

    compute: float
    exchange: float

    @property
    def efficiency(self) -> float:
        """Return the share of the time that computes where nothing overlaps: the worst case."""
        return self.compute / (self.compute + self.exchange)

    @property
    def overlapped(self) -> float:
        """Return the same where the exchange hides behind the computing: the best case."""
        return self.compute / max(self.compute, self.exchange)


def expect_step(
    parameters: int,
    tokens: float,
    size: int,
    is_sharded: bool = False,
    cluster: Cluster = H200_NODES,
) -> Step:
    """Predict a step in which each of `size` GPUs works on its own `tokens`.

    A token costs 6 operations for each parameter (forward 2, backward 4). The rounds of a ring
    follow each other: each waits for the latency, then for its bytes over the slowest link.
    """
    compute = 6 * parameters * tokens / (cluster.flops * cluster.utilization)
    rounds = (3 if is_sharded else 2) * (size - 1)
    exchange = rounds * cluster.latency + step_bytes(parameters, size, is_sharded) / cluster.link(
        size
    )
    return Step(compute, exchange)


def break_even_tokens(size: int, is_sharded: bool = False, cluster: Cluster = H200_NODES) -> float:
    """Return how many tokens each GPU needs for computing to last as long as the exchange.

    Latency is left out. The number of parameters cancels: twice as many compute and send twice.
    """
    a_token = 6 / (cluster.flops * cluster.utilization)
    return step_bytes(1, size, is_sharded) / cluster.link(size) / a_token


def bubble(stages: int, pieces: int) -> float:
    """Return the share of the time that a pipeline's stages wait: it fills, and it runs empty.

    pieces: of the batch, which follow each other through the stages.
    """
    return (stages - 1) / (pieces + stages - 1)


EXPECTED = {"124M": 124_000_000, "1.6B": 1_600_000_000, "8B": 8_000_000_000}
SIZES = (8, 64, 1024)


def expectation_table(batch_tokens: int | None, gpu_tokens: int = 16_384) -> str:
    """Return the table of docs/clusters.md: memory and efficiency by model and number of GPUs.

    batch_tokens: of a step, shared by all GPUs; None: each GPU has gpu_tokens, however many
    there are.
    """
    head = "| parameters | GPUs | tokens each | copies: GB | split: GB | copies | split |"
    rows = [head, "|---|---|---|---|---|---|---|"]
    for name, parameters in EXPECTED.items():
        for size in SIZES:
            tokens = gpu_tokens if batch_tokens is None else batch_tokens // size
            shown = [rank_bytes(parameters, size, stage) / 1e9 for stage in (0, 3)]
            fits = [f"{held:.2g}" if held < 10 else f"{held:.0f}" for held in shown]
            steps = [expect_step(parameters, tokens, size, split) for split in (False, True)]
            ranges = [f"{s.efficiency:.0%}–{s.overlapped:.0%}" for s in steps]
            if shown[0] > H200_NODES.memory:
                ranges[0] = "too large"
            rows.append(
                f"| {name} | {size:,} | {tokens:,} | {fits[0]} | {fits[1]} "
                f"| {ranges[0]} | {ranges[1]} |"
            )
    return "\n".join(rows)
