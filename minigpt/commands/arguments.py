"""Turn a command's words into its settings; flags come from the fields of the dataclasses."""

from collections.abc import Callable
from typing import TypeVar

import tyro

T = TypeVar("T")


def parse(kind: type[T] | Callable[..., T], name: str, words: list[str], default: T = None) -> T:
    """Fill `kind` from the words; a usage error prints tyro's box and exits with code 2."""
    extra = {} if default is None else {"default": default}
    return tyro.cli(
        kind,
        prog=f"python -m minigpt {name}",
        args=words,
        config=(tyro.conf.OmitArgPrefixes,),
        **extra,
    )
