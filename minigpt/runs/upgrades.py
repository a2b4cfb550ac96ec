"""Upgrade what older versions wrote to today's format, step by step; refuse what newer ones wrote.

Config.json, finetune.json and checkpoints hold one format number. It is raised when an older
reader could misunderstand a newer file, and each time a small pure function here says how a file
of the format before becomes one of the next. Knows JSON objects only.

    1  up to commit 5f4726e
    2  a model has no pointer, no positions by sentences, no values from tokens, no table of
       bigrams, and does not say any more which documents of a row see each other
"""

from collections.abc import Callable

from minigpt.support.errors import CheckpointError

FORMAT = 2
CAN_READ = {1: "commit 5f4726e"}  # the last version that could use all of a format


class FormatError(CheckpointError):
    """A file is whole, but this version cannot read it, or not any more."""


Step = Callable[[dict, str], dict]  # content of a file and its path -> content in the next format

# What format 1 could set and format 2 cannot: each value that changed nothing about the model.
DELETED_IN_2: dict[str, object] = {
    "pointer": False,
    "values": "stream",
    "sentence_ends": [],
    "section_starts": [],
    "separator_id": None,
    "bigram_size": None,
}


def drop_deleted_settings(model: dict, where: str) -> dict:
    """Upgrade a model's settings from format 1 to 2; refuse those that this version cannot do.

    >>> drop_deleted_settings({"n_layer": 2, "pointer": False}, "config.json")
    {'n_layer': 2}
    """
    if model.get("positions") == "sentences":
        raise no_longer_possible("positions", "sentences", where)
    for name, harmless in DELETED_IN_2.items():
        if model.get(name, harmless) != harmless:
            raise no_longer_possible(name, model[name], where)
    return {name: value for name, value in model.items() if name not in DELETED_IN_2}


def inside(step: Step, *keys: str) -> Step:
    """Return a step that upgrades the object under these keys, where there is one."""

    def apply(content: dict, where: str) -> dict:
        if not keys:
            return step(content, where)
        part = content.get(keys[0])
        if not isinstance(part, dict):
            return content  # whoever reads it will say what is missing
        return content | {keys[0]: inside(step, *keys[1:])(part, where)}

    return apply


# For each kind of file: how a format becomes the next.
STEPS: dict[str, dict[int, Step]] = {
    "config.json": {1: inside(drop_deleted_settings, "model")},
    "finetune.json": {1: inside(drop_deleted_settings, "model")},
    "state.json": {1: inside(drop_deleted_settings, "facts", "model")},
}


def upgrade(kind: str, content: dict, version: object, where: str) -> dict:
    """Return a file's content in today's format; `version` is the format that it was written in."""
    check_format(version, kind, where)
    assert isinstance(version, int)
    for number in range(version, FORMAT):
        content = STEPS[kind][number](content, where)
    return content


def check_format(version: object, what: str, where: str) -> None:
    """Refuse a format that this version cannot read."""
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise FormatError(
            f"{what} has format {version!r}, this version reads 1 to {FORMAT}",
            where,
            "use the version of minigpt that wrote it, or restore the file",
        )


def no_longer_possible(name: str, value: object, where: str) -> FormatError:
    """Return the error for a run that used what this version cannot do."""
    return FormatError(
        f"the model has {name} = {value!r}, which is no longer possible",
        where,
        f"use {CAN_READ[1]} of minigpt, or train again",
    )
