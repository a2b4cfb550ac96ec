"""Drawn pictures are what their labels say; files of pictures are read, or refused."""

import gzip
import struct
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib import image

from minigpt import pictures
from minigpt.support.errors import DataError


def test_digits_are_drawn_by_their_seed():
    drawn, digits = pictures.draw_digits(60, seed=3, side=15)
    assert drawn.shape == (60, 1, 15, 15)
    assert drawn.dtype == torch.float32
    assert 0 <= drawn.min() < drawn.max() <= 1
    again, same = pictures.draw_digits(60, seed=3, side=15)
    assert torch.equal(drawn, again)
    assert torch.equal(digits, same)
    assert not torch.equal(drawn, pictures.draw_digits(60, seed=4, side=15)[0])
    assert set(digits.tolist()) == set(range(10))


def test_a_digit_looks_like_its_own_kind():
    """The average of other digits of a kind is nearest for most: labels and pictures fit."""
    drawn, digits = pictures.draw_digits(1500, seed=0)
    others, their_digits = pictures.draw_digits(300, seed=1)
    means = torch.stack([drawn[digits == d].mean(dim=0) for d in range(10)])
    nearest = (others[:, None] - means).square().sum(dim=(2, 3, 4)).argmin(dim=1)
    assert (nearest == their_digits).float().mean() > 0.75


def test_a_digit_moves_by_the_same_step_and_comes_back():
    frames = pictures.move_digits(7, n_frames=5, seed=2)
    assert frames.shape == (7, 5, 1, 16, 16)
    steps = set()
    for movie in frames:
        moves = [
            (y, x)
            for y in (-4, 0, 4)
            for x in (-4, 0, 4)
            if all(torch.equal(a.roll((y, x), (-2, -1)), b) for a, b in pairwise(movie))
        ]
        assert len(moves) == 1
        assert moves != [(0, 0)]
        steps.update(moves)
        assert torch.equal(movie[4], movie[0])  # four steps of 4 are once around
    assert len(steps) > 2


def test_scenes_show_what_their_captions_say():
    scenes = pictures.draw_scenes(40, seed=5)
    assert scenes.pictures.shape == (40, 3, 16, 32)
    assert scenes.covers.shape == (40, 16, 32)
    for picture, caption, covers in zip(*scenes, strict=True):
        for half, phrase in zip((0, 16), caption.split(" and "), strict=True):
            _, color, thing = phrase.split()
            there = covers[:, half : half + 16]
            assert set(there.unique().tolist()) == {0, 1 + pictures.THINGS.index(thing)}
            shade = picture[:, :, half : half + 16][:, there > 0].mean(dim=1)
            wanted = torch.tensor(pictures.COLORS[color])
            assert (shade - wanted).abs().max() < 0.08
            ground = picture[:, :, half : half + 16][:, there == 0].mean()
            assert ground < 0.1


def test_scenes_leave_out_what_they_are_told_to():
    without = [("red", "kite"), ("blue", "boat")]
    said = " and ".join(pictures.draw_scenes(300, seed=0, without=without).captions)
    assert "red kite" not in said
    assert "blue boat" not in said
    assert "red boat" in said
    everything = " and ".join(pictures.draw_scenes(300, seed=0).captions)
    assert "red kite" in everything


def idx_bytes(values: np.ndarray) -> bytes:
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    )


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_idx_file_is_read(tmp_path, pack):
    values = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    (tmp_path / "x").write_bytes(pack(idx_bytes(values)))
    assert (pictures.read_idx(tmp_path / "x") == values).all()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no IDX file"),
        (b"\0\0\x0d\x01" + bytes(8), "no IDX file"),
        (b"\0\0\x08\x03\0\0", "no IDX file"),
        (idx_bytes(np.zeros((4, 4), np.uint8))[:-1], "15 values"),
        (idx_bytes(np.zeros(4, np.uint8)) + b"\0", "5 values"),
        (gzip.compress(b"x" * 100, mtime=0)[:-9], "cannot be read"),
    ],
    ids=["empty", "no bytes", "no sizes", "cut short", "goes on", "a torn gzip"],
)
def test_a_broken_idx_file_is_refused(tmp_path, data, words):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DataError, match=words):
        pictures.read_idx(tmp_path / "x")
    with pytest.raises(DataError, match="cannot be read"):
        pictures.read_idx(tmp_path / "nothing")


def test_a_folder_of_image_files_is_read(tmp_path):
    drawn, digits = pictures.draw_digits(6, seed=1, side=16)
    for number, (picture, digit) in enumerate(zip(drawn, digits.tolist(), strict=True)):
        folder = tmp_path / str(digit)
        folder.mkdir(exist_ok=True)
        image.imsave(folder / f"{number}.png", 1 - picture[0].numpy(), cmap="gray", vmin=0, vmax=1)
    found, names = pictures.read_pictures(tmp_path)
    assert found.shape == (6, 1, 16, 16)
    order = sorted(range(6), key=lambda n: (str(digits[n].item()), n))
    assert names == [str(digits[n].item()) for n in order]
    assert (found - drawn[order]).abs().max() < 0.01  # dark on light: read as ink on paper


def test_size_channels_and_ink_of_an_image_file(tmp_path):
    square = np.zeros((32, 32, 4), np.float32)  # black, see-through but for a square
    square[8:16, 8:16, 3] = 1
    image.imsave(tmp_path / "a.png", square)
    light = np.zeros((32, 32), np.float32)
    light[8:16, 8:16] = 1
    image.imsave(tmp_path / "b.png", light, cmap="gray", vmin=0, vmax=1)
    found, names = pictures.read_pictures(tmp_path, side=8)
    expected = torch.zeros(8, 8)
    expected[2:4, 2:4] = 1
    assert names == [tmp_path.name] * 2
    assert torch.allclose(found[0, 0], expected, atol=1e-6)
    assert torch.allclose(found[1, 0], expected, atol=1e-6)


def test_a_folder_without_pictures_and_a_broken_one_are_refused(tmp_path):
    with pytest.raises(DataError, match="no PNG files"):
        pictures.read_pictures(tmp_path)
    (tmp_path / "x.png").write_text("no picture", encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.png"):
        pictures.read_pictures(tmp_path)
