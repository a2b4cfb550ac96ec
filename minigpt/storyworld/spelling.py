"""What a sentence may say of a word: "her grandma", "an orange kite", "by the river".

Naming a role fills slots, in English and in Chinese, that the forms of later sentences use:
`hero` gives `hero`, `hero.she`, `hero.her` ..., a place gives `start` and `start.at`. In English
each slot also exists with a capital letter, for the start of a sentence.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from minigpt.storyworld import lexicon

Slots = dict[str, str]


def spell(role: str, word: str, cast: Mapping[str, str]) -> tuple[Slots, Slots]:
    """Return the slots that naming `role` fills, in English and in Chinese.

    Some depend on one word named before: "her grandma" on the hero, "a green kite" on the colour.

    >>> spell("start", "river", {})[0]["start.at"]
    'by the river'
    """
    return spelled(role, word, cast.get(CONTEXT.get(role, ""), ""))


CONTEXT = {"friend": "hero", "elder": "hero", "toy": "colour", "other": "tint", "eaten": "count"}


@cache
def spelled(role: str, word: str, context: str) -> tuple[Slots, Slots]:
    pairs = SPELLERS[role](lexicon.BY_NAME[role][word], context)
    slots = {key.replace("*", role): pair for key, pair in pairs.items()}
    english = {key: en for key, (en, _) in slots.items()}
    capitals = {key.capitalize(): en[0].upper() + en[1:] for key, en in english.items()}
    return english | capitals, {key: zh for key, (_, zh) in slots.items()}


Pairs = dict[str, tuple[str, str]]  # slot, where * stands for the role: (English, Chinese)


def spell_child(child: lexicon.Person, hero: str) -> Pairs:
    pronoun = [("he", "他"), ("she", "她")][child.girl]
    girls = child.girl and (not hero or lexicon.BY_NAME["hero"][hero].girl)
    return {
        "*": (child.en, child.zh),
        "*.names": (child.en + "'s", child.zh + "的"),
        "*.she": pronoun,
        "*.him": ("her" if child.girl else "him", pronoun[1]),
        "*.her": ("her" if child.girl else "his", pronoun[1] + "的"),
        "*.girl": ("girl", "小女孩") if child.girl else ("boy", "小男孩"),
        "they": ("they", "她们" if girls else "他们"),
    }


def spell_elder(elder: lexicon.Elder, hero: str) -> Pairs:
    child = lexicon.BY_NAME["hero"][hero]
    return {
        "*": (f"{child.en}'s {elder.en}", f"{child.zh}的{elder.zh}"),
        "*.hers": (f"{'her' if child.girl else 'his'} {elder.en}", elder.zh),
    }


def spell_place(place: lexicon.Place, _: str) -> Pairs:
    return {
        "*": (f"the {place.en}", place.zh),
        "*.at": (f"{place.at} the {place.en}", place.zh_at),
        "*.fun": place.fun,
        "*.sight": place.sights[0],
        "*.view": place.sights[1],
    }


def spell_thing(thing: lexicon.Thing, colour: str) -> Pairs:
    colour_zh = lexicon.BY_NAME["colour"][colour].zh + "的"
    return {
        "*": (f"the {thing.en}", thing.zh),
        "*.noun": (thing.en, thing.zh),
        "*.coloured": (f"the {colour} {thing.en}", colour_zh + thing.zh),
        "*.a_coloured": (f"{article(colour)} {thing.en}", f"一{thing.unit}{colour_zh}{thing.zh}"),
        "*.play": thing.play,
    }


def spell_colour(colour: lexicon.Noun, _: str) -> Pairs:
    return {"*": (colour.en, colour.zh), "*.a": (article(colour.en), colour.zh)}


def spell_number(number: lexicon.Noun, total: str) -> Pairs:
    pairs = {"*": (number.en, number.zh)}
    if total:
        counts = [count.en for count in lexicon.NUMBERS]
        left = lexicon.NUMBERS[counts.index(total) - counts.index(number.en) - 2]
        pairs["left"] = (left.en, left.zh)
    return pairs


def article(words: str) -> str:
    """Return the words with "a" or "an" before them."""
    return ("an " if words[0] in "aeiou" else "a ") + words


SPELLERS: dict[str, Callable[[Any, str], Pairs]] = {
    "hero": spell_child,
    "friend": spell_child,
    "elder": spell_elder,
    "start": spell_place,
    "far": spell_place,
    "second": spell_place,
    "third": spell_place,
    "toy": spell_thing,
    "other": spell_thing,
    "coat": spell_colour,
    "colour": spell_colour,
    "tint": spell_colour,
    "count": spell_number,
    "eaten": spell_number,
    "day": lambda day, _: {"*": (day.en, day.zh), "*.a": (article(day.en), day.zh)},
    "food": lambda food, _: {"*": (food.en, food.zh), "*.unit": (food.unit, food.unit)},
    "animal": lambda animal, _: {
        "*": (article(animal.en), f"一{animal.unit}{animal.zh}"),
        "*.the": (f"the {animal.en}", animal.zh),
    },
}
