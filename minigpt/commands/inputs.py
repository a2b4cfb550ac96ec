"""A run's inputs: its tokenizer and its token files, made once and found again on resume."""

import hashlib
import itertools
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minigpt.batching.prepare import document_ids, prepare
from minigpt.batching.token_files import TokenFile, open_tokens, write_tokens
from minigpt.chat import SPECIAL, Encoded, encode_chats
from minigpt.commands.bars import Bar
from minigpt.data.corpora import Corpus, Exam, HeldOut, Messages, open_corpus
from minigpt.data.decoding import ReadCounts
from minigpt.runs.run import RunConfig
from minigpt.scoring import text_hash
from minigpt.support.errors import ConfigError
from minigpt.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, load_tokenizer

DIALOGUE_TOKENS = 100  # of a run for each conversation
MOST_DIALOGUES = 200_000  # a longer run has conversations again
MOST_STORY_TOKENS = 20_000_000  # a longer run sees stories again


@dataclass(frozen=True)
class Data:
    """The token files of a run, and what is known of the validation text."""

    train: TokenFile
    validation: TokenFile
    n_bytes: int  # of the validation text in UTF-8
    floor_nats: float | None = None  # the least loss that any model can have on all of it
    n_stories: int | None = None
    dialogues: "Dialogues | None" = None
    exam: Exam | None = None  # what the model is asked in the end


@dataclass(frozen=True)
class Dialogues:
    """Conversations about stories: encoded, their answers marked, and hashes of all their texts."""

    encoded: Sequence[Encoded]
    hashes: Collection[bytes]
    sha256: str  # of all ids


def make_tokenizer(out: Path, config: RunConfig, resume: bool) -> Tokenizer:
    """Load the run's tokenizer or a given one, or train one on the data; store it in the run."""
    path = out / "tokenizer.json"
    if resume and path.exists():
        return load_tokenizer(path)
    if config.tokenizer not in ("bpe", "char"):
        tokenizer = load_tokenizer(Path(config.tokenizer))
    else:
        texts = corpus_of(config).texts()
        texts = Bar(texts, desc="learning a vocabulary", unit=" texts", leave=False)
        if config.tokenizer == "char":
            tokenizer = CharTokenizer.train(texts, SPECIAL)
        else:
            tokenizer = BPETokenizer.train(
                texts, config.model.vocab_size, SPECIAL, config.word_cohesion
            )
    tokenizer.save(path)
    return tokenizer


def corpus_of(config: RunConfig) -> Corpus:
    """Return what a run learns from."""
    return open_corpus(
        config.data,
        config.field,
        config.errors,
        config.world,
        separator=config.separator,
        encoding=config.encoding,
        skip_bad=config.skip_bad,
    )


def make_data(out: Path, config: RunConfig, tokenizer: Tokenizer, resume: bool) -> Data:
    """Write or, after a crash, find the token files of training and validation."""
    there = resume and (out / "train.bin").exists() and (out / "val.bin").exists()
    corpus = corpus_of(config)
    if held_out := corpus.held_out():
        return generated_data(out, config, tokenizer, there, corpus, held_out)
    if config.dialogue_share:
        raise no_conversations(config)
    if there:
        files = open_tokens(out / "train.bin"), open_tokens(out / "val.bin")
    else:
        files = text_data(out, config, tokenizer)
    for file in files:
        file.check_tokenizer(tokenizer)
    return Data(*files, n_bytes=count_bytes(files[1], tokenizer))


def text_data(out: Path, config: RunConfig, tokenizer: Tokenizer) -> tuple[TokenFile, TokenFile]:
    """Encode the user's own text and say what was found in it."""
    with Bar(desc="encoding", unit=" characters", unit_scale=True, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        prepared = prepare(
            config.data,
            tokenizer,
            out,
            field=config.field,
            errors=config.errors,
            skip_bad=config.skip_bad,
            encoding=config.encoding,
            separator=config.separator,
            validation_fraction=config.validation_fraction,
            on_progress=show,
        )
    describe(prepared.counts, prepared.train, prepared.validation)
    if prepared.overlap > 0.2:
        warnings.warn(
            f"{prepared.overlap:.0%} of the validation text also stands in the training text, so "
            "the validation loss looks better than it is",
            stacklevel=2,
        )
    return prepared.train, prepared.validation


def describe(counts: ReadCounts, train: TokenFile, validation: TokenFile) -> None:
    """Print what was read."""
    replaced = f", {counts.replaced} invalid bytes replaced" if counts.replaced else ""
    replaced += f", {counts.skipped} bad records left out" if counts.skipped else ""
    replaced += "".join(f"; {note}" for note in counts.notes)
    if counts.spelled:
        places = "1 place spells" if counts.spelled == 1 else f"{counts.spelled} places spell"
        replaced += f"; {places} a special token, read as plain text (--separator parts documents)"
    print(
        f"{counts.documents} documents, {counts.characters} characters{replaced}: "
        f"{len(train)} tokens to train on, {len(validation)} to validate",
        file=sys.stderr,
    )


def generated_data(
    out: Path,
    config: RunConfig,
    tokenizer: Tokenizer,
    there: bool,
    corpus: Corpus,
    held_out: HeldOut,
) -> Data:
    """Write the documents of a generated corpus, and keep what else it knows."""
    facts = (tokenizer.vocab_size, tokenizer.eot_id, tokenizer.fingerprint)
    if there:
        train, validation = open_tokens(out / "train.bin"), open_tokens(out / "val.bin")
    else:
        ids = document_ids(held_out.texts, tokenizer)
        validation = write_tokens(out / "val.bin", ids, *facts)
        training = config.training  # n-grams, the baseline, read as much as the model in all
        wanted = max(training.max_steps * training.batch_size, 4) * config.model.block_size
        ids = document_ids(corpus.documents(), tokenizer)
        ids = until(ids, min(wanted, MOST_STORY_TOKENS))
        train = write_tokens(out / "train.bin", ids, *facts)
    return Data(
        train,
        validation,
        n_bytes=sum(len(text.encode("utf-8")) for text in held_out.texts),
        floor_nats=held_out.floor_nats,
        n_stories=len(held_out.texts),
        dialogues=make_dialogues(config, tokenizer, corpus) if config.dialogue_share else None,
        exam=corpus.exam,
    )


def make_dialogues(config: RunConfig, tokenizer: Tokenizer, corpus: Corpus) -> Dialogues:
    """Talk about the corpus: as many conversations as the run has room for."""
    training = config.training
    share = config.dialogue_share * config.tuning_fraction
    rows = share * training.max_steps * training.batch_size
    wanted = int(rows * config.model.block_size / DIALOGUE_TOKENS)
    count = min(max(wanted, 100), MOST_DIALOGUES)
    talks = corpus.conversations(count)
    if talks is None:
        raise no_conversations(config)
    hashes, sha256 = set(), hashlib.sha256()
    with Bar(total=count, desc="talking about stories", leave=False) as bar:

        def encoded(conversations: Iterator[Messages]) -> Iterator[Encoded]:
            while some := list(itertools.islice(conversations, 500)):
                texts = (m["content"] for messages in some for m in messages)
                hashes.update(text_hash(line) for text in texts for line in text.splitlines())
                for ids, answers in encode_chats(some, tokenizer):
                    sha256.update(np.asarray(ids, dtype="<u4").tobytes())
                    yield ids, answers
                bar.update(len(some))

        talked = list(encoded(talks))
    return Dialogues(talked, hashes, sha256.hexdigest())


def no_conversations(config: RunConfig) -> ConfigError:
    """Return the error that a run wants conversations where there are none."""
    return ConfigError(
        f"dialogue_share {config.dialogue_share} with --data {config.data}",
        "--dialogue-share",
        "leave it at 0: only storyworld has conversations; use finetune for your own",
    )


def until(documents: Iterable[list[int]], wanted: int) -> Iterator[list[int]]:
    """Yield documents until they hold `wanted` tokens."""
    with Bar(total=wanted, desc="telling stories", unit=" tokens", unit_scale=True) as bar:
        for ids in documents:
            yield ids
            bar.update(len(ids))
            if bar.n >= wanted:
                return


def count_bytes(tokens: TokenFile, tokenizer: Tokenizer) -> int:
    """Return how many bytes of text a token file stands for; special tokens have none."""
    lengths = np.array([len(data) for data in tokenizer.token_bytes])
    lengths[list(tokenizer.special_tokens.values())] = 0
    return int(sum(lengths[part].sum() for part in np.array_split(tokens.tokens, 64)))
