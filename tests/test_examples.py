"""Examples of the user's own: what is read, how templates are filled, how bad lines are told."""

import csv
import json
import os
import zipfile
from pathlib import Path

import pytest
from helpers import write

from minigpt.batching.examples import (
    ExampleConfig,
    columns_of,
    load_examples,
    overlap,
    read_examples,
    split_examples,
)
from minigpt.support.errors import ConfigError, DataError

GOOD = {"prompt": "1 + 1?", "answer": "2"}


def lines(path: Path, records: list) -> Path:
    """Write a .jsonl file; text is taken as it is."""
    rows = [row if isinstance(row, str) else json.dumps(row) for row in records]
    return write(path, "\n".join(rows) + "\n")


def pairs(conversations: list[list[dict]]) -> list[tuple[str, str]]:
    """Return prompt and answer of each conversation of two messages."""
    for messages in conversations:
        assert [message["role"] for message in messages] == ["user", "assistant"]
        assert all(message.keys() == {"role", "content"} for message in messages)
    return [(question["content"], answer["content"]) for question, answer in conversations]


# --- layouts ---


@pytest.mark.parametrize(
    ("record", "pair"),
    [
        ({"prompt": "a", "answer": "b"}, ("a", "b")),
        ({"prompt": "a", "response": "b"}, ("a", "b")),
        ({"completion": "b", "prompt": "a", "id": 7}, ("a", "b")),
        ({"label": "1", "text_a": "a"}, ("a", "1")),
        ({"sentence": "a", "label": "b"}, ("a", "b")),
        ({"question": "a", "answer": "b"}, ("a", "b")),
        ({"text": "a", "label": 1}, ("a", "1")),
        ({"instruction": "Do", "input": "it", "output": "b"}, ("Do\n\nit", "b")),
        ({"instruction": "Do", "input": "", "output": "b"}, ("Do", "b")),
        ({"instruction": "Do", "output": "b"}, ("Do", "b")),
        (
            {"instruction": "Do", "context": "c", "response": "b", "category": "x"},
            ("Do\n\nc", "b"),
        ),
    ],
)
def test_usual_layouts_are_recognized(record, pair, tmp_path):
    assert pairs(read_examples(lines(tmp_path / "a.jsonl", [record]))) == [pair]


def test_messages_are_taken_as_they_are(tmp_path):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a {b}", "name": "Tom"},
        {"role": "assistant", "content": "c"},
    ]
    found = read_examples(lines(tmp_path / "a.jsonl", [{"messages": messages}]))
    assert found == [[{k: m[k] for k in ("role", "content")} for m in messages]]


def test_a_json_array_is_read_too(tmp_path):
    path = write(tmp_path / "a.json", json.dumps([GOOD, GOOD | {"answer": "two"}]))
    assert pairs(read_examples(path)) == [("1 + 1?", "2"), ("1 + 1?", "two")]


# --- templates ---


def test_templates_put_columns_in_their_places_and_nothing_else(tmp_path):
    record = {"a": "x{b}", "b": "y.__class__", "a.b": "z", "list": ["one", "two"], "yes": True}
    path = lines(tmp_path / "a.jsonl", [record])
    prompt = r"{{{a}}} {a.b}\n{list} {yes} \"{b}\""
    found = pairs(read_examples(path, prompt=prompt, answer="{b}!"))
    assert found == [('{x{b}} z\none\ntwo true \\"y.__class__\\"', "y.__class__!")]


@pytest.mark.parametrize("template", ["{b.__class__}", "{b!r}", "{b[0]}", "{}", "{c}", "{b:>9}"])
def test_an_unknown_column_is_refused_and_the_columns_listed(template, tmp_path):
    path = lines(tmp_path / "a.jsonl", [{"a": "x", "b": "y"}])
    with pytest.raises(DataError, match=r"no column .*there are 'a', 'b'.*line 1.*--prompt"):
        read_examples(path, prompt=template, answer="{a}")


def test_columns_of_a_template():
    assert columns_of("{a} {{b}} {c d}{1}") == ["a", "c d", "1"]


@pytest.mark.parametrize(("given", "missing"), [("prompt", "--answer"), ("answer", "--prompt")])
def test_one_template_alone_is_refused(given, missing):
    with pytest.raises(ConfigError, match=f"no {missing}.*give both"):
        ExampleConfig(**{given: "{a}"})


# --- bad lines ---

BAD_LINES = {
    "bad_json": ('{"prompt": "a", "answer"', "bad JSON", "correct it"),
    "cut_json": ('{"prompt": ', "bad JSON", "correct it"),
    "missing_key": ({"prompt": "a"}, "not to be found among the columns 'prompt'", "--answer"),
    "other_keys": ({"q": "a", "a": "b"}, "columns 'q', 'a'", "--prompt"),
    "not_an_object": (["a", "b"], "a list where an object", 'write {"prompt"'),
    "null": ("null", "null where an object", 'write {"prompt"'),
    "wrong_type": ({"prompt": "a", "answer": {"b": 1}}, "'answer' holds an object", "--skip-bad"),
    "null_value": ({"prompt": None, "answer": "b"}, "'prompt' holds null", "--skip-bad"),
    "empty_prompt": ({"prompt": "", "answer": "b"}, "an empty prompt", "--skip-bad"),
    "half_character": ('{"prompt": "\\ud83d", "answer": "b"}', "lone surrogate", "--errors"),
    "no_text": ({"messages": [{"role": "user", "content": 3}]}, "no text but int", "message 1"),
    "bad_role": ({"messages": [{"role": "bot", "content": "a"}]}, "role 'bot'", "assistant"),
    "no_reply": ({"messages": [{"role": "user", "content": "a"}]}, "no answer", "add a message"),
    "no_prompt": ({"messages": [{"role": "assistant", "content": "a"}]}, "to nothing", "begin"),
    "half_in_messages": (
        '{"messages": [{"role": "user", "content": "\\ud83d"}]}',
        "lone surrogate",
        "--errors",
    ),
    "no_list": ({"messages": "a"}, "no messages", "write messages as"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named_with_cause_and_remedy(case, tmp_path):
    bad, cause, remedy = BAD_LINES[case]
    path = lines(tmp_path / "a.jsonl", [*[GOOD] * 6, bad, *[GOOD] * 5])
    with pytest.raises(DataError, match="line 7") as error:
        read_examples(path)
    error.match(cause)
    error.match(remedy)
    assert "\n" not in str(error.value)


def test_missing_key_names_the_line(tmp_path):
    path = lines(tmp_path / "a.jsonl", [GOOD, {"prompt": "a"}])
    with pytest.raises(DataError, match=r"a\.jsonl, line 2 "):
        read_examples(path)


def test_skip_bad_counts_and_fails_above_one_percent(tmp_path):
    bad = [content for content, _, _ in BAD_LINES.values()]
    path = lines(tmp_path / "a.jsonl", [*[GOOD] * 1584, *bad])
    with pytest.raises(DataError):
        load_examples(path, ExampleConfig())
    examples, skipped = load_examples(path, ExampleConfig(skip_bad=True))
    assert (len(examples), skipped) == (1584, 16)
    path = lines(tmp_path / "b.jsonl", [*[GOOD] * 1583, *bad])
    with pytest.raises(DataError, match=r"16 of 1599 records are bad, more than 1%.*line 1584"):
        load_examples(path, ExampleConfig(skip_bad=True))


def test_no_bytes_and_no_examples(tmp_path):
    with pytest.raises(DataError, match="0 bytes"):
        read_examples(write(tmp_path / "a.jsonl", ""))
    with pytest.raises(DataError, match=r"no examples.*give a file"):
        read_examples(write(tmp_path / "b.jsonl", "\n\n"))
    with pytest.raises(DataError, match="no examples"):
        read_examples(write(tmp_path / "b.txt", "\n \n"))
    with pytest.raises(DataError, match=r"no such file.*data list"):
        read_examples(tmp_path / "c.jsonl")


def test_invalid_utf8_names_the_byte_and_the_choice(tmp_path):
    path = write(tmp_path / "a.tsv", b"good\ta\nbad\t\xff\n")
    with pytest.raises(DataError, match=r"0xFF.*byte 11.*--errors replace"):
        read_examples(path, "{1}", "{0}")
    assert pairs(read_examples(path, "{1}", "{0}", errors="replace"))[1] == ("\ufffd", "bad")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_out_of_the_folder_is_refused_and_paths_are_texts(tmp_path):
    secret = lines(tmp_path / "secret.jsonl", [GOOD])
    folder = lines(tmp_path / "data" / "a.jsonl", [{"text": "../secret.jsonl", "label": "/etc"}])
    assert pairs(read_examples(folder.parent)) == [("../secret.jsonl", "/etc")]
    (tmp_path / "data" / "b.jsonl").symlink_to(secret)
    with pytest.raises(DataError, match=r"leads out.*b\.jsonl.*copy the file"):
        read_examples(tmp_path / "data")


# --- tables ---

ROWS = [["good", "a, b"], ["bad", 'say "c"'], ["bad", "two\nlines"]]


@pytest.mark.parametrize("header", [True, False])
def test_csv_with_quotes_with_and_without_a_header_line(header, tmp_path):
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["mood", "said"], *ROWS] if header else ROWS)
    names = ("{said}", "{mood}") if header else ("{1}", "{0}")
    expected = [(text, label) for label, text in ROWS]
    assert pairs(read_examples(tmp_path / "a.csv", *names)) == expected
    if not header:
        named = read_examples(tmp_path / "a.csv", "{said}", "{mood}", columns=("mood", "said"))
        assert pairs(named) == expected


@pytest.mark.parametrize("suffix", [".tsv", ".txt"])
def test_tabs_part_columns_and_quotes_are_text(suffix, tmp_path):
    path = write(tmp_path / f"a{suffix}", '\ufeffgood\ta "b\r\nbad\t"c"\r\n')
    assert pairs(read_examples(path, "{1}", "{0}")) == [('a "b', "good"), ('"c"', "bad")]


def test_a_row_with_another_number_of_columns_is_named(tmp_path):
    path = write(tmp_path / "a.tsv", "text\tlabel\na\tgood\nb\nc\tbad\n")
    with pytest.raises(DataError, match=r"1 columns where 2 are expected.*line 3.*--skip-bad"):
        read_examples(path)


def test_a_table_without_header_line_is_told_by_its_columns(tmp_path):
    path = write(tmp_path / "a.tsv", "a b\tgood\nc d\tbad\n")
    with pytest.raises(DataError, match=r"columns 'a b', 'good'.*without a header line \{0\}"):
        read_examples(path)


# --- folders, patterns, archives, bAbI ---


@pytest.mark.parametrize("names", [("film.pos", "film.neg"), ("pos.txt", "neg.txt")])
def test_one_file_of_lines_for_each_label(names, tmp_path):
    for name, content in zip(names, ("fine\n\n great \n", "sad\n"), strict=True):
        write(tmp_path / "data" / name, content)
    write(tmp_path / "data" / "README.txt", "not data")
    expected = {("fine", "pos"), ("great", "pos"), ("sad", "neg")}
    for word in (tmp_path / "data", tmp_path / "data" / "[!R]*"):
        assert set(pairs(read_examples(word))) == expected


def test_a_pattern_without_match_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no file matches the pattern.*quotes"):
        read_examples(tmp_path / "*.tsv")


def test_an_archive_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/train.tsv", "label\ttext\n1\tfine\n")
        archive.writestr("x/_about.txt", "nothing")
    for _ in range(2):  # the second time it is there already
        assert pairs(read_examples(tmp_path / "a.zip")) == [("fine", "1")]


BABI = """1 Mary went to the park.
2 Tom took the ball.
3 Where is Mary? \tpark\t1
4 Tom left it.
5 Who left? \tTom\t4
1 Tom slept.
2 Who slept?\tTom\t1
"""


def test_babi_gives_each_question_with_the_story_so_far(tmp_path):
    path = write(tmp_path / "qa1_train.txt", BABI)
    start = "Mary went to the park. Tom took the ball."
    assert pairs(read_examples(path)) == [
        (f"{start}\nWhere is Mary?", "park"),
        (f"{start} Tom left it.\nWho left?", "Tom"),
        ("Tom slept.\nWho slept?", "Tom"),
    ]
    examples, _ = load_examples(path, ExampleConfig())
    assert [example.group for example in examples] == ["qa1"] * 3
    assert examples[0].key == examples[1].key != examples[2].key, "a story stays on one side"
    question_only = read_examples(path, "{question}", "{answer}")
    assert pairs(question_only)[0] == ("Where is Mary?", "park")


def test_a_bad_line_of_babi_is_named(tmp_path):
    path = write(tmp_path / "a.txt", BABI.replace("4 Tom left it.", "4 Tom left it.\tpark"))
    with pytest.raises(DataError, match=r"no line of a bAbI story.*line 4.*parted by tabs"):
        read_examples(path)


# --- two sides ---


def test_equal_prompts_stay_on_one_side_whatever_else_is_there(tmp_path):
    records = [{"prompt": f"p {n % 500}", "answer": f"{n}"} for n in range(1500)]
    records += [{"prompt": f"P  {n}", "answer": "upper"} for n in range(500)]
    examples, _ = load_examples(lines(tmp_path / "a.jsonl", records), ExampleConfig())
    train, held_out = split_examples(examples, 0.1)
    assert len(train) + len(held_out) == 2000
    assert 100 < len(held_out) < 300
    assert overlap(train, held_out) == 0
    few_train, few_held_out = split_examples(examples[:300], 0.1)
    assert set(map(id, few_train)) <= set(map(id, train))
    assert set(map(id, few_held_out)) <= set(map(id, held_out))


def test_overlap_counts_prompts_without_regard_to_case_and_spaces(tmp_path):
    records = [{"prompt": p, "answer": "a"} for p in ("one two", "three", "One  Two", "four")]
    examples, _ = load_examples(lines(tmp_path / "a.jsonl", records), ExampleConfig())
    assert overlap(examples[:2], examples[2:]) == 0.5


# --- real data ---


def test_data_sets_are_found_by_name_with_their_columns(data_dir):
    examples, _ = load_examples("sms-spam", ExampleConfig("{text}", "{label}"))
    assert len(examples) == 5574
    assert {example.messages[1]["content"] for example in examples} == {"ham", "spam"}
    train, held_out = split_examples(examples, 0.1)
    assert overlap(train, held_out) == 0, "403 messages stand there several times"
    tests, _ = load_examples("babi", ExampleConfig(), split="test")
    assert len(tests) == 6000
    with pytest.raises(DataError, match=r"a data set without test files.*give examples"):
        load_examples("sms-spam", ExampleConfig(), split="test")


def test_a_data_set_that_is_not_here_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIGPT_DATA", str(tmp_path))
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path))
    for split in ("train", "test"):
        with pytest.raises(DataError, match=r"is not here.*data download scitldr"):
            load_examples("scitldr", ExampleConfig("{source}", "{target}"), split)


@pytest.mark.slow
def test_real_folders_of_labels_and_archives_are_read(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path))
    found = pairs(read_examples(data_dir / "rt-polarity"))
    assert len(found) == 10662
    assert {label for _, label in found} == {"pos", "neg"}
    config = ExampleConfig("{text_a}", "{label}")  # of an archive with train.tsv, dev.tsv, test.tsv
    for split, expected in (("train", 9600), ("test", 2400)):
        examples, _ = load_examples(data_dir / "chnsenticorp", config, split)
        assert len(examples) == expected
        assert {example.messages[-1]["content"] for example in examples} == {"0", "1"}


@pytest.mark.parametrize(("number", "text"), [("1e400", "inf"), ("1.0", "1"), ("-0.0", "0")])
def test_a_number_of_any_size_is_a_label(tmp_path, number, text):
    data = "".join(f'{{"text": "line {n}", "label": {number}}}\n' for n in range(4))
    (tmp_path / "my.jsonl").write_text(data, encoding="utf-8")
    found = {messages[-1]["content"] for messages in read_examples(tmp_path / "my.jsonl")}
    assert found == {text}
