"""Checks of the exercises on pretrained weights, each with an oracle of its own."""

import functools
import json
import struct
from collections.abc import Callable
from typing import Any

import torch
from jinja2 import Environment, TemplateError
from torch import Generator, Tensor

from minigpt.checks import exercise
from minigpt.checks.compare import (
    call,
    integers,
    require,
    same_results,
    same_tensor,
)

HAND = {"header": 72, "begin": 80, "numbers": 6, "size": 104, "first": 1.0, "last": -2.0}
HAND_HINTS = {
    "header": "The first eight bytes are a number, the lowest byte first: 48 in base 16.",
    "begin": "The numbers begin after the eight bytes AND the header.",
    "numbers": "The shape is [2, 3].",
    "size": "Eight bytes, the header, and four bytes for each number.",
    "first": "3f 80 00 00, read from its highest byte: sign 0, exponent 127, which means 1.",
    "last": "c0 00 00 00: the highest bit is the sign, and 40 00 00 00 is 2.",
}
HAND_SLIPS = {
    ("header", 48): "48 is written in base 16: 4 x 16 + 8.",
    ("begin", 72): "You left out the eight bytes in front of the header.",
    ("begin", 8): "That is where the header begins.",
    ("size", 96): "You left out the eight bytes in front of the header.",
    ("size", 86): "A float32 has four bytes.",
    ("last", 2.0): "The highest bit is set: what does it stand for?",
}


@exercise("pretrained_weights.by_hand", "8 bytes, the header, then 4 bytes for each number.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the six numbers of the exercise text."""
    same_results(answer, HAND, hand_hint)


def hand_hint(name: str, got: Any) -> str:
    is_number = isinstance(got, int | float)
    return HAND_SLIPS.get((name, got), HAND_HINTS[name]) if is_number else HAND_HINTS[name]


# A reader


@exercise("pretrained_weights.read_tensor", "header first; then the bytes between its two offsets.")
def read_tensor(answer: Callable, generator: Generator) -> None:
    """Expect read_tensor(data, name): one float32 tensor of the bytes of a safetensors file."""
    shapes = {"b": (3, 5), "a": (4,), "c": (2, 1, 3), "one": ()}
    for order in (list(shapes), list(shapes)[::-1]):
        tensors = {name: torch.randn(shapes[name], generator=generator) for name in order}
        data = file_of(tensors, padding=integers(generator, 0, 9, 1)[0])
        for name, tensor in tensors.items():
            case = f"name = {name!r}, shape {tuple(tensor.shape)}, in the order {', '.join(order)}"
            got = call(answer, data, name, case=case)
            hint = "The offsets count from the first byte AFTER the header."
            if isinstance(got, Tensor) and got.shape != tensor.shape:
                hint = "The numbers have the shape that the header says."
            same_tensor(got, tensor, case, hint)


def file_of(tensors: dict[str, Tensor], padding: int = 0) -> bytes:
    """Return a safetensors file of float32 tensors in their order, with facts of its own."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    numbers = b""
    for name, tensor in tensors.items():
        raw = struct.pack(f"<{tensor.numel()}f", *tensor.flatten().tolist())
        places = [len(numbers), len(numbers) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": places}
        numbers += raw
    text = json.dumps(header).encode() + b" " * padding
    return struct.pack("<Q", len(text)) + text + numbers


# Repair


@exercise("pretrained_weights.repair_map", "give every layer and every part its own numbers.")
def repair_map(answer: Callable, generator: Generator) -> None:
    """Expect ours(tensors, n_layer): GPT-2's block tensors under our names, in our layout."""
    for n_layer, C in ((1, 4), (2, 6), (12, 2)):
        theirs = gpt2_tensors(n_layer, C, generator)
        expected = ours_of(theirs, n_layer)
        case = f"n_layer = {n_layer}, width {C}"
        got = call(answer, theirs, n_layer, case=case)
        require(isinstance(got, dict), f"expected a dict, got {type(got).__name__} ({case})")
        missing, more = sorted(expected.keys() - got.keys()), sorted(got.keys() - expected.keys())
        require(not missing, f"{missing[:1]} is missing ({case})")
        require(not more, f"{more[:1]} is none of our names ({case})")
        for name, tensor in expected.items():
            same_tensor(got[name], tensor, f"{name}, {case}", map_hint(name, got[name], theirs))


def gpt2_tensors(n_layer: int, C: int, generator: Generator) -> dict[str, Tensor]:
    """Return random tensors of GPT-2's blocks, without their norms."""
    shapes = {
        "attn.c_attn.weight": (C, 3 * C),
        "attn.c_attn.bias": (3 * C,),
        "attn.c_proj.weight": (C, C),
        "attn.c_proj.bias": (C,),
    }
    return {
        f"h.{layer}.{name}": torch.randn(shape, generator=generator)
        for layer in range(n_layer)
        for name, shape in shapes.items()
    }


def ours_of(theirs: dict[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    """Return the same under our names."""
    found = {}
    for layer in range(n_layer):
        for kind in ("weight", "bias"):
            joint = theirs[f"h.{layer}.attn.c_attn.{kind}"].t()
            names = ["query", "key", "value"]
            parts = dict(zip(names, joint.chunk(3), strict=True))
            parts["output"] = theirs[f"h.{layer}.attn.c_proj.{kind}"].t()
            found |= {f"blocks.{layer}.attention.{n}.{kind}": t for n, t in parts.items()}
    return found


def map_hint(name: str, got: Any, theirs: dict[str, Tensor]) -> str:
    """Say what a wrong tensor of the map really is."""
    if not isinstance(got, Tensor):
        return "A tensor belongs there."
    if any(got.shape == each.shape and torch.equal(got, each) for each in theirs.values()):
        return "It lies as in GPT-2's file: (in, out). Ours are (out, in)."
    n_layer = 1 + max(int(each.split(".")[1]) for each in theirs)
    for other, tensor in ours_of(theirs, n_layer).items():
        if got.shape == tensor.shape and torch.equal(got, tensor):
            return f"These are the numbers of {other}."
    return "Which part of which of their tensors is it, and does it lie as ours do?"


# Tie or untie


@exercise("pretrained_weights.settle_head", "three cases: no head, an equal head, another head.")
def settle_head(answer: Callable, generator: Generator) -> None:
    """Expect settle_head(tensors): (tensors without a head that is the embedding, tied or not)."""
    table, other = (torch.randn(5, 3, generator=generator) for _ in range(2))
    body = {"norm.weight": torch.randn(3, generator=generator), "embedding.weight": table}
    nearly = table.clone()
    nearly[4, 2] += 1e-6
    cases = {
        "no head": (body, True),
        "an equal head": (body | {"head.weight": table.clone()}, True),
        "another head": (body | {"head.weight": other}, False),
        "a head that differs in its last number by 0.000001": (
            body | {"head.weight": nearly},
            False,
        ),
        "a head with more rows": (body | {"head.weight": torch.cat((table, table[:1]))}, False),
    }
    for case, (tensors, tied) in cases.items():
        before = list(tensors)
        got = call(answer, tensors, case=case)
        require(list(tensors) == before, f"the dict was changed ({case}); return a new one")
        is_pair = isinstance(got, tuple | list) and len(got) == 2 and isinstance(got[0], dict)
        require(is_pair, f"expected a pair: a dict, and True or False ({case})")
        require(got[1] == tied, f"tied is {got[1]}, expected {tied} ({case})")
        expected = {k: v for k, v in tensors.items() if not (tied and k == "head.weight")}
        same = got[0].keys() == expected.keys()
        require(same, f"the names are {sorted(got[0])}, expected {sorted(expected)} ({case})")
        for name, tensor in expected.items():
            same_tensor(got[0][name], tensor, f"{name}, {case}", "Tensors that stay are unchanged.")


# Measure

MEASURE_HINTS = {
    "culprit": "Collect what every module says in both models, in order: which one is first to "
    "differ though its input agrees?",
    "first_token": "Position of the first token that differs in the two greedy texts, from 0.",
    "why": "What does a shape say of a square matrix? What does an average over tokens hide?",
}


@exercise("pretrained_weights.find_culprit", "hooks on both models, same ids, module by module.")
def find_culprit(answer: Any, generator: Generator) -> None:
    """Expect which module of the exercise's model is wrong, and from which token on one sees it."""
    expected = measured()
    require(isinstance(answer, dict), f"expected a dict, got {type(answer).__name__}")
    require(answer.keys() == expected.keys(), f"expected the keys {', '.join(expected)}")
    for name, value in expected.items():
        require(answer[name] == value, f"{name}: {answer[name]!r} is not it. {MEASURE_HINTS[name]}")


@functools.cache
def measured() -> dict[str, Any]:
    """Return what is to be found: the exercise's fault is made here too, and measured anew."""
    from minigpt.api import load
    from minigpt.chat import encode_prompt
    from minigpt.generate import generate
    from minigpt.sampling import SampleConfig

    run, config = load("little", "cpu"), SampleConfig(60, temperature=0.0)
    prompt = encode_prompt([{"role": "user", "content": "Tell me a story."}], run.tokenizer)
    (right,) = generate(run.model, [prompt], config)
    with torch.no_grad():
        weight = run.model.get_parameter("blocks.2.attention.value.weight")
        weight.copy_(weight.T.clone())
    (wrong,) = generate(run.model, [prompt], config)
    first = next(n for n, (a, b) in enumerate(zip(right, wrong, strict=True)) if a != b)
    return {"culprit": "blocks.2.attention.value", "first_token": first, "why": "c"}


# A template


@exercise("pretrained_weights.chat_template", "a loop over messages, then what asks for an answer.")
def chat_template(answer: Any, generator: Generator) -> None:
    """Expect a Jinja template of the format that the exercise describes."""
    require(isinstance(answer, str), f"expected a text, got {type(answer).__name__}")
    texts = ["Hello", "  two spaces  ", "a\nb\n", "你好", "{{ no }}", "'quoted'", "1 < 2 & 3"]
    roles = ["user", "assistant"]
    for count in range(1, 6):
        chosen = [texts[n] for n in integers(generator, 0, len(texts) - 1, count)]
        talk = [{"role": roles[n % 2], "content": text} for n, text in enumerate(chosen)]
        if count % 2:
            talk.insert(0, {"role": "system", "content": chosen[-1]})
        for asks in (False, True):
            case = f"{[m['role'] for m in talk]}, add_generation_prompt = {asks}"
            try:
                template = Environment().from_string(answer)
                got = template.render(messages=talk, add_generation_prompt=asks, bos_token="<s>")
            except TemplateError as error:
                require(False, f"Jinja says: {error} ({case})")
                raise
            expected = written(talk, asks)
            require(got == expected, f"{template_hint(got, expected, talk, asks)} ({case})")


def written(talk: list[dict[str, str]], asks: bool, **options: bool) -> str:
    """Return a conversation in the format of the exercise; options leave a part of it out."""
    text = "" if options.get("no_begin") else "<s>"
    for message in talk:
        content = message["content"] if options.get("untrimmed") else message["content"].strip()
        text += (
            f"[{message['role'].upper() if not options.get('low') else message['role']}] {content}"
        )
        text += "" if options.get("no_end") else "</s>"
        text += "\n" if options.get("lines") else ""
    return text + ("[ASSISTANT]" if asks and not options.get("never_asks") else "")


TEMPLATE_SLIPS = {
    "no_begin": "The conversation begins with bos_token.",
    "untrimmed": "White space around a text is left out: there is a filter for it.",
    "low": "Roles are written in capitals: there is a filter for it.",
    "no_end": "Every message ends with </s>.",
    "lines": "There are line ends between messages: {%- and -%} take white space away.",
    "never_asks": "With add_generation_prompt the text ends with [ASSISTANT].",
}


def template_hint(got: str, expected: str, talk: list[dict[str, str]], asks: bool) -> str:
    """Say what is wrong with a rendered conversation."""
    for option, hint in TEMPLATE_SLIPS.items():
        if got == written(talk, asks, **{option: True}):
            return hint
    if not asks and got == written(talk, True):
        return "[ASSISTANT] comes at the end only with add_generation_prompt."
    if got == expected + " " or "".join(got.split()) == "".join(expected.split()):
        return "White space differs: {%- and -%} take it away, also the line ends of the template."
    place = next((n for n, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b), None)
    place = min(len(got), len(expected)) if place is None else place
    found, wanted = got[place:][:12], expected[place:][:12]
    return f"after {expected[:place][-20:]!r} comes {found!r}, not {wanted!r}"
