"""Measure a GPU: the share of its peak in training and decoding, and time to a loss.

One script for all: without a GPU only the quick form runs, at tiny sizes on the CPU, which shows
that nothing in it is broken; its figures then mean nothing.
"""

import dataclasses
import functools
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.pairs import PairGPT
from benchmarks.timing import Row, clock, take_turns
from benchmarks.training import by_characters
from minigpt.batching.windows import EvalWindows, Windows
from minigpt.counts import flops_per_token
from minigpt.generate import generate
from minigpt.gpt import ARCHITECTURES, GPT, GPTConfig
from minigpt.machine.device import choose_device, choose_dtype, matmul_flops
from minigpt.recipe import TrainConfig
from minigpt.sampling import SampleConfig
from minigpt.train import train
from minigpt.trainer import Trainer

PART = "gpu"
H200_FLOPS = 790e12  # bfloat16 products, measured
GPT2 = GPTConfig(50_304, 1024, 12, 12, None, 768, **ARCHITECTURES["gpt2"])


def measure_gpu(
    text: str | None, out: Path, quick: bool, skip: Callable[[str], None]
) -> Iterator[Row]:
    """Yield the figures of the device at hand; runs of their own stay in `out`."""
    device = choose_device()
    if device.type != "cuda" and not quick:
        skip("gpu: there is none here (--quick tries the same script at tiny sizes)")
        return
    yield from measure_gpt2(device, quick)
    yield from measure_remedies(device, quick)
    yield from measure_decoding(device, quick)
    if text is None:
        skip("gpu, time to 1.4697: no Tiny Shakespeare (give --data or MINIGPT_DATA)")
    else:
        yield from measure_target(device, text, out, quick)


def measure_gpt2(device: torch.device, quick: bool) -> list[Row]:
    """Train GPT-2 124M for some steps of half a million tokens; compiled, its start not counted."""
    config = GPTConfig(65, 16, 2, 2, None, 32, **ARCHITECTURES["gpt2"]) if quick else GPT2
    rows, micro, steps = (4, 2, 2) if quick else (512, 32, 5)
    settings = TrainConfig(
        optimizer="adamw",
        batch_size=rows,
        micro_batch_size=micro,
        compile=not quick,
        learning_rate=6e-4,
        device=device.type,
    )
    torch.manual_seed(0)
    trainer = Trainer(GPT(config), settings, Path(), {})
    ids = torch.randint(config.vocab_size, (rows, config.block_size + 1))
    batch = ids[:, :-1], ids[:, 1:].contiguous()
    start, _ = clock(lambda: trainer.train_step(batch))
    seconds, _ = take_turns({"step": lambda: trainer.train_step(batch)}, steps)
    peak = matmul_flops(device, choose_dtype(device), 64 if quick else None)
    tokens = batch[0].numel() / seconds["step"]
    speed = 3 * flops_per_token(config) * tokens
    return [
        Row(PART, "measured peak of matrix products", peak / 1e12, "TFLOP/s"),
        Row(
            PART,
            "GPT-2 124M, training: share of 790 TFLOP/s",
            100 * speed / H200_FLOPS,
            "%",
            50,
            note=f"{tokens:,.0f} tokens a second; first step {start:.0f} s",
        ),
        Row(PART, "the same: share of the measured peak", 100 * speed / peak, "%"),
    ]


def measure_remedies(device: torch.device, quick: bool) -> list[Row]:
    """Change one thing of a GPT-2 step at a time, in turns: what chapter 12 does on any machine."""
    config = GPTConfig(65, 16, 2, 2, None, 32, **ARCHITECTURES["gpt2"]) if quick else GPT2
    rows = 4 if quick else 16
    settings = TrainConfig(
        optimizer="adamw", batch_size=rows, learning_rate=1e-5, device=device.type
    )
    changes = {
        "as it is": {},
        "in float32": {"dtype": "float32"},
        "in 4 pieces": {"micro_batch_size": rows // 4},
        "compiled": {"compile": not quick},
    }
    ids = torch.randint(config.vocab_size, (rows, config.block_size + 1))
    batch = ids[:, :-1], ids[:, 1:].contiguous()
    ways: dict[str, Callable[[], object]] = {}
    for name, change in changes.items():
        torch.manual_seed(0)
        trainer = Trainer(GPT(config), dataclasses.replace(settings, **change), Path(), {})
        ways[name] = functools.partial(trainer.train_step, batch)
    ways["attention not fused"] = functools.partial(step_unfused, ways["as it is"])
    seconds, _ = take_turns(ways, 1 if quick else 5)
    plain = seconds.pop("as it is")
    dtype = str(choose_dtype(device)).removeprefix("torch.")
    note = f"{rows} rows of {config.block_size} tokens; as it is: {dtype}, {1000 * plain:.1f} ms"
    return [
        Row(PART, f"time of a step {name}, as it is = 1", each / plain, "", note=note)
        for name, each in seconds.items()
    ]


def step_unfused(step: Callable[[], object]) -> None:
    """Take a step whose attention stores the T x T weights."""
    with sdpa_kernel(SDPBackend.MATH):
        step()


def measure_decoding(device: torch.device, quick: bool) -> list[Row]:
    """Decode one row with GPT-2 124M in bfloat16: every token must read all weights once."""
    config = GPTConfig(65, 32, 2, 2, None, 32, **ARCHITECTURES["gpt2"]) if quick else GPT2
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    model = GPT(config).to(device, dtype).eval()
    count = config.block_size - 8
    sampling = SampleConfig(max_new_tokens=count, temperature=0, compile=not quick)
    ways = {
        "decode": lambda: generate(model, [list(range(8))], sampling),
        "copy": lambda: copied.copy_(source),
    }
    source = torch.empty(2**20 if quick else 2**31, dtype=torch.uint8, device=device)
    copied = torch.empty_like(source)
    seconds, _ = take_turns(ways, 1 if quick else 3)
    bandwidth = 2 * source.numel() / seconds["copy"]  # each byte is read and written
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    share = weights * count / seconds["decode"] / bandwidth
    return [
        Row(PART, "measured bandwidth of memory", bandwidth / 1e12, "TB/s"),
        Row(
            PART,
            "decoding one row: share of what that allows",
            100 * share,
            "%",
            60,
            note=f"{count / seconds['decode']:.0f} tokens a second",
        ),
    ]


def target_recipe(vocab_size: int, quick: bool, device: torch.device) -> tuple:
    """Return model and training for Tiny Shakespeare to 1.4697, nanoGPT's best validation loss."""
    T = 32 if quick else 256
    model = GPTConfig(
        vocab_size,
        T,
        n_layer=2 if quick else 6,
        n_head=2 if quick else 3,
        n_embd=32 if quick else 384,
        dropout=0.2,
    )
    steps = 3 if quick else 600
    training = TrainConfig(
        max_steps=steps,
        batch_size=2 if quick else 64,
        learning_rate=0.01,
        compile=not quick,
        muon_learning_rate=0.02,
        eval_interval=max(steps // 12, 1),
        save_interval=steps,
        device=device.type,
    )
    return model, training


def measure_target(device: torch.device, text: str, out: Path, quick: bool) -> list[Row]:
    """Train on Tiny Shakespeare; find when the full validation loss first is at most 1.4697."""
    with tempfile.TemporaryDirectory() as folder:
        data = by_characters(text[:20_000] if quick else text, Path(folder))
        config, training = target_recipe(data.train.vocab_size, quick, device)
        torch.manual_seed(0)
        model = PairGPT(config)
        source = Windows(data.train, training.batch_size, config.block_size, 0)
        windows = EvalWindows(data.validation, 128, config.block_size)
        rows: list[dict] = []
        where = Path(folder) / "run"
        train(model, source, training, where, validation=windows, on_log=rows.append)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (out / "shakespeare.jsonl").write_text(lines, encoding="utf-8")
    return [time_to(rows, 1.4697)]


def time_to(rows: list[dict], loss: float) -> Row:
    """Return the seconds of training until a validation was as good; the first step compiles."""
    start = next(row["seconds"] for row in rows if "seconds" in row)
    best, seconds = math.inf, 0.0
    for row in rows:
        seconds = row.get("seconds", seconds)
        best = min(best, row.get("val_loss", math.inf))
        if best <= loss:
            break
    what = f"Tiny Shakespeare to {loss}, without compile time"
    note = f"best loss {best:.4f}" + ("" if best <= loss else ": not reached")
    return Row(PART, what, seconds - start if best <= loss else math.inf, "s", 30, True, note)
