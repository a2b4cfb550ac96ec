"""The README and the pages in docs: links lead somewhere, the front page stays short."""

import re
from pathlib import Path

import pytest
from machinery import ROOT

PAGES = [
    ROOT / "README.md",
    *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")),
    ROOT / "datasets" / "README.md",
    ROOT / "minigpt" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
README_LINES = 120  # a front page is read in a minute


def anchors(text: str) -> set[str]:
    """Return the anchors that a page's headings get: lower case, hyphens for spaces, no marks."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def dead_links(path: Path) -> list[str]:
    """Return the targets of a page's links, files and headings, that are not there."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        place = path.parent / file if file else path
        if target.startswith("http"):
            continue
        is_page = place.suffix == ".md" and place.is_file()
        if not place.exists() or (
            anchor and is_page and anchor not in anchors(place.read_text(encoding="utf-8"))
        ):
            dead.append(target)
    return dead


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(path):
    assert dead_links(path) == []


def test_a_dead_link_is_caught(tmp_path):
    page = tmp_path / "a.md"
    page.write_text("# One Thing\n[a](#one-thing) [b](#two) [c](gone.md) [d](a.md#One)\n", "utf-8")
    assert dead_links(page) == ["#two", "gone.md", "a.md#One"]


def test_the_front_page_is_short_and_has_a_picture():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES
    assert re.search(r"!\[[^\]]{20,}\]\(docs/\w+\.png\)", text), "a picture with words for it"


# Somebody's own computer: folders of a user or a machine, and addresses that packages come from
PRIVATE = re.compile(
    r"(?<![\w.~])/(?:home|Users|root|tmp|work|opt|mnt)/|[A-Z]:\\Users"
    r"|download\.pytorch\.org|pypi\.org/simple|--index-url (?:https?|file)"
)
RECIPES = [
    ROOT / "Containerfile",
    ROOT / "pyproject.toml",
    *sorted(ROOT.glob("requirements*.txt")),
    *sorted((ROOT / ".github").rglob("*.*")),
]


def private_places(text: str) -> list[str]:
    """Return the lines that name a place of one computer, or where its packages come from."""
    return [line for line in text.splitlines() if PRIVATE.search(line)]


@pytest.mark.parametrize(
    "path", PAGES + RECIPES, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_a_page_names_no_place_of_one_computer(path):
    assert private_places(path.read_text(encoding="utf-8")) == []


def test_a_place_of_one_computer_is_caught():
    told = ["-v mine:/home/reader/mine", "cd /work/main", r"C:\Users\me", "see /tmp/x"]
    told.append("pip install --index-url https://download.pytorch.org/whl/cpu torch")
    fine = ["data/home/x", "~/opt/x", "runs/my", "https://example.org/work/paper"]
    assert private_places("\n".join(told + fine)) == told
