"""Inputs that people bring, planted: each is read, or refused with its remedy, by every command."""

import json
import re
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import run, write
from machinery import ROOT
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression as TheirRegression

from minigpt.baselines import LogisticRegression, bag_of_words
from minigpt.batching.conversations import fit
from minigpt.batching.examples import Example, ExampleConfig, load_examples, own_tests, recognized
from minigpt.batching.messages import to_example
from minigpt.batching.pairs import to_pair, to_prompt
from minigpt.batching.prepare import prepare
from minigpt.data.cleaning import CleanConfig, clean_files
from minigpt.data.corpus import read_documents, read_pieces
from minigpt.data.decoding import ReadCounts, likely_encoding
from minigpt.data.discovery import find_files
from minigpt.data.foreign import MAGIC
from minigpt.data.sniffing import BINARY
from minigpt.data.sources import is_here, load_sources
from minigpt.evaluate import as_items
from minigpt.finetune import FinetuneConfig, read_sides
from minigpt.metrics import rouge_l
from minigpt.scoring import baseline_answers, score_parts
from minigpt.support.errors import ConfigError, DataError
from minigpt.tokenizer import CharTokenizer

PAGE = (ROOT / "docs" / "data_formats.md").read_text("utf-8")
SHOWN = re.findall(
    r"^`([\w.]+)`\n\n```\w*\n(.*?)```\n\n> ([^\n]*)$", PAGE, re.MULTILINE | re.DOTALL
)
MAKERS = {"pairs": partial(to_pair, None), "prompts": to_prompt}
RUSSIAN = "Мама мыла раму, а папа читал газету и пил чай. " * 40
CHINESE = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。\n" * 40
FRENCH = "Le café est fermé à midi, même l'été.\n" * 40
JAPANESE = "これはとてもおもしろい本です。\n" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))


def examples_of(path: Path, **settings) -> list[Example]:
    return load_examples(path, ExampleConfig(**settings))[0]


def texts_of(example: Example) -> tuple[str, ...]:
    return tuple(message["content"] for message in example.messages)


# --- the page ---


def test_the_page_shows_all_kinds():
    assert len(SHOWN) >= 31


@pytest.mark.parametrize(("name", "content", "said"), SHOWN, ids=[row[0] for row in SHOWN])
def test_each_file_of_the_page_is_read_as_it_says(name, content, said, tmp_path):
    path, counts = write(tmp_path / name, content), ReadCounts()
    if said.startswith("documents"):
        assert f"documents: {len(list(read_documents(path)))}" == said
        return
    noun = next((noun for noun in MAKERS if f" {noun}: " in said), "examples")
    try:
        make = MAKERS.get(noun, to_example)
        found, _ = load_examples(path, ExampleConfig(), "train", counts, make)
        line = recognized(found, counts, noun)
    except DataError as error:
        line = f"error: {error.what}"
    assert line == said


# --- conversations and questions ---


def test_roles_parts_and_greetings(tmp_path):
    talk = [
        {"from": "system", "value": "Be brief."},
        {"from": "gpt", "value": "How can I help?"},
        {"from": "human", "value": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]},
        {"role": "tool", "content": "found"},
        {"from": "gpt", "value": "c"},
    ]
    (example,) = examples_of(write(tmp_path / "a.jsonl", json.dumps({"conversations": talk})))
    roles = [message["role"] for message in example.messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert texts_of(example) == ("Be brief.", "a\nb", '[{"name": "look"}]', "found", "c")


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ({"role": "user", "content": [{"type": "image_url"}]}, r"no text \(image_url\)"),
        ({"role": "assistant", "content": "x", "weight": 0}, "weight 0"),
    ],
)
def test_what_would_change_the_meaning_is_refused(message, cause, tmp_path):
    talk = [{"role": "user", "content": "a"}, message, {"role": "assistant", "content": "b"}]
    with pytest.raises(DataError, match=cause):
        examples_of(write(tmp_path / "a.jsonl", json.dumps({"messages": talk})))


def test_bad_labels_and_weights_of_zero_are_left_out_and_said(tmp_path):
    rows = [{"prompt": f"p{n}", "completion": "a", "label": n != 1} for n in range(6)]
    rows += [{"prompt": "q", "completion": "b", "weight": 0}]
    path, counts = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))), ReadCounts()
    found, _ = load_examples(path, ExampleConfig(), "train", counts)
    assert len(found) == 5
    assert counts.notes["records left out: labeled as a bad answer"] == 1
    assert counts.notes["records left out: of weight 0"] == 1


def test_too_many_records_without_an_answer_are_refused(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\na,x\nb,\nc,\n")
    with pytest.raises(DataError, match=r"an empty answer in 2 of 3 records.*line 3"):
        examples_of(path)


@pytest.mark.parametrize(
    ("right", "letter"), [(1, "B"), ("1", "B"), ("b", None), ("B", "B"), ("four", "B")]
)
def test_the_right_choice_in_any_spelling(right, letter, tmp_path):
    record = {"question": "2 + 2?", "A": "three", "B": "four", "C": "five", "D": "six"}
    path = write(tmp_path / "a.jsonl", json.dumps(record | {"answer": right}))
    record["choices"] = {"text": ["three", "four"], "label": ["A", "B"]}
    path = write(tmp_path / "a.jsonl", json.dumps(record | {"answer": right}))
    if letter is None:
        with pytest.raises(DataError, match="none of the choices"):
            examples_of(path)
    else:
        assert texts_of(examples_of(path)[0]) == ("2 + 2?\nA. three\nB. four", letter)


def test_several_right_answers_are_all_right(tmp_path):
    rows = [{"question": f"{n}?", "answers": [f"one{n}", f"two{n}"]} for n in range(6)]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    items = as_items(examples_of(path))
    names = ("exact_match", "token_f1", "rouge_l")
    for right in ("one", "two"):
        scores = score_parts(names, [f"{right}{n}" for n in range(6)], items)
        assert {scores[name]["score"] for name in names} == {1.0}
    assert score_parts(names, ["three"] * 6, items)["exact_match"]["score"] == 0.0


@pytest.mark.parametrize(
    ("name", "content", "right"),
    [
        ("a.csv", 'question,answer\nq,"[""one"", ""two""]"\n', ("one", "two")),
        ("a.csv", "question,answers\nq,\"{'text': ['one', 'two']}\"\n", ("one", "two")),
        ("a.csv", "question,answer\nq,[one] or [two]\n", ("[one] or [two]",)),
        ("a.jsonl", '{"question": "q", "answer": "[\\"one\\", \\"two\\"]"}', ('["one", "two"]',)),
        ("a.jsonl", '{"question": "q", "answer": ["one", "two", "one"]}', ("one", "two")),
        ("a.jsonl", '{"Question": "q", "Answers": ["one", "two"]}', ("one", "two")),
    ],
)
def test_a_list_in_the_answers_column_is_several_answers(name, content, right, tmp_path):
    (example,) = examples_of(write(tmp_path / name, content))
    assert (texts_of(example)[1], *example.others) == right


def test_fine_tuning_reports_the_best_of_several_answers(tmp_path, capsys, monkeypatch):
    rows = [{"question": f"第{n}个？", "answers": [f"红{n}球", f"球{n}"]} for n in range(40)]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    second = {f"第{n}个？": f"球{n}" for n in range(40)}

    def answer(model, tokenizer, asked, *_, **__):
        return [second[messages[-1]["content"]] for messages in asked]

    monkeypatch.setattr("minigpt.evaluate.answers", answer)
    shape = "--n-layer 1 --n-head 1 --n-embd 8 --block-size 32 --vocab-size 270 --device cpu"
    words = f"--pretrain-epochs 1 --max-steps 2 {shape}".split()
    code, out, err = run(capsys, "finetune", "--data", path, "--out", tmp_path / "run", *words)
    assert code == 0, err
    tasks = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))["tasks"]
    for name in ("exact_match", "token_f1", "rouge_l", "cmrc_match", "cmrc_f1"):
        assert tasks[name]["score"] == 1.0
    assert "cmrc_f1 equals CMRC 2018's script" in out
    assert " or 球" in out


# --- files ---


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.json", "a.tsv"])
@pytest.mark.parametrize("magic", [m for m, _ in MAGIC if m not in BINARY], ids=repr)
def test_foreign_files_are_named_whatever_their_suffix_is(magic, name, tmp_path):
    path = write(tmp_path / name, magic + b" 123456789")
    for read in (
        lambda: list(read_documents(path)),
        lambda: examples_of(path),
        lambda: clean_files(path, CleanConfig()),
    ):
        with pytest.raises(DataError, match=r"^(a|an) .* — .*a\.\w+.* — ") as error:
            read()
        assert "UTF-8" not in str(error.value)


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("xl/workbook.xml", r"an Excel file — .*a\.xlsx — save it as CSV"),
        ("word/document.xml", r"a Word file — .*a\.docx — save it as plain text"),
    ],
)
def test_files_of_an_office_are_named(inside, said, tmp_path):
    path = tmp_path / f"a.{'xlsx' if 'Excel' in said else 'docx'}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(inside, "<x/>")
    for read in (lambda: examples_of(path), lambda: list(read_documents(path))):
        with pytest.raises(DataError, match=said):
            read()


@pytest.mark.parametrize("text", ["good fine\nbad dull\n", "fine|||good\ndull|||bad\n", "# A\n\nx"])
def test_one_class_is_no_task(text, tmp_path):
    for name in ("a.txt", "a.md", "a.yaml"):
        with pytest.raises(DataError, match=r"lines without answers.*\.jsonl, \.csv or \.tsv"):
            examples_of(write(tmp_path / name, text))


def test_two_languages_are_no_labels_and_parallel_lines_are_examples(tmp_path):
    write(tmp_path / "d" / "x.en", "red\nball\n\n")
    write(tmp_path / "d" / "x.zh", "红\n球\n\n")
    with pytest.raises(DataError, match=r"differ by their language.*--data x\.en --answers x\.zh"):
        examples_of(tmp_path / "d")
    found = examples_of(tmp_path / "d" / "x.en", answers=str(tmp_path / "d" / "x.zh"))
    assert [texts_of(example) for example in found] == [("red", "红"), ("ball", "球")]
    write(tmp_path / "y.zh", "红\n")
    with pytest.raises(DataError, match=r"x\.en has more lines — .*line 2"):
        examples_of(tmp_path / "d" / "x.en", answers=str(tmp_path / "y.zh"))


def test_a_folder_is_the_label_of_whole_texts(tmp_path):
    for label in ("pos", "neg", "unsup"):
        for n in range(3):
            write(tmp_path / "train" / label / f"{n}_0.txt", f"{label} {n}\nmore\n")
    write(tmp_path / "train" / "urls.txt", "http://x\n")
    found = {texts_of(example) for example in examples_of(tmp_path / "train")}
    assert found == {(f"{label} {n}\nmore", label) for label in ("pos", "neg") for n in range(3)}
    assert len(list(read_documents(tmp_path / "train"))) == 10, "a text to read needs no label"


def test_training_and_test_in_one_folder_stay_apart(tmp_path):
    for name, letter in (("train.csv", "a"), ("test.csv", "b")):
        rows = "".join(f"{letter}{n},{n % 2}\n" for n in range(8))
        write(tmp_path / "d" / name, "text,label\n" + rows)
    write(tmp_path / "d" / "datasheet.md", "About.")
    sides = read_sides(FinetuneConfig(data=str(tmp_path / "d")))
    assert {e.messages[0]["content"][0] for e in sides.train} == {"a"}
    assert {e.messages[0]["content"][0] for e in sides.held_out} == {"b"}
    assert "kept for the test: test.csv" in sides.about
    assert len(own_tests(tmp_path / "d", ExampleConfig())) == 8
    assert [file.path.name for file in find_files(tmp_path / "d")] == ["train.csv"]


def test_what_data_prepare_writes_is_read_as_it_was_meant(tmp_path):
    out = tmp_path / "prepared"
    for name, count in (("train.jsonl", 8), ("validation.jsonl", 4)):
        rows = [{"text": f"{name} {n}", "label": str(n % 2)} for n in range(count)]
        write(out / name, "\n".join(map(json.dumps, rows)))
    write(out / "datasheet.md", "# Datasheet\n")
    sides = read_sides(FinetuneConfig(data=str(out)))
    assert (len(sides.train), len(sides.held_out)) == (8, 4)
    assert len(list(read_documents(out))) == 8


def test_a_column_split_is_honored(tmp_path):
    rows = [{"text": f"t{n}", "label": str(n % 2), "split": "test"} for n in range(4)]
    rows += [{"text": f"r{n}", "label": str(n % 2), "split": "train"} for n in range(8)]
    sides = read_sides(
        FinetuneConfig(data=str(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))))
    )
    assert (len(sides.train), len(sides.held_out)) == (8, 4)


def test_one_label_in_two_spellings(tmp_path):
    rows = [{"text": f"t{n}", "label": float(n % 2)} for n in range(8)]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert {example.messages[-1]["content"] for example in examples_of(path)} == {"0", "1"}
    write(tmp_path / "b.csv", "text,label\n" + "".join(f"u{n},{n % 2}.0\n" for n in range(8)))
    with pytest.raises(DataError, match=r"labels written in two ways: '0' .*'0\.0'"):
        read_sides(FinetuneConfig(data=str(path), held_out=str(tmp_path / "b.csv")))


def test_long_fields_are_read(tmp_path):
    path = write(tmp_path / "a.csv", f"text,label\n{'x' * 200_000},a\ny,b\n")
    assert len(texts_of(examples_of(path)[0])[0]) == 200_000


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".txt"])
def test_parquet_and_arrow(suffix, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    ipc, parquet = map(pytest.importorskip, ("pyarrow.ipc", "pyarrow.parquet"))
    table = pyarrow.table({"review": ["a", "b"], "sentiment": ["x", "y"]})
    path = tmp_path / f"a{suffix}"
    if suffix == ".arrow":
        with ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    else:
        parquet.write_table(table, path)
    assert [texts_of(example) for example in examples_of(path)] == [("a", "x"), ("b", "y")]
    assert list(read_documents(path, "review")) == ["a", "b"]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"need pyarrow — .*a\.parquet — .*pip install pyarrow"):
        examples_of(write(tmp_path / "a.parquet", b"PAR1..PAR1"))


# --- documents ---


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("size", [7, 1 << 18])
def test_a_marker_line_ends_a_document(end, size, tmp_path, monkeypatch):
    monkeypatch.setattr("minigpt.data.corpus.PIECE_BYTES", size)
    stories = [f"Story {n} is told, and it is long." for n in range(40)]
    path = write(tmp_path / "a.txt", f"{end}<|endoftext|>{end}".join(stories) + end)
    assert [text.strip() for text in read_documents(path)] == stories
    counts = ReadCounts()
    list(read_pieces(path, counts=counts))
    assert (counts.documents, counts.spelled) == (40, 0)
    tokenizer = CharTokenizer.train(stories)
    assert prepare(path, tokenizer, tmp_path / "out").counts.documents == 40
    cleaned = clean_files(path, CleanConfig(near=0))
    assert cleaned.steps[0].documents == 40


def test_a_marker_inside_a_line_stays_text_and_is_counted(tmp_path):
    path, counts = write(tmp_path / "a.txt", "One.<|endoftext|>Two.\n"), ReadCounts()
    assert len(list(read_pieces(path, counts=counts))) == 1
    assert counts.spelled == 1
    files = find_files(path, separator="<|endoftext|>")
    assert list(read_documents(files)) == ["One.", "Two.\n"]
    files = find_files(write(tmp_path / "b.txt", "One.\n\nTwo."), separator="\\n\\n")
    assert list(read_documents(files)) == ["One.", "Two."]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(CHINESE, "gb18030"), (RUSSIAN, "cp1251"), (FRENCH, "cp1252"), (JAPANESE, "shift_jis")],
)
def test_the_likely_encoding_is_named_and_reads_the_file(text, encoding, tmp_path):
    path = write(tmp_path / "a.txt", text.encode(encoding))
    assert likely_encoding(path) == encoding
    with pytest.raises(DataError, match=rf"invalid UTF-8.*--encoding {encoding}"):
        list(read_documents(path))
    if encoding != "cp1252":  # more than 1 % would be replaced
        with pytest.raises(DataError, match=rf"are not UTF-8 .*--encoding {encoding}"):
            list(read_documents(path, errors="replace"))
    assert "".join(read_documents(find_files(path, encoding=encoding))) == text
    utf16 = write(tmp_path / "b.txt", text.encode("utf-16"))
    with pytest.raises(DataError, match=r"UTF-16 text.*--encoding utf-16"):
        list(read_documents(utf16))
    assert "".join(read_documents(find_files(utf16, encoding="utf-16"))) == text
    table = write(tmp_path / "c.csv", f"text,label\n{text[:5]},a\n".encode(encoding))
    assert texts_of(examples_of(table, encoding=encoding)[0]) == (text[:5].strip(), "a")


def test_a_wrong_encoding_is_refused(tmp_path):
    path = write(tmp_path / "a.txt", b"abc\xff\xfe")
    with pytest.raises(ConfigError, match="no encoding is called 'klingon'"):
        list(read_documents(find_files(path, encoding="klingon")))
    with pytest.raises(DataError, match=r"no text in shift_jis .*byte \d"):
        list(read_documents(find_files(path, encoding="shift_jis")))


def test_html_is_said_and_data_prepare_takes_the_tags_out(tmp_path):
    page = "<!DOCTYPE html><html><head><title>T</title><script>x()</script></head>"
    page += "<body><h1>One &amp; two</h1><p>A <b>bold</b> word.</p></body></html>"
    path, counts = write(tmp_path / "d" / "a.txt", page), ReadCounts()
    list(read_pieces(path, counts=counts))
    assert any("HTML" in note for note in counts.notes)
    for n in range(3):
        write(tmp_path / "d" / f"b{n}.txt", f"Another text {n}.")
    cleaned = clean_files(tmp_path / "d", CleanConfig(near=0, validation_fraction=0.3))
    texts = [record["text"] for record in (*cleaned.train, *cleaned.validation)]
    assert any("One & two\nA bold word." in text for text in texts)
    assert not any("<" in text or "x()" in text for text in texts)


def test_over_long_texts_are_cut_in_pretraining_too():
    ids, trained = list(range(20)), [True] * 20
    cut = fit(ids, trained, 9, "cut", "here")
    assert cut is not None
    assert (len(cut[0]), cut[0][0], cut[0][-1], set(cut[1])) == (10, 0, 19, {True})


# --- baselines ---


def labeled_rows(letter: str, count: int) -> str:
    words = ("fine good", "dull bad")
    return "text,label\n" + "".join(f"{letter}{n} {words[n % 2]},{n % 2}\n" for n in range(count))


@pytest.mark.parametrize("name", ["train.csv", "eval.csv", "other.csv"])
def test_baselines_learn_whatever_the_files_are_called(name, tmp_path):
    taught = as_items(examples_of(write(tmp_path / "train.csv", labeled_rows("a", 40))))
    asked = as_items(examples_of(write(tmp_path / "x" / name, labeled_rows("b", 10))))
    answers = baseline_answers(asked, taught)
    assert {"majority", "bag_of_words", "tf_idf"} <= set(answers)
    assert answers["tf_idf"] == [item.answer for item in asked]


def test_logistic_regression_equals_scikit_learn():
    rng = np.random.default_rng(0)
    words = [f"w{n}" for n in range(30)]
    texts = [" ".join(rng.choice(words, 8)) for _ in range(120)]
    labels = ["abc"[len({"w1", "w2", "w3"} & set(text.split())) % 3] for text in texts]
    vectors = TfidfVectorizer(analyzer=lambda text: list(bag_of_words(text).elements()))
    theirs = TheirRegression(max_iter=1000).fit(vectors.fit_transform(texts[:90]), labels[:90])
    ours = LogisticRegression(texts[:90], labels[:90])
    found = ours.scores(ours.rows([bag_of_words(text) for text in texts[90:]])).softmax(1)
    expected = theirs.predict_proba(vectors.transform(texts[90:]))
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=5e-3)
    assert ours.predict(["", "unknown"]) == ours.predict(["!", "?"])


@pytest.mark.parametrize(
    "text", ["мама мыла раму", "엄마 고마워", "שלום עולם", "これは本です", "سلام"]
)
def test_rouge_finds_words_of_every_script(text):
    assert rouge_l(text, text) == 1.0
    assert rouge_l(text, "other") == 0.0


# --- the catalogue ---


@pytest.mark.slow
@pytest.mark.parametrize("name", list(load_sources()))
def test_each_data_set_works_or_says_what_it_is_for(name, data_dir):
    if not is_here(load_sources()[name]):
        pytest.skip("not downloaded")
    errors = []
    for split in ("train", "test"):
        try:
            found, _ = load_examples(name, ExampleConfig(), split)
            assert all(example.messages[-1]["content"] for example in found)
            return
        except DataError as error:
            errors.append(str(error))
    assert any(word in errors[0] for word in ("minigpt train", "pictures", "evaluate"))
