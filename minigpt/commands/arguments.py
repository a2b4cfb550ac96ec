"""Turn a command's words into its settings; flags come from the fields of the dataclasses.

`--help` shows the flags that people use every day, `--help-all` every one; all of them count.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints, overload

import tyro

from minigpt.support.errors import ConfigError

T = TypeVar("T")

# What --help shows of a command with more flags than MOST_FLAGS.
EVERYDAY = frozenset(
    """
    out config resume data task tokenizer field checkpoint held_out prompt answer epochs over_long
    vocab_size block_size n_layer n_head n_embd dropout
    max_steps batch_size micro_batch_size learning_rate seed dtype device
    """.split()  # noqa: SIM905 - a list of words in quotes is harder to read
)
MOST_FLAGS = 25


@overload
def parse(kind: type[T], name: str, words: list[str], default: T | None = None) -> T: ...
@overload
def parse(kind: Callable[..., T], name: str, words: list[str], default: T | None = None) -> T: ...
def parse(kind: Any, name: str, words: list[str], default: Any = None) -> Any:
    """Fill `kind` from the words; a usage error prints tyro's box and exits with code 2."""
    description, asks_help = None, bool({"-h", "--help"} & set(words))
    if asks_help and is_settings(kind) and len(flags(kind)) > MOST_FLAGS:
        hidden = len(flags(kind) - EVERYDAY)
        description = f"{inspect.getdoc(kind)}\n\n--help-all shows {hidden} more flags."
        kind, default = everyday(kind), as_kind(everyday(kind), default)
    cli: Callable[..., Any] = tyro.cli
    return cli(
        kind,
        prog=f"python -m minigpt {name}",
        description=description,
        args=["--help" if word == "--help-all" else word for word in gathered(words, kind)],
        config=(tyro.conf.OmitArgPrefixes,),
        **({} if default is None else {"default": default}),
    )


def flag_value(words: list[str], name: str) -> str | None:
    """Return the value of a flag among words that are not parsed yet, or None.

    For flags that decide what the defaults of all others are.

    >>> flag_value(["--out", "runs/my", "--config=runs/old"], "config")
    'runs/old'
    """
    found = None
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, is_joined, value = word.partition("=")
        if flag.replace("_", "-") == "--" + name.replace("_", "-"):
            found = value if is_joined else following
    return found or None


def stored_settings(words: list[str], preset: str | None = None) -> Path | None:
    """Return where the defaults of all flags are stored: in a resumed run, or what --config names.

    They must be known before the words are parsed; for --help they do not matter. `preset` names
    other defaults that were asked for. Raises ConfigError where two are asked for.
    """
    if {"-h", "--help", "--help-all"} & set(words):
        return None
    config, resumes = flag_value(words, "config"), "--resume" in words
    asked = {"--config": config, "--resume": resumes, preset: preset}
    if len(both := [str(name) for name, given in asked.items() if given]) > 1:
        what = f"{both[0]} cannot be combined with {both[1]}: each brings settings of its own"
        raise ConfigError(what, both[0], "leave one of them out")
    place = flag_value(words, "out") if resumes else config
    if resumes and place:
        refuse_shipped(Path(place))
    return Path(place) if place else None


def refuse_shipped(out: Path) -> None:
    """Refuse to resume a model that comes with the package: it has weights alone."""
    from minigpt.runs.shipped import is_shipped  # a command without a model needs no torch

    if is_shipped(out):
        what = f"{out} comes with the package and cannot be resumed"
        raise ConfigError(what, "--out", f"learn on from it: finetune --checkpoint {out} --out DIR")


def gathered(words: list[str], kind: Any) -> list[str]:
    """Bring the values of a flag that takes several together, where it was given several times.

    --message A --seed 3 --message B becomes --message A B --seed 3; else B alone would count.
    """
    several = {"--" + name.replace("_", "-") for name in lists_of(kind)}
    parts: list[list[str]] = [[]]  # a flag, and what follows it
    for word in words:
        flag, is_joined, value = word.partition("=")
        name = "--" + flag.removeprefix("--").replace("_", "-")
        if not flag.startswith("--"):
            parts[-1].append(word)
        elif name not in several:
            parts.append([word])
        else:
            parts.append([name, value] if is_joined else [name])
    first: dict[str, list[str]] = {}
    for part in parts:
        if part and part[0] in several and first.setdefault(part[0], part) is not part:
            first[part[0]] += part[1:]
            part.clear()
    return [word for part in parts for word in part]


# ---- the flags that --help shows


def is_settings(kind: Any) -> bool:
    """Tell whether something is a dataclass, whose fields become flags."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def hints_of(kind: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass, with what is annotated beside it."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def flags(kind: Any) -> set[str]:
    """Return the names of all fields of a dataclass, nested ones included."""
    names: set[str] = set()
    for name, hint in hints_of(kind).items():
        names |= flags(hint) if is_settings(hint) else {name}
    return names


def lists_of(kind: Any) -> set[str]:
    """Return the names of the fields of a dataclass, nested ones included, that take several."""
    names: set[str] = set()
    for name, hint in hints_of(kind).items() if is_settings(kind) else ():
        if is_settings(hint):
            names |= lists_of(hint)
        elif get_origin(hint) is tuple:
            names.add(name)
    return names


@functools.cache
def everyday(kind: Any) -> Any:
    """Return a class like `kind` of which tyro's help shows the everyday flags alone."""
    annotations: dict[str, Any] = {}
    for name, hint in hints_of(kind).items():
        if is_settings(hint):
            annotations[name] = everyday(hint)
        elif name not in EVERYDAY:
            annotations[name] = Annotated[hint, tyro.conf.Suppress]
    body = {"__annotations__": annotations, "__doc__": kind.__doc__, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), body)


def as_kind(kind: Any, default: Any) -> Any:
    """Return the same settings (None: the usual ones) as an object of `kind`, nested ones too."""
    values: dict[str, Any] = {}
    hints = hints_of(kind)
    for field in dataclasses.fields(kind):
        if default is not None:
            value = getattr(default, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = tyro.MISSING if field.default is dataclasses.MISSING else field.default
        hint = hints[field.name]
        values[field.name] = as_kind(hint, value) if is_settings(hint) else value
    return kind(**values)
