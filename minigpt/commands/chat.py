"""Talk with a trained model: `chat --checkpoint RUN [--message TEXT ...]`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.chat import Message, encode_prompt, end_id, fit_messages
from minigpt.commands.arguments import parse
from minigpt.generate import stream
from minigpt.runs.run import Run, open_run
from minigpt.sampling import SampleConfig
from minigpt.streaming import TextStream
from minigpt.support.errors import DataError, require

HELP = "/reset forgets the conversation, /quit ends (as does Ctrl-D); Ctrl-C stops an answer"


@dataclass(frozen=True)
class ChatCommand:
    """Talk with a trained model in the terminal; it answers word by word.

    With --message nothing is asked: each message is sent, and the answers alone are printed.
    """

    checkpoint: Path
    """A run directory, or one checkpoint directory in it."""
    message: tuple[str, ...] = ()
    """Messages to send one after the other, instead of asking for them."""
    system: str = ""
    """What the model is told before the conversation; it is never forgotten."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    sampling: SampleConfig = field(
        default_factory=lambda: SampleConfig(max_new_tokens=100, temperature=0.0)
    )


def main(words: list[str]) -> int:
    """Run the command."""
    command = parse(ChatCommand, "chat", words)
    run = open_run(command.checkpoint, command.device)
    for note in run.notes:
        print(note, file=sys.stderr)
    chat = Chat(run, command.system, command.sampling)
    if command.message:
        for message in command.message:
            chat.answer(message, show)
            print()
        return 0
    return talk(chat)


def show(text: str) -> None:
    """Print a piece of an answer at once."""
    print(text, end="", flush=True)


class Chat:
    """A conversation with a model: keeps what was said, as far as the context holds it."""

    def __init__(self, run: Run, system: str, sampling: SampleConfig):
        self.model, self.tokenizer, self.sampling = run.model, run.tokenizer, sampling
        self.stop_ids = (end_id(run.tokenizer), run.tokenizer.eot_id)
        block_size = run.config.model.block_size
        require(
            sampling.max_new_tokens < block_size,
            "max_new_tokens",
            sampling.max_new_tokens,
            f"less than {block_size}, the model's context",
        )
        self.room = block_size - sampling.max_new_tokens
        self.beginning: list[Message] = []
        if system:
            self.beginning = [{"role": "system", "content": system}]
        self.reset()

    def reset(self) -> None:
        """Forget what was said, but not the system message."""
        self.messages = list(self.beginning)

    def answer(self, text: str, show: Callable[[str], None]) -> str:
        """Return the model's answer; `show` gets its pieces as they are made.

        The oldest turns are forgotten where prompt and answer would not fit into the context.
        Raises DataError, and forgets nothing, where this message alone is too long.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        asked, forgotten = fit_messages(asked, self.tokenizer, self.room)
        if forgotten:
            turns = "turn" if forgotten == 1 else f"{forgotten} turns"
            print(f"(the context is full: the oldest {turns} forgotten)", file=sys.stderr)
        pieces, decoder = [], TextStream(self.tokenizer)
        prompt = encode_prompt(asked, self.tokenizer)
        try:
            for token in stream(self.model, prompt, self.sampling, self.stop_ids):
                pieces.append(decoder.push(token))
                show(pieces[-1])
        finally:  # after Ctrl-C too: what was said is said
            pieces.append(decoder.flush())
            show(pieces[-1])
            self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]
        return "".join(pieces)


def talk(chat: Chat) -> int:
    """Ask for messages until the user has enough."""
    print(HELP, file=sys.stderr)
    while True:
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if text in ("/quit", "/exit"):
            return 0
        if text == "/reset":
            chat.reset()
            print("(forgotten)", file=sys.stderr)
        elif text.startswith("/"):
            print(HELP, file=sys.stderr)
        elif text:
            reply(chat, text)


def reply(chat: Chat, text: str) -> None:
    """Print the answer to one message; a message that cannot be sent is explained."""
    try:
        chat.answer(text, show)
        print()
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(" (stopped)")
