"""Use a trained model from Python: `minigpt.load(run)`, then `write`, `chat` and their streams.

    run = minigpt.load("runs/my")
    print(run.write("Once", max_new_tokens=50, temperature=0.8))
    print(run.chat([{"role": "user", "content": "Where is Tom?"}]))

Every keyword of `SampleConfig` can be given to each of them.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minigpt.chat import Message, fit_messages
from minigpt.classification import Classifier, label_probabilities
from minigpt.conversation import answer_space, chat_sampling, stream_answer
from minigpt.generate import stream
from minigpt.runs.run import Run, open_run
from minigpt.sampling import SampleConfig
from minigpt.streaming import StopStrings, TextStream
from minigpt.support.errors import ConfigError


def load(path: str | Path = "little", device: str = "auto") -> "Model":
    """Open a run directory, or one checkpoint directory in it, for writing and chatting.

    "little" and "little-base" are models that come with the package, after and before it learned
    to answer; a directory of that name comes first. A folder with a published model of GPT-2's,
    Llama 3's or Qwen3's family is opened in the same way, and so is "hf:" with its name.
    Raises CheckpointError or DataError, each with a remedy, where there is no sound run.
    """
    return Model(open_run(Path(path), device))


class Model:
    """A trained model with its tokenizer: text in, text out.

    `run` holds the opened parts: model, tokenizer, config, step, and notes on damaged checkpoints.
    """

    def __init__(self, run: Run):
        self.run = run
        self.model, self.tokenizer, self.config = run.model, run.tokenizer, run.config

    def __repr__(self) -> str:
        origin = f"on {self.config.data!r}" if self.config.data else f"of {self.config.tokenizer!r}"
        return f"<minigpt.Model {origin}, step {self.run.step}>"

    def write(
        self,
        prompt: str = "",
        *,
        stop: Sequence[str] = (),
        sampling: SampleConfig | None = None,
        **settings: Any,
    ) -> str:
        """Return the prompt and what the model writes after it, up to one of the `stop` strings.

        `settings` are fields of SampleConfig, such as max_new_tokens, temperature, top_p or seed.
        """
        return "".join(self.stream(prompt, stop=stop, sampling=sampling, **settings))

    def stream(
        self,
        prompt: str = "",
        *,
        stop: Sequence[str] = (),
        sampling: SampleConfig | None = None,
        **settings: Any,
    ) -> Iterator[str]:
        """Return an iterator over the pieces of the text that `write` returns, as they are made."""
        config = with_settings(sampling or SampleConfig(), settings)
        ids = [self.tokenizer.bos_id, *self.tokenizer.encode(prompt)]
        tokens = stream(self.model, ids, config, stop_ids=[self.tokenizer.eot_id])
        return itertools.chain([prompt], self._pieces(tokens, StopStrings(stop)))

    def _pieces(self, tokens: Iterator[int], stop: StopStrings) -> Iterator[str]:
        """Yield the text of a stream of tokens, up to a stop string."""
        text = TextStream(self.tokenizer)
        for token in tokens:
            yield stop.push(text.push(token))
            if stop.found:
                break
        yield stop.push(text.flush()) + stop.flush()

    def chat(
        self,
        messages: Sequence[Message],
        *,
        sampling: SampleConfig | None = None,
        **settings: Any,
    ) -> str:
        """Return the model's answer to a conversation, by default the likeliest one.

        A message is {"role": "system" | "user" | "assistant", "content": text}. The oldest turns
        are left out where the conversation does not fit into the context. `settings` are fields of
        SampleConfig.
        """
        return "".join(self.stream_chat(messages, sampling=sampling, **settings))

    def stream_chat(
        self,
        messages: Sequence[Message],
        *,
        sampling: SampleConfig | None = None,
        **settings: Any,
    ) -> Iterator[str]:
        """Return an iterator over the pieces of the answer that `chat` returns."""
        block_size = self.model.config.block_size
        config = with_settings(sampling or chat_sampling(block_size), settings)
        room = answer_space(block_size, config)
        kept, _ = fit_messages(messages, self.tokenizer, room)
        return stream_answer(self.model, self.tokenizer, kept, config)

    def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Return for each text how probable each label is, the likeliest first.

        For a run of `finetune --task classify`; ConfigError for any other.
        """
        if not isinstance(self.model, Classifier):
            remedy = "python -m minigpt finetune --task classify makes one"
            raise ConfigError("the model is no classifier", "minigpt.load(RUN)", remedy)
        shares = label_probabilities(self.model, self.tokenizer, texts)
        rows = [dict(zip(self.model.labels, row.tolist(), strict=True)) for row in shares]
        return [dict(sorted(row.items(), key=lambda pair: -pair[1])) for row in rows]


def with_settings(config: SampleConfig, settings: dict[str, Any]) -> SampleConfig:
    """Return the config with some fields changed; ConfigError names one that does not exist."""
    known = [field.name for field in dataclasses.fields(config)]
    for name in settings:
        if name not in known:
            raise ConfigError(f"no setting {name!r}", "sampling", f"one of {', '.join(known)}")
    return dataclasses.replace(config, **settings)
