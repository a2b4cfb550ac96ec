"""Score the stories that a model tells: are they consistent, are they new, how likely are they?

The world's own parser reads them. It says whether a text is a story, how probable the world finds
it, and, where it is none, which sentence is the first that cannot stand there.
"""

import math
import re
from collections import Counter
from collections.abc import Collection
from functools import cache
from typing import NamedTuple

import numpy as np

from minigpt import metrics
from minigpt.evaluate import Progress, generate_texts, token_losses
from minigpt.gpt import GPT
from minigpt.ngram import NGram
from minigpt.sampling import SampleConfig
from minigpt.scoring import text_hash
from minigpt.storyworld import documents, lexicon, verify
from minigpt.storyworld.read import Reader, split_sentences
from minigpt.storyworld.stories import FIRST_TRAINING_SEED
from minigpt.storyworld.tables import World
from minigpt.tokenizer import Tokenizer

MEASURED = 200  # training stories that say how long one may be


def story_scores(
    model: GPT,
    tokenizer: Tokenizer,
    n: int = 1000,
    temperature: float = 1.0,
    seen: Collection[bytes] | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
    world: World | None = None,
) -> dict:
    """Let the model tell stories, and return what the world's own parser says of them.

    `consistent` is the share that is a story of the world from the first word to <|endoftext|>
    (low, high: 95 % interval), `new` the share of these that is not among the `seen` texts, None
    where these are unknown. `mean_log_q_minus_log_p` (nats a story, over the consistent ones) is
    how much more probable the model finds them than the world does; q is that of the sampled
    tokens, so of one way to cut the text into tokens, and a little below that of the text.
    `faults` counts what is wrong with the others, `sentences_before_fault` is how far they come.
    """
    eot = tokenizer.eot_id
    room = min(story_room(tokenizer, world), model.config.block_size - 1)
    sampling = SampleConfig(room, temperature=temperature, seed=seed)
    rows = generate_texts(model, [[eot]] * n, sampling, [eot], on_progress=on_progress)
    texts = [tokenizer.decode(ids) for ids in rows]
    finds = [find_fault(text, world) for text in texts]
    good = [place for place, found in enumerate(finds) if found.fault is None]
    low, high = metrics.bootstrap_interval([float(found.fault is None) for found in finds])
    known = [place for place in good if finds[place].log_prob is not None]
    log_q = [
        -losses.sum()
        for losses in token_losses(model, [[eot, *rows[place], eot] for place in known])
    ]
    # The language costs ln 2.
    log_p = [found.log_prob - math.log(2) for found in finds if found.log_prob is not None]
    new = [text_hash(texts[place]) not in seen for place in good] if seen is not None else []
    bad = [found for found in finds if found.fault is not None]
    return {
        "n": n,
        "temperature": temperature,
        "consistent": len(good) / n,
        "low": low,
        "high": high,
        "new": float(np.mean(new)) if new else None,
        "mean_log_q_minus_log_p": float(np.mean(np.subtract(log_q, log_p))) if known else None,
        "faults": dict(Counter(found.fault for found in bad).most_common()),
        "sentences_before_fault": float(np.mean([found.read for found in bad])) if bad else None,
    }


def story_task(
    stories: dict,
    ngram: NGram | None,
    tokenizer: Tokenizer,
    n: int = 200,
    world: World | None = None,
) -> dict:
    """Return the consistent share as a task; its baseline is an n-gram model that tells stories."""
    kept = {key: stories[key] for key in ("n", "low", "high")} | {"score": stories["consistent"]}
    blind = 0.0
    if ngram is not None:
        room = story_room(tokenizer, world)
        texts = [tokenizer.decode(ngram.generate((), room, seed)) for seed in range(n)]
        blind = sum(find_fault(text, world).fault is None for text in texts) / n
    name = "none" if ngram is None else f"{ngram.n}-gram"
    return {"metric": "consistent", **kept, "baseline": blind, "baseline_name": name}


def story_room(tokenizer: Tokenizer, world: World | None = None) -> int:
    """Return how many tokens a model may take for a story: a quarter more than training ones."""
    texts = [text for text, _ in documents(MEASURED, FIRST_TRAINING_SEED, world)]
    return 16 + 5 * max(map(len, tokenizer.encode_batch(texts))) // 4


# --- what is wrong with a text ---


class Found(NamedTuple):
    """What is wrong with a text as a story (None: nothing), after how many right sentences."""

    fault: str | None
    read: int
    log_prob: float | None = None


def find_fault(text: str, world: World | None = None) -> Found:
    """Name the first fault of a text as a story; its log-probability where it has none.

    "unfinished": all is right, but no end comes. "goes on": something stands after the end.
    "wrong detail": this may happen here, but not with this person, place or thing. "wrong event": a
    sentence of the world that cannot stand here. "no sentence": the world has no such sentence.
    """
    language, world = metrics.language_of(text), world or World.full()
    verdict = verify(text, language, world)
    if verdict.ok:
        return Found(None, verdict.sentences_read, verdict.log_prob)
    reader = Reader(world.readable, language)
    sentences = split_sentences(text.strip(), language)
    for sentence in sentences[: verdict.sentences_read]:
        reader.read(sentence)
    wrong = sentences[verdict.sentences_read] if verdict.sentences_read < len(sentences) else ""
    return Found(kind_of_fault(reader, wrong), verdict.sentences_read)


def kind_of_fault(reader: Reader, wrong: str) -> str:
    """Say what is wrong with the sentence that the reader cannot read; "" is a missing one."""
    if not wrong:
        return "unfinished"
    if reader.table is None:
        return "goes on"
    if not any(shape.fullmatch(wrong) for shape in all_shapes(reader.world, reader.side)):
        return "no sentence" if wrong[-1] in '.!?"。！？”' else "unfinished"
    here = (form for choice in reader.table.items for form in choice.forms.items)
    if any(sentence_shape(form[reader.side], reader.side).fullmatch(wrong) for form in here):
        return "wrong detail"
    return "wrong event"


SLOT = re.compile(r"%\([\w.]+\)s|\{[\w.]+\}")
FILLED = [r"[^.!?,:;\"]{1,40}?", "[^。！？：；“”]{1,16}?"]  # what slots may hold, by language


@cache
def sentence_shape(template: str, side: int) -> re.Pattern:
    """Return the pattern that a form's sentences fit, whatever its slots hold."""
    pieces = SLOT.split(template)
    if not any(pieces):  # the slot holds a whole sentence: what is to be seen at a place
        sights = (sight[side] for place in lexicon.PLACES for sight in place.sights)
        return re.compile("|".join(map(re.escape, sights)))
    return re.compile(FILLED[side].join(map(re.escape, pieces)), re.IGNORECASE)


@cache
def all_shapes(world: World, side: int) -> list[re.Pattern]:
    """Return the patterns of all forms of a world in one language."""
    return [sentence_shape(form[1 + side], side) for forms in world.told.values() for form in forms]
