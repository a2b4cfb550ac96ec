"""Print to any console: one that is closed, narrow, or cannot show every character.

A console or a file behind `>` takes what its encoding has; on Windows that is often cp1252, without
Chinese and without a check mark. There, marks become ASCII, other characters a question mark, and
one line says how to see them.
"""

import codecs
import io
import os
import shutil
import sys
from typing import TextIO

LEAST_COLUMNS = 40  # of a console; with very few, help would never end
STAND_INS = {"✓": "+", "✗": "x", "■": "#", "□": ".", "→": "->", "—": "-", "–": "-", "…": "..."}
STAND_INS |= {"×": "x", "“": '"', "”": '"', "‘": "'", "’": "'"}
REMEDY = (
    "note: this console cannot show every character, and prints ? instead; the files hold them "
)
REMEDY += "all, and with PYTHONUTF8=1 they are printed, too"

lost_letters: set[str] = set()  # letters that were not shown


def stand_in(error: UnicodeError) -> tuple[str, int]:
    """Return what is printed for characters that an encoding lacks, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    if not STAND_INS.keys() >= set(lacking) and not error.encoding.startswith("utf"):
        lost_letters.update(lacking)
    return "".join(STAND_INS.get(character, "?") for character in lacking), error.end


def take_everything(stream: TextIO) -> None:
    """Let a stream replace what it cannot show, instead of ending the program with an error."""
    codecs.register_error("minigpt.stand_in", stand_in)
    if isinstance(stream, io.TextIOWrapper):  # a notebook's is another, and takes all
        stream.reconfigure(errors="minigpt.stand_in")


def prepare_streams() -> None:
    """Make the standard streams take all that is printed, however the program was started.

    Closed ones lead nowhere: else the next file that is opened takes their place, and what is
    printed goes into it. A console that is too narrow for anything counts as 40 columns wide.
    """
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: its own
            setattr(sys, name, os.fdopen(nowhere, mode, encoding="utf-8"))
        if mode == "w":
            take_everything(getattr(sys, name))
    if shutil.get_terminal_size().columns < LEAST_COLUMNS:
        os.environ["COLUMNS"] = str(LEAST_COLUMNS)


def say_what_is_unseen() -> None:
    """Print one line where letters could not be shown, and how to see them."""
    if lost_letters:
        lost_letters.clear()
        print(REMEDY, file=sys.stderr)
