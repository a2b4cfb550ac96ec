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
MODEL_HEAD = ("", "model", "parameters", "steps")
SIDES, PAIRS = "Side by side", "In pairs"
PAIR_HEAD = ("comparison", "points", "95 % interval", "only A right", "only it right", "p", "so")
SHOWN = 100  # characters of a prompt, and half of those of an answer
EXPLAINED = {
    "Tasks": "Each score is the share of right answers, on stories that training never showed. "
    "Another draw of such items would score within the 95 % interval, most likely. The baseline "
    "understands nothing: it is the best of the most common answer, the first or last that is "
    "mentioned, a bag of the words and a copy of the text, on the same items.",
    "Stories": "Stories told by the model alone and read by the world's own parser: consistent "
    "means that every sentence agrees with all before it, up to the end.",
    "It answers": "The first answers to each task.",
    SIDES: "All models got the same items. Each score has the 95 % interval of another draw of "
    "such items, taken alone: intervals that overlap do not show that two models are equal.",
    PAIRS: "Each model is compared with A item by item, which cancels what makes an item hard for "
    "both: the difference with its paired bootstrap interval. p is that of McNemar's exact test on "
    "the items that only one of the two has right; it allows for how many comparisons there are "
    "(Holm). It knows the luck of the items, not that of training.",
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
    shares = [f"{name} {percent(value)}" for name, value in task.get("also", {}).items()]
    return shares + [f"{name} {value:.4g}" for name, value in task.get("facts", {}).items()]


def task_name(name: str) -> str:
    return TASK_NAMES.get(name, name.replace("_", " "))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def model_rows(models: Sequence[dict], texts: Sequence[dict]) -> list[Row]:
    """Return a line for each of several models, with what it makes of a text."""
    scores = [(f"{t['bits_per_byte']:.4f}", f"{t['perplexity']:.3f}") for t in texts]
    return [
        (letter, model["name"], f"{model['parameters']:,}", f"{model['steps']:,}", *score)
        for letter, model, score in zip(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(models)],
            models,
            scores or [()] * len(models),
            strict=True,
        )
    ]


def compared_rows(tasks: dict[str, list[dict]]) -> list[Row]:
    """Return a line for each task, with a cell for each model."""
    return [
        (
            task_name(name),
            *(
                f"{percent(m['score'])} ({100 * m['low']:.1f} to {100 * m['high']:.1f}"
                + "".join(f"; {more}" for more in also(m))
                + ")"
                for m in models
            ),
            f"{percent(models[0]['baseline'])} ({models[0]['baseline_name'].replace('_', ' ')})",
            f"{models[0]['n']:,}",
            models[0]["metric"],
        )
        for name, models in tasks.items()
    ]


def pair_rows(pairs: Sequence[dict]) -> list[Row]:
    """Return a line for each comparison with model A, under PAIR_HEAD."""
    rows = []
    for pair in pairs:
        is_clear = pair["low"] > 0 or pair["high"] < 0
        if "p_adjusted" in pair:
            is_clear = pair["p_adjusted"] < 0.05
            alone = (f"{pair['only_a']:,}", f"{pair['only_b']:,}", f"{pair['p_adjusted']:.2g}")
        else:
            alone = ("", "", "")
        letter = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[pair["model"]]
        better = f"{letter} is better" if pair["difference"] > 0 else "A is better"
        rows.append(
            (
                f"{task_name(pair['task'])}: {letter} - A",
                f"{100 * pair['difference']:+.1f}",
                f"{100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}",
                *alone,
                better if is_clear else "not told apart",
            )
        )
    return rows


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
    if "models" in report:
        models, texts = report["models"], report.get("texts", ())
        head = MODEL_HEAD + (("bits per byte", "perplexity a token") if texts else ())
        found.append(("Models", "", head, model_rows(models, texts)))
    if "compared" in report:
        names = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(report["models"])]
        head = ("task", *names, "baseline", "items", "metric")
        found.append((SIDES, EXPLAINED[SIDES], head, compared_rows(report["compared"])))
        found.append((PAIRS, EXPLAINED[PAIRS], PAIR_HEAD, pair_rows(report["pairs"])))
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
