"""Evaluate a model: how well it predicts any text, and what it answers when it is asked.

Losses stand beside the best n-gram model and, where it is known, the floor. Answers are graded in
`scoring.py`; the tasks of the story world are in `exam.py`, the written report in `report.py`.

Shapes: N tokens of a text, B rows, T time, V vocab_size.
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from minigpt import metrics
from minigpt.batching.conversations import fit_prompts
from minigpt.batching.examples import Example
from minigpt.chat import Message, encode_prompts, end_id, mark_ids
from minigpt.classification import Classifier, classify, refuse_classifier
from minigpt.generate import evaluating, generate
from minigpt.gpt import GPT
from minigpt.ngram import NGram, count_ngrams
from minigpt.sampling import SampleConfig
from minigpt.scoring import Item, example_items, fitting_metrics, score_parts
from minigpt.support.errors import DataError, require
from minigpt.tokenizer import UNKNOWN, Tokenizer

TOKENS_AT_A_TIME = 8192  # of one forward pass: bounds the memory that logits take
WINDOWS_AT_A_TIME = 256  # read from a text before they are sorted into batches
HIGHEST_ORDER = 12  # of the n-gram models that a loss is compared with: longer ones gain nothing
MOST_COUNTED = 20_000_000  # training tokens of these models, for which 2 GB suffice

Progress = Callable[[int, int], None]  # gets how many are done, and of how many


# --- how well a model predicts ---


def token_losses(model: GPT, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Return -log p in nats of each token of a row but the first, given those before it.

    Rows of like length share a forward pass; a row of n + 1 ids gives an array (n,).
    """
    return [losses for losses, _ in token_scores(model, rows)]


@torch.inference_mode()
def token_scores(model: GPT, rows: Sequence[Sequence[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return, beside each token's loss (n,), whether the model finds it the likeliest one (n,)."""
    refuse_classifier(model, "predict text")
    found = [(np.zeros(0), np.zeros(0, dtype=bool))] * len(rows)
    device = model.embedding.weight.device
    with evaluating(model):
        for places in batches_by_length([len(row) - 1 for row in rows], TOKENS_AT_A_TIME):
            T = max(len(rows[place]) for place in places)
            padded = [[*rows[place], *[0] * (T - len(rows[place]))] for place in places]
            ids = torch.tensor(padded, device=device)  # (B, T)
            logits, _ = model(ids[:, :-1])  # (B, T - 1, V)
            targets = ids[:, 1:].flatten()
            nats = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none")
            nats = nats.view(len(places), T - 1)
            best = (logits.argmax(dim=-1) == ids[:, 1:]).cpu().numpy()
            for row, place in enumerate(places):
                n = len(rows[place]) - 1
                found[place] = (nats[row, :n].double().cpu().numpy(), best[row, :n])
    return found


def batches_by_length(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Yield the places of rows, short ones first, in batches of at most `most_tokens` padded."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if batch and (len(batch) + 1) * lengths[place] > most_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


class TextScore(NamedTuple):
    """How well a model predicts a text; `loss` is in nats a token."""

    loss: float
    perplexity: float
    bits_per_byte: float
    n_tokens: int
    n_bytes: int
    n_documents: int
    stride: int
    n_unknown: int  # characters that the tokenizer does not know, each predicted as "unknown"


def text_score(
    model: GPT,
    tokenizer: Tokenizer,
    texts: str | Iterable[str],
    stride: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> TextScore:
    """Return perplexity and bits per byte of any text, or of many documents together.

    A document is read from its start, after <|endoftext|> (Llama: <|begin_of_text|>); its end is
    not predicted. Of a document longer than the context, windows of block_size tokens are read that
    begin `stride` tokens (None: half of block_size) after each other, and each token is predicted
    once, in the first window that holds it: from all tokens before it, or at least
    block_size - stride of them.

    EleutherAI's harness (lm-eval) predicts the same tokens, but gives its last window a whole
    context; with stride = block_size the two differed by 0.00 to 0.06 bits a byte on 12 texts, the
    most at 28 tokens of text and a context of 16.
    """
    block_size = model.config.block_size
    stride = max(1, block_size // 2) if stride is None else stride
    require(1 <= stride <= block_size, "stride", stride, f"1 to {block_size}, the context length")
    nats, n_tokens, n_bytes, n_documents, n_unknown = 0.0, 0, 0, 0, 0
    unknown = tokenizer.special_tokens.get(UNKNOWN, -1)
    for text in [texts] if isinstance(texts, str) else texts:
        ids = tokenizer.encode_batch([text])[0]
        if not ids:
            continue
        windows = cut_windows([tokenizer.bos_id, *ids], block_size, stride)
        while group := list(islice(windows, WINDOWS_AT_A_TIME)):
            losses = token_losses(model, [row for row, _ in group])
            for row_losses, (_, new) in zip(losses, group, strict=True):
                nats += float(row_losses[-new:].sum())
            if on_progress:
                on_progress(sum(new for _, new in group))
        n_tokens, n_documents = n_tokens + len(ids), n_documents + 1
        n_bytes += len(text.encode("utf-8"))
        n_unknown += ids.count(unknown)
    if n_tokens == 0:
        raise DataError("0 characters", "text to evaluate", "give a text that is not empty")
    loss = nats / n_tokens
    return TextScore(
        loss,
        metrics.perplexity(loss),
        metrics.bits_per_byte(nats, n_bytes),
        n_tokens,
        n_bytes,
        n_documents,
        stride,
        n_unknown,
    )


def cut_windows(ids: list[int], block_size: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """Yield windows of block_size inputs and their last target, with how many targets are new.

    >>> list(cut_windows([0, 1, 2, 3, 4, 5, 6], block_size=4, stride=2))
    [([0, 1, 2, 3, 4], 4), ([2, 3, 4, 5, 6], 2)]
    """
    done = 0  # targets so far; the next one is ids[done + 1]
    for start in range(0, len(ids), stride):
        end = min(start + block_size, len(ids) - 1)
        if end > done:
            yield ids[start : end + 1], end - done
        done = end
        if done == len(ids) - 1:
            return


def loss_scores(
    val_loss: float,
    n_targets: int,
    n_bytes: int,
    floor_nats: float | None = None,
    n_stories: int | None = None,
) -> dict[str, float]:
    """Return what follows from a validation loss in nats a token; the floor where it is known.

    `floor_nats`: the least loss that any model can have on all of the validation text.
    """
    scores = {
        "val_loss": val_loss,
        "bits_per_byte": metrics.bits_per_byte(val_loss * n_targets, n_bytes),
    }
    if floor_nats is not None:
        floor = floor_nats / n_targets
        scores |= {"floor": floor, "excess": val_loss / floor - 1}
        if n_stories:
            scores["gap_nats_per_story"] = (val_loss - floor) * n_targets / n_stories
    return scores


def best_ngram(
    train: np.ndarray,
    validation: np.ndarray,
    vocab_size: int,
    eot_id: int,
    highest_order: int = HIGHEST_ORDER,
    most_counted: int = MOST_COUNTED,
) -> tuple[NGram, float]:
    """Return the best n-gram model (interpolated Kneser-Ney) and its loss in nats a token.

    Every order up to the highest is tried, and the best on the validation tokens is kept. Counting
    takes about 1 s and 0.1 GB a million training tokens; what comes after `most_counted` is left
    out. Both arrays (N,) hold whole documents, <|endoftext|> after each.
    """
    train = np.asarray(train[:most_counted])
    if train[-1] != eot_id:
        train = np.append(train, eot_id)  # the cut ends a document
    counts = count_ngrams(train, vocab_size, eot_id, highest_order)
    models = [NGram(counts, n) for n in range(1, highest_order + 1)]
    losses = [model.loss(validation) for model in models]
    best = int(np.argmin(losses))
    return models[best], losses[best]


def gap_closed(val_loss: float, ngram_loss: float, floor: float) -> float:
    """Return how much of the way from the best n-gram model down to the floor a model has come."""
    return (ngram_loss - val_loss) / (ngram_loss - floor)


# --- asking ---


def answers(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Message]],
    max_new_tokens: int | None = None,
    batch_size: int = 128,
    on_progress: Progress | None = None,
) -> list[str]:
    """Return the model's likeliest answer to each conversation: greedy, up to <|end|>.

    This is the one way in which `finetune`, `evaluate` and the exam ask. An answer gets at most
    `max_new_tokens` tokens (None: a quarter of the context), <|end|> included. A prompt that leaves
    no room for them, or for half of the context, loses the middle of its longest messages, with a
    warning that counts such prompts. Prompts of like length are answered together. A classifier's
    answer is the likeliest of its labels for all that the conversation says.
    """
    if isinstance(model, Classifier):
        texts = ["\n".join(m["content"] for m in messages) for messages in conversations]
        return classify(model, tokenizer, texts)
    block_size = model.config.block_size
    room = block_size // 4 if max_new_tokens is None else max_new_tokens
    kept_free = min(room, block_size // 2)  # or else a long answer would leave no prompt
    prompts = encode_prompts(conversations, tokenizer)
    marks = mark_ids(tokenizer)
    prompts, n_cut = fit_prompts(prompts, block_size - kept_free, marks)
    if n_cut:
        warnings.warn(
            f"{n_cut} of {len(prompts)} prompts are longer than the context of {block_size} "
            f"tokens allows, with {kept_free} for the answer, and lost their middle",
            stacklevel=2,
        )
    sampling = SampleConfig(max_new_tokens=room, temperature=0.0)
    stop_ids = (end_id(tokenizer), tokenizer.eot_id)
    found = generate_texts(model, prompts, sampling, stop_ids, batch_size, on_progress)
    return [tokenizer.decode(ids).strip() for ids in found]


def generate_texts(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    sampling: SampleConfig,
    stop_ids: Collection[int],
    batch_size: int = 128,
    on_progress: Progress | None = None,
) -> list[list[int]]:
    """Continue many prompts by batches of like length; every batch gets a seed of its own."""
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    found: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        config = replace(sampling, seed=sampling.seed + start)
        rows = generate(model, [prompts[place] for place in batch], config, stop_ids)
        for place, ids in zip(batch, rows, strict=True):
            found[place] = ids
        if on_progress:
            on_progress(start + len(batch), len(prompts))
    return found


def likeliest(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Message]],
    choices: Sequence[str],
) -> list[str]:
    """Return for each conversation the one of the choices that the model finds likeliest.

    Each choice is scored as a whole answer, <|end|> included, so a short one gains nothing from
    being the beginning of another. Prompt and choice must fit into the context.
    """
    end = end_id(tokenizer)
    ends = [[*ids, end] for ids in tokenizer.encode_batch(list(choices))]
    best = []
    for prompt in encode_prompts(conversations, tokenizer):
        losses = token_losses(model, [[*prompt, *ids] for ids in ends])
        nats = [losses[k][len(prompt) - 1 :].sum() for k in range(len(choices))]
        best.append(choices[int(np.argmin(nats))])
    return best


def as_items(examples: Sequence[Example]) -> list[Item]:
    """Return examples as items to be asked; the parts of a data set are their groups."""
    conversations = [example.messages for example in examples]
    groups = [example.group for example in examples]
    others = [example.others for example in examples]
    return example_items(conversations, groups, others=others)


def score_examples(
    model: GPT,
    tokenizer: Tokenizer,
    items: Sequence[Item],
    train_items: Sequence[Item] = (),
    metric: str = "auto",
    max_new_tokens: int | None = None,
    on_progress: Progress | None = None,
) -> tuple[dict[str, dict], list[str]]:
    """Ask all items and grade the answers; return ({metric: score, baseline, ...}, the answers).

    The baselines learn from `train_items`. "auto" takes the metrics that suit labels or texts.
    """
    asked = [item.messages for item in items]
    found = answers(model, tokenizer, asked, max_new_tokens, on_progress=on_progress)
    names = fitting_metrics([*items, *train_items]) if metric == "auto" else (metric,)
    return score_parts(names, found, items, train_items), found
