"""Plain values as JSON, so that two processes can exchange them without trusting each other.

Numbers, texts, lists, tuples, dicts, sets, bytes, torch tensors, numpy arrays and functions of
these travel. A function stays where it is: the other side gets a stand-in that calls it. Nothing is
ever unpickled, and what arrives is checked: sizes against bytes, kinds against a list.
"""

import base64
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Keep = Callable[[Callable], int]  # stores a function and returns its number

DEEPEST = 50  # lists within lists
TORCH_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.complex64,
        torch.bool,
        torch.complex128,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
    )
}


class Opaque:
    """Stand for a value that cannot travel; only the name of its type did."""

    def __init__(self, kind: str):
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def encode(value: Any, keep: Keep, strict: bool = False, depth: int = 0) -> Any:
    """Return a value as JSON can carry it; of a function, the number under which it was kept.

    What cannot travel becomes its type's name or, if strict, a TypeError.
    """
    if depth > DEEPEST:
        raise ValueError(f"lists within lists, more than {DEEPEST} deep")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        tag = next(k.__name__ for k in (list, tuple, set, frozenset) if isinstance(value, k))
        return [tag, *(encode(each, keep, strict, depth + 1) for each in value)]
    if isinstance(value, dict):
        pairs = (part for pair in value.items() for part in pair)
        return ["dict", *(encode(part, keep, strict, depth + 1) for part in pairs)]
    if value is ...:
        return ["ellipsis"]
    if isinstance(value, bytes | bytearray):
        return ["bytes", _base64(bytes(value))]
    if isinstance(value, complex) and not isinstance(value, np.generic):
        return ["complex", value.real, value.imag]
    return _encode_object(value, keep, strict)


def _encode_object(value: Any, keep: Keep, strict: bool) -> Any:
    """Encode a tensor, an array, a generator of random numbers, a type of number or a function."""
    is_dense = isinstance(value, torch.Tensor) and value.layout == torch.strided
    if is_dense and not (strict and value.requires_grad):
        name = str(value.dtype).removeprefix("torch.")
        if name in TORCH_DTYPES:
            with torch._C.DisableTorchFunction():  # a check may be watching what an answer computes
                flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            return ["tensor", name, list(value.shape), _base64(flat.numpy().tobytes())]
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufcSU":
        return ["array", value.dtype.str, list(value.shape), _base64(value.tobytes())]
    if isinstance(value, torch.Generator):
        return ["generator", _base64(value.get_state().numpy().tobytes())]
    if isinstance(value, np.random.Generator) and isinstance(value.bit_generator, np.random.PCG64):
        return ["rng", encode(value.bit_generator.state, keep)]
    if isinstance(value, torch.dtype):
        return ["dtype", str(value).removeprefix("torch.")]
    if callable(value):
        return ["function", keep(value)]
    kind = type(value).__name__
    if strict:
        raise TypeError(f"{kind} cannot travel: register the exercise with travels=False")
    return ["opaque", kind[:100]]


def decode(data: Any, stand_in: Callable[[int], Callable], depth: int = 0) -> Any:
    """Return the value that JSON carried; ValueError where it is not one that `encode` makes.

    `stand_in` returns a function that calls the other side's function of that number.
    """
    if depth > DEEPEST:
        raise ValueError("too deep")
    if data is None or type(data) in (bool, int, float, str):
        return data
    if not isinstance(data, list) or not data or not isinstance(data[0], str):
        raise ValueError("not an encoded value")
    tag, *parts = data
    if tag in ("list", "tuple", "set", "frozenset", "dict"):
        values = [decode(part, stand_in, depth + 1) for part in parts]
        if tag == "dict":
            return dict(zip(values[::2], values[1::2], strict=True))
        return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[tag](values)
    match tag, parts:
        case "ellipsis", []:
            return ...
        case "bytes", [str() as text]:
            return base64.b64decode(text, validate=True)
        case "complex", [int() | float() as real, int() | float() as imag]:
            return complex(real, imag)
        case "tensor", [str() as dtype, list() as shape, str() as text]:
            return _tensor(dtype, shape, base64.b64decode(text, validate=True))
        case "array", [str() as dtype, list() as shape, str() as text]:
            return _array(dtype, shape, base64.b64decode(text, validate=True))
        case "generator", [str() as text]:
            state = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
            return torch.Generator().set_state(state)
        case "rng", [list() as state]:
            bits = np.random.PCG64()
            bits.state = decode(state, stand_in, depth + 1)
            return np.random.Generator(bits)
        case "dtype", [str() as name] if name in TORCH_DTYPES:
            return TORCH_DTYPES[name]
        case "function", [int() as number]:
            return stand_in(number)
        case "opaque", [str() as kind]:
            return Opaque(kind[:100])
    raise ValueError(f"not an encoded value: {tag[:20]!r}")


def _tensor(name: str, shape: list, data: bytes) -> torch.Tensor:
    if name not in TORCH_DTYPES:
        raise ValueError(f"not a dtype: {name[:20]!r}")
    _check_size(shape, TORCH_DTYPES[name].itemsize, data)
    if not data:
        return torch.empty(shape, dtype=TORCH_DTYPES[name])
    return torch.frombuffer(bytearray(data), dtype=TORCH_DTYPES[name]).reshape(shape)


def _array(name: str, shape: list, data: bytes) -> np.ndarray | np.generic:
    dtype = np.dtype(name[:20])
    if dtype.kind not in "biufcSU" or not dtype.itemsize:
        raise ValueError(f"not a dtype: {name[:20]!r}")
    _check_size(shape, dtype.itemsize, data)
    return np.frombuffer(data, dtype=dtype).reshape(shape).copy()[()]


def _check_size(shape: list, itemsize: int, data: bytes) -> None:
    """Refuse a shape that is not made of sizes, or that its bytes do not fill exactly."""
    whole = len(shape) <= 20 and all(type(size) is int and 0 <= size < 2**31 for size in shape)
    if not whole or math.prod(shape) * itemsize != len(data):
        raise ValueError("shape and bytes do not fit")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
