"""Write a run's report card: report.json for programs, report.md and report.html for people.

The page needs no network and runs no script; every text of a model or a user is escaped. It reads
well on a phone, in light and in dark. A report is a dictionary; what it lacks is left out.
"""

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

from minigpt.support import plots
from minigpt.support.files import atomic_write

Row = Sequence[str]

TASK_NAMES = {
    "translation_en_zh": "English to Chinese",
    "translation_zh_en": "Chinese to English",
    "sentiment": "mood",
    "sentiment_inferred": "mood, inferred",
    "question": "questions, all kinds",
    "question_one_fact": "questions, one fact",
    "question_changed": "questions, fact changed",
    "question_who_has": "questions, who has it",
    "story": "story as asked for",
    "consistent_stories": "consistent stories",
}
TASK_HEAD = ("task", "score", "95 % interval", "best baseline", "points ahead", "items", "metric")
ANSWER_HEAD = ("task", "asked", "answer", "right, if it is another")
SHOWN = 100  # characters of a prompt, and half of those of an answer
EXPLAINED = {
    "tasks": "Each score is the share of right answers, on stories that training never showed. The "
    "baseline is the best of: the most common answer, the first or last that is mentioned, a bag "
    "of the words, a copy of the text; measured on the same items.",
    "stories": "Stories told by the model alone and read by the world's own parser: consistent "
    "means that every sentence agrees with all before it, up to the end.",
    "answers": "The first answers to each task; of a story one sees only its end here.",
}


def write_report(out: Path, report: dict, records: Sequence[dict] = ()) -> str:
    """Write report.json, report.md, report.html and, from metrics.jsonl's rows, loss.png.

    Returns the text of report.md.
    """
    curve = None
    if records:
        data = report["data"].encode("ascii", "replace").decode()  # all that a plot's font has
        title = f"{data}, {report.get('parameters', 0) / 1e6:.2f} million parameters"
        curve = plots.loss_curve(
            records, report.get("floor"), out / "loss.png", title, report.get("ngram_loss")
        )
    text = report_text(report)
    plain = json.dumps(finite(report), indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write(out / "report.json", plain + "\n")
    atomic_write(out / "report.md", text)
    atomic_write(out / "report.html", report_page(report, curve))
    return text


def finite(value):
    """Replace numbers that JSON does not know (infinite, NaN) by None, at any depth."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- what is said ---


def fact_rows(report: dict) -> list[Row]:
    """Return the lines of the first table: (name, value)."""
    texts = {
        "data": "{}",
        "parameters": "{:,}",
        "steps": "{:,}",
        "tokens": "{:,}",
        "tokens_per_second": "{:,}",
        "val_loss": "{:.4f} nats a token",
        "bits_per_byte": "{:.4f}",
        "floor": "{:.4f} nats a token: no model can do better",
        "excess": "{:.1%} over the floor",
        "gap_nats_per_story": "{:.2f} nats a story",
        "ngram_loss": "{:.4f} nats a token",
        "gap_closed": "{:.1%} of the way from it to the floor",
        "contamination": "{:.1%} of the items stand in the training text",
    }
    names = {
        "tokens_per_second": "tokens a second",
        "val_loss": "validation loss",
        "bits_per_byte": "bits per byte",
        "gap_nats_per_story": "gap",
        "gap_closed": "gap closed",
        "ngram_loss": f"best n-gram (n = {report.get('ngram_order', '?')})",
    }
    rows: list[Row] = [
        (names.get(key, key), text.format(report[key]))
        for key, text in texts.items()
        if report.get(key) is not None
    ]
    if "examples" in report:
        text = "{train:,} to learn from, {held_out:,} held out".format(**report["examples"])
        rows.append(("examples", text))
    if "seconds" in report:
        parts = (f"{name} {value}" for name, value in report["seconds"].items())
        rows.append(("seconds", ", ".join(parts)))
    return rows


def task_rows(tasks: dict[str, dict]) -> list[Row]:
    """Return a line for each task, under TASK_HEAD."""
    return [
        (
            task_name(name),
            percent(task["score"]),
            f"{100 * task['low']:.1f} to {percent(task['high'])}",
            f"{percent(task['baseline'])} ({task['baseline_name'].replace('_', ' ')})",
            f"{100 * (task['score'] - task['baseline']):+.1f}",
            f"{task['n']:,}",
            task["metric"],
        )
        for name, task in tasks.items()
    ]


def task_name(name: str) -> str:
    return TASK_NAMES.get(name, name.replace("_", " "))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def story_rows(stories: dict) -> list[Row]:
    """Return what is said of the stories that the model told."""
    interval = f"{percent(stories['low'])} to {percent(stories['high'])}"
    rows: list[Row] = [
        ("stories", f"{stories['n']:,} at temperature {stories['temperature']:g}"),
        ("consistent", f"{percent(stories['consistent'])} (95 % interval {interval})"),
    ]
    if stories.get("new") is not None:
        rows.append(("new", f"{percent(stories['new'])} of these are not among the training texts"))
    if stories.get("mean_log_q_minus_log_p") is not None:
        text = f"{stories['mean_log_q_minus_log_p']:.2f} nats a story, over the consistent ones"
        rows.append(("log q - log p", f"{text}; q of the tokens as sampled"))
    faults = ", ".join(f"{name} {count}" for name, count in stories["faults"].items())
    rows.append(("first faults", faults or "none"))
    if stories.get("sentences_before_fault") is not None:
        text = f"{stories['sentences_before_fault']:.1f} right sentences before the first fault"
        rows.append(("faulty ones", text))
    return rows


def text_rows(text: dict) -> list[Row]:
    """Return what is said of a text that the model was tried on."""
    rows: list[Row] = [
        ("perplexity", f"{text['perplexity']:.3f} a token"),
        ("loss", f"{text['loss']:.4f} nats a token"),
        ("bits per byte", f"{text['bits_per_byte']:.4f}"),
        (
            "size",
            f"{text['n_tokens']:,} tokens, {text['n_bytes']:,} bytes, "
            f"{text['n_documents']:,} documents",
        ),
        ("windows", f"begin {text['stride']} tokens after each other"),
    ]
    if text.get("n_unknown"):
        rows.append(("unknown", f"{text['n_unknown']:,} characters that the tokenizer lacks"))
    return rows


def answer_rows(answers: Sequence[dict]) -> list[Row]:
    """Return some of the model's answers, under ANSWER_HEAD: the end of a long prompt."""
    rows = []
    for shown in answers:
        prompt = shown["prompt"].strip()
        prompt = prompt if len(prompt) <= SHOWN else f"... {prompt[-SHOWN:]}"
        right = "" if shown["answer"] == shown["right"] else shorten(shown["right"])
        answer = shorten(shown["answer"]) or "(nothing)"
        rows.append((task_name(shown["task"]), prompt, answer, right))
    return rows


def shorten(text: str) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= 2 * SHOWN else f"{text[: 2 * SHOWN]} ..."


def sections(report: dict) -> list[tuple[str, str, Row, list[Row]]]:
    """Return the tables of a report: (heading, explanation, head of the table, its lines)."""
    found: list[tuple[str, str, Row, list[Row]]] = [("Report", "", ("", ""), fact_rows(report))]
    if "text" in report:
        found.append(("Text", "", ("", ""), text_rows(report["text"])))
    if "tasks" in report:
        rows = task_rows(report["tasks"])
        found.append(("Tasks", report.get("about_tasks", EXPLAINED["tasks"]), TASK_HEAD, rows))
    if "stories" in report:
        rows = story_rows(report["stories"])
        found.append(("Stories", EXPLAINED["stories"], ("", ""), rows))
    if report.get("answers"):
        rows = answer_rows(report["answers"])
        found.append(("It answers", EXPLAINED["answers"], ANSWER_HEAD, rows))
    return found


# --- Markdown ---


def report_text(report: dict) -> str:
    """Return the report as a page of Markdown."""
    parts = []
    for number, (heading, about, head, rows) in enumerate(sections(report)):
        parts.append(f"{'#' if number == 0 else '##'} {heading}")
        if about:
            parts.append(markdown(about))
        lines = [head, ["---"] * len(head), *rows]
        parts.append("\n".join(f"| {' | '.join(map(markdown_cell, line))} |" for line in lines))
    if report.get("samples"):
        parts.append("## It writes")
        parts += ["> " + markdown(text).replace("\n", "\n> ") for text in report["samples"]]
    return "\n\n".join(parts) + "\n"


def markdown(text: str) -> str:
    """Escape what a Markdown reader would take for tags."""
    return html.escape(text.strip(), quote=False)


def markdown_cell(text: str) -> str:
    """Escape a text for a cell of a table."""
    return " ".join(markdown(text).replace("|", "\\|").split())


# --- HTML ---

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1d2129; --pale: #5f6773;
  --line: #d9dde3; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171c; --ink: #e4e7eb; --pale: #a2abb8; --line: #363c46; } }
body { margin: 0 auto; padding: 1rem; max-width: 46rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
p { color: var(--pale); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: normal; }
.figures td { white-space: nowrap; }
.texts td { min-width: 9rem; }
th { font-weight: 600; }
svg { width: 100%; height: auto; max-width: 34rem; display: block; margin: 1rem 0; }
blockquote { margin: 1rem 0; padding: .1rem 0 .1rem 1rem; border-left: .25rem solid var(--line);
  white-space: pre-wrap; }
"""
KINDS = {"Tasks": "figures", "It answers": "texts"}  # of tables
NO_NETWORK = "default-src 'none'; style-src 'unsafe-inline'"


def report_page(report: dict, curve=None) -> str:
    """Return the report as one HTML page; `curve` is the figure of the losses."""
    body = []
    for number, (heading, about, head, rows) in enumerate(sections(report)):
        level = "h1" if number == 0 else "h2"
        body.append(f"<{level}>{html.escape(heading)}</{level}>")
        if about:
            body.append(f"<p>{html.escape(about)}</p>")
        if heading == "Tasks":
            named = {task_name(name): task for name, task in report["tasks"].items()}
            body.append(plots.to_svg(plots.scores(named)))
        body.append(html_table(head, rows, KINDS.get(heading, "")))
        if number == 0 and curve is not None:
            body += ["<h2>Loss</h2>", plots.to_svg(curve)]
    if report.get("samples"):
        body.append("<h2>It writes</h2>")
        body += [
            f"<blockquote>{html.escape(text.strip())}</blockquote>" for text in report["samples"]
        ]
    title = html.escape(f"Report: {report.get('data', '')}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{NO_NETWORK}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def html_table(head: Row, rows: Sequence[Row], kind: str = "") -> str:
    """Return a table whose first column heads its lines; an empty head is left out."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head) if any(head) else ""
    lines = [
        f"<tr><th>{html.escape(row[0])}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    ]
    table = f"<table>{top and f'<tr>{top}</tr>'}{''.join(lines)}</table>"
    return f'<div class="wide {kind}">{table}</div>'
