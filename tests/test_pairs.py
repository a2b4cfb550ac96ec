"""Rows of preferences and prompts without answers, in the forms in which public sets come."""

import json
from functools import partial

import pytest
from helpers import write

from minigpt.batching.examples import Example, ExampleConfig, load_examples, recognized
from minigpt.batching.pairs import to_pair, to_prompt
from minigpt.data.decoding import ReadCounts
from minigpt.support.errors import DataError

USER = {"role": "user", "content": "Hi"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("Hello.", "What?"))
TOLD = {"from": "gpt", "value": "Hello."}, {"from": "gpt", "value": "What?"}
FORMS = {  # each of them: Hi -> Hello. rather than What?
    "texts": {"prompt": "Hi", "chosen": "Hello.", "rejected": "What?", "score": 3},
    "question": {"question": "Hi", "chosen": "Hello.", "rejected": "What?"},
    "instruction": {"instruction": "Hi", "input": "", "chosen": "Hello.", "rejected": "What?"},
    "responses": {"prompt": "Hi", "chosen_response": "Hello.", "rejected_response": "What?"},
    "whole conversations": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "ultrafeedback": {
        "prompt": "Hi",
        "chosen": [USER, GOOD],
        "rejected": [USER, BAD],
        "messages": [USER, GOOD],
    },
    "messages in three": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "answers in messages": {"prompt": "Hi", "chosen": [GOOD], "rejected": [BAD]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": TOLD[0],
        "rejected": TOLD[1],
    },
    "openai": {
        "input": {"messages": [USER]},
        "preferred_output": [GOOD],
        "non_preferred_output": [BAD],
    },
    "hh": {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: What?",
    },
    "numbered": {
        "prompt": "Hi",
        "response_0": "What?",
        "response_1": "Hello.",
        "better_response_id": 1,
    },
    "shp": {"history": "Hi", "human_ref_A": "Hello.", "human_ref_B": "What?", "labels": 1},
}


def pairs_of(path, rejected=None, **settings) -> tuple[list[Example], ReadCounts]:
    counts = ReadCounts()
    make = partial(to_pair, rejected)
    return load_examples(path, ExampleConfig(**settings), "train", counts, make)[0], counts


def texts_of(example: Example) -> tuple[str, ...]:
    return (*(message["content"] for message in example.messages), example.rejected)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_prompt_and_both_answers(name, tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps(FORMS[name]))
    (pair,), counts = pairs_of(path)
    assert texts_of(pair) == ("Hi", "Hello.", "What?")
    line = recognized([pair], counts, "pairs")
    assert line.startswith("1 pairs: ")
    assert "worse answer from" in line


def test_tables_and_parquet_are_read_alike(tmp_path):
    path = write(tmp_path / "a.csv", "prompt,chosen,rejected\nHi,Hello.,What?\n")
    assert texts_of(pairs_of(path)[0][0]) == ("Hi", "Hello.", "What?")
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    row = FORMS["messages in three"]
    parquet.write_table(arrow.Table.from_pylist([row, row]), tmp_path / "a.parquet")
    assert [texts_of(pair) for pair in pairs_of(tmp_path / "a.parquet")[0]] == [
        ("Hi", "Hello.", "What?")
    ] * 2


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path / "a.csv", "q,good,bad\nHi,Hello.,What?\n")
    (pair,), counts = pairs_of(path, "{bad}", prompt="Say: {q}", answer="{good}")
    assert texts_of(pair) == ("Say: Hi", "Hello.", "What?")
    assert "worse answer from `bad`" in recognized([pair], counts, "pairs")


def test_what_prefers_nothing_is_left_out_and_counted(tmp_path):
    rows = [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(5)]
    rows += [{"prompt": "p", "chosen": "a", "rejected": "a"}]
    rows += [{"prompt": "p", "chosen": "a", "rejected": None}]
    rows += [{"chosen": [USER, GOOD], "rejected": [{**USER, "content": "Ho"}, BAD]}]
    found, counts = pairs_of(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert len(found) == 5
    assert {note for note in counts.notes if "left out" in note} == {
        "records left out: two equal answers",
        "records left out: no second answer",
        "records left out: answers to two different prompts",
    }


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"prompt": "Hi", "answer": "Hello."}, "no better and worse answer.*--rejected"),
        ({"chosen": "a", "rejected": "b"}, "not to be found"),
        (["a"], "a list where an object is expected"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_line(row, cause, tmp_path):
    good = json.dumps(FORMS["texts"])
    path = write(tmp_path / "a.jsonl", f"{good}\n{json.dumps(row)}")
    with pytest.raises(DataError, match=cause) as error:
        pairs_of(path)
    assert "line 2" in str(error.value)


# --- prompts ---

ASKED = {
    "text": ({"prompt": "Hi", "level": 3}, ""),
    "problem": ({"problem": "Hi", "solution": "Hello."}, "Hello."),
    "answer": ({"question": "Hi", "answer": "Hello."}, "Hello."),
    "messages": ({"messages": [USER]}, ""),
    "bare messages": ([USER], ""),
    "answered messages": ({"messages": [USER, GOOD]}, "Hello."),
    "messages and a target": ({"prompt": [USER], "answer": 42}, "42"),
}


@pytest.mark.parametrize("name", ASKED)
def test_prompts_come_with_or_without_an_answer(name, tmp_path):
    row, answer = ASKED[name]
    path = write(tmp_path / "a.jsonl", json.dumps(row))
    (example,), _ = load_examples(path, ExampleConfig(), make=to_prompt)
    assert [message["content"] for message in example.messages] == ["Hi", answer]
    assert example.record == (row if isinstance(row, dict) else {"messages": row})


def test_a_column_of_prompts_can_be_named(tmp_path):
    path = write(tmp_path / "a.csv", "n,ask\n1,Hi\n")
    config = ExampleConfig(prompt="Say: {ask}", answer="")
    (example,), _ = load_examples(path, config, make=to_prompt)
    assert example.messages[0]["content"] == "Say: Hi"
    assert example.record == {"n": "1", "ask": "Hi"}


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"prompt": " "}, "an empty prompt"),
        ({"prompt": [USER, GOOD]}, "does not end with the user"),
        ({"a": "b"}, "not to be found"),
    ],
)
def test_what_asks_nothing_is_refused(row, cause, tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps(row))
    with pytest.raises(DataError, match=cause):
        load_examples(path, ExampleConfig(), make=to_prompt)
