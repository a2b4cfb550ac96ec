"""Records in JSON values of every shape, and mistakes that are named by line and column."""

import doctest

import pytest

from minigpt.data import json_records
from minigpt.data.json_records import json_kind, opened, parse_json, records_in
from minigpt.support.errors import DataError


def test_docstrings_examples():
    result = doctest.testmod(json_records)
    assert (result.attempted, result.failed) == (1, 0)


@pytest.mark.parametrize(
    ("value", "records"),
    [
        ([{"a": 1}], [{"a": 1}]),
        ({"version": "2", "data": [{"a": 1}]}, [{"a": 1}]),
        ({"a": ["x", "y"], "b": ["z", "w"]}, [{"a": "x", "b": "z"}, {"a": "y", "b": "w"}]),
        ({"a": ["x", "y"], "b": ["z"]}, {"a": ["x", "y"], "b": ["z"]}),  # no columns: no records
        ({"a": ["x", "y"]}, {"a": ["x", "y"]}),
        ({"data": [], "text": "x"}, [{"data": [], "text": "x"}]),
        ({"messages": [{"role": "user"}]}, [{"messages": [{"role": "user"}]}]),
        (3, 3),
    ],
)
def test_records_are_found_in_every_shape(value, records):
    assert records_in(value) == records


def test_articles_give_each_question_with_its_context_and_place():
    questions = [{"question": "q1"}, "none", {"question": "q3"}]
    article = {"paragraphs": [{"context": "c", "qas": questions}, {"context": "d", "qas": None}]}
    rows = list(opened(article, "a.json, item 2"))
    assert [where for where, _ in rows] == [
        *(f"a.json, item 2, paragraph 1, question {n}" for n in (1, 2, 3)),
        "a.json, item 2, paragraph 2",
    ]
    first, second, third, fourth = (record for _, record in rows)
    assert first == {"context": "c", "question": "q1", "opening": "c"}
    assert third["question"] == "q3"
    assert isinstance(second, DataError)
    assert "without questions" in fourth.what
    assert list(opened({"a": 1}, "here")) == [("here", {"a": 1})]


@pytest.mark.parametrize(
    ("text", "where", "remedy"),
    [
        ('{"a": 1,}', "t, line 1, column", "correct it"),
        ("[1,\n 2,, 3]", "t, line 2, column 4", "correct it"),
        ('{"a": 1}\n{"a": 2}', "t, line 2, column 1", "one value in each line"),
        ("[" * 100_000, "t", "correct it"),
    ],
)
def test_a_mistake_is_named_by_line_and_column(text, where, remedy):
    with pytest.raises(DataError, match="bad JSON") as error:
        parse_json(text, "t")
    assert error.value.where.startswith(where)
    assert remedy in error.value.remedy


def test_kinds_are_named_in_words():
    values = [{}, [], "x", True, None, 3, 1.5]
    names = ["an object", "a list", "a text", "true or false", "null", "a number", "a number"]
    assert [json_kind(value) for value in values] == names
