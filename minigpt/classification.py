"""Classify texts: a GPT's body reads, and a small head turns what it has read into a label.

`Classifier` keeps everything of a GPT but its last matrix, and shares those parts with it. Instead
of the next token it predicts one of K labels, so it is trained by the same `train()`: the label's
number is the only target of a row, at the text's last token. `fit_head` finds the best head for a
body that stays as it is: multinomial logistic regression on the body's features.

Shapes: B batch, T time, C n_embd, K labels, N texts.

Sources: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section
3.2 (a head on a GPT); Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and
Underperform Out-of-Distribution" (fit the head first, then tune all).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.batching.conversations import without_middle
from minigpt.batching.packing import cut_batches
from minigpt.cache import KVCache
from minigpt.chat import Encoded
from minigpt.gpt import GPT
from minigpt.support.errors import ConfigError, DataError, require
from minigpt.tokenizer import Tokenizer

Pooling = Literal["mean", "last"]
TOKENS_AT_A_TIME = 8192  # of one forward pass, padding included


class Classifier(GPT):
    """A GPT whose head predicts one of K labels for the text read so far.

    It shares its body with the GPT that it is made of: what one learns, the other has learned. The
    head begins with zeros, so every label is equally probable at first and the loss is ln K.

    >>> model = Classifier(GPT(GPTConfig(vocab_size=65)), ["bad", "good"])
    >>> logits, _ = model(torch.zeros(2, 16).long())
    >>> logits.shape
    torch.Size([2, 16, 2])
    """

    def __init__(self, body: GPT, labels: Sequence[str], pooling: Pooling = "mean"):
        """Share the body's parts. `pooling`: what the head sees at each position, see `hidden`."""
        nn.Module.__init__(self)
        check_labels(labels)
        self.config, self.labels, self.pooling = body.config, tuple(labels), pooling
        self.embedding, self.positions = body.embedding, body.positions
        self.dropout, self.blocks, self.norm = body.dropout, body.blocks, body.norm
        self.head = nn.Linear(self.config.n_embd, len(labels))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.head.to(self.embedding.weight.device)

    def hidden(
        self,
        idx: Tensor,
        cache: KVCache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return what the head sees (B, T, C): at each position the mean of all up to it.

        Or, with "last", the residual stream of the position itself. Either way a position knows
        nothing of what comes after it, so padding on the right changes nothing.
        """
        assert cache is None, "a classifier reads whole texts"
        x = GPT.hidden(self, idx, mask=mask)  # (B, T, C)
        if self.pooling == "last":
            return x
        counts = torch.arange(1, x.size(1) + 1, device=x.device)[:, None]  # (T, 1)
        return x.cumsum(dim=1) / counts

    def reader(self) -> GPT:
        """Return a GPT with this very body and a new head for tokens: what it reads, both know."""
        model = GPT(self.config)
        model.embedding, model.positions = self.embedding, self.positions
        model.dropout, model.blocks, model.norm = self.dropout, self.blocks, self.norm
        if self.config.tie_embeddings:
            model.head.weight = self.embedding.weight
        return model

    def facts(self) -> dict:
        """Return what a checkpoint has to say so that the same classifier is made again."""
        return {"labels": list(self.labels), "pooling": self.pooling}


def check_labels(labels: Sequence[str]) -> None:
    """Refuse fewer than two labels, and one that is named twice."""
    if len(set(labels)) < max(2, len(labels)):
        where, remedy = "classification", "give examples of at least two labels, each named once"
        raise DataError(f"labels {list(labels)}", where, remedy)


def refuse_classifier(model: GPT, doing: str) -> None:
    """Raise ConfigError where a model that only names labels is asked for text."""
    if isinstance(model, Classifier):
        raise ConfigError(
            f"the model is a classifier ({', '.join(model.labels[:5])}), which cannot {doing}",
            "the checkpoint",
            "python -m minigpt evaluate --data FILE, or minigpt.load(RUN).classify([text, ...])",
        )


def train_last(model: Classifier, blocks: int | None) -> None:
    """Let only the head and the last blocks learn: None are all, 0 is the head alone.

    The norm before the head learns with the blocks. What is frozen costs no gradient, no optimizer
    state, and no backward pass.
    """
    n_layer = len(model.blocks)
    if blocks is not None:
        require(0 <= blocks <= n_layer, "train_blocks", blocks, f"0 to {n_layer}, the model's")
    for parameter in model.parameters():
        parameter.requires_grad_(blocks is None)
    parts = [*model.blocks[n_layer - blocks :], model.norm] if blocks else []
    for part in (*parts, model.head):
        part.requires_grad_(True)


# --- texts as rows ---


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer, block_size: int) -> list[list[int]]:
    """Return the ids of each text as a document: <|endoftext|>, then the text.

    One that is longer than the context loses its middle.
    """
    rows = tokenizer.encode_batch(list(texts))
    return [[tokenizer.eot_id, *without_middle(ids, block_size - 1)] for ids in rows]


def encode_labeled(
    rows: Sequence[Sequence[int]], targets: Sequence[str], labels: Sequence[str]
) -> list[Encoded]:
    """Return rows with the number of their label as the one id that is trained on.

    It is the target at the text's last token, as the next token would be. The classifier never
    sees it: only positions after that one could.

    >>> encode_labeled([[0, 7, 8]], ["good"], ["bad", "good"])
    [([0, 7, 8, 1], [False, False, False, True])]
    """
    numbers = {label: number for number, label in enumerate(labels)}
    return [
        ([*ids, numbers[target]], [False] * len(ids) + [True])
        for ids, target in zip(rows, targets, strict=True)
    ]


# --- reading ---


@torch.no_grad()
def text_features(model: Classifier, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return what the head sees at the end of each row of ids, (N, C), on the CPU.

    Rows of like length are read together.
    """
    was_training, device = model.training, model.embedding.weight.device
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    found = torch.zeros(len(rows), model.config.n_embd)
    model.eval()
    try:
        cuts = cut_batches(lengths[order].tolist(), TOKENS_AT_A_TIME)
        for places in np.split(order, cuts) if rows else ():
            T = int(lengths[places].max())
            padded = [[*rows[place], *[0] * (T - lengths[place])] for place in places]
            x = model.hidden(torch.tensor(padded, device=device))  # (B, T, C)
            last = torch.from_numpy(lengths[places] - 1).to(device)
            ends = x[torch.arange(len(places), device=device), last]  # (B, C)
            found[torch.from_numpy(places)] = model.norm(ends).float().cpu()
    finally:
        model.train(was_training)
    return found


@torch.no_grad()
def label_probabilities(
    model: Classifier, tokenizer: Tokenizer, texts: Sequence[str]
) -> np.ndarray:
    """Return how probable each label is for each text, (N, K); rows sum to 1."""
    rows = encode_texts(texts, tokenizer, model.config.block_size)
    weight, bias = model.head.weight.cpu(), model.head.bias.cpu()
    logits = F.linear(text_features(model, rows), weight, bias)  # (N, K)
    return logits.double().softmax(dim=1).numpy()


def classify(model: Classifier, tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Return the likeliest label of each text."""
    best = label_probabilities(model, tokenizer, texts).argmax(axis=1)
    return [model.labels[number] for number in best]


# --- the best head for a body that stays as it is ---


def fit_head(
    x: Tensor, targets: Tensor, n_labels: int, decay: float = 1.0, max_iter: int = 200
) -> tuple[Tensor, Tensor]:
    """Return weight (K, C) and bias (K,) of the best head for features x (N, C), targets (N,).

    Multinomial logistic regression: the summed cross-entropy plus half of `decay` times the squared
    weights, on features scaled to mean 0 and deviation 1; the scales end up in the weights. Equals
    scikit-learn's LogisticRegression(C=1 / decay) on standardized features.
    """
    x = x.double()
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)  # a feature that never changes
    scaled = (x - mean) / deviation
    weight = torch.zeros(n_labels, x.size(1), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(n_labels, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=max_iter, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(scaled, weight, bias), targets, reduction="sum")
        loss = (loss + decay * weight.square().sum() / 2) / len(targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    weight, bias = weight.detach(), bias.detach()
    return (weight / deviation).float(), (bias - weight @ (mean / deviation)).float()


def begin_with_best_head(
    model: Classifier, rows: Sequence[Sequence[int]], targets: Sequence[str], decay: float = 1.0
) -> None:
    """Give a classifier the best head for its body as it is now; nothing else changes.

    The larger `decay`, the less sure the head is, and the more is left for the body to learn.
    """
    numbers = torch.tensor([model.labels.index(target) for target in targets])
    weight, bias = fit_head(text_features(model, rows), numbers, len(model.labels), decay)
    with torch.no_grad():
        model.head.weight.copy_(weight)
        model.head.bias.copy_(bias)
