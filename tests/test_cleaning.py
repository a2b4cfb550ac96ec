"""Cleaning the user's own files: what is read, what is removed, and no leak between the sides."""

import itertools
import json
import re

import pytest
from helpers import write

from minigpt.data.cleaning import CleanConfig, Cleaned, clean_files, clean_text
from minigpt.support.errors import ConfigError, DataError


def removed(cleaned: Cleaned) -> list[int]:
    """Return how many documents each step after reading removed."""
    counts = [step.documents for step in cleaned.steps]
    return [before - after for before, after in itertools.pairwise(counts)]


def texts(cleaned: Cleaned, field: str = "text") -> list[str]:
    return [record.get(field, record.get("1")) for record in (*cleaned.train, *cleaned.validation)]


SENTENCES = [
    f"Sentence {n} speaks of {n * 7} apples and {n * n} pears in a row." for n in range(300)
]


# --- cleaning one text ---


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("cafe\u0301", "café"),
        ("a\r\nb\rc\u2028d\u0085e\u2029f", "a\nb\nc\nd\ne\n\nf"),
        ("a\x00b\x07c\x1b[0m\x7f\u009b", "abc[0m"),
        ("\ufeffa\ufeffb", "ab"),
        ("a \t\n b\u00a0\n\n\nc", "a\n b\n\n\nc"),
        ("\n\n  a\n\n", "  a"),
        ("tab\tstays", "tab\tstays"),
        ("👩\u200d👧 नमस्\u200dते", "👩\u200d👧 नमस्\u200dते"),
        ("Ａ１ﬁ½", "Ａ１ﬁ½"),
        ("", ""),
    ],
)
def test_clean_text(raw, clean):
    assert clean_text(raw) == clean
    assert clean_text(clean) == clean


def test_unicode_forms():
    assert clean_text("ＡＢＣﬁ e\u0301", "NFKC") == "ABCfi é"
    assert clean_text("e\u0301", "none") == "e\u0301"


def test_gutenberg_frame_is_cut(data_dir):
    text = clean_text((data_dir / "alice" / "11-0.txt").read_text("utf-8"))
    assert "Project Gutenberg" not in text
    assert "Alice was beginning to get very tired" in text
    assert text.rstrip().endswith("THE END")
    assert clean_text("*** START OF a quarrel\nx") == "*** START OF a quarrel\nx"


# --- reading ---


@pytest.mark.parametrize(
    ("name", "data", "options"),
    [
        ("a.txt", "one\n\ntwo\n\nthree", {"separator": "\\n\\n"}),
        ("a.txt", "one<|endoftext|>two<|endoftext|>\nthree", {"separator": "<|endoftext|>"}),
        ("a.jsonl", '{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n', {}),
        ("a.json", '[{"text": "one"}, {"text": ["two"]}, "three"]', {}),
        ("a.csv", "id,text\n1,one\n2,two\n3,three\n", {}),
        ("a.csv", '\ufefftext,id\r\none,"1,2"\r\n"two",2\r\nthree,"""q"""\r\n', {}),
        ("a.tsv", 'id\ttext\n"1\tone\n2"\ttwo\n3\tthree\n', {}),
        ("a.tsv", "x\tone\ny\ttwo\nz\tthree", {"columns": ("label", "text")}),
        ("a.tsv", "x\tone\ny\ttwo\nz\tthree", {"field": ("1",)}),
        ("a.csv", "text,,\none,,\ntwo,,\nthree,,\n", {}),
        ("a.data", "x\tone\ny\ttwo\nz\tthree", {"columns": ("label", "text"), "format": "tsv"}),
    ],
)
def test_every_format_gives_the_documents(name, data, options, tmp_path):
    path = write(tmp_path / name, data)
    cleaned = clean_files([path], CleanConfig(validation_fraction=0.3, **options))
    assert cleaned.steps[0].documents == 3
    joined = "".join(text if isinstance(text, str) else text[0] for text in texts(cleaned))
    assert sorted(joined.replace("\n", "")) == sorted("onetwothree")


def test_records_keep_all_their_fields(tmp_path):
    rows = [{"label": n % 2, "text": text, "more": [text]} for n, text in enumerate(SENTENCES)]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    cleaned = clean_files([path], CleanConfig(near=0))
    both = [*cleaned.train, *cleaned.validation]
    assert sorted(both, key=str) == sorted(rows, key=str)


@pytest.mark.parametrize(
    ("name", "data", "cause", "remedy"),
    [
        ("a.csv", "id,body\n1,x\n", "no column 'text'; the first line has 'id', 'body'", "--field"),
        ("a.csv", "id,text,text\n1,x,y\n", "a column name stands twice", "a name of its own"),
        ("a.tsv", "ham\thello\n", "no column 'text'", "--field 1"),
        ("a.csv", "id,text\n1,x\n2\n", "line 3.*", "--skip-bad"),
        ("a.csv", "id,text\n1,x\n2,y,z\n", "3 columns where 2 are expected", "correct the line"),
        ("a.csv", 'id,text\n1,"x"y\n', "bad table.*line 2", ".jsonl"),
        ("a.csv", b"id,text\n1,\xff\n", "invalid UTF-8: byte 0xFF.*byte 10", "--errors replace"),
        ("a.csv", "text\nx\n".encode("utf-16"), "UTF-16 text", "save the file as UTF-8"),
        ("a.jsonl", '{"text": "x"}\n{"text": 1}\n', "holds a number.*line 2|line 2", "--field"),
        ("a.jsonl", '{"text": "x"}\n{"txt": "y"}\n', "no field 'text'; it has txt", "--field txt"),
        ("a.jsonl", '{"text": "x"}\n{"text": \n', "bad JSON.*line 2", "correct it"),
        ("a.json", '{"text": 3}', "an object where an array", "one array"),
        ("a.txt", b"ok \xc3(", "invalid UTF-8: byte 0xC3.*byte 3", "--errors replace"),
        ("a.txt", "x", "1 documents are left", "--separator"),
        ("a.jsonl", '{"text": "x"}\n' * 9, "1 documents are left|too few", "--separator"),
        ("a.jsonl", '{"text": " "}\n' * 9, "0 documents are left", "give more text"),
    ],
)
def test_bad_files_are_named(name, data, cause, remedy, tmp_path):
    path = write(tmp_path / name, data)
    with pytest.raises(DataError) as caught:
        clean_files([path], CleanConfig())
    assert name in str(caught.value)
    assert re.search(cause, str(caught.value), re.DOTALL)
    assert remedy in str(caught.value)


def test_skip_bad_counts_and_has_a_limit(tmp_path):
    lines = ["id,text", *(f"{n},{text}" for n, text in enumerate(SENTENCES))]
    path = write(tmp_path / "a.csv", "\n".join([*lines, "bad"]))
    cleaned = clean_files([path], CleanConfig(skip_bad=True))
    assert cleaned.counts.skipped == 1
    assert cleaned.steps[0].documents == 300
    write(path, "\n".join([*lines, *["bad"] * 10]))
    with pytest.raises(DataError, match=r"10 of 310 records are bad, more than 1%"):
        clean_files([path], CleanConfig(skip_bad=True))


def test_replaced_bytes_are_counted(tmp_path):
    path = write(tmp_path / "a.csv", b"text\none \xff\ntwo\nthree\n")
    cleaned = clean_files([path], CleanConfig(errors="replace", validation_fraction=0.4))
    assert cleaned.counts.replaced == 1
    assert "one \ufffd" in "".join(texts(cleaned))


@pytest.mark.parametrize("value", ["../../secret.txt", "/etc/passwd", "file:///etc/passwd"])
def test_path_in_a_field_is_only_text(value, tmp_path):
    write(tmp_path / "secret.txt", "secret")
    rows = "".join(f"{value},{text}\n" for text in SENTENCES[:5])
    path = write(tmp_path / "in" / "deep" / "a.csv", "path,text\n" + rows)
    cleaned = clean_files([path], CleanConfig(field=("text", "path"), near=0))
    assert {record["path"] for record in (*cleaned.train, *cleaned.validation)} == {value}


# --- repeats and sides ---


def test_each_step_removes_what_it_should(tmp_path):
    rows = [
        *SENTENCES,
        SENTENCES[0],  # exact
        SENTENCES[1],
        SENTENCES[2] + "  \r",  # the same after cleaning
        SENTENCES[3].upper() + "!!",  # near
        " ",
        "\x00",
        "tiny",
    ]
    lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
    cleaned = clean_files([write(tmp_path / "a.jsonl", lines)], CleanConfig(min_characters=5))
    assert [step.name for step in cleaned.steps][:3] == ["read", "without exact repeats", "cleaned"]
    assert cleaned.steps[0].documents == 307
    assert removed(cleaned) == [2, 0, 3, 1, 1]
    assert cleaned.steps[2].changed == 3
    assert sorted(texts(cleaned)) == sorted(SENTENCES)
    assert len(texts(cleaned)) == len(cleaned.train) + len(cleaned.validation)


def test_near_repeats_can_be_kept(tmp_path):
    rows = [*SENTENCES, SENTENCES[3].upper()]
    lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
    cleaned = clean_files([write(tmp_path / "a.jsonl", lines)], CleanConfig(near=0))
    assert len(texts(cleaned)) == 301


def test_a_sentence_with_two_translations_stays_on_one_side(tmp_path):
    rows = [f"{text}\t第{n}句\n{text}\t译文之{n}\n" for n, text in enumerate(SENTENCES)]
    path = write(tmp_path / "a.tsv", "".join(rows))
    config = CleanConfig(field=("english", "chinese"), columns=("english", "chinese"), near=0)
    cleaned = clean_files([path], config)
    assert len(cleaned.train) + len(cleaned.validation) == 600
    sides = [{row["english"] for row in side} for side in (cleaned.train, cleaned.validation)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) > 10


@pytest.mark.parametrize("count", [2, 5, 30, 300])
@pytest.mark.parametrize("plain", [True, False])
def test_no_document_stands_on_both_sides(count, plain, tmp_path):
    rows = [{"text": text} if plain else {"text": text, "n": 1} for text in SENTENCES[:count]]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    cleaned = clean_files([path], CleanConfig(near=0))
    train, validation = (
        {row["text"] for row in side} for side in (cleaned.train, cleaned.validation)
    )
    assert train and validation  # noqa: PT018
    assert not train & validation
    assert cleaned.overlap == 0
    if not plain:
        assert train | validation == set(SENTENCES[:count])


def test_the_same_files_give_the_same_result(tmp_path):
    path = write(tmp_path / "a.txt", "\n".join(SENTENCES))
    config = CleanConfig(separator="\n")
    assert clean_files([path], config) == clean_files([path], config)


@pytest.mark.slow
def test_sms_spam_has_403_exact_repeats(data_dir):
    config = CleanConfig(columns=("label", "text"))
    cleaned = clean_files([data_dir / "sms-spam" / "sms.tsv"], config)
    assert cleaned.steps[0].documents == 5574
    assert cleaned.steps[1].documents == 5574 - 403
    assert removed(cleaned)[4] > 20
    assert not {row["text"] for row in cleaned.train} & {row["text"] for row in cleaned.validation}
    assert {row["label"] for row in cleaned.validation} == {"ham", "spam"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("near", 0.1),
        ("near", 2.0),
        ("near", float("nan")),
        ("min_characters", 0),
        ("validation_fraction", 0.0),
        ("validation_fraction", float("nan")),
        ("field", ()),
        ("format", "parquet"),
        ("unicode", "NFD"),
    ],
)
def test_impossible_settings(option, value):
    with pytest.raises(ConfigError, match=f"{option} = .* is not possible.*--.*give"):
        CleanConfig(**{option: value})
