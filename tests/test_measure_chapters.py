"""What chapters state of their time and memory agrees with what was measured."""

import json
import shutil
import sys

import nbformat
import pytest
from machinery import ROOT, measure_chapters

TIMES = measure_chapters.stored_times()
CHAPTERS = sorted(path.stem for path in (ROOT / "chapters").glob("*.ipynb"))
FIGURES = {"seconds": 37.4, "processor seconds": 36.0, "gigabytes": 0.61}
ROW = "| 01 | [x](chapters/01_x.ipynb): what | `nn` | **ready** |"


def opening(stem: str) -> str:
    cells = nbformat.read(ROOT / "chapters" / f"{stem}.ipynb", as_version=4).cells
    return "\n".join(cell.source for cell in cells[:4] if cell.cell_type == "markdown")


@pytest.mark.parametrize("stem", CHAPTERS)
def test_every_opening_states_its_time_and_memory(stem):
    match = measure_chapters.STATED.search(opening(stem))
    assert match, "no sentence: The notebook runs in about ... seconds and ... GB of memory"
    assert match[1], match[0]


@pytest.mark.parametrize("stem", CHAPTERS)
def test_what_a_chapter_states_was_measured(stem):
    if stem not in TIMES:
        pytest.skip("not measured yet: python tools/measure_chapters.py, on a quiet machine")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not (
        found := measure_chapters.stated_faults(stem, opening(stem), readme, TIMES[stem])
    ), found


def told(seconds: str, gigabytes: str, in_table: str) -> list[str]:
    text = f"The notebook runs in about {seconds} seconds and {gigabytes} GB of memory."
    row = ROW.replace("**ready**", f"**ready**, {in_table} s")
    return measure_chapters.stated_faults("01_x", text, row, FIGURES)


def test_a_figure_that_is_far_off_is_caught():
    assert told("35", "0.7", "40") == []
    assert len(told("12", "0.7", "40")) == len(told("35", "0.3", "40")) == 1
    assert len(told("35", "0.7", "90")) == 1
    untold = measure_chapters.stated_faults("01_x", "It is quick.", ROW, FIGURES)
    assert untold == ["01_x: its opening and its row in the README state no time"]


def test_figures_are_written_into_the_opening_and_the_table(tmp_path):
    text = "**Time.** The notebook runs in under a minute and 3 GB of memory on a 2-core CPU."
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    (tmp_path / "chapters").mkdir()
    nbformat.write(book, tmp_path / "chapters" / "01_x.ipynb")
    (tmp_path / "README.md").write_text(f"a\n{ROW}\n", encoding="utf-8")
    for _ in range(2):  # the second time it finds what the first has written
        assert measure_chapters.write_stated({"01_x": FIGURES}, tmp_path)
    [cell] = nbformat.read(tmp_path / "chapters" / "01_x.ipynb", as_version=4).cells
    assert cell.source == (
        "**Time.** The notebook runs in about 35 seconds and 0.7 GB of memory on a 2-core CPU."
    )
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert readme == f"a\n{ROW.replace('**ready**', '**ready**, 35 s')}\n"
    assert measure_chapters.stated_faults("01_x", cell.source, readme, FIGURES) == []


def test_a_chapter_without_the_sentence_is_named(tmp_path, capsys):
    path = tmp_path / "01_x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("x")]), path)
    assert not measure_chapters.write_opening(path, FIGURES)
    assert "01_x.ipynb: no sentence like" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the peak of a process comes from getrusage")
def test_a_chapter_is_measured_in_a_process_of_its_own(tmp_path, monkeypatch, capsys):
    """A kernel that holds 300 MB and computes for a second is seen; one that fails is named."""
    (tmp_path / "chapters" / "stored").mkdir(parents=True)
    shutil.copy(ROOT / "README.md", tmp_path)
    stated = nbformat.v4.new_markdown_cell(
        "The notebook runs in about 9 seconds and 0.1 GB of memory."
    )
    code = (
        "import time\nheld = bytearray(300_000_000)\nend = time.process_time() + 1\n"
        "while time.process_time() < end:\n    pass"
    )
    for stem, source in (("01_forward_pass", code), ("02_backward_pass", "1 / 0")):
        book = nbformat.v4.new_notebook(cells=[stated, nbformat.v4.new_code_cell(source)])
        nbformat.write(book, tmp_path / "chapters" / f"{stem}.ipynb")
    monkeypatch.setattr(measure_chapters, "ROOT", tmp_path)
    for function in ("write_stated", "stored_times", "store"):
        monkeypatch.setattr(
            getattr(measure_chapters, function), "__defaults__", (tmp_path,), raising=True
        )
    assert measure_chapters.main([]) == 1, "one of them fails"
    assert "02_backward_pass: stopped" in capsys.readouterr().out
    times = json.loads((tmp_path / measure_chapters.TIMES).read_text(encoding="utf-8"))["chapters"]
    assert list(times) == ["01_forward_pass"]
    found = times["01_forward_pass"]
    assert found["gigabytes"] > 0.3
    assert found["seconds"] > 1 < found["processor seconds"]
