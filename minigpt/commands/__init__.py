"""The command line: `python -m minigpt <command>`; one file for each command, loaded when needed.

An error that the user can mend is one line on stderr; `--debug` shows the traceback as well.
"""

import contextlib
import difflib
import errno
import importlib
import os
import sys
import traceback

from minigpt.support.console import prepare_streams, say_what_is_unseen
from minigpt.support.errors import MinigptError

COMMANDS = {
    "quickstart": "train a small story model from nothing, in minutes on two CPU cores",
    "doctor": "check that this computer is ready, and what it will compute on",
    "train": "train a model on your own text, or on storyworld",
    "finetune": "teach a model to answer, from your own examples",
    "chat": "talk with a trained model",
    "generate": "generate text with a trained model",
    "serve": "answer programs and people over HTTP: OpenAI's API and a chat page",
    "evaluate": "score a trained model on its tasks, on any text, or on your own examples",
    "quantize": "make a model smaller: its weights in 8 or 4 bits",
    "export": "write a model for transformers, vLLM or llama.cpp",
    "tokenizer": "train a tokenizer, or look at how one cuts text",
    "data": "get public data sets, or clean your own text",
    "bench": "measure speed beside other packages",
    "exercise": "get a copy of an exercise to work in, or bring yours up to date",
    "progress": "see which exercises you have passed",
    "grade": "grade the notebooks of a class and keep the gradebook",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or what went wrong as a number."""
    prepare_streams()
    code = run(list(sys.argv[1:] if argv is None else argv))
    with contextlib.suppress(OSError, ValueError):  # nobody may be left to read it
        say_what_is_unseen()
    return code


def run(argv: list[str]) -> int:
    """Find the command and run it; what the user can mend becomes one line."""
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    if bad := next((word for word in argv if not is_text(word)), None):
        where = ascii(bad)
        remedy = "rename it, or set PYTHONUTF8=1 where the system's language is not UTF-8"
        return complain(f"a word that is not UTF-8 — {where} — {remedy}", exit_code=2)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(COMMANDS)}"
        return complain(f"unknown command {name!r} — command line — {hint}", exit_code=2)
    try:
        code = importlib.import_module(f"minigpt.commands.{name}").main(rest) or 0
        sys.stdout.flush()  # what cannot be printed is noticed here, not after the end
        return code
    except MinigptError as error:
        line, code = str(error), error.exit_code
    except BrokenPipeError:  # the reader of what is printed, such as `head`, has seen enough
        silence_stdout()
        return 1
    except OSError as error:
        silence_stdout(error.errno == errno.ENOSPC)
        where = error.filename or name
        line, code = f"{error.strerror or error} — {where} — check the path and its rights", 1
    except MemoryError:
        remedy = "close other programs, or give less text at a time or a smaller model"
        line, code = f"memory is full — {name} — {remedy}", 1
    except RecursionError:
        remedy = "look for a file of JSON with brackets in brackets without end, and remove it"
        line, code = f"something is nested too deeply — {name} — {remedy}", 1
    except KeyboardInterrupt:
        line, code = "stopped by Ctrl-C — before a checkpoint was due — run it again", 130
    if debug:
        traceback.print_exc()
    return complain(line, code)


def is_text(word: str) -> bool:
    """Tell whether a word of the command line is UTF-8: what is not can be in no file's text."""
    return not any("\ud800" <= character <= "\udfff" for character in word)


def silence_stdout(silence: bool = True) -> None:
    """Let what is still to be printed go nowhere, so that Python's last flush does not fail."""
    if silence:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(line: str, exit_code: int = 1) -> int:
    """Print one error line and return the exit code."""
    with contextlib.suppress(OSError, ValueError):  # nobody may be left to read it
        print(f"error: {' '.join(line.split())}", file=sys.stderr, flush=True)
    return exit_code


def usage() -> str:
    """Return the list of commands."""
    rows = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
    return (
        f"usage: python -m minigpt <command> [options]\n\n{rows}\n\n"
        "python -m minigpt <command> --help shows a command's options, --help-all the rare ones "
        "too; --debug adds tracebacks."
    )
