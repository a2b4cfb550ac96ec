"""Read pairs of a better and a worse answer, and prompts that need no answer, as examples.

Public preference sets come in many spellings: texts in columns, lists of messages, whole
conversations that differ in their last answer, two answers and the number of the better one. Each
becomes a record with `chosen` and `rejected`, and is then read twice by the usual reader: once with
either answer. Knows one record at a time.
"""

import dataclasses
from typing import Any

from minigpt.batching.layouts import (
    TALKS,
    Missing,
    as_message,
    by_name,
    columns_of,
    find_choices,
    find_talk,
    known_layout,
)
from minigpt.batching.messages import (
    Example,
    ExampleConfig,
    as_text,
    compared,
    fill_template,
    note_unused,
    part_of,
    said_split,
    shown,
    to_example,
    turns,
)
from minigpt.chat import Message, check_messages
from minigpt.data.decoding import ReadCounts
from minigpt.data.formats import DataFile
from minigpt.data.json_records import is_objects, json_kind
from minigpt.support.errors import DataError

ANSWERS = (  # columns of a better and a worse answer
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("preferred_output", "non_preferred_output"),
    ("preferred", "dispreferred"),
    ("response_j", "response_k"),
    ("better", "worse"),
)
NUMBERED = (  # two answers, a column that says which is better, and what it holds for the first
    ("response_0", "response_1", "better_response_id", "0"),
    ("human_ref_a", "human_ref_b", "labels", "1"),
)
PROMPTS = ("prompt", "question", "problem", "instruction", "query", "input")
ASKING = ("prompt", "input", *TALKS)
TARGETS = ("answer", "solution", "ground_truth", "target", "completion")
ASK_PAIRS = 'name them: --prompt "{column}" --answer "{better}" --rejected "{worse}"'


# --- pairs ---


def to_pair(
    rejected: str | None,
    file: DataFile,
    config: ExampleConfig,
    counts: ReadCounts,
    record: object,
    where: str,
) -> Example | Missing:
    """Make an example of a prompt and two answers; raise DataError saying what is wrong with it.

    rejected: the template of the worse answer, where `config` has those of prompt and answer.
    Returns Missing for a record that prefers nothing: an answer is missing, or both are the same.
    """
    if not isinstance(record, dict):
        what = f"{json_kind(record)} where an object is expected"
        raise DataError(what, where, 'write {"prompt": "...", "chosen": "...", "rejected": "..."}')
    inner, worse_config = ReadCounts(), config
    try:
        if config.prompt is not None:
            plain = other = record
            said = ("", " and ".join(f"`{name}`" for name in columns_of(rejected or "")))
            worse_config = dataclasses.replace(config, answer=rejected)
        else:
            plain, said = with_sides(record, where)
            other = {**plain, "chosen": plain["rejected"]}
        better = found(to_example(file, config, inner, plain, where))
        worse = found(to_example(file, worse_config, inner, other, where))
        refuse_unlike(better, worse, where)
    except Missing as missing:
        counts.notes[f"records left out: {missing.what}"] += 1
        return missing
    about = next(iter(inner.layouts)).replace("`chosen`", said[0])
    about = f"{about}, worse answer from {said[1]}"
    counts.layouts[about] += 1
    # What was asked stands in the conversations, wherever it came from.
    rest = {k: v for k, v in record.items() if str(k).strip().lower() not in ASKING}
    note_unused(rest, about, counts)
    return better._replace(rejected=worse.messages[-1]["content"])


def found(example: Example | Missing) -> Example:
    """Return an example, or raise what stands in its place."""
    if isinstance(example, Missing):
        raise example
    return example


def refuse_unlike(better: Example, worse: Example, where: str) -> None:
    """Raise Missing where two conversations differ before their last answer, or not at all."""
    if better.messages[:-1] != worse.messages[:-1]:
        raise Missing("answers to two different prompts", where, "give both the same prompt")
    if better.messages[-1]["content"] == worse.messages[-1]["content"]:
        raise Missing("two equal answers", where, "give two that differ")


def with_sides(record: dict, where: str) -> tuple[dict, tuple[str, str]]:
    """Return a record whose answers are `chosen` and `rejected`, and in words where they stood.

    An answer that comes as messages becomes the whole conversation, its prompt included.
    """
    chosen, rejected, said, used = two_sides(record, where)
    plain = {name: value for name, value in record.items() if name not in used}
    there = by_name(plain)
    prompt = plain.get(there.get("prompt", ""))
    if prompt is None and isinstance(asked := plain.get(there.get("input", "")), dict):
        prompt = plain.pop(there["input"]) and asked.get("messages")  # OpenAI's layout
    if prompt is None and isinstance(plain.get("history"), str):
        prompt = plain["prompt"] = plain.pop("history")
    sides = [as_talk(side, prompt) for side in (chosen, rejected)]
    if any(side is None or side == "" for side in sides):
        raise Missing("no second answer", where, "give two answers to each prompt")
    if all(is_whole(side) for side in sides):  # a column of messages would only repeat them
        plain = {k: v for k, v in plain.items() if str(k).strip().lower() not in TALKS}
    return plain | {"chosen": sides[0], "rejected": sides[1]}, said


def two_sides(record: dict, where: str) -> tuple[Any, Any, tuple[str, str], set[str]]:
    """Return the better and the worse answer, in words where they stood, and the columns used."""
    there = by_name(record)
    for pair in ANSWERS:
        if all(name in there for name in pair):
            good, bad = (there[name] for name in pair)
            return record[good], record[bad], (f"`{good}`", f"`{bad}`"), {good, bad}
    for *pair, number, value in NUMBERED:
        if all(name in there for name in (*pair, number)):
            first, second = (there[name] for name in pair)
            good, bad = first, second
            if str(record[there[number]]) != value:
                good, bad = second, first
            said = (f"`{first}` or `{second}`", f"the other one (by `{there[number]}`)")
            return record[good], record[bad], said, {first, second, there[number]}
    what = f"no better and worse answer among the columns {shown(record)}"
    raise DataError(what, where, ASK_PAIRS)


def as_talk(side: Any, prompt: Any) -> Any:
    """Return an answer in messages as the conversation with its prompt; a text as it is."""
    side = [side] if isinstance(side, dict) else side
    if is_objects(side):
        if is_whole(side) or prompt is None:
            return side
        before = prompt if is_objects(prompt) else [{"role": "user", "content": prompt}]
        return [*before, *side]
    if is_objects(prompt):
        return [*prompt, {"role": "assistant", "content": side}]
    return side


def is_whole(side: Any) -> bool:
    """Tell whether an answer in messages begins with what was asked."""
    return is_objects(side) and as_message(side[0], "").get("role") in ("user", "system")


# --- prompts ---


def to_prompt(
    file: DataFile, config: ExampleConfig, counts: ReadCounts, record: object, where: str
) -> Example | Missing:
    """Make an example of a prompt, with its right answer if it has one: else that is empty.

    The record goes along whole, for a reward that reads its columns.
    """
    if config.prompt is None and is_objects(record):
        record = {"messages": record}
    alone = prompt_alone(record, config, where) if isinstance(record, dict) else None
    if alone is None or not isinstance(record, dict):
        inner = ReadCounts()
        example = to_example(file, config, inner, record, where)
        counts.layouts.update(inner.layouts)
        notes = {text: n for text, n in inner.notes.items() if not text.startswith("not used")}
        counts.notes.update(notes)
        if isinstance(example, Missing) or not isinstance(record, dict):
            return example
        return example._replace(record=record)
    messages, about = alone
    if not messages[0]["content"].strip():
        raise DataError("an empty prompt", where, "remove it, or leave it out with --skip-bad")
    counts.layouts[about] += 1
    key, part = compared(messages), part_of(file, record)
    return Example(messages, where, key, part, split=said_split(record), record=record)


def prompt_alone(
    record: dict, config: ExampleConfig, where: str
) -> tuple[list[Message], str] | None:
    """Return the messages of a record that asks and does not answer, and how it was understood.

    The answer at the end is empty, or a target beside a prompt in messages. None: the record is one
    of those that the usual reader knows, or that nobody does.
    """
    names, errors = by_name(record), config.errors
    if config.prompt is not None:
        if config.answer:
            return None
        text = fill_template(config.prompt.replace("\\n", "\n"), record, where, errors)
        columns = " and ".join(f"`{name}`" for name in columns_of(config.prompt))
        return turns(text, ""), f"prompt from {columns}"
    prompt = record.get(names.get("prompt", ""))
    if is_objects(prompt):
        target = next((names[name] for name in TARGETS if name in names), None)
        answer = "" if target is None else as_text(record[target], target, where, errors)
        about = "conversations from `prompt`" + (f", answer from `{target}`" if target else "")
        return asking(prompt, answer.strip(), where), about
    talk = find_talk(record, where)
    if talk is not None:
        last = talk.messages[-1] if is_objects(talk.messages) else None
        if last is None or as_message(last, where)["role"] == "assistant":
            return None
        return asking(talk.messages, "", where), talk.about
    if find_choices(record, where) is not None or known_layout(record) is not None:
        return None
    for name in (names[name] for name in PROMPTS if name in names):
        if isinstance(record[name], str):
            text = as_text(record[name], name, where, errors).strip()
            return turns(text, ""), f"prompt from `{name}`"
    return None


def asking(messages: Any, answer: str, where: str) -> list[Message]:
    """Return messages that end with the user's, and an answer below them."""
    known = [as_message(message, where) for message in messages]
    try:
        check_messages(known)
    except DataError as error:
        raise DataError(error.what, f"{where}, {error.where}", error.remedy) from None
    if known[-1]["role"] != "user":
        raise DataError("a prompt that does not end with the user", where, "end it with a question")
    return [*known, {"role": "assistant", "content": answer}]
