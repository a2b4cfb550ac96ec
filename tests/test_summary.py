"""The short report: fits two screens of a terminal, and marks what is right."""

import pytest
from example_report import REPORT, TASK

from minigpt.runs.summary import WIDTH, columns, fold, summary

STORY = "One day Lily took a kite to the hill. " * 12
ZH = "从前，莉莉带着一个风筝去了小山。" * 30
NAMES = ["translation_en_zh", "translation_zh_en", "summary", "title", "sentiment"]
NAMES += ["sentiment_inferred", "topic", "question", "question_one_fact", "question_changed"]
NAMES += ["question_who_has", "story"]


def full() -> dict:
    """Return a report of the size that quickstart makes."""
    tasks = {name: TASK | {"metric": "accuracy"} for name in [*NAMES, "consistent_stories"]}
    tasks["story"] = TASK | {"metric": "accepted"}
    answers = [
        {"task": name, "prompt": f"{STORY}\nWhat is {name}?", "answer": answer, "right": right}
        for name in NAMES
        for answer in (STORY, ZH)
        for right in ([ZH] if name in ("translation_en_zh", "story") else ["by the lake"])
    ]
    return REPORT | {"tasks": tasks, "answers": answers, "samples": [STORY, ZH, STORY]}


def test_it_fits_two_screens_however_long_the_texts_are():
    lines = summary(full()).splitlines()  # every answer is nonsense as long as a story
    assert len(lines) <= 53, "with seven lines of what to do next: 60"
    assert max(map(columns, lines)) <= 100


def test_each_kind_of_task_has_one_example_and_a_score():
    text = summary(full())
    for name in NAMES:
        wanted = name not in ("translation_zh_en", "sentiment", "question")
        assert text.count(f"What is {name}?") == wanted
    assert text.count("90.0 to 96.0 %") == len(NAMES) + 1 - 2
    assert text.count("41.0 % (last mention)") == len(NAMES) + 1 - 2


@pytest.mark.parametrize(
    ("answer", "metric", "said"),
    [
        ("glad", "accuracy", "How? -> glad (right)"),
        (" glad\n", "accuracy", "How? -> glad (right)"),
        ("sad", "accuracy", "How? -> sad (wrong, it is: glad)"),
        ("", "accuracy", "How? -> (nothing) (wrong, it is: glad)"),
        ("sad", "accepted", "How? -> sad\n"),
    ],
)
def test_answers_are_marked(answer, metric, said):
    shown = {"task": "topic", "prompt": "A story.\nHow?", "answer": answer, "right": "glad"}
    report = {"data": "x", "tasks": {"topic": TASK | {"metric": metric}}, "answers": [shown]}
    assert said in summary(report)


def test_a_plain_text_run_has_losses_and_samples_alone():
    text = summary(
        {
            "data": "my.txt",
            "val_loss": 1.25,
            "bits_per_byte": 0.5,
            "samples": ["Line 7"],
            "seconds": {},
        }
    )
    assert "IT WRITES\n  - Line 7" in text
    assert "Unseen text: 1.250 nats a token, 0.500 bits per byte\n" in text + "\n"
    assert "SCORES" not in text
    assert "IT ANSWERS" not in text
    assert summary({"data": "x"}).strip() == ""


@pytest.mark.parametrize("text", [STORY, ZH, STORY + ZH, "x" * 1000, "", "one"])
@pytest.mark.parametrize("most", [1, 3])
def test_lines_are_broken_by_columns_and_cut_with_dots(text, most):
    lines = fold(text, "  - ", most)
    assert 1 <= len(lines) <= most
    assert all(columns(line) <= WIDTH for line in lines)
    assert all(line.startswith("    ") for line in lines[1:])
    assert lines[-1].endswith(" ...") == (columns(text) > most * (WIDTH - 4))
