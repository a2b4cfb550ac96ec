"""Grade exercise notebooks of a class without trusting them; `python -m minigpt grade` uses this.

notebook.py takes the answers out of a submission, session.py runs them in a process of their own
under limits, judge.py compares what they return in a second process, book.py keeps the book.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigpt.classroom.book import (
        Exercises,
        Grade,
        check_book,
        feedback,
        find_submissions,
        grade_class,
        grade_student,
        gradebook,
        open_exercises,
        write_book,
    )
    from minigpt.classroom.limits import Limits

__all__ = [
    "Exercises",
    "Grade",
    "Limits",
    "check_book",
    "feedback",
    "find_submissions",
    "grade_class",
    "grade_student",
    "gradebook",
    "open_exercises",
    "write_book",
]


def __getattr__(name: str) -> Any:
    """Load a name when it is first used: reading a notebook needs no torch, grading does."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "limits" if name == "Limits" else "book"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
