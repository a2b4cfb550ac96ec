"""Train one model with several processes, which `torchrun` starts: one for each GPU, or on CPUs.

    torchrun --nproc-per-node 8 -m minigpt train eight_gpus --data my.txt --out runs/big

Every process computes the gradient of its own rows of each batch, and all of them take the same
step. Either each holds the whole model (DDP, distributed data parallel), or weights, gradients and
optimizer state are split among them (FSDP2, fully sharded data parallel) and gathered block by
block. Both are torch's own. Alone, without torchrun, every function here does nothing.

The processes are numbered by rank. Rank 0 alone writes files. A rank that dies is
named by the others within seconds: each gives a sign of life every second.

Sources: Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training";
Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models".
"""

import contextlib
import datetime
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from minigpt.support.errors import ConfigError, MinigptError, TrainingError
from minigpt.support.signals import handled, stop_on_signals

BEAT, SILENCE = 1.0, 15.0  # seconds between two signs of life; after so many without, it is gone
FAREWELL = 5.0  # seconds in which a process whose peer is gone may end by itself
PATIENCE = datetime.timedelta(hours=2)  # for a peer that lives, such as a rank 0 that prepares data
RESUME = "start all of them again with --resume"


@dataclass(frozen=True)
class World:
    """Say which of how many processes this one is; alone it is rank 0 of one."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0


class PeerError(TrainingError):
    """Training had to stop because of an error of another process, which has said what it was."""

    def __init__(self, what: str, exit_code: int):
        super().__init__(what, "see its own message", "mend that, then " + RESUME)
        self.exit_code = exit_code


def world() -> World:
    """Return this process's place among those that are connected."""
    if not dist.is_available() or not dist.is_initialized():
        return World()
    return World(dist.get_rank(), dist.get_world_size())


def started_by_torchrun() -> bool:
    """Tell whether there are other processes to connect to."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def processes_here() -> int:
    """Return how many processes share this machine's memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if started_by_torchrun() else 1


@contextlib.contextmanager
def connected(device: torch.device) -> Iterator[World]:
    """Connect the processes that torchrun started, for the length of a block.

    A peer that dies inside the block becomes a TrainingError that names it; one that stops with an
    error becomes a PeerError with its exit code.
    """
    if not started_by_torchrun():
        yield World()
        return
    watch = connect(device)
    try:
        with judged(watch):
            yield watch.world
    except MinigptError as error:
        watch.leave(f"stopped {error.exit_code} {error}")
        raise
    except BaseException as error:
        text = error if isinstance(error, RuntimeError) else type(error).__name__
        watch.leave(f"stopped 1 {text}")
        raise
    else:
        watch.leave("left")


@contextlib.contextmanager
def judged(watch: "Watch") -> Iterator[None]:
    """Turn what a lost peer causes in a block, here or in torchrun, into the error that names it.

    torch reports a connection that broke as a RuntimeError. torchrun asks the others to end as soon
    as one is gone; that wish may come first, and at any moment, so it waits for the verdict too.
    """

    def end(number: int, frame: object) -> None:
        raise watch.wait_for_verdict() or SystemExit(128 + number)

    with handled({signal.SIGTERM: end}):
        try:
            yield
        except MinigptError:
            raise
        except (RuntimeError, SystemExit) as error:
            verdict = watch.wait_for_verdict()
            if verdict is None:
                raise
            raise verdict from error


def connect(device: torch.device) -> "Watch":
    """Meet the other processes, each with a GPU of its own, and begin to watch them."""
    if device.type == "mps":
        raise ConfigError("several processes cannot share an Apple GPU", "--device", "choose cpu")
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, size = next(rendezvous("env://", timeout=datetime.timedelta(minutes=5)))
        watch = Watch(store, World(rank, size))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        group = PrefixStore("group", store)
        dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=PATIENCE)
    except RuntimeError as error:
        address = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        in_use = "EADDRINUSE" in str(error) or "address already in use" in str(error).lower()
        what = "the port is in use" if in_use else "the other processes cannot be reached"
        remedy = "choose another port: torchrun --master-port" if in_use else "start all of them"
        raise ConfigError(what, address, remedy) from error
    watch.thread.start()
    return watch


class Watch:
    """Give signs of life in a thread, listen for those of the others, and say who is gone."""

    def __init__(self, store: Any, world: World):
        self.store, self.world = store.clone(), world  # a connection of its own
        self.words = {rank: ("", time.monotonic()) for rank in range(world.size)}
        self.verdict: TrainingError | None = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.say("0")

    def say(self, word: str) -> None:
        """Tell the others: a count that rises, or a last word."""
        about = f"process {os.getpid()} on {socket.gethostname()}"
        self.store.set(f"rank {self.world.rank}", f"{about}\n{word}")

    def run(self) -> None:
        """Say and listen until the process leaves; end it where it hangs without its peer."""
        count = 0
        while not self.ended.wait(BEAT) and self.verdict is None:
            count += 1
            try:
                self.say(str(count))
                self.verdict = self.listen()
            except RuntimeError:
                self.verdict = rank_lost("rank 0 (or torchrun)")
        if self.verdict is not None and not self.ended.wait(FAREWELL):
            print(f"error: {self.verdict}", file=sys.stderr, flush=True)
            os._exit(self.verdict.exit_code)

    def listen(self) -> TrainingError | None:
        """Return an error if some other process has gone silent or has stopped with one."""
        for rank in range(self.world.size):
            about, word = self.store.get(f"rank {rank}").decode("utf-8").split("\n", 1)
            before, since = self.words[rank]
            if word.startswith("stopped") and rank != self.world.rank:
                _, code, text = word.split(" ", 2)
                return PeerError(f"rank {rank} stopped: {text}", int(code))
            if word != before or word == "left" or rank == self.world.rank:
                self.words[rank] = word, time.monotonic()
            elif time.monotonic() - since > SILENCE:
                return rank_lost(f"rank {rank} ({about})")
        return None

    def wait_for_verdict(self) -> TrainingError | None:
        """Wait until it is clear whether a peer is gone; None: all of them live.

        A new word may have been said before the peer went; a second one after it may not.
        """
        peers = [rank for rank in range(self.world.size) if rank != self.world.rank]
        heard: dict[int, set[str]] = {rank: {self.words[rank][0]} for rank in peers}
        end = time.monotonic() + SILENCE + 3 * BEAT
        with stop_on_signals():  # torchrun's wish to end is put off meanwhile
            while self.verdict is None and time.monotonic() < end:
                time.sleep(BEAT / 10)
                for rank in peers:
                    heard[rank].add(self.words[rank][0])
                if all("left" in words or len(words) > 2 for words in heard.values()):
                    break
        return self.verdict

    def leave(self, word: str) -> None:
        """Say the last word and disconnect."""
        with contextlib.suppress(RuntimeError):
            self.say(word)
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
        self.ended.set()
        self.thread.join()


def rank_lost(who: str) -> TrainingError:
    """Return the error that names a process which gives no sign of life any more."""
    return TrainingError(f"{who} is gone", f"no sign of life for {SILENCE:.0f} s", RESUME)


# ---- the model


def wrap_model(model: Module, device: torch.device, is_sharded: bool) -> Module:
    """Return what to call instead of the model so that all processes train it together.

    All begin with rank 0's weights. is_sharded: split the model itself, block by block
    (FSDP2); otherwise wrap it (DDP). Optimizers are to be made afterwards, from the model.
    """
    size = world().size
    if size == 1:
        return model
    if not is_sharded:
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(
            model, devices, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    return shard_model(model, device)


def shard_model(model: Module, device: torch.device) -> Module:
    """Split a model among all processes, block by block (FSDP2); begin with rank 0's weights."""
    from torch.distributed.device_mesh import init_device_mesh  # a second that others do not pay
    from torch.distributed.fsdp import fully_shard

    with torch.no_grad():
        for p in model.parameters():
            dist.broadcast(p, src=0)
    mesh = init_device_mesh(device.type, (world().size,))
    for block in model.get_submodule("blocks").children():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)  # changes the model in place
    return model


def is_split(tensor: Tensor) -> bool:
    """Tell whether each process holds only a part of a tensor: a DTensor, as FSDP2 makes them."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which each process may hold a part in full."""
    full_tensor = getattr(tensor, "full_tensor", None)
    return tensor if full_tensor is None else full_tensor()


@contextlib.contextmanager
def no_sync(forward: Any, is_last: bool) -> Iterator[None]:
    """Let the gradients of a batch's pieces be added up between processes once, after the last."""
    quiet = contextlib.nullcontext()
    if hasattr(forward, "set_requires_gradient_sync"):
        forward.set_requires_gradient_sync(is_last)
    elif hasattr(forward, "no_sync") and not is_last:
        quiet = forward.no_sync()
    with quiet:
        yield


# ---- agreement


def all_reduce(value: Tensor) -> Tensor:
    """Return the sum of all processes' values (the field's name for adding up among them)."""
    if world().size > 1:
        dist.all_reduce(value)
    return value


def any_rank(flag: bool) -> bool:
    """Tell whether any process says yes."""
    return flag if world().size == 1 else bool(all_reduce(torch.tensor(float(flag))) > 0)


def rank_zero_first(work: Callable[[], Any]) -> Any:
    """Let rank 0 do something, and return its result, which JSON can hold, in all processes.

    Where it raises a MinigptError, all stop: the others with a PeerError.
    """
    if world().size == 1:
        return work()
    answer, failure = None, None
    if world().is_first:
        try:
            answer = {"result": work()}
        except MinigptError as error:
            answer, failure = {"error": str(error), "code": error.exit_code}, error
    answer = json.loads(broadcast(json.dumps(answer)))
    if failure is not None:
        raise failure
    if "error" in answer:
        raise PeerError(f"rank 0 stopped: {answer['error']}", answer["code"])
    return answer["result"]


def broadcast(text: str) -> str:
    """Return rank 0's text in all processes."""
    data = torch.tensor(list(text.encode("utf-8")), dtype=torch.uint8)
    size = torch.tensor(len(data))
    dist.broadcast(size, src=0)
    if not world().is_first:
        data = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(data, src=0)
    return bytes(data.tolist()).decode("utf-8")
