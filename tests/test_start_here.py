"""The first chapter promises nothing that is not there."""

import re
from pathlib import Path

import nbformat
import pytest
from machinery import ROOT, course

START = ROOT / "chapters" / "00_start_here.ipynb"
PLANNED = re.compile(r"[Cc]hapters? ((?:\d+(?:, | and )?)+) \(planned\)")


def announced(text: str) -> set[int]:
    """Return the chapters that a text calls planned."""
    return {int(n) for group in PLANNED.findall(text) for n in re.findall(r"\d+", group)}


def text_of(path: Path) -> str:
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)


def test_what_is_called_planned_is_not_there_yet():
    assert not (there := announced(text_of(START)) & course.ready_chapters()), (
        f"chapters {sorted(there)} are ready: take '(planned)' out of {START.name}"
    )


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("chapter 25 (planned)", {25}),
        ("Chapters 18, 20 and 21 (planned)", {18, 20, 21}),
        ("chapters 8 and 9", set()),
    ],
)
def test_announcements_are_found(text, numbers):
    assert announced(text) == numbers


def test_the_short_path_is_named_as_the_chapters_are():
    names = re.findall(r"\[(\d+) ([a-z ]+)\]\((\w+)\.ipynb\)", text_of(START))
    assert [number for number, _, _ in names] == ["2", "6", "8", "9", "10", "18"]
    for number, name, stem in names:
        assert stem == f"{int(number):02d}_{name.replace(' ', '_')}"
        assert (ROOT / "chapters" / f"{stem}.ipynb").is_file()
