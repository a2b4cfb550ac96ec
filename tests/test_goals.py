"""What a run is asked to learn from preferences or rewards: values out of range are named."""

import pytest

from minigpt.runs.goals import DPOConfig, GRPOConfig
from minigpt.support.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (DPOConfig, "beta", 0.0),
        (DPOConfig, "beta", -1.0),
        (GRPOConfig, "group_size", 1),
        (GRPOConfig, "kl", -0.1),
        (GRPOConfig, "answer_temperature", 0.0),
    ],
)
def test_a_value_out_of_range_is_named(kind, field, value):
    with pytest.raises(ConfigError, match=field):
        kind(**{field: value})


def test_the_defaults_are_those_of_the_chapters():
    assert (DPOConfig().beta, GRPOConfig().group_size, GRPOConfig().kl) == (0.1, 8, 0.0)
    assert not GRPOConfig().divide_by_deviation
