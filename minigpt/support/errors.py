"""Errors that a user can act on: each says what happened, where, and what to do.

The command line prints such an error as one line and exits with its `exit_code`.
Every other exception is a fault of the program, not of its user.
"""


class MinigptError(Exception):
    """Report one problem as `what — where — remedy`.

    >>> str(DataError("0 bytes", "my.txt", "give a file with text"))
    '0 bytes — my.txt — give a file with text'
    """

    exit_code = 1

    def __init__(self, what: str, where: str, remedy: str):
        super().__init__(printable(f"{what} — {where} — {remedy}"))
        self.what, self.where, self.remedy = what, where, remedy


def printable(text: str) -> str:
    """Keep to one line, and to what a console shows instead of obeying it, as a server may send."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


class DataError(MinigptError, ValueError):
    """A text, token or tokenizer file cannot be used."""


class CheckpointError(MinigptError, ValueError):
    """A checkpoint is missing, damaged or of another format."""


class ConfigError(MinigptError, ValueError):
    """A setting, or a combination of settings, is impossible."""

    exit_code = 2


class TrainingError(MinigptError, RuntimeError):
    """Training had to stop: a loss that is not finite, or too little memory."""

    exit_code = 3


class LockedError(MinigptError, RuntimeError):
    """Another process is using the run directory."""

    exit_code = 4


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raise a ConfigError that shows a setting's value and its flag unless the condition holds.

    >>> require(False, "n_layer", -1, "1 or more")
    Traceback (most recent call last):
    minigpt.support.errors.ConfigError: n_layer = -1 is not possible — --n-layer — give 1 or more
    """
    if not holds:
        flag = "--" + name.replace("_", "-")
        raise ConfigError(f"{name} = {value!r} is not possible", flag, f"give {wanted}")
