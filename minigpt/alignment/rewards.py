"""Rewards: what an answer is worth: by a function of the user's own, or by a right answer.

A reward of the user's own is a Python function reward(prompt, answer, row) -> number; it runs with
the user's rights, so only such code should be named here as one would run anyway.
"""

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from minigpt.batching.examples import Example
from minigpt.metrics import exact_match, language_of
from minigpt.support.errors import ConfigError, DataError

FLAG = "--reward"
FORM = "write def reward(prompt, answer, row): and return a number"


class Reward(NamedTuple):
    """What grades answers: its name, what changes when it does, and the grade of one answer."""

    name: str
    sha256: str  # of the code, or empty: a run that goes on must be graded as it began
    grade: Callable[[Example, str], float]


def exact_answer(examples: Sequence[Example]) -> Reward:
    """Return the reward of 1 for a right answer of the row: case, articles and marks are ignored.

    Raises ConfigError where a row has no answer to compare with.
    """
    without = next((e for e in examples if not e.messages[-1]["content"]), None)
    if without is not None:
        remedy = "give --reward file.py:function, or rows with a column `answer`"
        raise ConfigError("a prompt without an answer, and no --reward", without.where, remedy)

    def grade(example: Example, answer: str) -> float:
        right = (example.messages[-1]["content"], *example.others)
        return max(exact_match(answer, text, language_of(text)) for text in right)

    return Reward("exact match with the answer", "", grade)


def own_reward(word: str) -> Reward:
    """Return the reward that a word names: "file.py:function" or "module:function".

    Raises ConfigError where it cannot be found or called, DataError naming the row where it fails.
    """
    place, _, name = word.rpartition(":")
    if not place or not name.isidentifier():
        remedy = "write file.py:function or module:function"
        raise ConfigError(f"{word!r} names no function", FLAG, remedy)
    module = load_module(place)
    function = getattr(module, name, None)
    if function is None:
        near = difflib.get_close_matches(name, vars(module), n=1)
        remedy = f"did you mean {near[0]}?" if near else FORM
        raise ConfigError(f"no function {name!r}", f"{FLAG} {word}", remedy)
    check_call(function, word)

    def grade(example: Example, answer: str) -> float:
        prompt = example.messages[-2]["content"]
        try:
            value = function(prompt, answer, dict(example.record or {}))
        except Exception as error:
            what = f"the reward failed: {said(error)}"
            place = f"{example.where}; {line_of(error)}"
            raise DataError(what, place, "mend the function, and go on with --resume") from error
        return checked(value, example.where, word)

    return Reward(word, code_sha256(module), grade)


def checked(value: Any, where: str, word: str) -> float:
    """Return a reward as a float; DataError for what is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        what = f"the reward {word} returned {str(value)[:40]!r}"
        raise DataError(what, where, "return a finite number for every answer")
    return number


def check_call(function: Any, word: str) -> None:
    """Refuse what cannot be called with a prompt, an answer and a row."""
    if not callable(function):
        what = f"{type(function).__name__} where a function is expected"
        raise ConfigError(what, f"{FLAG} {word}", FORM)
    try:
        inspect.signature(function).bind("prompt", "answer", {})
    except TypeError as error:
        raise ConfigError(f"the reward does not fit: {error}", f"{FLAG} {word}", FORM) from None
    except ValueError:
        pass  # some built-in functions do not tell what they take


def load_module(place: str) -> ModuleType:
    """Import a module by its file or its name; ConfigError says which line of it fails."""
    file = Path(place)
    is_file = file.suffix == ".py"
    if is_file and not file.is_file():
        raise ConfigError("no such file", f"{FLAG} {place}", "give the path of a .py file")
    try:
        with importable(file.resolve().parent if is_file else Path.cwd()):
            if not is_file:
                return importlib.import_module(place)
            spec = importlib.util.spec_from_file_location(f"reward_{file.stem}", file)
            assert spec is not None, "a .py file has a spec"
            assert spec.loader is not None, "a .py file has a loader"
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    except ModuleNotFoundError as error:
        what = f"no module {error.name!r}"
        remedy = "install it, or give the path of a .py file"
        raise ConfigError(what, f"{FLAG} {place}", remedy) from None
    except Exception as error:
        what = f"the module cannot be imported: {said(error)}"
        raise ConfigError(what, line_of(error), f"mend it: {FLAG} {place}") from error


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let modules of a folder be imported for a while."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def line_of(error: Exception) -> str:
    """Say which file and line raised an error."""
    if isinstance(error, SyntaxError):
        return f"{Path(error.filename or 'the module').name}, line {error.lineno}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def code_sha256(module: ModuleType) -> str:
    """Return the SHA-256 of a module's source, or nothing where it has none."""
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
