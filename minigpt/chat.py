"""Turn conversations into token ids, and say which of them a model is trained on.

A message is {"role": "system" | "user" | "assistant", "content": text}. It becomes the special
token of its role, its text, and <|end|>:

    <|user|>Where is Tom?<|end|><|assistant|>In the park.<|end|>

Every text is encoded by itself and the special ids are put around it afterwards, so nothing that a
user writes can become a special token. The model is trained on what it has to say: the assistant's
texts and the <|end|> after each. To ask it for an answer, the ids end with <|assistant|>, and the
answer is over at <|end|>.

Published models write conversations in other ways; `FORMATS` holds those of Qwen3 and Llama 3, and
a tokenizer's special tokens tell which one its model has learned.

Knows nothing of models, files or batches.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from minigpt.support.errors import ConfigError, DataError
from minigpt.tokenizer import BEGIN_OF_TEXT, END_OF_TEXT, Tokenizer, spellings

ROLES = ("system", "user", "assistant")
END = "<|end|>"
SPECIAL = (END_OF_TEXT, *(f"<|{role}|>" for role in ROLES), END)  # of a tokenizer that can chat

Message = dict[str, str]
Encoded = tuple[list[int], list[bool]]  # ids, and which of them are trained on
TrainOn = Literal["answers", "all"]


@dataclass(frozen=True)
class ChatFormat:
    """Say how a family of models writes a conversation; {role} is the role of a message."""

    special: tuple[str, ...]  # the special tokens that it needs
    opening: str  # stands before a message
    end: str  # the special token at which it is over; the model has to say it
    after: str = ""  # stands between messages
    begin: str = ""  # stands before the first message
    trims: bool = False  # white space around a text is left out


FORMATS = {
    "minigpt": ChatFormat(SPECIAL, "<|{role}|>", END),
    "qwen3": ChatFormat(
        ("<|im_start|>", "<|im_end|>"), "<|im_start|>{role}\n", "<|im_end|>", after="\n"
    ),
    "llama3": ChatFormat(
        (BEGIN_OF_TEXT, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|start_header_id|>{role}<|end_header_id|>\n\n",
        "<|eot_id|>",
        begin=BEGIN_OF_TEXT,
        trims=True,
    ),
}


class Marks(NamedTuple):
    """A chat format in the ids of one tokenizer."""

    begin: list[int]
    heads: dict[str, list[int]]  # by role: the opening up to its last special token
    leads: dict[str, str]  # the rest of it, which is encoded together with the text
    end: int
    after: list[int]
    trims: bool


def chat_format(tokenizer: Tokenizer) -> ChatFormat:
    """Return how conversations are written for the model of a tokenizer.

    Raises ConfigError where the tokenizer has the special tokens of no format.
    """
    for form in FORMATS.values():
        if set(form.special) <= tokenizer.special_tokens.keys():
            return form
    missing = [name for name in SPECIAL if name not in tokenizer.special_tokens]
    raise ConfigError(
        f"the tokenizer has no special tokens {', '.join(missing)}",
        "chat",
        "use a model whose tokenizer was trained with special_tokens=chat.SPECIAL, as train, "
        "quickstart and finetune do it",
    )


def can_chat(tokenizer: Tokenizer) -> bool:
    """Tell whether a tokenizer has what conversations are written with."""
    return any(set(form.special) <= tokenizer.special_tokens.keys() for form in FORMATS.values())


def marks_of(tokenizer: Tokenizer) -> Marks:
    """Encode all that a chat format puts around texts."""
    form = chat_format(tokenizer)
    heads, leads = {}, {}
    for role in ROLES:
        opening = form.opening.replace("{role}", role)
        cut = max(match.end() for match in spellings(form.special).finditer(opening))
        heads[role] = tokenizer.encode(opening[:cut], form.special)
        leads[role] = opening[cut:]
    begin, after = tokenizer.encode(form.begin, form.special), tokenizer.encode(form.after)
    return Marks(begin, heads, leads, tokenizer.special_tokens[form.end], after, form.trims)


def encode_chat(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    train_on: TrainOn = "answers",
) -> Encoded:
    """Return the ids of a conversation and which of them are trained on.

    >>> ids, trained = encode_chat([user("1 + 1?"), assistant("2")], tokenizer)
    >>> tokenizer.decode(ids)
    '<|user|>1 + 1?<|end|><|assistant|>2<|end|>'
    >>> tokenizer.decode([token for token, is_trained in zip(ids, trained) if is_trained])
    '2<|end|>'
    """
    return encode_chats([messages], tokenizer, train_on)[0]


def encode_chats(
    conversations: Sequence[Sequence[Message]],
    tokenizer: Tokenizer,
    train_on: TrainOn = "answers",
) -> list[Encoded]:
    """Encode many conversations together: the same as `encode_chat` of each, sooner.

    `train_on="all"` trains on every token, which suits a model that has seen no such text yet.
    """
    marks = marks_of(tokenizer)
    for messages in conversations:
        check_messages(messages)
    texts = [
        marks.leads[message["role"]]
        + (message["content"].strip() if marks.trims else message["content"])
        for messages in conversations
        for message in messages
    ]
    encoded = iter(tokenizer.encode_batch(texts))
    return [
        join(messages, encoded, marks, tokenizer, train_on == "all") for messages in conversations
    ]


def join(
    messages: Sequence[Message],
    encoded: Iterator[list[int]],
    marks: Marks,
    tokenizer: Tokenizer,
    all_: bool,
) -> Encoded:
    """Put the marks around the next encoded texts, one for each message."""
    ids = list(marks.begin)
    trained = [all_] * len(ids)
    for message in messages:
        text, head = next(encoded), marks.heads[message["role"]]
        n_given = len(head) + beginning(text, marks.leads[message["role"]], tokenizer)
        ids += [*head, *text, marks.end, *marks.after]
        is_answer = all_ or message["role"] == "assistant"
        trained += [all_] * n_given + [is_answer] * (len(head) + len(text) + 1 - n_given)
        trained += [all_] * len(marks.after)
    return ids, trained


def beginning(ids: Sequence[int], lead: str, tokenizer: Tokenizer) -> int:
    """Return how many tokens of a text lie within the ASCII letters that it begins with."""
    n, room = 0, len(lead)
    while room and n < len(ids) and (room := room - len(tokenizer.token_bytes[ids[n]])) >= 0:
        n += 1
    return n


def encode_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Return the ids after which the model's answer comes: they end with <|assistant|>."""
    return encode_prompts([messages], tokenizer)[0]


def encode_prompts(
    conversations: Sequence[Sequence[Message]], tokenizer: Tokenizer
) -> list[list[int]]:
    """Return the ids after which each conversation's next answer comes."""
    marks = marks_of(tokenizer)
    begin = [*marks.heads["assistant"], *tokenizer.encode(marks.leads["assistant"])]
    return [[*ids, *begin] for ids, _ in encode_chats(conversations, tokenizer)]


def longest_answer(texts: Iterable[str], tokenizer: Tokenizer) -> int:
    """Return how many tokens the longest of some answers has, its <|end|> included."""
    different = sorted(set(texts))  # labels recur thousands of times
    return 1 + max(map(len, tokenizer.encode_batch(different)), default=0)


def end_id(tokenizer: Tokenizer) -> int:
    """Return the id of <|end|>, or of what another format has for it: an answer is over there."""
    return tokenizer.special_tokens[chat_format(tokenizer).end]


def mark_ids(tokenizer: Tokenizer) -> set[int]:
    """Return the ids of the special tokens that say who speaks, and of the end."""
    special = chat_format(tokenizer).special
    return {tokenizer.special_tokens[name] for name in special if name != END_OF_TEXT}


def check_messages(messages: Sequence[Message]) -> None:
    """Raise DataError unless there are messages, each with a known role and a text."""
    remedy = 'write messages as [{"role": "user", "content": "..."}, ...]'
    if not isinstance(messages, Sequence) or isinstance(messages, str) or len(messages) == 0:
        raise DataError("no messages", "conversation", remedy)
    for number, message in enumerate(messages, start=1):
        where = f"message {number}"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise DataError(f"{str(message)[:40]} has no role and content", where, remedy)
        if message["role"] not in ROLES:
            role = str(message["role"])[:40]
            raise DataError(f"unknown role {role!r}", where, f"give one of {', '.join(ROLES)}")
        if not isinstance(message["content"], str):
            kind = type(message["content"]).__name__
            raise DataError(f"the content is no text but {kind}", where, remedy)


def fit_messages(
    messages: Sequence[Message], tokenizer: Tokenizer, room: int
) -> tuple[list[Message], int]:
    """Forget the oldest turns until the prompt has at most `room` tokens.

    A turn is a user's message with what follows up to the next one; a system message stays, and so
    does the last turn. Returns the messages left and how many turns were forgotten; raises
    DataError where even the last turn is too long.
    """
    messages, forgotten = list(messages), 0
    first = 1 if messages and messages[0]["role"] == "system" else 0
    while (length := len(encode_prompt(messages, tokenizer))) > room:
        turns = [n for n in range(first, len(messages)) if messages[n]["role"] == "user"]
        if len(turns) < 2:
            raise DataError(
                f"the message has {length} tokens and there is room for {room}",
                "chat",
                "write a shorter message, or let the answer be shorter with --max-new-tokens",
            )
        messages[first : turns[1]] = []
        forgotten += 1
    return messages, forgotten
