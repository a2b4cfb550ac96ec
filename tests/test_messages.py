"""One record becomes a conversation: by templates, or by the layout that it has."""

import pytest

from minigpt.batching.layouts import Missing
from minigpt.batching.messages import (
    ExampleConfig,
    as_text,
    compared,
    fill_template,
    to_example,
    turns,
)
from minigpt.data.decoding import ReadCounts
from minigpt.data.formats import DataFile
from minigpt.support.errors import DataError


def example_of(tmp_path, record: object, **settings):
    """Make an example of a record that stands in line 3 of a file."""
    path = tmp_path / "reviews-test.jsonl"
    path.write_text("{}", encoding="utf-8")
    file = DataFile(path, str(path), path.open)
    return to_example(file, ExampleConfig(**settings), ReadCounts(), record, "reviews:3")


def test_a_template_puts_columns_in_their_places_and_a_doubled_brace_stands_for_itself():
    record = {"a": "x", "b": 2}
    assert fill_template("{a}: {{b}} {b}", record, "here", "strict") == "x: {b} 2"
    with pytest.raises(DataError, match=r"no column 'c'; there are"):
        fill_template("{c}", record, "here", "strict")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (1.5, "1.5"), (True, "true"), (["a", "b"], "a\nb"), (float("inf"), "inf")],
)
def test_values_become_texts(value, text):
    assert as_text(value, "label", "here", "strict") == text


def test_what_is_no_text_is_refused():
    with pytest.raises(DataError, match=r"column 'x' holds an? .*not a text"):
        as_text({"a": 1}, "x", "here", "strict")


def test_equal_texts_are_equal_whatever_their_case_and_spaces():
    assert compared(turns("Who  is it?", "a")) == compared(turns("who is it?", "a"))
    assert compared(turns("Who is it?", "a")) != compared(turns("Who was it?", "a"))


def test_templates_win_over_the_usual_layouts(tmp_path):
    record = {"text": "fine", "label": "good", "other": "z"}
    usual = example_of(tmp_path, record)
    assert usual.messages == turns("fine", "good")
    named = example_of(tmp_path, record, prompt="Is {text} {other}?", answer="{label}!")
    assert named.messages == turns("Is fine z?", "good!")
    assert named.where == "reviews:3"


def test_a_record_without_an_answer_is_told_apart_from_a_wrong_one(tmp_path):
    assert isinstance(example_of(tmp_path, {"text": "fine", "label": None}), Missing)
    with pytest.raises(DataError):
        example_of(tmp_path, ["no", "object"])
