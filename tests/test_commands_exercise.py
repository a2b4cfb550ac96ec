"""The learner's commands: a copy to work in that nothing overwrites, and what is passed."""

import json
from pathlib import Path

import pytest
from helpers import run
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from minigpt.commands.exercise import changes, find_course, merge, work_on
from minigpt.support.errors import DataError

TEXT = "Write f."
BLANK = 'x = ...  # your code here\ncheck("attention.by_hand", x)'


def answer(source: str, key: str = "attention.by_hand") -> dict:
    return new_code_cell(source, metadata={"tags": [f"answer:{key}"]})


def notebook(*cells: dict) -> dict:
    return json.loads(json.dumps(new_notebook(cells=list(cells))))


def first() -> dict:
    return notebook(
        new_markdown_cell("# 8: exercises"),
        new_code_cell("import math"),
        new_markdown_cell(TEXT),
        answer(BLANK),
        new_markdown_cell("More."),
        answer("y = ...", "y"),
    )


def sources(book: dict) -> list[str]:
    return ["".join(cell["source"]) for cell in book["cells"]]


@pytest.fixture
def course(tmp_path, monkeypatch) -> Path:
    """A course with one exercise; the current folder is a folder inside it."""
    chapters = tmp_path / "chapters"
    (chapters / "exercises").mkdir(parents=True)
    save(chapters, first())
    monkeypatch.chdir(chapters)
    return chapters


def save(chapters: Path, book: dict, folder: str = "exercises") -> Path:
    path = chapters / folder / "08_attention.ipynb"
    path.write_text(json.dumps(book), encoding="utf-8")
    return path


def mine(chapters: Path) -> dict:
    path = chapters / "my_exercises" / "08_attention.ipynb"
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_copy_is_made_once_and_never_overwritten(course, capsys):
    code, out, _ = run(capsys, "exercise", "attention")
    assert code == 0
    assert "yours to work in" in out
    assert mine(course) == first_stored(course)
    save(course, notebook(answer("x = 3")), "my_exercises")
    for words in (["attention"], ["08_attention"], ["8"], ["attention", "--update"]):
        code, out, _ = run(capsys, "exercise", *words)
        assert (code, "stays as it is" in out) == (0, True)
    assert sources(mine(course)) == ["x = 3"]


def first_stored(course: Path) -> dict:
    path = course / "exercises" / "08_attention.ipynb"
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_new_version_is_announced_and_taken_over_only_when_asked(course, capsys):
    run(capsys, "exercise", "attention")
    work = mine(course)
    work["cells"][3]["source"] = 'x = 3\ncheck("attention.by_hand", x)'
    work["cells"][3]["outputs"] = [
        {"name": "stdout", "output_type": "stream", "text": ["✓ attention.by_hand: passed\n"]}
    ]
    work["cells"].insert(4, new_code_cell("print(x)  # my own cell"))
    save(course, work, "my_exercises")

    new = first_stored(course)
    new["cells"][2]["source"] = "Write f, with care."
    new["cells"].append(new_markdown_cell("A fourth question."))
    save(course, new)
    code, out, _ = run(capsys, "exercise", "attention")
    assert code == 0
    assert "kept as it is. There is a new version" in out
    assert "python -m minigpt exercise attention --update" in out
    assert mine(course) == json.loads(json.dumps(work))

    code, out, _ = run(capsys, "exercise", "attention", "--update")
    assert "the old one is 08_attention.before_1.ipynb" in out
    assert sources(mine(course)) == [
        "# 8: exercises",
        "import math",
        "Write f, with care.",
        'x = 3\ncheck("attention.by_hand", x)',
        "print(x)  # my own cell",
        "More.",
        "y = ...",
        "A fourth question.",
    ]
    kept = course / "my_exercises" / "08_attention.before_1.ipynb"
    assert json.loads(kept.read_text(encoding="utf-8")) == json.loads(json.dumps(work))
    assert "stays as it is" in run(capsys, "exercise", "attention")[1]
    assert "■" in run(capsys, "progress")[1]


def test_a_blank_that_changed_is_named_and_the_answer_stays():
    new = first()
    new["cells"][3]["source"] = 'x, z = ..., ...\ncheck("attention.by_hand", (x, z))'
    work = first()
    work["cells"][3]["source"] = "x = 3"
    merged, notes = merge(first(), new, work)
    assert "x = 3" in sources(merged)
    assert notes == ["attention.by_hand: the blank is new, your answer was kept: compare them"]


def test_what_belonged_to_a_question_that_is_gone_is_at_the_end():
    new = first()
    del new["cells"][2:4]
    work = first()
    work["cells"][3]["source"] = "x = 3"
    work["cells"].insert(4, new_code_cell("mine"))
    merged, notes = merge(first(), new, work)
    assert sources(merged)[-2:] == ["x = 3", "mine"]
    assert "2 cells of yours" in notes[0]


def test_an_answer_that_was_split_keeps_both_halves():
    work = first()
    work["cells"][3]["source"] = "x = 1"
    work["cells"].insert(4, answer("x += 1"))
    new = first()
    new["cells"][0]["source"] = "# new title"
    assert sources(merge(first(), new, work)[0])[3:5] == ["x = 1", "x += 1"]


def test_ids_stay_unique():
    work = first()
    work["cells"].insert(1, work["cells"][3] | {"source": "x = 1"})
    ids = [cell["id"] for cell in merge(first(), first(), work)[0]["cells"]]
    assert len(ids) == len(set(ids))


edits = st.lists(st.tuples(st.integers(0, 20), st.sampled_from("eid")), max_size=8)


@given(edits, edits)
@settings(max_examples=80, deadline=None)
def test_no_cell_of_the_readers_is_ever_lost(own, theirs):
    """Whatever both sides did, every source that only the reader has is in the result."""

    def edit(book: dict, changes: list, mark: str) -> dict:
        for number, (place, kind) in enumerate(changes):
            cells = book["cells"]
            place = place % (len(cells) + 1)
            if kind == "i" or place == len(cells):
                cells.insert(place, new_code_cell(f"{mark}{number}"))
            elif kind == "d":
                del cells[place]
            else:
                cells[place] = dict(cells[place], source=f"{mark}{number}")
        return book

    work, new = edit(first(), own, "mine"), edit(first(), theirs, "theirs")
    merged = sources(merge(first(), new, work)[0])
    for source in sources(work):
        assert source in merged or not source.startswith("mine")
    answers = {"x = ...", "y = ..."}
    for cell in new["cells"]:
        replaced = cell.get("metadata", {}).get("tags") or cell["source"] in answers
        assert "".join(cell["source"]) in merged or replaced


def test_equal_notebooks_have_no_changes():
    assert changes(first(), first()) == []
    other = first()
    other["cells"][2]["source"] = "Write g."
    assert changes(first(), other) == [("markdown", "Write g."), ("markdown", TEXT)]


def test_exercises_are_listed_and_a_wrong_name_shows_them(course, capsys):
    assert run(capsys, "exercise")[1] == "08_attention\n"
    run(capsys, "exercise", "attention")
    assert "(you have a copy)" in run(capsys, "exercise")[1]
    code, _, err = run(capsys, "exercise", "atention")
    assert code == 1
    assert "no exercise 'atention'" in err
    assert "choose from attention" in err


def test_a_course_is_found_from_its_folders_and_elsewhere_in_the_checkout(
    course, monkeypatch, tmp_path
):
    for folder in (course, course / "exercises", course.parent):
        monkeypatch.chdir(folder)
        assert find_course() == course
    monkeypatch.setattr("minigpt.__file__", str(tmp_path / "site" / "minigpt" / "__init__.py"))
    monkeypatch.chdir(Path(tmp_path.anchor))
    with pytest.raises(DataError, match=r"no exercises here.*git clone"):
        find_course()


def test_a_broken_copy_is_named_and_left_alone(course):
    source = course / "exercises" / "08_attention.ipynb"
    target = course / "my_exercises" / "08_attention.ipynb"
    work_on(source, target, update=False)
    target.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"not a Jupyter notebook.*restore it"):
        work_on(source, target, update=True)
    assert target.read_text(encoding="utf-8") == "{"


def test_progress_counts_the_last_verdict_that_is_shown(course, capsys):
    assert "08_attention" in run(capsys, "progress")[1]
    assert "not begun" in run(capsys, "progress")[1]
    run(capsys, "exercise", "attention")
    good, bad = "✓ attention.by_hand: passed\n", "✗ attention.by_hand: no\n"
    for printed, squares in ((good, "■"), (good + bad, "□"), (bad + good, "■")):
        work = mine(course)
        work["cells"][3]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": printed}]
        save(course, work, "my_exercises")
        out = run(capsys, "progress")[1]
        assert f"{squares}       {squares.count('■')} of 1" in out
    assert "all passed" in out


@pytest.mark.slow
def test_progress_can_run_the_notebooks_again(course, capsys):
    """What a notebook shows may be old; --rerun is what a teacher would see."""
    run(capsys, "exercise", "attention")
    work = mine(course)
    work["cells"][3]["source"] = (
        'x = ([0.58, 0.21, 0.21, 0.0], 6.12)\ncheck("attention.by_hand", x)'
    )
    save(course, work, "my_exercises")
    assert "0 of 1" in run(capsys, "progress")[1]
    _, out, err = run(capsys, "progress", "--rerun")
    assert "1 of 1" in out, err
