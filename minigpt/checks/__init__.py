"""Exercise checks: `check("attention.window_mask", window_mask)` prints a verdict and never raises.

A check compares an answer with an oracle of its own, on fresh random inputs. Each topic has a file
here; its name is the part before the dot, and a new file is found by itself. The switches are
environment variables:

MINIGPT_GRADE=1      raise CheckFailed on everything but a pass, so that a runner sees it
MINIGPT_REPORT=file  append one JSON line per verdict
MINIGPT_STUDENT=id   draw the random inputs from this name instead of from the clock
MINIGPT_CHECKS=dir   a teacher's private checks: every .py file in it is one more topic
"""

import functools
import hashlib
import importlib
import importlib.util
import json
import os
import pkgutil
import secrets
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minigpt.checks.compare import Wrong
from minigpt.support.console import take_everything
from minigpt.support.errors import ConfigError

TOPICS = tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "compare"))
BLANK = "not answered yet"
PACKAGE = Path(__file__).resolve().parents[1]  # an error in its files is shown at the caller's line
LONGEST_MESSAGE = 600  # characters: an answer's own text may be part of a message

Check = Callable[[Any, torch.Generator], None]


class Exercise(NamedTuple):
    """What is registered under a name."""

    check: Check
    hint: str
    of: str | None  # the exercise whose answer this check judges as well
    travels: bool  # the answer is made of plain values and functions of such: JSON can carry it


_exercises: dict[str, Exercise] = {}


class CheckFailed(AssertionError):
    """An exercise is not solved; raised only where MINIGPT_GRADE=1 asks for it."""


def exercise(
    name: str, hint: str, *, of: str | None = None, travels: bool = True
) -> Callable[[Check], Check]:
    """Register a function (answer, generator) that raises Wrong unless the answer is right.

    The hint is what a reader sees who has not answered yet. `of` names another exercise: the grader
    judges its answer by this check too. `travels=False` says that the answer, or what it is called
    with, is more than numbers, texts, tensors, arrays, lists, dicts and functions of those (a
    class, say, or a tensor with a graph): the grader then judges it in the student's process only.
    """

    def register(function: Check) -> Check:
        assert name not in _exercises, name
        _exercises[name] = Exercise(function, hint, of, travels)
        return function

    return register


def topics() -> list[str]:
    """Return the names of all topics: this folder's files, then those of MINIGPT_CHECKS."""
    return [*TOPICS, *_private_topics()]


def exercises(topic: str | None = None) -> list[str]:
    """Return the names of all exercises, or of one topic's; checks `of` others are left out."""
    for each in topics() if topic is None else (topic,):
        _load(each)
    found = [name for name, entry in _exercises.items() if entry.of is None]
    return [name for name in found if topic in (None, name.split(".")[0])]


def more_checks(name: str) -> list[str]:
    """Return the names of the checks that judge the answer of exercise `name` as well."""
    for each in topics():
        _load(each)
    return [other for other, entry in _exercises.items() if entry.of == name]


def registered(name: str) -> Exercise | None:
    """Return what is registered under a name, or None."""
    topic = name.split(".")[0]
    if topic not in topics():
        return None
    _load(topic)
    return _exercises.get(name)


def check(name: str, answer: Any) -> None:
    """Print whether an answer is right and, where it is not, what to look at."""
    verdict, message = judge(name, answer)
    take_everything(sys.stdout)  # a script's console may lack the mark
    print(f"{'✓' if verdict == 'passed' else '✗'} {name}: {message}")
    if path := os.environ.get("MINIGPT_REPORT"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"check": name, "verdict": verdict, "message": message}) + "\n")
    if verdict != "passed" and os.environ.get("MINIGPT_GRADE") == "1":
        raise CheckFailed(f"{name}: {message}")


def judge(name: str, answer: Any) -> tuple[str, str]:
    """Return the verdict (passed, failed, blank, error or unknown) and a message; print nothing."""
    entry = registered(name)
    if entry is None:
        return "unknown", f"no such exercise; there are {', '.join(exercises())}"
    if _is_blank(answer):
        return "blank", f"{BLANK}. Hint: {entry.hint}"
    if taken := _from_package(answer):
        return "failed", f"this is minigpt's own {taken}; the exercise asks for one of yours"
    try:
        with torch.random.fork_rng(devices=[]):  # gradients stay on: an answer may descend
            entry.check(answer, student_generator(name))
    except Wrong as wrong:
        return "failed", str(wrong)[:LONGEST_MESSAGE]
    except NotImplementedError:
        return "blank", f"{BLANK}. Hint: {entry.hint}"
    except (Exception, SystemExit) as error:  # sys.exit() in an answer must not end the notebook
        return "error", explain(error)[:LONGEST_MESSAGE]
    return "passed", "passed"


def _is_blank(answer: Any) -> bool:
    """Tell whether an answer, or a part of it, is still the blank that the exercise came with."""
    if isinstance(answer, dict):
        return any(map(_is_blank, answer.values()))
    if isinstance(answer, tuple | list):
        return any(map(_is_blank, answer))
    return answer is None or answer is ...


def _from_package(answer: Any) -> str | None:
    """Return the name of the package's own function or class that an answer is, if it is one."""
    parts = answer.values() if isinstance(answer, dict) else answer
    if isinstance(answer, dict | tuple | list):
        return next(filter(None, map(_from_package, parts)), None)
    while isinstance(answer, functools.partial):
        answer = answer.func
    is_code = isinstance(answer, types.FunctionType | type)
    module = getattr(answer, "__module__", None) or ""
    return answer.__qualname__ if is_code and module.split(".")[0] == "minigpt" else None


def student_generator(name: str) -> torch.Generator:
    """Return fresh randomness, or the same for the same student and exercise.

    A check gets this generator. An exercise whose text has numbers of the student's own draws them
    from it first, in the same order as its check.
    """
    student = os.environ.get("MINIGPT_STUDENT")
    seed = secrets.randbits(60) if student is None else hash_text(f"{student} {name}")
    return torch.Generator().manual_seed(seed)


def hash_text(text: str) -> int:
    """Return a number below 2^56 that is the same in every process (Python's own hash is not)."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:7], "big")


def explain(error: BaseException) -> str:
    """Say what the answer raised, and in which of its own lines."""
    if explained := getattr(error, "explained", None):  # it was raised in another process
        return explained
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.line and not _is_library(f.filename)]
    place = f" in the line `{own[-1].line}`" if own else ""
    return f"your code raised {type(error).__name__}: {error}{place}"


def _is_library(file: str) -> bool:
    """Tell whether a file is the package's or another library's: never the learner's line."""
    return PACKAGE in Path(file).parents or "site-packages" in file


# Topics


def _load(topic: str) -> None:
    """Import the file of a topic, which registers its exercises."""
    path = _private_topics().get(topic)
    if path is None:
        importlib.import_module(f"minigpt.checks.{topic}")
        return
    module_name = f"minigpt_private_checks.{topic}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None, path
        assert spec.loader is not None, path  # every .py file has one
        sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]  # the next attempt shows the same error
            raise


def _private_topics() -> dict[str, Path]:
    """Map the topics of MINIGPT_CHECKS to their files; a public topic's name is refused."""
    folder = os.environ.get("MINIGPT_CHECKS")
    if not folder:
        return {}
    if not Path(folder).is_dir():
        raise ConfigError("no such folder", f"MINIGPT_CHECKS={folder}", "name a folder of checks")
    found = {path.stem: path for path in sorted(Path(folder).glob("*.py"))}
    if taken := sorted(set(found) & set(TOPICS)):
        where = str(found[taken[0]])
        raise ConfigError(f"{taken[0]} is a topic of minigpt", where, "give the file another name")
    return found
