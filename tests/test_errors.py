"""Errors: one line each, an exit code for each kind."""

import inspect

import pytest

from minigpt.support import errors
from minigpt.support.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LockedError,
    MinigptError,
    TrainingError,
    require,
)

KINDS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, MinigptError) and kind is not MinigptError
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_one_line_of_what_where_and_remedy(kind):
    error = kind("it broke", "a.txt, line 3", "mend it")
    assert str(error) == "it broke — a.txt, line 3 — mend it"
    assert (error.what, error.where, error.remedy) == ("it broke", "a.txt, line 3", "mend it")


def test_exit_codes_tell_kinds_apart():
    codes = {kind: kind.exit_code for kind in KINDS}
    expected = {DataError: 1, CheckpointError: 1, ConfigError: 2, TrainingError: 3, LockedError: 4}
    assert codes == expected


def test_users_mistakes_are_value_errors_and_the_rest_runtime_errors():
    """So that a caller who does not know the package can catch them."""
    for kind in KINDS:
        wanted = RuntimeError if kind in (TrainingError, LockedError) else ValueError
        assert issubclass(kind, wanted)


def test_a_setting_is_shown_with_its_flag():
    require(True, "n_layer", 1, "1 or more")
    with pytest.raises(ConfigError) as caught:
        require(False, "n_layer", -1, "1 or more")
    assert str(caught.value) == "n_layer = -1 is not possible — --n-layer — give 1 or more"
