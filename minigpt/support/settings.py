"""Check settings in one way: bounds stand in the field, and `check_fields` holds values to them.

    max_steps: Annotated[int, at_least(1)] = 1000
    dropout: Annotated[float, at_least(0), below(1)] = 0.0
    schedule: Literal["linear", "cosine"] = "linear"

A config calls `check_fields(self)` in its `__post_init__`; rules that tie two fields follow there.
"""

import dataclasses
import operator
import sys
from collections.abc import Callable
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from minigpt.support.errors import require

LARGEST_INT = 2**63 - 1  # what a tensor's index and a checkpoint's JSON can hold


class Bound(NamedTuple):
    """One limit of a number: how it is compared, with what, and how an error words it."""

    holds: Callable[[Any, Any], bool]
    limit: float
    words: str


def at_least(limit: float) -> Bound:
    """Allow numbers from `limit` on."""
    return Bound(operator.ge, limit, f">= {limit:g}")


def at_most(limit: float) -> Bound:
    """Allow numbers up to `limit`."""
    return Bound(operator.le, limit, f"<= {limit:g}")


def above(limit: float) -> Bound:
    """Allow numbers greater than `limit`."""
    return Bound(operator.gt, limit, f"above {limit:g}")


def below(limit: float) -> Bound:
    """Allow numbers less than `limit`."""
    return Bound(operator.lt, limit, f"below {limit:g}")


def check_fields(config: Any) -> None:
    """Raise a ConfigError naming the first field of a dataclass whose value its type forbids.

    Knows int, float (finite; whole numbers count), bool, str, Literal, each with `| None`, and the
    bounds of an `Annotated`. Fields of other types are left to the config itself.

    >>> @dataclasses.dataclass
    ... class Config:
    ...     p: Annotated[float, below(1)] = 0.5
    >>> check_fields(Config(1.0))
    Traceback (most recent call last):
    minigpt.support.errors.ConfigError: p = 1.0 is not possible — --p — give a number below 1
    """
    for name, rule in rules(type(config)).items():
        value = getattr(config, name)
        require(rule.allows(value), name, value, rule.wanted())


def numbers_by_id(name: str, pairs: Any, limit: float) -> tuple[tuple[int, float], ...]:
    """Return a field's pairs of a token id and a number as tuples; JSON has made them lists.

    Raises ConfigError for anything else, for a number beyond the limit, and for an id given twice.

    >>> numbers_by_id("logit_bias", [[7, -5.0]], 100)
    ((7, -5.0),)
    """
    lists = (tuple, list)
    holds = isinstance(pairs, lists) and all(isinstance(p, lists) and len(p) == 2 for p in pairs)
    holds = holds and all(
        type(token) is int
        and 0 <= token <= LARGEST_INT
        and type(number) in (int, float)
        and abs(number) <= limit
        for token, number in pairs
    )
    holds = holds and len({token for token, _ in pairs}) == len(pairs)
    wanted = f"pairs of a token id and a number from {-limit} to {limit}, each id once"
    require(holds, name, pairs, wanted)
    return tuple((token, number) for token, number in pairs)


@cache
def rules(kind: type) -> dict[str, "Rule"]:
    """Return the rule of each field of a dataclass that has one."""
    hints = get_type_hints(kind, include_extras=True)
    found = {field.name: rule_of(hints[field.name]) for field in dataclasses.fields(kind)}
    return {name: rule for name, rule in found.items() if rule is not None}


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field may hold: a type or choices, bounds, and whether None is allowed."""

    kind: type | None  # int, float, bool or str; None where there are choices
    choices: tuple[Any, ...] = ()
    bounds: tuple[Bound, ...] = ()
    optional: bool = False

    def allows(self, value: Any) -> bool:
        """Tell whether a field may hold a value."""
        if value is None:
            return self.optional
        if self.choices:
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        if self.kind is float:
            holds = type(value) in (int, float) and abs(value) <= sys.float_info.max  # 10**400 too
        elif self.kind is int:
            holds = type(value) is int and abs(value) <= LARGEST_INT
        else:
            holds = type(value) is self.kind
        return holds and all(bound.holds(value, bound.limit) for bound in self.bounds)

    def wanted(self) -> str:
        """Say what a field may hold.

        >>> Rule(int, bounds=(at_least(1),), optional=True).wanted()
        'a whole number >= 1, or None'
        """
        names = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
        if self.choices:
            text = f"one of {', '.join(map(str, self.choices))}"
        else:
            bounds = " and ".join(bound.words for bound in self.bounds)
            text = f"{names[self.kind]} {bounds}".rstrip()
        return text + (", or None" if self.optional else "")


def rule_of(hint: Any) -> Rule | None:
    """Return the rule that a type hint stands for, or None where it names no simple type."""
    bounds: tuple[Bound, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        bounds = tuple(extra for extra in extras if isinstance(extra, Bound))
    optional = get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)
    if optional:
        rest = [part for part in get_args(hint) if part is not NoneType]
        hint = rest[0] if len(rest) == 1 else None
    if get_origin(hint) is Literal:
        return Rule(None, get_args(hint), (), optional)
    if hint in (int, float, bool, str):
        return Rule(hint, (), bounds, optional)
    return None
