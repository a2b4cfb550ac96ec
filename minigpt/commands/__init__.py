"""The command line: `python -m minigpt <command>`; one file for each command, loaded when needed.

An error that the user can mend is one line on stderr; `--debug` shows the traceback as well.
"""

import difflib
import importlib
import io
import os
import sys
import traceback

from minigpt.support.errors import MinigptError

COMMANDS = {
    "quickstart": "train a small story model from nothing, in minutes on two CPU cores",
    "doctor": "check that this computer is ready, and what it will compute on",
    "train": "train a model on your own text, or on storyworld",
    "finetune": "teach a model to answer, from your own examples",
    "chat": "talk with a trained model",
    "generate": "generate text with a trained model",
    "evaluate": "score a trained model on its tasks, on any text, or on your own examples",
    "tokenizer": "train a tokenizer, or look at how one cuts text",
    "data": "get public data sets, or clean your own text",
    "bench": "measure speed beside other packages",
    "exercise": "get a copy of an exercise to work in, or bring yours up to date",
    "progress": "see which exercises you have passed",
    "grade": "grade the notebooks of a class and keep the gradebook",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or what went wrong as a number."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's stream is another
            stream.reconfigure(errors="replace")  # a console without Chinese must not stop a run
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(COMMANDS)}"
        return complain(f"unknown command {name!r} — command line — {hint}", exit_code=2)
    try:
        return importlib.import_module(f"minigpt.commands.{name}").main(rest) or 0
    except MinigptError as error:
        if debug:
            traceback.print_exc()
        return complain(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of what is printed, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
        return 1
    except OSError as error:
        if debug:
            traceback.print_exc()
        where = error.filename or name
        return complain(f"{error.strerror or error} — {where} — check the path and its rights")
    except KeyboardInterrupt:
        return complain("stopped by Ctrl-C — before a checkpoint was due — run it again", 130)


def complain(line: str, exit_code: int = 1) -> int:
    """Print one error line and return the exit code."""
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    return exit_code


def usage() -> str:
    """Return the list of commands."""
    rows = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
    return (
        f"usage: python -m minigpt <command> [options]\n\n{rows}\n\n"
        "python -m minigpt <command> --help shows a command's options, --help-all the rare ones "
        "too; --debug adds tracebacks."
    )
