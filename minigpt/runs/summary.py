"""Say on two screens of a terminal what a trained model can do: stories, answers, one table."""

import unicodedata
from collections.abc import Iterable, Iterator

from minigpt.runs.findings import is_right, percent, task_name

WIDTH = 96  # columns; a Chinese character takes two
STORY_LINES = 3
OVERVIEWS = {"sentiment", "question"}  # tasks that sum up others
SAME_KIND = {"translation_zh_en"}  # one translation is enough here


def summary(report: dict) -> str:
    """Return the short form of a report; what it lacks is left out."""
    parts = [
        *told(report.get("samples", ())),
        *answer_lines(report),
        *scored(report.get("tasks", {})),
        *closing(report),
    ]
    return "\n".join(parts)


def told(samples: Iterable[str]) -> Iterator[str]:
    """Yield the lines of some texts that the model wrote."""
    for number, text in enumerate(samples):
        if number == 0:
            yield "\nIT WRITES"
        yield from fold(text.strip() or "(nothing)", "  - ", STORY_LINES)


def answer_lines(report: dict) -> Iterator[str]:
    """Yield the first answer to each kind of task, below the story that the first one is about."""
    shown: set[str] = set()
    for answer in report.get("answers", ()):
        task = answer["task"]
        if task in OVERVIEWS | SAME_KIND | shown:
            continue
        source, _, question = answer["prompt"].strip().rpartition("\n")
        if not shown:
            yield "\nIT ANSWERS (about stories that it never saw, such as this one)"
            yield from fold(source, "  ", 4)
        shown.add(task)
        yield from exchange(question, answer, is_right(answer, report))


def exchange(question: str, answer: dict, right: bool | None) -> Iterator[str]:
    """Yield a question, its answer, and the right answer where this is another."""
    said = f"{question} -> {answer['answer'].strip() or '(nothing)'}"
    if right is not False:
        yield from fold(said + (" (right)" if right else ""), "  - ", 2)
    elif columns(answer["right"]) <= WIDTH // 2:
        yield from fold(f"{said} (wrong, it is: {answer['right']})", "  - ", 2)
    else:
        yield from fold(said, "  - ", 2)
        yield from fold(f"(wrong, it is: {answer['right']})", "    ", 2)


def scored(tasks: dict[str, dict]) -> Iterator[str]:
    """Yield a table of scores, each with its interval and its best baseline."""
    tasks = {name: task for name, task in tasks.items() if name not in OVERVIEWS}
    if not tasks:
        return
    yield f"\n{'SCORES':<26}{'score':>9}   {'95 % interval':<17}{'best without understanding'}"
    for name, task in tasks.items():
        interval = f"{100 * task['low']:.1f} to {percent(task['high'])}"
        baseline = f"{percent(task['baseline'])} ({task['baseline_name'].replace('_', ' ')})"
        yield f"  {task_name(name):<24}{percent(task['score']):>9}   {interval:<17}{baseline}"


def closing(report: dict) -> Iterator[str]:
    """Yield how well the model predicts, and how long all took."""
    yield ""
    if report.get("val_loss") is not None:
        line = f"Unseen text: {report['val_loss']:.3f} nats a token"
        for name, text in {
            "bits_per_byte": ", {:.3f} bits per byte",
            "ngram_loss": "; best n-gram {:.3f}",
            "floor": "; best possible {:.3f}",
        }.items():
            line += text.format(report[name]) if report.get(name) is not None else ""
        yield line
    if "seconds" in report:
        names = {"tokenizer": "vocabulary"}
        times = report["seconds"].items()
        parts = (f"{names.get(name, name)} {say_seconds(value)}" for name, value in times)
        yield f"Time: {', '.join(parts)}"


def say_seconds(seconds: float) -> str:
    """Write a duration in the unit that suits it.

    >>> [say_seconds(value) for value in (0.4, 75, 200, 20_000, 300_000)]
    ['1 s', '75 s', '3 min', '6 hours', '3 days']
    """
    for least, size, unit in ((259_200, 86_400, "days"), (5400, 3600, "hours"), (100, 60, "min")):
        if seconds >= least:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(round(seconds), 1)} s"


# --- lines ---


def columns(text: str) -> int:
    """Return how many columns a text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def fold(text: str, begin: str, most: int) -> list[str]:
    """Break a text into at most so many lines of WIDTH columns; `...` stands for what is left.

    The first line begins with `begin`, the others with as many blanks.
    """
    lines, line = [], begin
    for piece in pieces(text):
        if columns(line + piece.rstrip()) > WIDTH:
            lines.append(line.rstrip())
            line = " " * len(begin)
        line += piece
    lines.append(line.rstrip())
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{cut(lines[most - 1])} ..."]
    return lines


def cut(line: str) -> str:
    """Return the beginning of a line that leaves room for `...`."""
    indent, kept = " " * (len(line) - len(line.lstrip())), list(pieces(line))
    while columns(indent + "".join(kept)) > WIDTH - 4:
        kept.pop()
    return (indent + "".join(kept)).rstrip()


def pieces(text: str) -> Iterator[str]:
    """Yield what must stay on a line: words with the blank after them, and wide characters."""
    word = ""
    for c in " ".join(text.split()):
        word += c
        if c == " " or columns(c) == 2 or len(word) == WIDTH // 2:
            yield word
            word = ""
    yield word
