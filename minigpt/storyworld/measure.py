"""How rich the world is, and that no baseline answers its questions: the datasheet's figures."""

import lzma
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from minigpt.storyworld import lexicon, tasks
from minigpt.storyworld.stories import Story

WORD = re.compile(r"[A-Za-z]+(?:'s)?|[^\sA-Za-z]")


class Richness(NamedTuple):
    """Counts over some stories; shares are fractions of the stories."""

    word_types: int  # English, lower case
    characters: int  # Chinese
    forms: int  # sentence forms that occurred
    sentences: tuple[int, float, int]  # least, mean, most in one story
    tokens: float  # English words and marks in one story, mean
    recall: float  # share with a fact that comes back after 8 sentences or more
    topics: dict[str, float]
    sentiments: dict[str, float]


class Baseline(NamedTuple):
    """How often blind answers are right to one kind of question, as fractions."""

    n: int
    majority: float  # always the most common answer
    last: float  # the answer of this kind that the text mentions last
    first: float  # ... or first


def richness(stories: Sequence[Story]) -> Richness:
    """Measure some stories; the more there are, the more words and forms turn up."""
    tokens = [WORD.findall(story.english) for story in stories]
    lengths = [len(story.derivation) for story in stories]
    recalled = sum(longest_recall(story) >= 8 for story in stories)
    return Richness(
        len({word.lower() for words in tokens for word in words if word[0].isalpha()}),
        len({mark for story in stories for mark in story.chinese if mark.isalpha()}),
        len({(step.event.kind, form_name(step)) for story in stories for step in story.derivation}),
        (min(lengths), sum(lengths) / len(lengths), max(lengths)),
        sum(map(len, tokens)) / len(tokens),
        recalled / len(stories),
        shares(story.topic[0] for story in stories),
        shares(story.sentiment[0] for story in stories),
    )


def form_name(step) -> str:
    """Return what tells one form of an event from another, whatever the roles and pronouns."""
    return re.sub(r"%\([\w.]+\)s", "_", step.form.zh)


def shares(labels: Iterable[str]) -> dict[str, float]:
    """Return each label's share, the most common first."""
    counts = Counter(labels)
    return {label: count / counts.total() for label, count in counts.most_common()}


def longest_recall(story: Story) -> int:
    """Return the longest way, in sentences, from one mention of a role to the next."""
    last, longest = {}, 0
    for number, step in enumerate(story.derivation):
        for role in {slot.lower() for slot in re.findall(r"%\((\w+)", step.form.en)}:
            longest = max(longest, number - last.get(role, number))
            last[role] = number
    return longest


def baselines(stories: Sequence[Story], seed: int = 0, side: int = 0) -> dict[str, Baseline]:
    """Answer one question of each kind and story blindly, in English (side 0) or Chinese (1)."""
    random = Random(seed).random
    asked = defaultdict(list)
    for story in stories:
        for question in tasks.choose(story.questions(), random):
            asked[question.kind].append((question, story))
    return {kind: blind_answers(pairs, side) for kind, pairs in asked.items()}


def blind_answers(pairs: list[tuple[tasks.Question, Story]], side: int = 0) -> Baseline:
    """Return the shares of right answers of each baseline to questions of one kind."""
    common = [answer for answer, _ in Counter(q.answer for q, _ in pairs).most_common()]
    n, right = len(pairs), Counter()
    for question, story in pairs:
        positions = mentions(question, story, side)
        blind = {
            "majority": common[0],
            "last": max(positions, key=lambda a: positions[a][1]) if positions else common[0],
            "first": min(positions, key=lambda a: positions[a][0]) if positions else common[0],
        }
        right.update(name for name, answer in blind.items() if answer == question.answer)
    return Baseline(n, *(right[name] / n for name in ("majority", "last", "first")))


def mentions(
    question: tasks.Question, story: Story, side: int = 0
) -> dict[tasks.Pair, tuple[int, int]]:
    """Return where each answer on offer is first and last mentioned: English 0, Chinese 1.

    A reason is offered for several causes and things; the blind choice takes the first cause that
    fits the mood (they stand in the order of their frequency) and looks only for the things.
    """
    words = dict(pair for step in story.derivation for pair in step.words)
    text, found = (story.english, story.chinese)[side], {}
    likeliest = next(iter(question.offers)).rsplit(" ", 1)[0]
    for role, answer in question.offers.items():
        if question.kind == "why":
            cause, role = role.rsplit(" ", 1)
            if cause != likeliest:
                continue
        key = spelled_out(role, words, answer)[side]
        pattern = key if side else rf"\b{key}\b"
        places = [match.start() for match in re.finditer(pattern, text)]
        if places:
            found[answer] = places[0], places[-1]
    return found


def spelled_out(role: str, words: Mapping[str, str], answer: tasks.Pair) -> tasks.Pair:
    """Return the bare word that fills a role ("park", not "in the park"), or else the answer."""
    if role not in words:
        return answer
    entry = lexicon.BY_NAME[role][words[role]]
    return entry.en, entry.zh


def compressed_share(text: str) -> float:
    """Return the size after xz (preset 9, extreme) as a share of the UTF-8 bytes before."""
    data = text.encode("utf-8")
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)


def overlap(stories: Sequence[Story], others: Sequence[Story]) -> tuple[float, float]:
    """Return the shares of whole stories, and of sentences, that occur among the others too."""
    texts = {story.english for story in others}
    known = {sentence for story in others for sentence, _ in story.sentences}
    sentences = [sentence for story in stories for sentence, _ in story.sentences]
    return (
        sum(story.english in texts for story in stories) / len(stories),
        sum(sentence in known for sentence in sentences) / len(sentences),
    )
