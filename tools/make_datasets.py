"""Write datasets/: a sample of storyworld that people can open, and its datasheet with all figures.

    python tools/make_datasets.py [--out DIR] [--tinystories FILE]

The same bytes on every system. Without --tinystories the figure for TinyStories is kept from the
datasheet that is already there.
"""

import argparse
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from minigpt.storyworld import Story, dialogue, lessons, measure, preferences, story
from minigpt.storyworld.census import entropy, enumerate_stories, small_world
from minigpt.storyworld.tables import World
from minigpt.support.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
STORIES = range(800)  # seeds of the shipped stories
MEASURED = range(1_000_000, 1_002_000)  # seeds of the stories behind the figures

LESSONS = range(400)  # seeds of the shipped tasks: one each, in turn
TURNS = (
    "question",
    "summary",
    "question",
    "title",
    "question",
    "translation",
    "question",
    "sentiment",
    "question",
    "topic",
    "question",
    "story",
)
DIALOGUES = range(200)
PREFERENCES = range(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "datasets")
    parser.add_argument("--tinystories", type=Path, help="tinystories_10k.txt, to compress it too")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tinystories = tinystories_share(arguments.tinystories)
    stories = [story(seed) for seed in STORIES]
    files = {
        "storyworld_en.txt": "\n".join(map(english_block, stories)),
        "storyworld_zh.txt": "\n".join(map(chinese_block, stories)),
        "storyworld_tasks.jsonl": "".join(map(as_line, task_records())),
        "storyworld_dialogues.jsonl": "".join(
            as_line({"messages": dialogue(seed)}) for seed in DIALOGUES
        ),
        "storyworld_preferences.jsonl": "".join(
            as_line(pair) for seed in PREFERENCES for pair in preferences(seed)
        ),
    }
    for name, text in files.items():
        atomic_write(arguments.out / name, text.encode("utf-8"))
    atomic_write(arguments.out / "README.md", datasheet(files, tinystories).encode("utf-8"))


def english_block(told: Story) -> str:
    """Return one story, a sentence a line; a blank line follows."""
    return "".join(f"{english}\n" for english, _ in told.sentences)


def chinese_block(told: Story) -> str:
    return "".join(f"{chinese}\n" for _, chinese in told.sentences)


def as_line(record: dict) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def task_records() -> Iterator[dict]:
    """Yield one lesson for each seed; the tasks and the languages take turns."""
    for seed in LESSONS:
        language = ("en", "zh")[seed // len(TURNS) % 2]
        taught = [
            one for one in lessons(seed, language) if one.task.startswith(TURNS[seed % len(TURNS)])
        ]
        lesson = taught[seed // len(TURNS) % len(taught)]
        yield {"seed": seed} | {
            name: getattr(lesson, name) for name in ("task", "kind", "language", "prompt", "answer")
        }


def tinystories_share(path: Path | None) -> str:
    """Return how far xz compresses TinyStories: measured, or as the datasheet already says."""
    if path is not None:
        return f"{measure.compressed_share(path.read_text(encoding='utf-8')):.3f}"
    datasheet = (ROOT / "datasets" / "README.md").read_text(encoding="utf-8")
    return re.search(r"\| TinyStories .*?\| (\d\.\d+) \|", datasheet)[1]


def corpus(language: str, size: int) -> str:
    """Return whole stories, one a line, until the text has at least `size` bytes."""
    lines, length, seed = [], 0, MEASURED.start
    while length < size:
        told = story(seed)
        lines.append((told.english if language == "en" else told.chinese) + "\n")
        length, seed = length + len(lines[-1].encode("utf-8")), seed + 1
    return "".join(lines)


def datasheet(files: dict[str, str], tinystories: str) -> str:
    stories = [story(seed) for seed in MEASURED]
    rich = measure.richness(stories)
    blind = [measure.baselines(stories, side=side) for side in (0, 1)]
    known = [story(seed) for seed in STORIES]
    same_stories, same_sentences = measure.overlap(stories, known)
    mean, error = mean_nats(stories)
    small = list(enumerate_stories(small_world()))
    english, chinese = corpus("en", 1_424_708), corpus("zh", 1_424_708)
    return TEMPLATE.format(
        **little_figures(),
        files="\n".join(map(file_row, files, files.values())),
        stories=len(STORIES),
        measured=len(MEASURED),
        first=MEASURED.start,
        rich=rich,
        sentences="{}, {:.1f}, {}".format(*rich.sentences),
        topics=listed(rich.topics),
        sentiments=listed(rich.sentiments),
        blind=blind_rows(*blind),
        labels="\n".join(label_rows()),
        dialogues="\n".join(dialogue_rows()),
        pairs=listed_counts(
            pair["reason"] for seed in MEASURED[:500] for pair in preferences(seed)
        ),
        shipped=(len(LESSONS), len(DIALOGUES), len(PREFERENCES)),
        entropy=entropy(World.full()),
        mean=mean,
        error=error,
        small=len(small),
        total=sum(p for _, p in small),
        small_entropy=entropy(small_world()),
        english=measure.compressed_share(english),
        chinese=measure.compressed_share(chinese),
        tinystories=tinystories,
        same_stories=same_stories,
        same_sentences=same_sentences,
    )


def little_figures() -> dict[str, object]:
    """Return what the datasheet says of the little world."""
    world = World.little()
    stories = [story(seed, world) for seed in MEASURED]
    rich = measure.richness(stories)
    mean, error = mean_nats(stories)
    return {
        "little": rich,
        "little_sentences": "{}, {:.1f}, {}".format(*rich.sentences),
        "little_topics": listed(rich.topics),
        "little_sentiments": listed(rich.sentiments),
        "little_entropy": entropy(world),
        "little_nats": f"{mean:.2f} ± {error:.2f}",
        "little_blind": blind_rows(*(measure.baselines(stories, side=side) for side in (0, 1))),
    }


def mean_nats(stories: list[Story]) -> tuple[float, float]:
    """Return the mean of -log p of some stories in nats, and its standard error."""
    nats = [-told.log_prob for told in stories]
    mean = sum(nats) / len(nats)
    return mean, (sum((x - mean) ** 2 for x in nats) / len(nats) / (len(nats) - 1)) ** 0.5


def file_row(name: str, text: str) -> str:
    data = text.encode("utf-8")
    return f"| `{name}` | {len(data):,} | `{hashlib.sha256(data).hexdigest()}` |"


def blind_rows(english: dict[str, measure.Baseline], chinese: dict[str, measure.Baseline]) -> str:
    """Return a table row for each kind of question."""
    return "\n".join(blind_row(kind, english[kind], chinese[kind]) for kind in english)


def blind_row(kind: str, english: measure.Baseline, chinese: measure.Baseline) -> str:
    shares = [english.majority, english.last, english.first, chinese.last, chinese.first]
    return f"| {kind} | {english.n:,} | " + " | ".join(f"{share:.1%}" for share in shares) + " |"


def label_rows() -> Iterator[str]:
    """Yield a table row for each task with one answer a story: how far baselines come."""
    taught = [lesson for seed in MEASURED for lesson in lessons(seed, "en")]
    names = ("translation_en_zh", "summary", "title", "topic", "sentiment")
    groups = {name: [one for one in taught if one.task == name] for name in names}
    groups["sentiment, said"] = [one for one in groups["sentiment"] if one.said]
    groups["sentiment, to be inferred"] = [one for one in groups["sentiment"] if not one.said]
    for name, group in groups.items():
        majority = Counter(one.answer for one in group).most_common(1)[0][1]
        right = Counter(
            key for one in group for key in one.baselines if one.baselines[key] == one.answer
        )
        tried = " / ".join(
            f"{right[key] / len(group):.1%} ({key.replace('_', ' ')})" for key in group[0].baselines
        )
        yield f"| {name} | {len(group):,} | {majority / len(group):.1%} | {tried or '-'} |"


def dialogue_rows() -> Iterator[str]:
    """Yield a table row for each language: how long dialogues are, and how much of it is taught."""
    told = [dialogue(seed) for seed in MEASURED]
    for name, english in (("English", True), ("Chinese", False)):
        group = [messages for messages in told if messages[0]["content"].isascii() == english]
        turns = sum(map(len, group)) / 2 / len(group)
        sizes = [[length(message["content"]) for message in messages] for messages in group]
        whole = sum(map(sum, sizes)) / len(group)
        taught = sum(sum(row[1::2]) for row in sizes) / len(group)
        yield f"| {name} | {len(group):,} | {turns:.2f} | {whole:.0f} | {taught:.0f} |"


def length(text: str) -> int:
    """Return the number of English words and marks, and of Chinese characters."""
    return len(measure.WORD.findall(text))


def listed_counts(names: Iterator[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(Counter(names).items()))


def listed(shares: dict[str, float]) -> str:
    return ", ".join(f"{label} {share:.0%}" for label, share in shares.items())


TEMPLATE = """\
# Datasets: a sample of storyworld

This file and the files beside it are written by `python tools/make_datasets.py`; every figure
below is measured by that command, and a test regenerates all of it byte for byte. The package
`minigpt` never reads these files: it tells its stories afresh from seeds.

Storyworld comes in two sizes. The files here are of the full world, `World.full()`, and so are all
figures except those under "The little world".

| file | bytes | SHA-256 |
|---|---|---|
{files}

- `storyworld_en.txt`, `storyworld_zh.txt`: the stories of seeds 0 to {stories} (exclusive), one
  sentence a line, a blank line between stories. Line n of one file says what line n of the other
  says.
- `storyworld_tasks.jsonl`: one task from each of the first {shipped[0]} stories, one JSON object a
  line: `seed`, `task`, `kind`, `language` of the answer, `prompt` (the story, where there is one,
  and the instruction) and `answer`.
- `storyworld_dialogues.jsonl`: the dialogues of seeds 0 to {shipped[1]} (exclusive), each a list of
  `messages` with `role` and `content`.
- `storyworld_preferences.jsonl`: pairs from the first {shipped[2]} stories: `prompt`, `chosen`,
  `rejected`, and the one `reason` why it is.

All are UTF-8 with LF line ends.

## Why

A model that a laptop trains in minutes should really master what it is taught, and one should know
how good it could become. Storyworld is a small world of children, things, places and feelings
whose state changes as a story is told. One derivation yields the story in English and in Chinese,
its exact probability, and everything that can be asked about it with the right answer.

## How it is made

No text was collected and no model was used. `minigpt/storyworld/` defines the process once:
`events(plot)` says what may happen, `words(role, ...)` to whom, `forms(event, plot)` how it is
told, all with integer weights; `random.Random(seed).random()` draws, so that a seed gives the same
story on every platform. Nothing is decided before the sentence that reveals it, and in every state
all sentences that could come differ from each other, in each language: so the text alone gives
back every choice, and its exact probability.

A second held-out set, `documents(count, seed, World.full("held_out"))`, gives the hero a thing that
training stories never bring together with that child (one pair of child and thing in eight). Such
pairs exist only to hold stories out: `verify` finds no fault in them, but it gives no probability
to a story that its world never tells.

## Measured

On {measured:,} stories, seeds from {first:,}:

| figure | value |
|---|---|
| English word types / Chinese characters | {rich.word_types} / {rich.characters} |
| sentence forms that occurred | {rich.forms} |
| sentences in a story: least, mean, most | {sentences} |
| English words and marks in a story, mean | {rich.tokens:.0f} |
| stories in which a fact comes back after 8 sentences or more | {rich.recall:.0%} |
| topics | {topics} |
| endings | {sentiments} |
| entropy of the process, exact (chain rule over all plots) | {entropy:.3f} nats a story |
| the same, estimated as the mean of -log p | {mean:.2f} ± {error:.2f} (standard error) |
| a reduced world, listed whole: stories | {small:,} |
| their exact probabilities add up to | {total} |
| its entropy, exact | {small_entropy:.4f} nats a story |
| measured stories that are also among the {stories} shipped ones | {same_stories:.1%} |
| measured sentences that are also among theirs | {same_sentences:.1%} |

Baselines: right answers of one who does not understand the story, to one question of each kind a
story (drawn so that each answer that the kind has in the story is equally likely). Majority: always
the most common answer. Last, first: the answer of this kind that the text mentions last, or first.

| question | n | majority | last mention | first mention | last, Chinese | first, Chinese |
|---|---|---|---|---|---|---|
{blind}

The other tasks, in English, where baselines must give the exact answer. Translation and summary:
copying (the story; the sentence of the mishap). Title: the first child and thing, or the last. The
mood of the ending is *said* where a sentence names a feeling that a child has at the end, or says
how the day was; the last feeling named in the text is the baseline.

| task | n | majority | baselines |
|---|---|---|---|
{labels}

Dialogues (`dialogue(seed)`; English words and marks, Chinese characters and marks; a translation
counts as its question's language):

| language | n | turns | length, mean | of it answers, mean |
|---|---|---|---|---|
{dialogues}

Preference pairs from the first 500 of the measured stories: {pairs}.

Compressed by xz (preset 9, extreme), as a share of the bytes before, each on about 1.42 MB:

| text | share |
|---|---|
| storyworld, English | {english:.3f} |
| storyworld, Chinese | {chinese:.3f} |
| TinyStories (first part of tinystories_10k.txt) | {tinystories} |

## The little world

`World.little()` tells shorter stories of the same kind, for a model of less than a million
parameters: every role has words of its own, and no pair of words is kept apart. On as many stories,
of the same seeds:

| figure | value |
|---|---|
| English word types / Chinese characters | {little.word_types} / {little.characters} |
| sentence forms that occurred | {little.forms} |
| sentences in a story: least, mean, most | {little_sentences} |
| English words and marks in a story, mean | {little.tokens:.0f} |
| topics | {little_topics} |
| endings | {little_sentiments} |
| entropy of the process, exact | {little_entropy:.3f} nats a story |
| the same, estimated as the mean of -log p | {little_nats} (standard error) |

| question | n | majority | last mention | first mention | last, Chinese | first, Chinese |
|---|---|---|---|---|---|---|
{little_blind}

## License

MIT, like the rest of the repository.

## Known limits

- The world is small: two children, two things, four places, one mishap. A model that masters it has
  learned to follow state, not to know the world.
- Every sentence comes from one of the forms, so the text is far more regular than anything written
  by people; the compression above shows by how much.
- Names and habits are those of European picture books; the Chinese text transliterates them.
- Only the baselines named above were measured.
- Instructions come in three wordings each: a model that learns them does not understand others.
"""

if __name__ == "__main__":
    main()
