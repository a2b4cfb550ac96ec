"""Grade exercise notebooks of a class without trusting them; `python -m minigpt grade` uses this.

notebook.py takes the answers out of a submission, session.py runs them in a process of their own
under limits, judge.py compares what they return in a second process, book.py keeps the book.
"""

from minigpt.classroom.book import (
    Exercises,
    Grade,
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
    "feedback",
    "find_submissions",
    "grade_class",
    "grade_student",
    "gradebook",
    "open_exercises",
    "write_book",
]
