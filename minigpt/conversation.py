"""Talk with a model: a conversation that keeps what was said, as far as the context holds it.

Knows token streams and chat templates; printing is its caller's affair.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

from minigpt.chat import Message, encode_prompt, end_id, fit_messages
from minigpt.generate import stream
from minigpt.gpt import GPT
from minigpt.sampling import SampleConfig
from minigpt.streaming import TextStream
from minigpt.support.errors import require
from minigpt.tokenizer import Tokenizer

ANSWER_TOKENS = 100  # that an answer may have unless the caller says otherwise


def chat_sampling(block_size: int) -> SampleConfig:
    """Return how answers are chosen by default: greedy, in at most half of a short context."""
    return SampleConfig(max_new_tokens=min(ANSWER_TOKENS, block_size // 2), temperature=0.0)


def stream_answer(
    model: GPT, tokenizer: Tokenizer, messages: Sequence[Message], sampling: SampleConfig
) -> Iterator[str]:
    """Yield the text of the next answer as it is made, up to <|end|>."""
    text = TextStream(tokenizer)
    stop_ids = (end_id(tokenizer), tokenizer.eot_id)
    for token in stream(model, encode_prompt(messages, tokenizer), sampling, stop_ids):
        yield text.push(token)
    yield text.flush()


def answer_space(block_size: int, sampling: SampleConfig) -> int:
    """Return how many tokens of the context a prompt may have beside the answer."""
    n, wanted = sampling.max_new_tokens, f"less than {block_size}, the model's context"
    require(n < block_size, "max_new_tokens", n, wanted)
    return block_size - n


class Chat:
    """A conversation with a model.

    `forgotten` says how many of the oldest turns the last message pushed out of the context.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        system: str = "",
        sampling: SampleConfig | None = None,
    ):
        self.model, self.tokenizer = model, tokenizer
        end_id(tokenizer)  # a tokenizer that cannot chat is refused at once
        block_size = model.config.block_size
        self.sampling = sampling or chat_sampling(block_size)
        self.room = answer_space(block_size, self.sampling)
        self.beginning: list[Message] = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        """Forget what was said, but not the system message."""
        self.messages, self.forgotten = list(self.beginning), 0

    def stream(self, text: str) -> Generator[str]:
        """Return an iterator over the pieces of the model's answer, each as it is made.

        The oldest turns are forgotten where prompt and answer would not fit into the context.
        Raises DataError, and forgets nothing, where this message alone is too long. Close the
        iterator to stop the answer: what was said is kept.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        asked, self.forgotten = fit_messages(asked, self.tokenizer, self.room)
        return self._answer(asked)

    def _answer(self, asked: list[Message]) -> Generator[str]:
        """Yield the answer to these messages, and keep it, whole or not."""
        pieces: list[str] = []
        try:
            for piece in stream_answer(self.model, self.tokenizer, asked, self.sampling):
                pieces.append(piece)
                yield piece
        finally:
            self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]

    def answer(self, text: str, show: Callable[[str], object] | None = None) -> str:
        """Return the model's answer; `show` gets its pieces as they are made."""
        pieces: list[str] = []
        with closing(self.stream(text)) as stream:
            for piece in stream:
                pieces.append(piece)
                if show:
                    show(piece)
        return "".join(pieces)
