"""The report card: says what it is given, escapes everything, needs no network."""

import html.parser
import json
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from example_report import REPORT, TASK

from minigpt.runs.report import finite, report_page, report_text, write_report

RECORDS = [{"step": 0, "loss": 5.0}, {"step": 9, "loss": 2.0}, {"step": 9, "val_loss": 2.1}]
EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>&lt;|`'


@pytest.fixture(scope="module")
def page() -> str:
    return report_page(REPORT)


class Page(html.parser.HTMLParser):
    """Collects what a browser would see: tags with attributes, and text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "br", "use", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)


def test_all_files_are_written_and_json_keeps_every_field(tmp_path):
    text = write_report(tmp_path, REPORT, RECORDS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "loss.png",
        "report.html",
        "report.json",
        "report.md",
    ]
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == REPORT
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == text
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "从前" in (tmp_path / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("write", [report_text, report_page])
def test_people_read_every_figure(write):
    page = write(REPORT)
    for figure in (
        "1,328,768",
        "0.7200",
        "0.5200 nats a token: no model can do better",
        "70.1%",
        "93.0 %",
        "90.0 to 96.0 %",
        "41.0 % (last mention)",
        "+52.0",
        "1,200",
        "91.0 % (95 % interval 89.0 % to 93.0 %)",
        "99.9 %",
        "-1.25 nats",
        "wrong detail 80, wrong event 10",
        "6.5 right sentences",
        "n = 6",
        "English to Chinese",
        "questions, fact changed",
        "It was.",
        "从前，有一天。",
        "training 100.0, total 120.5",
    ):
        assert figure in page, figure


@pytest.mark.parametrize("missing", sorted(REPORT))
def test_what_is_missing_is_left_out(missing):
    report = {key: value for key, value in REPORT.items() if key != missing}
    assert report_text(report).startswith("# Report")
    assert "</html>" in report_page(report)


def test_a_text_and_its_unknown_characters():
    text = {
        "loss": 1.5,
        "perplexity": 4.48,
        "bits_per_byte": 0.9,
        "n_tokens": 1234,
        "n_bytes": 5678,
        "n_documents": 3,
        "stride": 128,
        "n_unknown": 7,
    }
    page = report_text({"data": "my.txt", "text": text})
    assert "4.480 a token" in page
    assert "1,234 tokens, 5,678 bytes, 3 documents" in page
    assert "7 characters that the tokenizer lacks" in page
    facts = {"train": 4800, "held_out": 577, "skipped": 0, "overlap": 0.0}
    page_of_examples = report_text({"data": "x", "examples": facts})
    assert "| examples | 4,800 to learn from, 577 held out |" in page_of_examples
    assert "lacks" not in report_text({"data": "my.txt", "text": text | {"n_unknown": 0}})


def test_html_injection_is_escaped_everywhere():
    report = REPORT | {
        "data": EVIL,
        "samples": [EVIL],
        "tasks": {EVIL: TASK | {"metric": EVIL, "baseline_name": EVIL}},
        "answers": [{"task": EVIL, "prompt": EVIL, "answer": EVIL, "right": EVIL}],
        "about_tasks": EVIL,
        "seconds": {EVIL: 1},
    }
    report["stories"] = REPORT["stories"] | {"faults": {EVIL: 3}}
    from minigpt.support import plots

    page = report_page(report, plots.loss_curve(RECORDS, title=EVIL))
    seen = Page(page)
    assert not {"script", "img", "iframe", "link", "object"} & {tag for tag, _ in seen.tags}
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert "".join(seen.texts).count("alert") >= 16  # it is there, as text
    assert "<script" not in report_text(report)
    assert "<img" not in report_text(report)


def test_the_page_is_whole_and_needs_nothing_else():
    from minigpt.support import plots

    page = report_page(REPORT, plots.loss_curve(RECORDS, 0.5, title="t", ngram=1.0))
    seen = Page(page)
    assert seen.open == []
    for tag, attributes in seen.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "data", "action"):
                assert value.startswith("#"), (tag, name, value)
    assert "url(http" not in page
    assert "@import" not in page
    policy = next(a["content"] for _, a in seen.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert 'name="viewport"' in page
    assert "color-scheme: light dark" in page
    assert page.count("<svg") == page.count("</svg>") == 2
    assert len(page) < 200_000


def test_pictures_take_the_color_of_the_text(page):
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert "currentColor" in svg
        assert "#000000" not in svg
        ElementTree.fromstring(svg)  # well-formed


def test_equal_reports_make_equal_pages(page):
    assert page == report_page(json.loads(json.dumps(REPORT)))


@pytest.mark.filterwarnings("error")
def test_names_in_pictures_are_neither_formulas_nor_missing_letters(tmp_path):
    report = REPORT | {"data": r"$\frac$ 故事", "tasks": {r"$\frac$ 摘要": TASK}}
    write_report(tmp_path, report, RECORDS)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("摘要") == 2  # in the picture and in the table
    assert r"$\frac$" in page


def test_cells_keep_their_table():
    report = REPORT | {"data": "a|b\nc"}
    line = next(line for line in report_text(report).splitlines() if line.startswith("| data"))
    assert line == "| data | a\\|b c |"


def test_numbers_that_json_lacks_become_null(tmp_path):
    assert finite({"a": [math.inf, (1.0, math.nan)], "b": "inf"}) == {
        "a": [None, [1.0, None]],
        "b": "inf",
    }
    write_report(tmp_path, {"data": "x", "val_loss": math.nan})
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["val_loss"] is None
