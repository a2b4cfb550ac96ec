"""Exercise checks: `check("attention.window_mask", window_mask)` prints a verdict and never raises.

A check compares an answer with an oracle of its own, on fresh random inputs. Each topic has a file
here; its name is the part before the dot. The switches are environment variables:

MINIGPT_GRADE=1      raise CheckFailed on everything but a pass, so that a runner sees it
MINIGPT_REPORT=file  append one JSON line per verdict
MINIGPT_STUDENT=id   draw the random inputs from this name instead of from the clock
"""

import hashlib
import importlib
import json
import os
import secrets
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from minigpt.checks.compare import Wrong

TOPICS = ("attention",)
BLANK = "not answered yet"

_exercises: dict[str, tuple[Callable[[Any, torch.Generator], None], str]] = {}


class CheckFailed(AssertionError):
    """An exercise is not solved; raised only where MINIGPT_GRADE=1 asks for it."""


def exercise(name: str, hint: str) -> Callable:
    """Register a function (answer, generator) that raises Wrong unless the answer is right.

    The hint is what a reader sees who has not answered yet.
    """

    def register(function: Callable[[Any, torch.Generator], None]) -> Callable:
        assert name not in _exercises, name
        _exercises[name] = function, hint
        return function

    return register


def exercises(topic: str | None = None) -> list[str]:
    """Return the names of all exercises, or of one topic's."""
    for each in TOPICS if topic is None else (topic,):
        importlib.import_module(f"minigpt.checks.{each}")
    return [name for name in _exercises if topic in (None, name.split(".")[0])]


def check(name: str, answer: Any) -> None:
    """Print whether an answer is right and, where it is not, what to look at."""
    verdict, message = judge(name, answer)
    print(f"{'✓' if verdict == 'passed' else '✗'} {name}: {message}")
    if path := os.environ.get("MINIGPT_REPORT"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"check": name, "verdict": verdict, "message": message}) + "\n")
    if verdict != "passed" and os.environ.get("MINIGPT_GRADE") == "1":
        raise CheckFailed(f"{name}: {message}")


def judge(name: str, answer: Any) -> tuple[str, str]:
    """Return the verdict (passed, failed, blank, error or unknown) and a message; print nothing."""
    topic = name.split(".")[0]
    if topic not in TOPICS or name not in exercises(topic):
        known = [known for each in TOPICS for known in exercises(each)]
        return "unknown", f"no such exercise; there are {', '.join(known)}"
    function, hint = _exercises[name]
    if _is_blank(answer):
        return "blank", f"{BLANK}. Hint: {hint}"
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            function(answer, _generator(name))
    except Wrong as wrong:
        return "failed", str(wrong)
    except NotImplementedError:
        return "blank", f"{BLANK}. Hint: {hint}"
    except Exception as error:
        return "error", _explain(error)
    return "passed", "passed"


def _is_blank(answer: Any) -> bool:
    """Tell whether an answer, or a part of it, is still the blank that the exercise came with."""
    if isinstance(answer, dict):
        return any(map(_is_blank, answer.values()))
    if isinstance(answer, tuple | list):
        return any(map(_is_blank, answer))
    return answer is None or answer is ...


def _generator(name: str) -> torch.Generator:
    """Return fresh randomness, or the same for the same student and exercise."""
    student = os.environ.get("MINIGPT_STUDENT")
    seed = secrets.randbits(60) if student is None else hash_text(f"{student} {name}")
    return torch.Generator().manual_seed(seed)


def hash_text(text: str) -> int:
    """Return a number below 2^56 that is the same in every process (Python's own hash is not)."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:7], "big")


def _explain(error: Exception) -> str:
    """Say what the answer raised, and in which of its own lines."""
    here = str(Path(__file__).parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if here not in f.filename]
    own = [f for f in frames if f.line and "site-packages" not in f.filename]
    place = f" in the line `{own[-1].line}`" if own else ""
    return f"your code raised {type(error).__name__}: {error}{place}"
