"""Quickstart: a Ctrl-C is answered in every stage, and the run goes on from there."""

import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import run

from minigpt.commands import pipeline
from minigpt.runs.checkpoint import checkpoint_paths
from minigpt.runs.run import load_config

STAGES = ("1/4", "2/4", "3/4", "4/4")
SLOW_MACHINE = 3.0  # seconds; an idle one answers in some hundredths of a second


class Answer(NamedTuple):
    """What a run said; how long it took to acknowledge the signal; the stages begun behind it."""

    said: str
    seconds: float
    begun: list[str]


def interrupted(out: Path, stage: str, again: bool = False) -> Answer:
    """Start or resume a run, and send SIGINT half a second after a stage has begun.

    again: send it once more when the first is acknowledged.
    """
    words = ["quickstart", "--out", str(out), "--resume" if (out / "config.json").exists() else ""]
    words = [word for word in [*words, "--max-steps", "20"] if word]
    process = subprocess.Popen(
        [sys.executable, "-m", "minigpt", *words], stderr=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(300, process.kill)
    watchdog.start()
    said, sent, answered = [], [], []

    def send() -> None:
        sent.append(time.monotonic())
        process.send_signal(signal.SIGINT)

    timer = threading.Timer(0.5, send)  # lines are read meanwhile, so their times are right
    try:
        for line in process.stderr:
            said.append((time.monotonic(), line))
            if line.startswith(stage):
                timer.start()
            if line.startswith("Ctrl-C: "):
                answered.append(time.monotonic())
                if again:
                    process.send_signal(signal.SIGINT)
        code = process.wait()
    finally:
        watchdog.cancel()
        process.kill()
    text = "".join(line for _, line in said)
    assert code == 130, text
    assert sent, text
    assert answered, text
    begun = [line for moment, line in said if moment > sent[0] and line.startswith(STAGES)]
    return Answer(text, answered[0] - sent[0], begun)


def test_a_run_goes_on_from_wherever_it_was_stopped(tmp_path, capsys, monkeypatch):
    text, out = tmp_path / "my.txt", tmp_path / "run"
    text.write_text("".join(f"Line {n} of my own text.\n" for n in range(400)), "utf-8")
    words = ["train", "--data", text, "--max-steps", 12, "--vocab-size", 280, "--batch-size", 4]
    words += ["--block-size", 32, "--n-layer", 1, "--n-head", 2, "--n-embd", 16]
    for name in ("make_tokenizer", "make_data", "train", "make_report", "write_report"):
        work = getattr(pipeline, name)

        def interrupted_work(*args, work=work, **options):
            signal.raise_signal(signal.SIGINT)
            return work(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(pipeline, name, interrupted_work)
            code, _, err = run(capsys, *words, "--out", out)
        assert code == 130, name
        assert "go on with --resume" in err
        assert not (out / "report.json").exists()
        words = ["train", "--resume"]
    assert checkpoint_paths(out)[-1].name == "step-00000012"
    code, printed, _ = run(capsys, *words, "--out", out)
    assert code == 0
    assert "bits per byte" in printed
    assert (out / "report.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
def test_ctrl_c_is_answered_in_every_stage_and_the_run_goes_on(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    for stage in STAGES:
        found = interrupted(out, stage)
        assert found.seconds < SLOW_MACHINE, stage
        assert "--resume" in found.said
        assert "Traceback" not in found.said
        assert not found.begun
    assert checkpoint_paths(out)[-1].name == "step-00000020"
    assert not (out / "report.json").exists()
    assert load_config(out).training.max_steps == 20
    monkeypatch.setattr(
        pipeline, "model_card", functools.partial(pipeline.model_card, per_task=2, n_stories=4)
    )
    code, printed, err = run(capsys, "quickstart", "--out", out, "--resume")
    assert code == 0
    assert "IT WRITES" in printed
    assert f"chat --checkpoint {out}" in printed
    assert len(printed.splitlines()) <= 60
    assert "\r" not in err
    assert all(stage in err for stage in STAGES)
    page = (out / "report.html").read_text("utf-8")
    assert "How to go on" in page
    assert re.search("training [0-9.]+", page), "the time of all steps, before the resume too"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
def test_a_second_ctrl_c_stops_at_once(tmp_path):
    said = interrupted(tmp_path / "run", "3/4", again=True).said
    assert "once more: at once" in said
    assert "Traceback" not in said
