"""The site: links led to pages, hosted copies, the look-up of messages, the container file."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from machinery import ROOT

from minigpt.commands import COMMANDS

build_site = importlib.import_module("build_site")
hosted = importlib.import_module("hosted")
messages = importlib.import_module("messages")
site_links = importlib.import_module("site_links")
ADDRESS = "https://github.com/owner/course"
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pages():
    return build_site.Pages(ROOT, ADDRESS)


# --- pages and links ---


@pytest.mark.parametrize(
    ("link", "here", "wanted"),
    [
        ("../minigpt/attention.py", "chapters/08_attention.ipynb", "../minigpt/attention.md"),
        ("../minigpt/machine", "chapters/12_gpu.ipynb", "../minigpt/machine/index.md"),
        ("../README.md#start", "docs/guide.md", "../index.md#start"),
        ("../chapters/09_gpt.ipynb#3-·-What%3F", "docs/a.md", "../chapters/09_gpt.ipynb#3--what"),
        ("solutions", "chapters/00_start_here.ipynb", "solutions/index.md"),
        ("../tests", "docs/guide.md", f"{ADDRESS}/tree/main/tests"),
        ("https://a.org/b", "docs/guide.md", "https://a.org/b"),
    ],
)
def test_a_link_between_files_is_a_link_between_pages(pages, link, here, wanted):
    assert pages.target(link, here) == wanted


def test_code_is_not_rewritten(pages):
    text = "`[a](../minigpt/gpt.py)` [b](../minigpt/gpt.py)\n```\n[c](../minigpt/gpt.py)\n```\n"
    assert pages.rewrite(text, "docs/a.md").count("gpt.md") == 1


def test_every_ready_chapter_stands_in_the_menu(pages):
    menu = build_site.front_page(pages)
    for path in pages.notebooks:
        if path.parent.name == "chapters":
            assert f"\nchapters/{path.stem}\n" in menu, f"README's table lacks {path.stem}"


def test_every_module_has_a_page(pages):
    made = build_site.api_pages(pages)
    assert "minigpt.attention" in made["minigpt/attention.md"]
    assert "minigpt.storyworld.verify" in made["minigpt/storyworld.md"]
    assert len(made) > len(pages.modules)


def test_dead_links_and_remote_assets_are_found(tmp_path):
    good = '<p id="b"></p><a href="#b">b</a><a href="https://x.org">x</a>'
    bad = '<a href="gone.html">a</a><a href="#c">c</a><script src="https://x.org/a.js"></script>'
    (tmp_path / "a.html").write_text(good + bad, encoding="utf-8")
    (tmp_path / "a.css").write_text("a { background: url(//x.org/p.png) }", encoding="utf-8")
    found = " ".join(site_links.faults(tmp_path))
    assert len(site_links.faults(tmp_path)) == 4
    assert all(part in found for part in ("gone.html", "#c", "a.js", "p.png"))


# --- hosted notebooks ---


def test_a_hosted_copy_adds_one_cell_and_keeps_the_outputs(pages):
    path = Path("chapters/exercises/08_attention.ipynb")
    text = (ROOT / path).read_text(encoding="utf-8")
    cells = json.loads(hosted.hosted_copy(text, path, ADDRESS))["cells"]
    assert ADDRESS in cells.pop(1)["source"]
    assert cells == json.loads(text)["cells"]
    assert hosted.colab(ADDRESS, path).endswith(
        f"owner/course/blob/gh-pages/hosted/{path.as_posix()}"
    )
    assert hosted.colab(None, path) is hosted.colab("https://git.example/a/b", path) is None


def test_the_first_cell_installs_where_the_package_is_missing(monkeypatch, tmp_path):
    ran = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "minigpt-course" / "chapters").mkdir(parents=True)
    monkeypatch.setattr(subprocess, "run", lambda words, check: ran.append(words))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    cell = hosted.CELL.format(address=ADDRESS, here="chapters")
    exec(compile(cell, "cell", "exec"), {})
    assert [words[1:4] for words in ran] == [["-m", "pip", "install"]]
    assert Path.cwd() == (tmp_path / "minigpt-course" / "chapters").resolve()
    assert not re.search(r"requirements|torch|numpy|==", " ".join(ran[0]))


def test_the_first_cell_does_nothing_where_the_package_is(monkeypatch, tmp_path):
    monkeypatch.setattr(subprocess, "run", None)  # a call would raise
    monkeypatch.chdir(tmp_path)
    exec(compile(hosted.CELL.format(address=ADDRESS, here="chapters"), "cell", "exec"), {})
    assert Path.cwd() == tmp_path.resolve()


# --- troubleshooting ---


def test_messages_that_the_page_quotes_exist():
    every = " ".join(what for what, _, _ in messages.messages())
    first = re.findall(r"^\| `([^`]+)`", TROUBLE, re.MULTILINE)
    assert len(first) > 25
    for quoted in first:
        for part in quoted.split("…"):
            assert part.strip() in every, quoted


def test_commands_and_flags_that_the_page_quotes_exist():
    from test_remedies import known_flags

    known = known_flags()
    for name in re.findall(r"python -m minigpt (\w+)", TROUBLE):
        assert name in COMMANDS
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", TROUBLE):
        assert flag in known, flag


def test_the_list_of_messages_is_read_from_the_source(tmp_path):
    (tmp_path / "minigpt").mkdir()
    code = (
        "def f(n):\n    what = f'{n} bytes'\n    raise DataError(what, 'here', 'give ' + 'more')\n"
    )
    (tmp_path / "minigpt" / "a.py").write_text(code, encoding="utf-8")
    assert messages.messages(tmp_path) == [("… bytes", "give more", "a")]
    assert len(messages.messages()) > 250


# --- container ---


def test_the_container_file_names_what_is_there_and_pins_no_version_of_its_own():
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY --chown=\w+ (.+)$", text, re.MULTILINE):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), name
    assert not re.search(r"==\d", text), "versions stand in requirements.txt"
    version = re.search(r"^FROM python:(3\.\d+)-slim$", text, re.MULTILINE)
    assert version
    assert f"Python :: {version[1]}" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert text.index("\nUSER reader") < text.index("pip install"), "nothing runs as root"


# --- the whole site ---


@pytest.mark.soak
def test_the_site_is_built_without_a_warning(tmp_path):
    needed = "needs Sphinx: pip install -r requirements-docs.txt"
    for module in ("sphinx", "myst_nb", "furo", "sphinx_copybutton"):
        pytest.importorskip(module, reason=needed)
    words = [sys.executable, str(ROOT / "tools" / "build_site.py"), "--out", str(tmp_path)]
    done = subprocess.run(words, env=os.environ, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
