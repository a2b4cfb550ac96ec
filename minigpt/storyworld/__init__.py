"""An embedded corpus: a small world that tells children's stories in English and in Chinese.

Every story has an exact probability, so the best reachable loss of a model is known. Reading
order: lexicon (words), world (what may happen), forms (how it is told), little (all three for a
laptop), tables (`World.little()` and `World.full()`), tell (sample), read (parse), tasks
(questions), labels (summary, title, mood, topic), stories (the public face), verify (is it a
story?), lessons (tasks and conversations), preferences (right and wrong stories).
"""

from minigpt.storyworld.lessons import BEGINNINGS, SHARES, Lesson, dialogue, lessons, obeys
from minigpt.storyworld.preferences import preferences
from minigpt.storyworld.stories import Story, documents, log_prob, story
from minigpt.storyworld.tables import World
from minigpt.storyworld.verify import Verdict, verify

__all__ = [
    "BEGINNINGS",
    "SHARES",
    "Lesson",
    "Story",
    "Verdict",
    "World",
    "dialogue",
    "documents",
    "lessons",
    "log_prob",
    "obeys",
    "preferences",
    "story",
    "verify",
]
