"""Pictures to learn from: drawn digits and scenes, moving digits, MNIST's files, image files.

Drawn pictures need no download, and their labels are right by construction: a digit is a pen's walk
with a shaky hand, a scene holds two things of the story world. Knows nothing of models.

Shapes: N pictures, K channels (1 gray, 3 red-green-blue), H height, W width; all values are from 0
to 1, with ink as 1 in gray pictures.
"""

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.support.errors import DataError

# Each digit as a walk of a pen: places (x, y) from the left (0) to the right (1), top to bottom.
_WALKS = [
    "0.2,0.5 0.3,0.1 0.7,0.1 0.8,0.5 0.7,0.9 0.3,0.9 0.2,0.5",
    "0.3,0.3 0.55,0.1 0.55,0.9",
    "0.2,0.3 0.35,0.1 0.65,0.1 0.8,0.3 0.2,0.9 0.8,0.9",
    "0.2,0.1 0.8,0.1 0.5,0.45 0.8,0.65 0.65,0.9 0.2,0.9",
    "0.65,0.9 0.65,0.1 0.2,0.6 0.85,0.6",
    "0.8,0.1 0.25,0.1 0.25,0.45 0.65,0.45 0.8,0.65 0.65,0.9 0.2,0.9",
    "0.7,0.1 0.35,0.3 0.2,0.65 0.35,0.9 0.65,0.9 0.8,0.7 0.65,0.5 0.25,0.6",
    "0.2,0.1 0.8,0.1 0.4,0.9",
    "0.5,0.5 0.25,0.3 0.5,0.1 0.75,0.3 0.5,0.5 0.2,0.7 0.5,0.9 0.8,0.7 0.5,0.5",
    "0.3,0.9 0.65,0.7 0.8,0.35 0.65,0.1 0.35,0.1 0.2,0.3 0.35,0.5 0.75,0.4",
]
_PENS = [np.array([place.split(",") for place in walk.split()], dtype=float) for walk in _WALKS]
_AT_ONCE = 256  # pictures that are drawn together: more would only need more memory


def draw_digits(count: int, seed: int, side: int = 16) -> tuple[Tensor, Tensor]:
    """Draw digits as a shaky hand would: pictures (count, 1, side, side), digits (count,).

    Slant, size, place, thickness and the camera's noise differ from picture to picture.
    """
    rng = np.random.default_rng(seed)
    digits = rng.integers(10, size=count)
    pictures = np.zeros((count, side, side))
    for digit, walk in enumerate(_PENS):
        rows = np.flatnonzero(digits == digit)
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            walks = _shaken(walk, len(some), rng)
            pictures[some] = _ink(walks, rng.uniform(0.05, 0.09, len(some)), side)
    pictures = np.clip(pictures + rng.normal(0, 0.1, pictures.shape), 0, 1)
    return torch.from_numpy(pictures).float()[:, None], torch.from_numpy(digits)


def _shaken(walk: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the walk as it comes out of a hand, `count` times, (count, places, 2)."""
    walks = walk - 0.5 + rng.normal(0, 0.03, (count, *walk.shape))
    turn, slant = rng.normal(0, 0.15, (2, count, 1))
    x, y = walks[..., 0] + slant * walks[..., 1], walks[..., 1]
    turned = np.stack((np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y))
    walks = np.moveaxis(turned, 0, -1) * rng.uniform(0.7, 0.95, (count, 1, 2))
    return walks + 0.5 + rng.uniform(-0.08, 0.08, (count, 1, 2))


def _ink(walks: np.ndarray, thickness: np.ndarray, side: int) -> np.ndarray:
    """Return how dark each point is, (count, side, side): by its distance to the nearest stroke."""
    centers = (np.arange(side) + 0.5) / side
    points = np.stack(np.meshgrid(centers, centers), axis=-1).reshape(1, -1, 2)
    nearest = np.full((len(walks), side * side), np.inf)
    for start, end in zip(walks.swapaxes(0, 1), walks.swapaxes(0, 1)[1:], strict=False):
        stroke, start = (end - start)[:, None], start[:, None]  # (count, 1, 2)
        along = ((points - start) * stroke).sum(axis=-1) / (stroke**2).sum(axis=-1)
        gap = points - start - np.clip(along, 0, 1)[..., None] * stroke
        nearest = np.minimum(nearest, np.sqrt((gap**2).sum(axis=-1)))
    return np.clip(1.5 - nearest / thickness[:, None], 0, 1).reshape(-1, side, side)


def move_digits(count: int, n_frames: int, seed: int, step: int = 4) -> Tensor:
    """Return digits on the move, (count, n_frames, 1, 16, 16): in each frame one step further.

    The digit is 8 points high and begins on a grid of `step` points. It moves up, down, left or
    right by as many points, always in the same direction, and what leaves on one side comes back on
    the other.
    """
    rng = np.random.default_rng(seed)
    canvas = F.pad(draw_digits(count, seed, side=8)[0], (0, 8, 0, 8))  # (count, 1, 16, 16)
    ways = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])
    starts = rng.integers(16 // step, size=(count, 2)) * step
    moves = step * ways[rng.integers(4, size=count)]
    frames = torch.zeros(count, n_frames, 1, 16, 16)
    for n, (start, move) in enumerate(zip(starts, moves, strict=True)):
        for t in range(n_frames):
            frames[n, t] = canvas[n].roll((start + t * move).tolist(), dims=(-2, -1))
    return frames


# --- scenes: two things of the story world, what they are, and where ---

THINGS = ("kite", "boat", "hat", "mask", "doll")
COLORS = {"red": (0.9, 0.25, 0.2), "blue": (0.3, 0.5, 0.95), "green": (0.25, 0.75, 0.35)}
_GROUND = 0.04  # nearly black: things shine, as ink does in gray pictures

# Whether a thing covers the place (x, y); the thing reaches from -1 to 1, top to bottom.
_SHAPES: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    lambda x, y: np.abs(x) * 1.3 + np.abs(y) <= 1,
    lambda x, y: (
        ((y > 0.25) & (np.abs(x) < 1.2 - 0.6 * y)) | ((y <= 0.25) & (x > 0) & (x < 0.5 + y / 2))
    ),
    lambda x, y: ((y > 0.4) & (y < 0.8)) | ((y <= 0.4) & (y > -0.9) & (np.abs(x) < 0.5)),
    lambda x, y: (x**2 + y**2 < 0.95) & ((np.abs(x) - 0.4) ** 2 + (y + 0.2) ** 2 > 0.06),
    lambda x, y: (x**2 + (y + 0.55) ** 2 < 0.2) | ((y > -0.1) & (np.abs(x) < 0.25 + 0.6 * y)),
)


class Scenes(NamedTuple):
    """Drawn scenes: pictures (N, 3, 16, W), a caption each, and what each point belongs to.

    covers (N, 16, W): 0 for the ground, else 1 + the thing's place in THINGS.
    """

    pictures: Tensor
    captions: list[str]
    covers: Tensor


def draw_scenes(
    count: int,
    seed: int,
    n_things: int = 2,
    without: Sequence[tuple[str, str]] = (),
) -> Scenes:
    """Draw scenes of things side by side, 16 points each: "a red kite and a blue boat".

    Size and place differ; `without` names pairs (color, thing) that are never drawn.
    """
    rng, width = np.random.default_rng(seed), 16 * n_things
    kinds = [(c, thing) for c in COLORS for thing in THINGS if (c, thing) not in set(without)]
    pictures, covers = np.full((count, 16, width, 3), _GROUND), np.zeros((count, 16, width), int)
    captions = []
    for n in range(count):
        phrases = []
        for left in range(0, width, 16):
            color, thing = kinds[rng.integers(len(kinds))]
            x, y = left + 8 + rng.uniform(-2, 2), 8 + rng.uniform(-2, 2)
            inside = _covered(THINGS.index(thing), x, y, rng.uniform(4.5, 6.5), width)
            pictures[n][inside] = COLORS[color]
            covers[n][inside] = 1 + THINGS.index(thing)
            phrases.append(f"a {color} {thing}")
        captions.append(" and ".join(phrases))
    pictures = np.clip(pictures + rng.normal(0, 0.08, pictures.shape), 0, 1)
    moved = torch.from_numpy(pictures).float().permute(0, 3, 1, 2).contiguous()
    return Scenes(moved, captions, torch.from_numpy(covers))


def _covered(thing: int, x: float, y: float, radius: float, width: int) -> np.ndarray:
    """Return which points of a scene, (16, width), a thing covers that is drawn around (x, y)."""
    rows, columns = np.mgrid[0:16, 0:width] + 0.5
    across, down = (columns - x) / radius, (rows - y) / radius
    near = (np.abs(across) <= 1) & (np.abs(down) <= 1)
    return near & _SHAPES[thing](across, down)


# --- files ---


def read_idx(path: Path) -> np.ndarray:
    """Read an array from an IDX file, plain or gzipped: the form of MNIST's pictures and labels.

    Two zero bytes, the kind (8: bytes), the number of dimensions, then each size in four bytes, big
    end first, then the values. DataError where the file is something else or too short.
    Source: LeCun, Cortes and Burges 1998, "The MNIST database", "file formats".
    """
    try:
        data = Path(path).read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError) as error:
        raise DataError(f"cannot be read: {error}", str(path), "give an IDX file") from None
    if data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise DataError("no IDX file of bytes", str(path), "give one as MNIST has them")
    shape = tuple(np.frombuffer(data, ">u4", data[3], offset=4).astype(int))
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if len(values) != np.prod(shape):
        what = f"{len(values):,} values where the head says {shape}"
        raise DataError(what, str(path), "get the file again: it is cut short or goes on")
    return values.reshape(shape)


def read_pictures(folder: Path, side: int = 16) -> tuple[Tensor, list[str]]:
    """Read the PNG files of a folder as gray pictures (N, 1, side, side), and where each is from.

    The second part names each picture's own folder, which is its label where a folder has one
    folder per label. Files come in the order of their paths; each is shrunk or grown to the side.
    Ink is 1: a picture that is mostly light is turned into its negative. DataError where there is
    no PNG file, or one that cannot be read.
    """
    from matplotlib import image

    paths = sorted(Path(folder).rglob("*.png"))
    if not paths:
        raise DataError("no PNG files", str(folder), "give a folder with pictures")
    pictures = []
    for path in paths:
        try:
            values = image.imread(path)  # (H, W), (H, W, 3) or (H, W, 4), from 0 to 1
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"no picture: {error}", str(path), "mend or remove it") from None
        pictures.append(_gray(torch.from_numpy(np.array(values, dtype=np.float32)), side))
    return torch.stack(pictures), [path.parent.name for path in paths]


def _gray(values: Tensor, side: int) -> Tensor:
    """Return one picture as (1, side, side), ink as 1, from what an image file holds."""
    if values.ndim == 3 and values.size(2) in (2, 4):  # the last channel is how opaque it is
        opaque = values[..., -1:]
        values = values[..., :-1] * opaque + (1 - opaque)
    gray = values.mean(dim=2) if values.ndim == 3 else values
    gray = 1 - gray if gray.median() > 0.5 else gray
    return F.interpolate(gray[None, None], (side, side), mode="area")[0]
