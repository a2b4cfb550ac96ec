"""Wrong answers about vision fail, each with a word on what to look at."""

import pytest
import torch
from solved import answer_of, fails

from minigpt.checks import judge
from minigpt.checks.vision import HAND, _flips
from minigpt.vision import patches

pytestmark = pytest.mark.usefixtures("student")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 4}, "Three rows"),
        ({"patch": [22, 32, 23, 33]}, "from left to right"),
        ({"patch": [2, 3, 12, 13]}, "patch 1"),
        ({"patch": [20, 21, 30, 31]}, "patch 2"),
        ({"patch": [0, 1, 10, 11]}, "row by row"),
        ({"tokens": 14}, "one side"),
        ({"tokens": 256}, "224 / 16"),
        ({"pairs": 4}, "square"),
        ({"pairs": 2}, "each with each"),
        ({"parameters": 49152}, "biases"),
        ({"parameters": 16448}, "three channels"),
        ({"parameters": 768}, "64 weights"),
        ({"seen": 15}, "causal mask"),
        ({"seen": 25}, "no word"),
        ({"seen": 9}, "first word sees 4"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_vision_by_hand(change, words):
    assert judge("vision.by_hand", HAND) == ("passed", "passed")
    fails("vision.by_hand", HAND | change, words)


def overlapping(pictures, size, stride, order=(0, 2, 3, 1, 4, 5)):
    squares = pictures.unfold(2, size, stride).unfold(3, size, stride)
    return squares.permute(order).flatten(3).flatten(1, 2)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda p, size, stride: overlapping(p, size, size), "the shape is"),
        (lambda p, size, stride: overlapping(p, stride, stride), "the shape is"),
        (lambda p, size, stride: overlapping(p, size, stride, (0, 3, 2, 1, 4, 5)), "another order"),
        (lambda p, size, stride: overlapping(p, size, stride, (0, 2, 3, 1, 5, 4)), "another order"),
        (lambda p, size, stride: overlapping(p.roll(1, -1), size, stride), "Patch (i, j) begins"),
        (lambda p, size, stride: patches(p[..., :4, :4], 4), "minigpt's own patches"),
        (lambda p, size, stride: overlapping(p.mul_(2), size, stride), "in place"),
    ],
)
def test_wrong_overlapping_patches(answer, words):
    assert judge("vision.overlapping", overlapping) == ("passed", "passed")
    fails("vision.overlapping", answer, words)


def masked(predict, rows, scores, count, everywhere=False, leak=False, largest=False, zeros=False):
    order = (-scores if largest else scores).argsort(dim=1).argsort(dim=1)
    hidden = order < count
    seen = rows.masked_fill(hidden[..., None], 0.0)
    gaps = predict(rows if leak else seen) - (seen if zeros else rows)
    return (gaps if everywhere else gaps[hidden]).square().mean()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *a: masked(*a, everywhere=True), "only copied"),
        (lambda *a: masked(*a, leak=True), "saw the whole picture"),
        (lambda *a: masked(*a, zeros=True), "not with the zeros"),
        (lambda *a: masked(*a, largest=True), "smallest scores"),
        (lambda *a: masked(*a) * 2, "mean of squares"),
        (lambda *a: masked(*a).item(), "0-d tensor"),
    ],
)
def test_wrong_masked_loss(answer, words):
    assert judge("vision.masked_loss", masked) == ("passed", "passed")
    fails("vision.masked_loss", answer, words)


def visible_loss(predict, rows, scores, count):
    hidden = scores.argsort(dim=1).argsort(dim=1) < count
    seen = rows.masked_fill(hidden[..., None], 0.0)
    return (predict(seen) - rows)[~hidden].square().mean()


def test_the_loss_at_the_visible_patches_is_named():
    fails("vision.masked_loss", visible_loss, "visible patches")


def needs(score, picture, size, stride, sign=1, average=True, corner=False, channels=slice(None)):
    H, W = picture.shape[1:]
    total, windows = torch.zeros(H, W), torch.zeros(H, W)
    for y in range(0, H - size + 1, stride):
        for x in range(0, W - size + 1, stride):
            covered = picture.clone()
            covered[channels, y : y + size, x : x + size] = 0
            reach = 1 if corner else size
            fall = sign * (score(picture[None])[0] - score(covered[None])[0])
            total[y : y + reach, x : x + reach] += fall
            windows[y : y + reach, x : x + reach] += 1
    return total / windows.clamp(min=1) if average else total


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *a: needs(*a, sign=-1), "before minus after"),
        (lambda *a: needs(*a, average=False), "Divide by the number"),
        (lambda *a: needs(*a, corner=True), "at all its points"),
        (lambda *a: needs(*a, channels=0), "all channels"),
        (lambda *a: needs(*a)[1:], "the shape is"),
    ],
)
def test_wrong_saliency(answer, words):
    assert judge("vision.saliency", needs) == ("passed", "passed")
    fails("vision.saliency", answer, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plain": 0.5}, "as they are"),
        ({"mirrored": 0.9}, "last dimension"),
        ({"augmented": 0.9}, "mirror images"),
        ({"symmetric": [0, 1]}, "60 %"),
        ({"why": "a"}, "in a mirror"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_flips(change, words):
    assert judge("vision.flips", _flips()) == ("passed", "passed")
    fails("vision.flips", _flips() | change, words)


def spiral(rows, columns):
    left, found = [[r * columns + c for c in range(columns)] for r in range(rows)], []
    while left:
        found += left.pop(0)
        left = [list(row) for row in zip(*left, strict=True)][::-1]
    return found


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda rows, columns: list(range(rows * columns)), "is a jump"),
        (lambda rows, columns: spiral(rows, columns)[::-1], "begins at"),
        (lambda rows, columns: spiral(rows, columns)[:-1], "once"),
        (lambda rows, columns: spiral(columns, rows), "is a jump"),
        (lambda rows, columns: [float(place) for place in spiral(rows, columns)], "whole numbers"),
        (lambda rows, columns: rows * columns, "whole numbers"),
    ],
)
def test_wrong_path(answer, words):
    assert judge("vision.path", spiral) == ("passed", "passed")  # another good way
    assert judge("vision.path", answer_of("vision.path")) == ("passed", "passed")
    fails("vision.path", answer, words)
