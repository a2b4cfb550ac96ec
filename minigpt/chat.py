"""Turn conversations into token ids, and say which of them a model is trained on.

A message is {"role": "system" | "user" | "assistant", "content": text}. It becomes the special
token of its role, its text, and <|end|>:

    <|user|>Where is Tom?<|end|><|assistant|>In the park.<|end|>

Every text is encoded by itself and the special ids are put around it afterwards, so nothing that a
user writes can become a special token. The model is trained on what it has to say: the assistant's
texts and the <|end|> after each. To ask it for an answer, the ids end with <|assistant|>, and the
answer is over at <|end|>.

Knows nothing of models, files or batches.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from minigpt.support.errors import ConfigError, DataError
from minigpt.tokenizer import END_OF_TEXT, Tokenizer

ROLES = ("system", "user", "assistant")
END = "<|end|>"
SPECIAL = (END_OF_TEXT, *(f"<|{role}|>" for role in ROLES), END)  # of a tokenizer that can chat

Message = dict[str, str]
Encoded = tuple[list[int], list[bool]]  # ids, and which of them are trained on
TrainOn = Literal["answers", "all"]


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
    special = special_ids(tokenizer)
    for messages in conversations:
        check_messages(messages)
    texts = [message["content"] for messages in conversations for message in messages]
    encoded = iter(tokenizer.encode_batch(texts))
    return [join(messages, encoded, special, train_on == "all") for messages in conversations]


def join(
    messages: Sequence[Message], encoded: Iterator[list[int]], special: dict[str, int], all_: bool
) -> Encoded:
    """Put the special ids around the next encoded texts, one for each message."""
    ids: list[int] = []
    trained: list[bool] = []
    for message in messages:
        text = next(encoded)
        ids += [special[message["role"]], *text, special[END]]
        is_answer = message["role"] == "assistant"
        trained += [all_] + [all_ or is_answer] * (len(text) + 1)
    return ids, trained


def encode_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Return the ids after which the model's answer comes: they end with <|assistant|>."""
    return encode_prompts([messages], tokenizer)[0]


def encode_prompts(
    conversations: Sequence[Sequence[Message]], tokenizer: Tokenizer
) -> list[list[int]]:
    """Return the ids after which each conversation's next answer comes."""
    begin = special_ids(tokenizer)["assistant"]
    return [[*ids, begin] for ids, _ in encode_chats(conversations, tokenizer)]


def longest_answer(texts: Sequence[str], tokenizer: Tokenizer) -> int:
    """Return how many tokens the longest of some answers has, its <|end|> included."""
    return 1 + max((len(ids) for ids in tokenizer.encode_batch(list(texts))), default=0)


def end_id(tokenizer: Tokenizer) -> int:
    """Return the id of <|end|>, at which an answer is over."""
    return special_ids(tokenizer)[END]


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the id of each role's token, by role, and that of <|end|>.

    Raises ConfigError where the tokenizer was trained without them.
    """
    missing = [name for name in SPECIAL if name not in tokenizer.special_tokens]
    if missing:
        raise ConfigError(
            f"the tokenizer has no special tokens {', '.join(missing)}",
            "chat",
            "use a model whose tokenizer was trained with special_tokens=chat.SPECIAL, as train, "
            "quickstart and finetune do it",
        )
    ids = {role: tokenizer.special_tokens[f"<|{role}|>"] for role in ROLES}
    return ids | {END: tokenizer.special_tokens[END]}


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
