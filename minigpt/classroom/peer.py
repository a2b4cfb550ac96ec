"""Two processes that call each other's functions over a pipe: JSON in both directions.

Each question carries a fresh random token that its answer must repeat, so nothing can be answered
before it was asked. While one side waits for an answer, it serves the other side's questions.
"""

import builtins
import json
import secrets
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from minigpt.checks import explain
from minigpt.classroom.values import decode, encode

LARGEST = 100_000_000  # bytes of one message
LONGEST_TEXT = 2000  # characters of an error's text


class PeerGone(BaseException):
    """The other process has ended; no `except Exception` of a check may take it for an answer."""


class PeerConfused(PeerGone):
    """The other process sent something that nobody asked for, or that nobody can read."""


class Peer:
    """One end of the conversation.

    `serve` answers a question (a dict) with a plain value; what it raises is sent as an error.
    A strict peer raises TypeError rather than to send a value that would arrive as a mere name.
    """

    def __init__(self, connection: Connection, serve: Callable[[dict], Any], strict: bool):
        self.connection, self.serve, self.strict = connection, serve, strict
        self.functions: list[Callable] = []

    def ask(self, question: dict) -> Any:
        """Send a question; return its answer, or raise what the other side raised."""
        token = secrets.token_hex(16)
        self._send({"ask": question, "token": token})
        while True:
            message = self._receive()
            if "ask" in message:
                self._answer(message)
            elif message.get("token") != token:
                raise PeerConfused("an answer to no question")
            elif "raised" in message:
                raise _as_exception(message["raised"])
            else:
                return self._decode(message.get("reply"))

    def answer_all(self) -> None:
        """Serve the other side's questions until it hangs up."""
        while True:
            try:
                self._answer(self._receive())
            except PeerGone:
                return

    def _answer(self, message: dict) -> None:
        """Serve one question; an error in it is part of the answer."""
        token, question = message.get("token"), message.get("ask")
        if not isinstance(question, dict):
            raise PeerConfused("not a question")
        try:
            if "call" in question:
                function = self.functions[question["call"]]
                arguments = [self._decode(each) for each in question["arguments"]]
                options = {key: self._decode(v) for key, v in question["options"].items()}
                reply = function(*arguments, **options)
            else:
                reply = self.serve(question)
            answer = {"reply": self._encode(reply)}
        except PeerGone:
            raise
        except (Exception, SystemExit) as error:
            answer = {"raised": describe(error)}
        self._send({"token": token} | answer)

    def _stand_in(self, number: int) -> Callable:
        """Return a function that calls the other side's function."""

        def stand_in(*arguments: Any, **options: Any) -> Any:
            sent = [self._encode(each) for each in arguments]
            named = {key: self._encode(value) for key, value in options.items()}
            return self.ask({"call": number, "arguments": sent, "options": named})

        stand_in.__module__, stand_in.__qualname__ = "answers", "answer"
        return stand_in

    def _keep(self, function: Callable) -> int:
        self.functions.append(function)
        return len(self.functions) - 1

    def _encode(self, value: Any) -> Any:
        return encode(value, self._keep, self.strict)

    def _decode(self, data: Any) -> Any:
        try:
            return decode(data, self._stand_in)
        except (ValueError, TypeError, RecursionError) as error:
            raise PeerConfused(f"a value that cannot be read: {error}") from error

    def _send(self, message: dict) -> None:
        try:
            self.connection.send_bytes(json.dumps(message).encode("utf-8"))
        except (OSError, ValueError) as error:
            raise PeerGone(str(error)) from error

    def _receive(self) -> dict:
        """Wait for a message. Only bytes are taken: `Connection.recv` would unpickle them."""
        try:
            message = json.loads(self.connection.recv_bytes(LARGEST))
        except (EOFError, ConnectionError) as error:
            raise PeerGone(f"{type(error).__name__}: {error}") from error
        except (OSError, ValueError, RecursionError) as error:  # too long, or not JSON
            raise PeerConfused(f"{type(error).__name__}: {error}") from error
        if not isinstance(message, dict):
            raise PeerConfused("not a message")
        return message


def describe(error: BaseException) -> dict:
    """Return what another process may know of an error: kind, text, and a sentence for readers."""
    text = str(error)[:LONGEST_TEXT]
    return {"kind": type(error).__name__, "text": text, "explained": explain(error)[:LONGEST_TEXT]}


def _as_exception(raised: Any) -> Exception:
    """Make an exception of the same built-in kind, or a plain one."""
    fields = raised if isinstance(raised, dict) else {}
    kind = getattr(builtins, str(fields.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = Exception
    try:
        error = kind(str(fields.get("text")))
    except TypeError:  # UnicodeDecodeError and its like want more arguments
        error = Exception(str(fields.get("text")))
    vars(error)["explained"] = str(fields.get("explained"))
    return error
