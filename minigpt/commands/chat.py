"""Talk with a trained model: `chat [--checkpoint RUN] [--message TEXT ...]`."""

import dataclasses
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.commands.arguments import parse
from minigpt.conversation import ANSWER_TOKENS, Chat, chat_sampling
from minigpt.runs.run import open_run
from minigpt.sampling import SampleConfig
from minigpt.support.errors import DataError

HELP = "/reset forgets the conversation, /quit ends (as does Ctrl-D); Ctrl-C stops an answer"


@dataclass(frozen=True)
class ChatCommand:
    """Talk with a trained model in the terminal; it answers word by word.

    Without --checkpoint this is little, the model that comes with the package: it tells stories,
    translates them between English and Chinese, and answers questions about them.
    With --message nothing is asked: each message is sent, and the answers alone are printed.
    """

    checkpoint: Path = Path("little")
    """A run directory, one checkpoint directory in it, little or little-base, the folder of a
    published model (GPT-2, Llama 3, Qwen3), or its name: hf:Qwen/Qwen3-0.6B."""
    message: tuple[str, ...] = ()
    """Messages to send one after the other, instead of asking for them."""
    system: str = ""
    """What the model is told before the conversation; it is never forgotten."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    sampling: SampleConfig = field(
        default_factory=lambda: SampleConfig(max_new_tokens=ANSWER_TOKENS, temperature=0.0)
    )


def main(words: list[str]) -> int:
    """Run the command."""
    command = parse(ChatCommand, "chat", words)
    run = open_run(command.checkpoint, command.device)
    for note in run.notes:
        print(note, file=sys.stderr)
    sampling = fitting(command.sampling, run.config.model.block_size)
    chat = Chat(run.model, run.tokenizer, command.system, sampling)
    if command.message:
        for message in command.message:
            say(chat, message)
        return 0
    return talk(chat)


def fitting(sampling: SampleConfig, block_size: int) -> SampleConfig:
    """Let answers be shorter by default where the context is too short for the usual room."""
    if sampling.max_new_tokens != ANSWER_TOKENS or ANSWER_TOKENS < block_size:
        return sampling
    usual = chat_sampling(block_size).max_new_tokens
    return dataclasses.replace(sampling, max_new_tokens=usual)


def say(chat: Chat, text: str) -> None:
    """Print the answer to a message as it is made, and how much had to be forgotten for it."""
    with closing(chat.stream(text)) as pieces:
        if chat.forgotten:
            turns = "turn" if chat.forgotten == 1 else f"{chat.forgotten} turns"
            print(f"(the context is full: the oldest {turns} forgotten)", file=sys.stderr)
        for piece in pieces:
            print(piece, end="", flush=True)
    print()


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
        say(chat, text)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(" (stopped)")
