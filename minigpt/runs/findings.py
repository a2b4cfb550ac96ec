"""What a report says of a model, as tables of text that a terminal, Markdown and HTML can show.

A report is a dictionary; what it lacks is left out.
"""

from collections.abc import Sequence

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
    "ranked_right": "pairs ranked right",
}
TASK_HEAD = ("task", "score", "95 % interval", "best baseline", "points ahead", "items", "metric")
ANSWER_HEAD = ("task", "asked", "answer", "right, if it is another")
SHOWN = 100  # characters of a prompt, and half of those of an answer
EXPLAINED = {
    "Tasks": "Each score is the share of right answers, on stories that training never showed. "
    "Another draw of such items would score within the 95 % interval, most likely. The baseline "
    "understands nothing: it is the best of the most common answer, the first or last that is "
    "mentioned, a bag of the words and a copy of the text, on the same items.",
    "Stories": "Stories told by the model alone and read by the world's own parser: consistent "
    "means that every sentence agrees with all before it, up to the end.",
    "It answers": "The first answers to each task.",
}


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
            ", ".join([task["metric"], *also(task)]),
        )
        for name, task in tasks.items()
    ]


def also(task: dict) -> list[str]:
    """Return the scores by other metrics of the same answers, each with its name."""
    return [f"{name} {percent(value)}" for name, value in task.get("also", {}).items()]


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
        (
            "windows",
            f"begin {text['stride']} tokens after each other (those of lm-eval: a whole context)",
        ),
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


def is_right(answer: dict, report: dict) -> bool | None:
    """Tell whether an answer that a report shows is right; None: other answers are right too."""
    if answer["answer"].strip() == answer["right"].strip():
        return True
    metric = report.get("tasks", {}).get(answer["task"], {}).get("metric")
    return answer.get("accepted") if metric == "accepted" else False


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
        found.append(("Tasks", report.get("about_tasks", EXPLAINED["Tasks"]), TASK_HEAD, rows))
    if report.get("changes"):
        changes: list[Row] = [(c["name"], c["before"], c["after"]) for c in report["changes"]]
        about = report.get("about_changes", "")
        found.append(("Before and after", about, ("", "before", "after"), changes))
    if "stories" in report:
        rows = story_rows(report["stories"])
        found.append(("Stories", EXPLAINED["Stories"], ("", ""), rows))
    if report.get("answers"):
        rows = answer_rows(report["answers"])
        found.append(("It answers", EXPLAINED["It answers"], ANSWER_HEAD, rows))
    return found
