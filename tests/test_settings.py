"""Settings are checked by their fields' own types and bounds."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import tyro

from minigpt.support.errors import ConfigError
from minigpt.support.settings import above, at_least, at_most, below, check_fields


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Config:
    steps: Annotated[int, at_least(1)] = 10
    rows: Annotated[int | None, at_least(1)] = None
    share: Annotated[float, at_least(0), below(1)] = 0.5
    rate: Annotated[float, above(0), at_most(2)] = 1.0
    kind: Literal["a", "b"] = "a"
    maybe: Literal["x"] | None = None
    flag: bool = False
    name: str = ""
    inner: Inner = dataclasses.field(default_factory=Inner)

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"steps": 0}, "steps = 0 is not possible — --steps — give a whole number >= 1"),
        ({"steps": True}, "a whole number >= 1"),
        ({"steps": 1.0}, "a whole number >= 1"),
        ({"steps": "3"}, "a whole number >= 1"),
        ({"steps": None}, "a whole number >= 1"),
        ({"steps": 2**63}, "a whole number >= 1"),
        ({"rows": 0}, "a whole number >= 1, or None"),
        ({"share": 1}, "a number >= 0 and below 1"),
        ({"share": -0.1}, "a number >= 0 and below 1"),
        ({"share": float("nan")}, "a number >= 0"),
        ({"rate": 0}, "a number above 0 and <= 2"),
        ({"rate": 2.5}, "a number above 0 and <= 2"),
        ({"rate": float("inf")}, "a number above 0"),
        ({"kind": "c"}, "one of a, b"),
        ({"kind": 1}, "one of a, b"),
        ({"maybe": "y"}, "one of x, or None"),
        ({"flag": 1}, "True or False"),
        ({"name": 3}, "text"),
    ],
)
def test_a_value_outside_of_its_fields_rule_is_refused_by_name(values, wanted):
    with pytest.raises(ConfigError) as error:
        Config(**values)
    assert wanted in str(error.value)
    assert f"{next(iter(values))} = " in str(error.value)


@pytest.mark.parametrize(
    "values",
    [{}, {"rows": 3}, {"share": 0}, {"rate": 2}, {"kind": "b"}, {"maybe": "x"}, {"flag": True}],
)
def test_values_within_their_rules_are_taken(values):
    Config(**values)


def test_bounds_do_not_disturb_the_command_line():
    assert tyro.cli(Config, args=["--steps", "3", "--share", "0.25", "--rows", "2"]) == Config(
        steps=3, share=0.25, rows=2
    )
