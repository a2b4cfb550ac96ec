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

import pytest
from helpers import run

from minigpt.commands import pipeline
from minigpt.runs.checkpoint import checkpoint_paths
from minigpt.runs.run import load_config

STAGES = ("1/4", "2/4", "3/4", "4/4")
SLOW_MACHINE = 3.0  # seconds; an idle one answers in some hundredths of a second


def interrupted(out: Path, stage: str, again: bool = False) -> tuple[float, str]:
    """Start or resume a run, send SIGINT in a stage; return the seconds to its answer, and all.

    again: send it twice.
    """
    words = ["quickstart", "--out", str(out), "--resume" if (out / "config.json").exists() else ""]
    words = [word for word in [*words, "--max-steps", "20"] if word]
    process = subprocess.Popen(
        [sys.executable, "-m", "minigpt", *words], stderr=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(300, process.kill)
    watchdog.start()
    said, sent, answered = [], 0.0, 0.0
    try:
        for line in process.stderr:
            said.append(line)
            if line.startswith(stage):
                time.sleep(0.5)
                sent = time.monotonic()
                process.send_signal(signal.SIGINT)
            if line.startswith("Ctrl-C: "):
                answered = time.monotonic()
                if again:
                    process.send_signal(signal.SIGINT)
        code = process.wait()
    finally:
        watchdog.cancel()
        process.kill()
    assert code == 130, "".join(said)
    assert answered, "".join(said)
    return answered - sent, "".join(said)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
def test_ctrl_c_is_answered_in_every_stage_and_the_run_goes_on(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    for stage in STAGES:
        seconds, said = interrupted(out, stage)
        assert seconds < SLOW_MACHINE, stage
        assert "--resume" in said
        assert "Traceback" not in said
        later = STAGES[STAGES.index(stage) + 1 :]
        assert not any(line.startswith(later) for line in said.splitlines() if later)
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
    _, said = interrupted(tmp_path / "run", "3/4", again=True)
    assert "once more: at once" in said
    assert "Traceback" not in said
