"""Recognize what a record is: a conversation, or a prompt and its right answers.

LAYOUTS is the one table of well-known columns. Conversations come in several spellings (OpenAI,
ShareGPT, preferences), questions with several right answers (SQuAD) or with choices. What a record
holds that is not used is left to the caller to say.
"""

import ast
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from minigpt.data.json_records import json_kind
from minigpt.support.errors import DataError

COLUMN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")  # a doubled brace stands for itself

# The first pair of templates whose columns are all there is taken; case does not count.
LAYOUTS = (
    ("{instruction}\n\n{input}", "{output}"),
    ("{instruction}\n\n{context}", "{response}"),
    ("{instruction}", "{output}"),
    ("{instruction}", "{response}"),
    ("{context}\n\n{question}", "{answers}"),
    ("{context}\n\n{question}", "{answer}"),
    ("{context_text}\n\n{query_text}", "{answers}"),
    ("{story}\n{question}", "{answer}"),
    ("{prompt}", "{answer}"),
    ("{prompt}", "{response}"),
    ("{prompt}", "{completion}"),
    ("{prompt}", "{chosen}"),
    ("{prompt}", "{output}"),
    ("{question}", "{chosen}"),
    ("{instruction}\n\n{input}", "{chosen}"),
    ("{instruction}", "{chosen}"),
    ("{input}", "{chosen}"),
    ("{question}", "{answers}"),
    ("{question}", "{answer}"),
    ("{question}", "{response}"),
    ("{query}", "{response}"),
    ("{query}", "{answer}"),
    ("{problem}", "{answer}"),
    ("{problem}", "{solution}"),
    ("{premise}\n\n{hypothesis}", "{label}"),
    ("{sentence1}\n\n{sentence2}", "{label}"),
    ("{question1}\n\n{question2}", "{label}"),
    ("{question1}\n\n{question2}", "{is_duplicate}"),
    ("{text_a}\n\n{text_b}", "{label}"),
    ("{title}\n\n{description}", "{label}"),
    ("{text}", "{label}"),
    ("{text_a}", "{label}"),
    ("{sentence}", "{label}"),
    ("{review}", "{label}"),
    ("{content}", "{label}"),
    ("{message}", "{label}"),
    ("{comment}", "{label}"),
    ("{tweet}", "{label}"),
    ("{review}", "{sentiment}"),
    ("{text}", "{sentiment}"),
    ("{tweet}", "{sentiment}"),
    ("{text}", "{category}"),
    ("{text}", "{class}"),
    ("{text}", "{target}"),
    ("{text}", "{intent}"),
    ("{text}", "{emotion}"),
    ("{document}", "{summary}"),
    ("{article}", "{highlights}"),
    ("{article}", "{summary}"),
    ("{dialogue}", "{summary}"),
    ("{text}", "{summary}"),
    ("{input}", "{output}"),
    ("{input}", "{target}"),
    ("{input}", "{answer}"),
    ("{source}", "{target}"),
    ("{src}", "{tgt}"),
    ("{english}", "{chinese}"),
)
TALKS = ("messages", "conversations", "conversation", "dialog")  # columns of conversations
SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "developer": "system",
    "tool": "user",
    "function": "user",
    "observation": "user",
}
SIDES = ("chosen", "rejected")
MEANINGS = ("system", "history", "weight", "split", "label")  # columns that change what is learned
CHOICES = ("choices", "options", "endings")
LETTERED = (
    ("choice0", "choice1", "choice2", "choice3"),
    ("a", "b", "c", "d"),
    ("option_a", "option_b", "option_c", "option_d"),
    ("ending0", "ending1", "ending2", "ending3"),
)
ASKED = ("question", "query", "ctx", "sentence", "prompt", "sent1")
RIGHT = ("answer", "answerkey", "answer_idx", "gold", "label", "correct", "correct_answer")
SPOKEN = re.compile(r"\n\n(Human|Assistant): ?")


class Talk(NamedTuple):
    """What a record was recognized as: messages as they stand there, before any check."""

    messages: Any
    about: str  # how it was understood
    used: tuple[str, ...]  # its columns


class Missing(DataError):
    """A record without an answer: it is left out and counted, since nothing can be learned."""


def columns_of(template: str) -> list[str]:
    """Return the columns that a template names: "{a} {{b}} {c}" -> ["a", "c"]."""
    return [found[1] for found in COLUMN.finditer(template) if found[1] is not None]


def by_name(record: dict) -> dict[str, str]:
    """Return the record's columns by their names in lower case without spaces around them."""
    return {str(name).strip().lower(): name for name in reversed(record)}


def known_layout(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first layout whose columns are all there, or None."""
    there = {str(name).strip().lower() for name in names}
    fitting = (pair for pair in LAYOUTS if there.issuperset(columns_of(pair[0] + pair[1])))
    return next(fitting, None)


def said_of(prompt: str, answer: str) -> str:
    """Say in words what two templates take: "prompt from `text`, answer from `label`"."""
    sides = [" and ".join(f"`{name}`" for name in columns_of(side)) for side in (prompt, answer)]
    return f"prompt from {sides[0]}, answer from {sides[1]}"


# --- conversations ---


def find_talk(record: dict, where: str) -> Talk | None:
    """Return the conversation that a record holds, or None where it holds none."""
    names = by_name(record)
    sides = [names[side] for side in SIDES if side in names]
    name = next((names[talk] for talk in TALKS if talk in names), None)
    if name is not None:
        messages = record[name]
        if sides and isinstance(messages, list):
            chosen = record[sides[0]]
            messages = [*messages, *(chosen if isinstance(chosen, list) else [chosen])]
            return Talk(
                messages, f"conversations from `{name}`, answer from `chosen`", (name, *SIDES)
            )
        return Talk(messages, f"conversations from `{name}`", (name,))
    chosen = record[names["chosen"]] if "chosen" in names else None
    if isinstance(chosen, str) and SPOKEN.match(chosen):
        parts = SPOKEN.split(chosen)[1:]
        speakers = {"Human": "user", "Assistant": "assistant"}
        chosen = [
            {"role": speakers[speaker], "content": text}
            for speaker, text in zip(parts[::2], parts[1::2], strict=True)
        ]
    if isinstance(chosen, list):
        return Talk(chosen, "conversations from `chosen`", (*SIDES, "prompt"))
    return None


def as_message(message: Any, where: str) -> Any:
    """Return a message with role and text, from any of the usual spellings."""
    if not isinstance(message, dict):
        return message
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if message.get("weight") in (0, 0.0) and not isinstance(message.get("weight"), bool):
        remedy = "leave the message out, or the conversation"
        raise DataError("a message of weight 0, which would be learned", where, remedy)
    if content is None and message.get("tool_calls"):
        content = json.dumps(message["tool_calls"], ensure_ascii=False)
    if isinstance(content, list):
        content = joined_parts(content, where)
    return {"role": SPEAKERS.get(role, role) if isinstance(role, str) else role, "content": content}


def joined_parts(parts: list, where: str) -> str:
    """Return the texts of a message that comes in parts; other parts are refused."""
    texts = []
    for part in parts:
        text = part if isinstance(part, str) else part.get("text") if is_text(part) else None
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else json_kind(part)
            remedy = "leave it out: messages are text alone"
            raise DataError(f"a part of a message that is no text ({kind})", where, remedy)
        texts.append(text)
    return "\n".join(texts)


def is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type", "text") in (
        "text",
        "input_text",
        "output_text",
    )


# --- questions ---


def right_answers(value: Any) -> list[str] | None:
    """Return several right answers, each once, or None where a value is not of that kind.

    A text may hold a list as JSON, or as Python writes it.

    >>> right_answers({"text": ["Rome", "Rome"], "answer_start": [1, 5]})
    ['Rome']
    >>> right_answers('["Rome", "Roma"]')
    ['Rome', 'Roma']
    """
    if isinstance(value, str):
        value = parsed_cell(value.strip())
    if isinstance(value, dict):
        texts = value.get("text", value.get("spans"))
        if texts is None and "value" in value:
            texts = [value["value"], *(value.get("aliases") or ())]
    elif isinstance(value, list):
        texts = [item.get("text") if isinstance(item, dict) else item for item in value]
    else:
        return None
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list):
        return None
    known = [text for text in texts if isinstance(text, str)]
    return list(dict.fromkeys(text.strip() for text in known if text.strip()))


def parsed_cell(text: str) -> Any:
    """Return the list or object of texts that a cell holds, or the text as it is."""
    if (text[:1], text[-1:]) not in (("[", "]"), ("{", "}")):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        held = value.get("text") if isinstance(value, dict) else value
        if isinstance(held, list) and held and all(isinstance(one, str) for one in held):
            return value
    return text


class Choices(NamedTuple):
    """A question with its choices as they stand in a record."""

    question: str
    texts: tuple[str, ...]
    right: int  # the place of the right one
    used: tuple[str, ...]  # its columns


def read_choices(record: dict, where: str) -> Choices | None:
    """Return a record's question and choices, or None where it has none.

    The right one may be given as a number from 0, as a letter, or as its own text.
    """
    names = by_name(record)
    asked = [names[name] for name in ASKED if name in names]
    right = [names[name] for name in RIGHT if name in names]
    listed = [names[name] for name in CHOICES if name in names]
    lettered = next((row for row in LETTERED if all(name in names for name in row)), ())
    if not asked or not right or not (listed or lettered):
        return None
    texts, labels = (
        texts_of(record[listed[0]]) if listed else ([record[names[x]] for x in lettered], [])
    )
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError("choices that are no list of texts", where, "correct them")
    place = place_of(record[right[0]], texts, labels or letters(len(texts)))
    if place is None:
        what = f"the answer {str(record[right[0]])[:30]!r} is none of the choices"
        raise DataError(what, where, "give its number from 0, its letter or its text")
    used = (asked[0], right[0], *(listed[:1] or [names[x] for x in lettered]))
    question = str(record[asked[0]]).strip()
    return Choices(question, tuple(text.strip() for text in texts), place, used)


def find_choices(record: dict, where: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Return a question with its lettered choices, the right letter, and the columns used."""
    found = read_choices(record, where)
    if found is None:
        return None
    right = letters(len(found.texts))[found.right]
    return lettered_prompt(found.question, found.texts), right, found.used


def letters(n: int) -> list[str]:
    """Return the names of n choices: 3 -> ["A", "B", "C"]."""
    return [chr(ord("A") + k) for k in range(n)]


def lettered_prompt(question: str, texts: Sequence[str]) -> str:
    """Return a question with its choices below it, a letter before each."""
    rows = [f"{name}. {text}" for name, text in zip(letters(len(texts)), texts, strict=True)]
    return "\n".join([question, *rows])


def texts_of(choices: Any) -> tuple[list, list]:
    """Return the texts of choices and their labels, if they have some."""
    if isinstance(choices, dict):
        if isinstance(choices.get("text"), list):
            return choices["text"], list(choices.get("label") or ())
        return list(choices.values()), list(choices)
    if isinstance(choices, list) and choices and all(isinstance(c, dict) for c in choices):
        return [c.get("text") for c in choices], [c.get("label") for c in choices]
    return (choices, []) if isinstance(choices, list) else ([], [])


def place_of(right: Any, texts: list[str], labels: list) -> int | None:
    """Return which choice is right: by its label, its text, or its number from 0."""
    if isinstance(right, int) and not isinstance(right, bool):
        return right if 0 <= right < len(texts) else None
    word = str(right).strip()
    if word in map(str, labels):
        return list(map(str, labels)).index(word)
    if word.isdecimal() and int(word) < len(texts):
        return int(word)
    return texts.index(word) if word in texts else None
