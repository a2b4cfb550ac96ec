"""Write a run's report card: report.json for programs, report.md and report.html for people.

The page needs no network and runs no script; every text of a model or a user is escaped. It reads
well on a phone, in light and in dark. What a report lacks is left out.
"""

import html
import json
import math
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from minigpt.metrics import language_of
from minigpt.runs.findings import Row, is_right, sections, task_name
from minigpt.support import plots
from minigpt.support.files import atomic_write


def write_report(
    out: Path, report: dict, records: Sequence[dict] = (), run: Path | None = None
) -> str:
    """Write report.json, report.md, report.html and, from metrics.jsonl's rows, loss.png.

    run: the run directory, for the commands that the page names. Returns the text of report.md.
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
    page = report_page(report, curve, run)
    for name, content in {"json": plain + "\n", "md": text, "html": page}.items():
        # Names of files need not be UTF-8; a report must not fail for one.
        atomic_write(out / f"report.{name}", content.encode("utf-8", "replace"))
    return text


def is_report(path: Path) -> bool:
    """Tell whether a file is a report.json that this package wrote."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    kinds = ({"data", "parameters", "steps"}, {"data", "models"})
    return isinstance(report, dict) and any(keys <= report.keys() for keys in kinds)


def finite(value):
    """Replace numbers that JSON does not know (infinite, NaN) by None, at any depth."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
  --line: #d9dde3; --good: #00694f; --bad: #a33c00; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171c; --ink: #e4e7eb; --pale: #a2abb8; --line: #363c46; --good: #4cc9a4;
    --bad: #f0965a; } }
body { margin: 0 auto; padding: 1rem; max-width: 46rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, "Noto Sans CJK SC", "PingFang SC",
  "Microsoft YaHei", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
.about, summary, dt { color: var(--pale); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: normal; }
.figures td { white-space: nowrap; }
th { font-weight: 600; }
svg { width: 100%; height: auto; max-width: 38rem; display: block; margin: 1rem 0; }
blockquote, pre { margin: 1rem 0; padding: .1rem 0 .1rem 1rem;
  border-left: .25rem solid var(--line); white-space: pre-wrap; }
dl { display: grid; grid-template-columns: 5.5rem 1fr; gap: .2rem .6rem; margin: .5rem 0 1.5rem; }
dd { margin: 0; white-space: pre-wrap; }
@media (max-width: 32rem) { dl { display: block; } dd { margin-bottom: .4rem; } }
h3 { font-size: 1rem; margin: 1rem 0 0; }
.right { color: var(--good); } .wrong { color: var(--bad); }
"""
NO_NETWORK = "default-src 'none'; style-src 'unsafe-inline'"
ABOUT_LOSS = (
    "The loss says how much the next token surprises the model, in nats: lower is better. It is "
    "measured on the training text and on text that training never showed (validation). Where they "
    "are known, lines mark the best possible loss (floor) and that of counting (n-gram)."
)
FIGURES = "All figures"
LONG = 600  # characters; of a longer text the page shows both ends, and the rest unfolds


def report_page(report: dict, curve=None, run: Path | None = None) -> str:
    """Return the report as one HTML page; `curve` is the figure of the losses."""
    title = title_of(report)
    body = [f"<h1>{html.escape(title)}</h1>", paragraph(opening(report))]
    if curve is not None:
        body += ["<h2>How it learned</h2>", paragraph(ABOUT_LOSS), plots.to_svg(curve)]
    body += samples(report.get("samples", ()))
    tables = {section[0]: html_section(report, *section) for section in sections(report)}
    first = tables.pop("Report").replace("<h2>Report<", f"<h2>{FIGURES}<")
    body += [*tables.values(), *going_on(run), first]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{NO_NETWORK}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def title_of(report: dict) -> str:
    """Return the heading of a report of one model, or of several."""
    if "models" in report:
        return f"{len(report['models'])} models side by side on {report['data']}"
    return f"What a model learned from {report.get('data', 'its text')}"


def paragraph(text: str) -> str:
    return f'<p class="about">{html.escape(text)}</p>' if text else ""


def opening(report: dict) -> str:
    """Say in a sentence or two what was trained, and how well it predicts."""
    if "steps" not in report or "parameters" not in report:
        return ""
    tokens = f" and {report['tokens']:,} tokens" if "tokens" in report else ""
    said = (
        f"A language model of {report['parameters'] / 1e6:.2f} million parameters, after "
        f"{report['steps']:,} steps{tokens} of training."
    )
    if report.get("gap_closed", 0) > 0:
        said += (
            f" It has come {report['gap_closed']:.1%} of the way from the best model that only "
            "counts down to the lowest loss that any model can reach."
        )
    return said


def samples(texts: Sequence[str]) -> Iterator[str]:
    """Yield the texts that the model wrote, under their heading."""
    if texts:
        yield "<h2>It writes</h2>"
        yield paragraph("Written by the model from nothing, as they came; none was chosen.")
    for text in texts:
        yield f"<blockquote{language(text)}>{html.escape(text.strip())}</blockquote>"


def language(text: str) -> str:
    """Name the language of a Chinese text, so that browsers choose a font for it."""
    return ' lang="zh-Hans"' if language_of(text) == "zh" else ""


def html_section(report: dict, heading: str, about: str, head: Row, rows: list[Row]) -> str:
    """Return one table of the report, explained; of tasks a picture too, of answers a list."""
    parts = [f"<h2>{html.escape(heading)}</h2>", paragraph(about)]
    if heading == "It answers":
        return "\n".join([*parts, *(html_answer(answer, report) for answer in report["answers"])])
    if heading == "Tasks":
        named = {task_name(name): task for name, task in report["tasks"].items()}
        parts.append(plots.to_svg(plots.scores(named)))
    parts.append(html_table(head, rows, "figures" if heading == "Tasks" else ""))
    return "\n".join(parts)


def html_answer(answer: dict, report: dict) -> str:
    """Return what was asked, what was answered and, if that is wrong, the right answer."""
    right = is_right(answer, report)
    verdict = {True: "✓ right", False: "✗ wrong", None: ""}[right]
    lines = {"asked": answer["prompt"], "answer": answer["answer"].strip() or "(nothing)"}
    if not right:
        lines["right" if right is False else "one that fits"] = answer["right"]
    listed = "".join(
        f"<dt>{name}</dt><dd{language(text)}>{unfolding(text.strip())}</dd>"
        for name, text in lines.items()
    )
    mark = f' <span class="{"right" if right else "wrong"}">{verdict}</span>' if verdict else ""
    return f"<h3>{html.escape(task_name(answer['task']))}{mark}</h3>\n<dl>{listed}</dl>"


def unfolding(text: str) -> str:
    """Return a text; the middle of a long one is folded away."""
    if len(text) <= LONG:
        return html.escape(text)
    begin, end = LONG // 2, len(text) - LONG // 2
    return (
        f"<details><summary>{html.escape(text[:begin])} ...</summary>"
        f"{html.escape(text[begin:end])}</details>{html.escape(text[end:])}"
    )


def going_on(run: Path | None) -> Iterator[str]:
    """Yield the commands to try next."""
    if run is not None:
        yield "<h2>How to go on</h2>"
        yield f"<pre>{html.escape(next_commands(run))}</pre>"


def next_commands(run: Path) -> str:
    """Return the commands to try next with a trained run."""
    name = quoted(run)
    return (
        f"python -m minigpt chat --checkpoint {name}\n"
        f"python -m minigpt generate --checkpoint {name} --count 3\n"
        "python -m minigpt train --data my.txt --out runs/my\n"
        "jupyter lab chapters"
    )


def quoted(path: Path) -> str:
    """Return a path as a shell takes it for one word, whatever it holds."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))


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
