"""Wrong answers about pretrained weights fail, each with a word on what to look at."""

import pytest
import safetensors.torch
import torch
from solved import answer_of, fails, passes_always, solution

from minigpt.checks import exercises, judge
from minigpt.checks.pretrained_weights import file_of, gpt2_tensors, measured, ours_of, written

pytestmark = pytest.mark.usefixtures("student")

HAND = {"header": 72, "begin": 80, "numbers": 6, "size": 104, "first": 1.0, "last": -2.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"header": 48}, "base 16"),
        ({"header": 0x4800}, "lowest byte first"),
        ({"begin": 72}, "eight bytes in front"),
        ({"begin": 8}, "where the header begins"),
        ({"numbers": 5}, "[2, 3]"),
        ({"size": 96}, "eight bytes in front"),
        ({"size": 86}, "four bytes"),
        ({"first": 127}, "exponent 127"),
        ({"last": 2.0}, "highest bit"),
        ({"last": "x"}, "should be a number"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_numbers_by_hand(change, words):
    assert judge("pretrained_weights.by_hand", HAND) == ("passed", "passed")
    fails("pretrained_weights.by_hand", HAND | change, words)


def read(data, name, begin=None, shaped=True):
    import json
    import struct

    start = 8 + struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8:start])[name]
    first, last = entry["data_offsets"]
    begin = start if begin is None else begin
    raw = (data + bytes(200))[begin + first : begin + last]
    tensor = torch.tensor(struct.unpack(f"<{len(raw) // 4}f", raw))
    return tensor.view(entry["shape"]) if shaped else tensor


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda data, name: read(data, name, begin=8), "AFTER the header"),
        (lambda data, name: read(data, name, shaped=False), "shape"),
        (lambda data, name: read(data, name).tolist(), "expected a tensor"),
        (lambda data, name: -read(data, name), "differs"),
    ],
)
def test_wrong_reader(answer, words):
    assert judge("pretrained_weights.read_tensor", lambda *a: read(*a)) == ("passed", "passed")
    verdict, message = judge("pretrained_weights.read_tensor", answer)
    assert verdict == "failed"
    assert words in message or words == "differs"


def test_the_files_of_the_check_are_files():
    tensors = {"b": torch.randn(3, 5), "a": torch.randn(4)}
    for name, tensor in safetensors.torch.load(file_of(tensors, padding=7)).items():
        assert torch.equal(tensor, tensors[name])


def swapped(tensors, n_layer):
    found = ours_of(tensors, n_layer)
    other = {"query": "key", "key": "query"}
    return {
        ".".join(
            [*name.split(".")[:3], other.get(part := name.split(".")[3], part), name.split(".")[4]]
        ): x
        for name, x in found.items()
    }


def as_it_lies(tensors, n_layer):
    found = ours_of(tensors, n_layer)
    return {k: x.t() if "output.weight" in k else x for k, x in found.items()}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (swapped, "These are the numbers of blocks.0.attention."),
        (as_it_lies, "Ours are (out, in)"),
        (lambda t, n: {k: v for k, v in ours_of(t, n).items() if "bias" not in k}, "is missing"),
        (lambda t, n: ours_of(t, n) | {"x": torch.zeros(1)}, "none of our names"),
        (lambda t, n: list(ours_of(t, n)), "expected a dict"),
        (lambda t, n: {k: -v for k, v in ours_of(t, n).items()}, "Which part"),
    ],
)
def test_wrong_maps(answer, words):
    assert judge("pretrained_weights.repair_map", lambda *a: ours_of(*a)) == ("passed", "passed")
    fails("pretrained_weights.repair_map", answer, words)


def test_the_planted_map_fails_as_it_is():
    fails(
        "pretrained_weights.repair_map",
        solution("pretrained_weights.repair_map").names["broken"],
        "",
    )


def test_the_oracle_of_the_map_is_the_packages():
    from minigpt.pretrained import place_of, take

    theirs = gpt2_tensors(2, 6, torch.Generator().manual_seed(0))
    named = {f"transformer.{name}": tensor for name, tensor in theirs.items()}
    for name, tensor in ours_of(theirs, 2).items():
        assert torch.equal(take(named, place_of(name, "gpt2")), tensor)


def settle(tensors, same=torch.equal):
    head = tensors.get("head.weight")
    tied = head is None or same(head, tensors["embedding.weight"])
    return {k: v for k, v in tensors.items() if not (tied and k == "head.weight")}, tied


def popped(tensors):
    result = settle(dict(tensors))
    tensors.pop("head.weight", None)
    return result


def nearly(a, b):
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda t: settle(t, nearly), "its last number"),
        (lambda t: settle(t, lambda a, b: a.shape == b.shape), "another head"),
        (lambda t: (t, settle(t)[1]), "the names are"),
        (lambda t: (settle(t)[0], False), "tied is False"),
        (popped, "the dict was changed"),
        (lambda t: settle(t)[0], "expected a pair"),
        (lambda t: ({k: v + 1 for k, v in settle(t)[0].items()}, settle(t)[1]), "unchanged"),
    ],
)
def test_wrong_heads(answer, words):
    assert judge("pretrained_weights.settle_head", lambda t: settle(t)) == ("passed", "passed")
    fails("pretrained_weights.settle_head", answer, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"culprit": "blocks.1.attention.key"}, "first to differ"),
        ({"culprit": "blocks.2.attention"}, "first to differ"),
        ({"first_token": 5}, "from 0"),
        ({"why": "a"}, "square matrix"),
        ({"why": "b"}, "square matrix"),
        ({"more": 1}, "expected the keys"),
    ],
)
def test_wrong_culprits(change, words):
    found = measured()
    assert judge("pretrained_weights.find_culprit", found) == ("passed", "passed")
    fails("pretrained_weights.find_culprit", found | change, words)


TEMPLATE = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '[' + (message['role'] | upper) + '] ' + (message['content'] | trim) + '</s>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '[ASSISTANT]' }}{%- endif %}"
)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{{- bos_token }}", "", "begins with bos_token"),
        (" | trim", "", "White space"),
        (" | upper", "", "capitals"),
        ("'</s>'", "''", "ends with </s>"),
        ("'</s>'", "'</s>\\n'", "line ends"),
        ("{%- if add_generation_prompt %}", "{%- if true %}", "only with add_generation_prompt"),
        ("'[ASSISTANT]'", "''", "ends with [ASSISTANT]"),
        ("'[ASSISTANT]'", "'[ASSISTANT] '", "White space differs"),
        ("'[ASSISTANT]'", "'[YOU]'", "comes 'YOU]'"),
        ("{%- endfor %}", "", "Jinja says"),
    ],
)
def test_wrong_templates(old, new, words):
    assert judge("pretrained_weights.chat_template", TEMPLATE) == ("passed", "passed")
    assert old in TEMPLATE
    fails("pretrained_weights.chat_template", TEMPLATE.replace(old, new), words)


def test_a_template_is_a_text():
    fails("pretrained_weights.chat_template", 7, "expected a text")
    talk = [{"role": "user", "content": " a "}]
    assert written(talk, True) == "<s>[USER] a</s>[ASSISTANT]"


@pytest.mark.parametrize("name", exercises("pretrained_weights"))
def test_the_solutions_pass_always(name, monkeypatch):
    passes_always(name, monkeypatch, students=30)
    assert answer_of(name) is not None
