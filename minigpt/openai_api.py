"""OpenAI's forms: what a request may hold, and what an answer looks like, as dictionaries.

A request is checked field by field, and whatever this server cannot do is refused by its name:
silence about a field would look like an answer that heeds it.

Knows JSON's types and the engine's requests and pieces; nothing of sockets.

Source: https://platform.openai.com/docs/api-reference (chat, completions, models, errors).
"""

import difflib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from minigpt.chat import can_chat, check_messages, encode_prompt, end_id
from minigpt.engine import Piece, Request, TokenScore
from minigpt.sampling import SampleConfig
from minigpt.support.errors import ConfigError, MinigptError
from minigpt.tokenizer import Tokenizer

Kind = Literal["chat", "completion"]

# Fields that say how to choose, by the name that SampleConfig has for them.
SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
HEEDED = frozenset(
    (*SAMPLING, "model", "stream", "stream_options", "stop", "logprobs", "logit_bias", "max_tokens")
)
OWN = {
    "chat": HEEDED | {"messages", "max_completion_tokens", "top_logprobs"},
    "completion": HEEDED | {"prompt"},
}
# Fields that change nothing about the text: notes of the caller, and hints to other servers.
IGNORED = frozenset(
    (
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
        "parallel_tool_calls",
    )
)
# Fields that are harmless at one value, and ask for what this server cannot do at any other.
ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
}
COMPLETION_TOKENS = 16  # of a completion, unless the request says otherwise
TEMPERATURES = 2.0  # the highest that OpenAI takes
LONGEST_MESSAGE = 300  # characters of an error; what a client sent may be part of it
MOST_STOPS, MOST_CHAT_LOGPROBS, MOST_COMPLETION_LOGPROBS = 4, 20, 5


class ApiError(Exception):
    """A refusal in OpenAI's form: an HTTP status, a line, the field at fault, and a code."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ):
        super().__init__(message)
        self.status, self.message = status, message[:LONGEST_MESSAGE]
        self.param, self.code = param, code

    def body(self) -> dict[str, Any]:
        """Return the body of the answer that tells of this error."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True)
class Asked:
    """A request that was understood: what the engine gets, and in which form the answer goes."""

    kind: Kind
    request: Request
    streams: bool
    tells_usage: bool


# ---- requests


def read_request(body: Any, kind: Kind, model: str, tokenizer: Tokenizer, block_size: int) -> Asked:
    """Check the body of a request and return what it asks for.

    model: the only name that a request may ask for. Raises ApiError, which names the field.
    """
    if not isinstance(body, dict):
        raise ApiError(400, f"the body is no JSON object but {type(body).__name__}")
    body = {name: value for name, value in body.items() if value is not None}
    check_names(body, kind)
    check_model(body.get("model"), model)
    prompt = chat_prompt(body, tokenizer) if kind == "chat" else text_prompt(body, tokenizer)
    streams = take(body, "stream", bool, False)
    options = take(body, "stream_options", dict, {})
    if options and not streams:
        raise ApiError(400, "stream_options needs stream: true", "stream_options")
    stop_ids = {tokenizer.eot_id} | ({end_id(tokenizer)} if kind == "chat" else set())
    request = Request(
        tuple(prompt),
        read_sampling(body, kind, len(prompt), block_size),
        read_stop(body.get("stop", [])),
        frozenset(stop_ids),
        read_logprobs(body, kind),
    )
    return Asked(kind, request, streams, take(options, "include_usage", bool, False))


def check_names(body: dict[str, Any], kind: Kind) -> None:
    """Refuse fields that nobody here knows, and those that ask for what is not offered."""
    for name, value in body.items():
        if name in ONLY and value not in ONLY[name]:
            message = f"{name} = {str(value)[:40]} is not offered by this server"
            raise ApiError(400, message, name, "unsupported_value")
        if name not in OWN[kind] | IGNORED | ONLY.keys():
            near = difflib.get_close_matches(name, OWN[kind], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ApiError(
                400, f"unknown field {name[:40]!r}{hint}", name[:40], "unknown_parameter"
            )


def check_model(name: Any, model: str) -> None:
    """Refuse every model but the one that is served."""
    if not isinstance(name, str):
        raise ApiError(400, f"model must be text: {model!r} is what is served", "model")
    if name != model:
        message = f"there is no model {name[:60]!r}; this server has {model!r}"
        raise ApiError(404, message, "model", "model_not_found")


def take(body: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    """Return a field of a JSON type, or the default where it is missing."""
    value = body.get(name, default)
    if type(value) is not kind:
        words = {bool: "true or false", dict: "an object", int: "a whole number", str: "text"}
        raise ApiError(400, f"{name} must be {words[kind]}", name, "invalid_type")
    return value


def chat_prompt(body: dict[str, Any], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of the messages, up to where the answer begins."""
    if not can_chat(tokenizer):
        message = "this model has not learned to chat; ask /v1/completions"
        raise ApiError(400, message, "messages", "unsupported_value")
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise ApiError(400, "messages must be a list", "messages", "invalid_type")
    try:
        plain = [plain_message(message) for message in messages]
        check_messages(plain)
    except MinigptError as error:
        raise ApiError(400, str(error), "messages") from None
    for message in plain:
        check_text(message["content"], "messages")
    return encode_prompt(plain, tokenizer)


def plain_message(message: Any) -> Any:
    """Return a message with its content as one text; what cannot be one stays as it is.

    >>> plain_message({"role": "user", "content": [{"type": "text", "text": "Hi"}]})
    {'role': 'user', 'content': 'Hi'}
    """
    if not isinstance(message, dict):
        return message
    role, content = message.get("role"), message.get("content")
    if isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            if kind != "text" or not isinstance(part.get("text"), str):
                words = f"parts of type {str(kind)[:40]!r} are not offered, only text"
                raise ApiError(400, words, "messages", "unsupported_value")
        content = "".join(part["text"] for part in content)
    return {"role": "system" if role == "developer" else role, "content": content}


def text_prompt(body: dict[str, Any], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a prompt: a text, which begins a new document, or ids as they are."""
    prompt = body.get("prompt", "")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        check_text(prompt, "prompt")
        return [tokenizer.bos_id, *tokenizer.encode(prompt)]
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return prompt
    raise ApiError(400, "prompt must be one text, or one list of token ids", "prompt")


def check_text(text: str, param: str) -> None:
    """Refuse half a character: JSON can write one, UTF-8 cannot."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ApiError(400, f"{param} holds half of a surrogate pair", param)


def read_sampling(body: dict[str, Any], kind: Kind, n_prompt: int, block_size: int) -> SampleConfig:
    """Return how tokens are chosen, and how many at most."""
    room = block_size - n_prompt
    names = ("max_completion_tokens", "max_tokens") if kind == "chat" else ("max_tokens",)
    param = next(
        (name for name in names if name in body), "prompt" if kind != "chat" else "messages"
    )
    usual = max(room, 1) if kind == "chat" else COMPLETION_TOKENS
    wanted = take(body, param, int, usual) if param in names else usual
    if wanted < 1:
        raise ApiError(400, f"{param} = {wanted} is not possible: give 1 or more", param)
    if wanted > room:
        message = (
            f"the prompt has {n_prompt} tokens, the answer may have {wanted}, and the context is "
            f"{block_size} tokens long: shorten the prompt, or ask for {max(room, 0)} at most"
        )
        raise ApiError(400, message, param, "context_length_exceeded")
    settings = {name: body[name] for name in SAMPLING if name in body}
    # Without a seed every answer is another one.
    settings.setdefault("seed", secrets.randbits(32))
    try:
        if "temperature" in settings and not settings["temperature"] <= TEMPERATURES:
            raise ConfigError("temperature is above 2", "--temperature", "give 0 to 2")
        bias = read_bias(body.get("logit_bias", {}))
        return SampleConfig(max_new_tokens=wanted, logit_bias=bias, **settings)
    except ConfigError as error:
        name = error.where.removeprefix("--").replace("-", "_")
        raise ApiError(400, f"{error.what}: {error.remedy}", name) from None
    except TypeError:
        raise ApiError(400, "temperature must be a number", "temperature", "invalid_type") from None


def read_bias(value: Any) -> tuple[tuple[int, Any], ...]:
    """Return pairs of id and bias from an object whose keys are ids as text."""
    if not isinstance(value, dict):
        raise ApiError(400, "logit_bias must be an object", "logit_bias", "invalid_type")
    for key in value:
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise ApiError(400, f"logit_bias: {key[:40]!r} is no token id", "logit_bias")
    return tuple((int(key), bias) for key, bias in value.items())


def read_stop(value: Any) -> tuple[str, ...]:
    """Return the stop strings: a text, or a list of up to four."""
    strings = [value] if isinstance(value, str) else value
    is_list = isinstance(strings, list) and all(isinstance(text, str) for text in strings)
    if not is_list or not all(strings) or len(strings) > MOST_STOPS:
        message = f"stop must be a text, or up to {MOST_STOPS} texts, none of them empty"
        raise ApiError(400, message, "stop")
    return tuple(strings)


def read_logprobs(body: dict[str, Any], kind: Kind) -> int | None:
    """Return how many log-probabilities each token comes with; None: not even its own."""
    if kind == "completion":
        if "logprobs" not in body:
            return None
        return checked_count(take(body, "logprobs", int, 0), "logprobs", MOST_COMPLETION_LOGPROBS)
    count = checked_count(take(body, "top_logprobs", int, 0), "top_logprobs", MOST_CHAT_LOGPROBS)
    if take(body, "logprobs", bool, False):
        return count
    if "top_logprobs" in body:
        raise ApiError(400, "top_logprobs needs logprobs: true", "top_logprobs")
    return None


def checked_count(count: int, name: str, most: int) -> int:
    """Return a count, or refuse one that is out of range."""
    if not 0 <= count <= most:
        raise ApiError(400, f"{name} = {count} is not possible: give 0 to {most}", name)
    return count


# ---- answers


class Writer:
    """Write one answer in OpenAI's form, whole or in chunks that share an id."""

    def __init__(self, asked: Asked, model: str, tokenizer: Tokenizer):
        self.asked, self.tokenizer = asked, tokenizer
        self.is_chat = asked.kind == "chat"
        self.head = {
            "id": ("chatcmpl-" if self.is_chat else "cmpl-") + secrets.token_hex(12),
            "created": int(time.time()),
            "model": model,
        }
        self.offset = 0  # of the next token's text, in characters

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the answer that these pieces are, with its usage."""
        text = "".join(piece.text for piece in pieces)
        tokens = [token for piece in pieces for token in piece.tokens]
        if self.is_chat:
            message = {"role": "assistant", "content": text, "refusal": None}
            choice: dict[str, Any] = {"index": 0, "message": message}
        else:
            choice = {"index": 0, "text": text}
        choice |= {"logprobs": self.logprobs(tokens), "finish_reason": pieces[-1].finish}
        form = "chat.completion" if self.is_chat else "text_completion"
        usage = self.usage(pieces[-1].n_tokens)
        return {**self.head, "object": form, "choices": [choice], "usage": usage}

    def first(self) -> list[dict[str, Any]]:
        """Return what a stream begins with: in a chat, who speaks."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [self.chunk({"delta": delta}, None, None)] if self.is_chat else []

    def part(self, piece: Piece) -> list[dict[str, Any]]:
        """Return the chunks of a piece; the last piece ends the stream, with usage if wanted."""
        logprobs = self.logprobs(piece.tokens)
        content = {"delta": {"content": piece.text}} if self.is_chat else {"text": piece.text}
        if piece.finish is None:
            return [self.chunk(content, logprobs, None)]
        end = {"delta": {}} if self.is_chat else {"text": ""}
        chunks = [self.chunk(content, logprobs, None)] if piece.text or piece.tokens else []
        chunks.append(self.chunk(end, None, piece.finish))
        if self.asked.tells_usage:
            usage = self.usage(piece.n_tokens)
            chunks.append({**self.chunk({}, None, None), "choices": [], "usage": usage})
        return chunks

    def chunk(self, content: dict[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
        """Return one chunk of a stream."""
        choice = {"index": 0, **content, "logprobs": logprobs, "finish_reason": finish}
        form = "chat.completion.chunk" if self.is_chat else "text_completion"
        chunk = {**self.head, "object": form, "choices": [choice]}
        return {**chunk, "usage": None} if self.asked.tells_usage else chunk

    def usage(self, n_tokens: int) -> dict[str, int]:
        """Return how many tokens were read and written."""
        n_prompt = len(self.asked.request.prompt)
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_tokens,
            "total_tokens": n_prompt + n_tokens,
        }

    def logprobs(self, tokens: Sequence[TokenScore]) -> dict[str, Any] | None:
        """Return the log-probabilities of tokens, in the form that chat or completions have."""
        if self.asked.request.top_logprobs is None:
            return None
        if self.is_chat:
            content = [
                self.entry(token.id, token.logprob)
                | {"top_logprobs": [self.entry(*pair) for pair in token.top]}
                for token in tokens
            ]
            return {"content": content, "refusal": None}
        texts = [self.shown(token.id) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self.offset)
            self.offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [{self.shown(i): finite(x) for i, x in t.top} for t in tokens],
            "text_offset": offsets,
        }

    def entry(self, token: int, logprob: float) -> dict[str, Any]:
        """Return one token with its log-probability: as text, and as the bytes that it is."""
        data = self.tokenizer.decode_bytes([token])
        return {"token": self.shown(token), "logprob": finite(logprob), "bytes": list(data)}

    def shown(self, token: int) -> str:
        """Return a token as text; half a character becomes U+FFFD."""
        return self.tokenizer.decode_bytes([token]).decode("utf-8", errors="replace")


def finite(logprob: float) -> float:
    """Return a number that JSON can write: OpenAI's stand-in for a probability of 0 is -9999."""
    return max(logprob, -9999.0)


def model_card(model: str, created: int) -> dict[str, Any]:
    """Return a model as /v1/models lists it."""
    return {"id": model, "object": "model", "created": created, "owned_by": "minigpt"}
