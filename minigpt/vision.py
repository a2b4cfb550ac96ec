"""See: a picture is cut into patches, and the blocks of a GPT read them as they read words.

`Vision` puts a linear layer in front of a GPT: each patch becomes a vector as each token does.
Everything behind it is the GPT's own: positions, blocks, norm and head. A mask says which place
sees which; without one every patch sees every other. The same model names a picture, each patch of
it, or writes words behind it. Knows nothing of files or of how pictures are made.

Shapes: N pictures, K channels, H height, W width, P the side of a patch, T patches of a picture
(H/P * W/P, row by row), C n_embd, L words, V vocab_size (labels, or words).

Sources: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", section 3.1; Tsimpoukelli et al.
2021, "Multimodal Few-Shot Learning with Frozen Language Models" (a picture as a prefix).
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from minigpt.gpt import GPT, GPTConfig
from minigpt.muon import Muon
from minigpt.optim import cosine_factor
from minigpt.support.errors import CheckpointError, DataError, require

RATES = (0.02, 0.01)  # the highest learning rates, of Muon and of AdamW
PICTURES_AT_A_TIME = 512  # in one forward pass that only reads


def patches(pictures: Tensor, size: int) -> Tensor:
    """Cut pictures (N, K, H, W) into squares: (N, T, K * size * size), row by row.

    >>> picture = torch.arange(16.0).view(1, 1, 4, 4)
    >>> patches(picture, 2)[0].tolist()[:2]
    [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]
    """
    H, W = pictures.shape[-2:]
    require(H % size == W % size == 0, "size", size, f"a divisor of {H} and {W}, the picture's")
    squares = pictures.unfold(2, size, size).unfold(3, size, size)  # (N, K, H/P, W/P, P, P)
    return squares.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # (N, T, K*P*P)


def join_patches(rows: Tensor, size: int, width: int) -> Tensor:
    """Put patches (N, T, K * size * size) back together: pictures (N, K, H, width)."""
    across = width // size
    squares = rows.unflatten(1, (-1, across)).unflatten(-1, (-1, size, size))
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)  # (N, K, H, W)


def arrival_mask(times: Sequence[int]) -> Tensor:
    """Return a (T, T) mask: True where query t may see key s, which arrived no later.

    All patches of one picture arrive together, words one after the other.

    >>> arrival_mask([0, 0, 1]).int().tolist()
    [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    """
    arrived = torch.tensor(times)
    return arrived[:, None] >= arrived


class Vision(nn.Module):
    """A GPT that reads patches.

    config: its `vocab_size` is the number of labels (or words), its `block_size` at least the
    number of patches and words together.

    >>> model = Vision(GPTConfig(vocab_size=10, block_size=16, positions="learned"), size=4)
    >>> model(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 10])
    """

    def __init__(self, config: GPTConfig, size: int, channels: int = 1):
        super().__init__()
        self.size = size
        self.embed = nn.Linear(channels * size * size, config.n_embd)
        self.gpt = GPT(config)

    def hidden(
        self,
        pictures: Tensor,
        idx: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return what the head sees at each patch, then at each word: (N, T + L, C).

        idx (N, L): words behind the picture. mask: which place sees which (None: all see all).
        """
        x = self.embed(patches(pictures, self.size))  # (N, T, C)
        if idx is not None:
            x = torch.cat((x, self.gpt.embedding(idx)), dim=1)  # (N, T + L, C)
        return self.read(x, mask)

    def read(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Send vectors (N, T, C) through the GPT's positions, blocks and norm."""
        T = x.size(1)
        require(T <= self.gpt.config.block_size, "block_size", self.gpt.config.block_size, f"{T}")
        if mask is None:
            mask = torch.ones(T, T, dtype=torch.bool, device=x.device)
        x, rotary = self.gpt.positions(x, slice(0, T))
        for block in self.gpt.blocks:
            x = block(x, rotary, None, mask)
        return self.gpt.norm(x)

    def forward(self, pictures: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the scores (N, V) of the labels: the head reads the mean of all patches."""
        return self.gpt.head(self.hidden(pictures, mask=mask).mean(dim=1))

    def label_patches(self, pictures: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the scores (N, T, V) of the labels for each patch."""
        return self.gpt.head(self.hidden(pictures, mask=mask))

    def next_words(self, pictures: Tensor, idx: Tensor) -> Tensor:
        """Return the scores (N, L, V) of the word after each of idx (N, L).

        A word sees the whole picture and the words up to itself.
        """
        L, T = idx.size(1), patches(pictures[:1], self.size).size(1)
        mask = arrival_mask([0] * T + list(range(1, L + 1))).to(idx.device)
        return self.gpt.head(self.hidden(pictures, idx, mask)[:, T:])


def fit_pictures(
    model: Vision,
    loss_of: Callable[[Tensor], Tensor],
    count: int,
    epochs: int = 8,
    batch_size: int = 64,
    seed: int = 0,
) -> list[float]:
    """Train a model in place and return the loss of every step.

    loss_of(rows) is the loss of the examples with these numbers, of `count` in all; each epoch goes
    through all of them in a new order. Muon for the matrices of the blocks and AdamW for the rest,
    with rates that warm up and fall to 0, as the package trains on text.
    """
    generator = torch.Generator().manual_seed(seed)
    matrices = [p for p in model.gpt.blocks.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    optimizers = [Muon(matrices, RATES[0], 0.9, 0.01), torch.optim.AdamW(rest, RATES[1])]
    orders = [torch.randperm(count, generator=generator) for _ in range(epochs)]
    batches = [rows for order in orders for rows in order.split(batch_size)]
    losses = []
    model.train()
    for step, rows in enumerate(batches):
        factor = cosine_factor(step, len(batches), warmup_steps=len(batches) // 20)
        loss = loss_of(rows)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in zip(optimizers, RATES, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


@torch.no_grad()
def picture_probabilities(model: Vision, pictures: Tensor) -> Tensor:
    """Return how probable each label is for each picture, (N, V); rows sum to 1."""
    scores = [model(some) for some in pictures.split(PICTURES_AT_A_TIME)]
    return torch.cat(scores).softmax(dim=-1)


@torch.no_grad()
def write_words(model: Vision, pictures: Tensor, begin: int, n_words: int) -> Tensor:
    """Return the likeliest words (N, n_words) behind each picture, one after the other.

    begin: the id that every caption starts with; it is not returned.
    """
    idx = torch.full((len(pictures), 1), begin, device=pictures.device)
    for _ in range(n_words):
        best = model.next_words(pictures, idx)[:, -1].argmax(dim=-1)  # (N)
        idx = torch.cat((idx, best[:, None]), dim=1)
    return idx[:, 1:]


# --- a model as one file ---


def save_vision(model: Vision, labels: Sequence[str], path: Path) -> None:
    """Write a model and the names of its labels to one safetensors file."""
    config = dataclasses.asdict(model.gpt.config)
    channels = model.embed.in_features // model.size**2
    facts = {"config": config, "size": model.size, "channels": channels, "labels": list(labels)}
    save_model(model, str(path), metadata={"vision": json.dumps({"format": 1, **facts})})


def load_vision(path: Path) -> tuple[Vision, list[str]]:
    """Read what `save_vision` wrote: the model and its labels; CheckpointError otherwise."""
    where, remedy = str(path), "give a file that save_vision wrote"
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("vision", "{}"))
        if facts.get("format") != 1:
            raise CheckpointError("no vision model of format 1", where, remedy)
        model = Vision(GPTConfig(**facts["config"]), facts["size"], facts["channels"])
        load_model(model, path)
    except CheckpointError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"cannot be read: {error}", where, remedy) from None
    return model.eval(), facts["labels"]


def numbered(names: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Return the number of each name (N,), and the names that they stand for, sorted.

    >>> numbered(["cat", "ant", "cat"])
    (tensor([1, 0, 1]), ['ant', 'cat'])
    """
    labels = sorted(set(names))
    if len(labels) < 2:
        raise DataError(f"labels {labels}", "vision", "give pictures of at least two labels")
    return torch.tensor([labels.index(name) for name in names]), labels
