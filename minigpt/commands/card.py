"""What a run's report says of its model: shared by the commands that train and that evaluate."""

from minigpt.batching.windows import EvalDocuments, EvalWindows
from minigpt.commands.bars import Bar, Bars
from minigpt.commands.inputs import Data
from minigpt.counts import count_parameters
from minigpt.data.corpora import GENERATED
from minigpt.evaluate import best_ngram, gap_closed, loss_scores
from minigpt.generate import generate
from minigpt.gpt import GPT
from minigpt.machine.device import choose_device, choose_dtype
from minigpt.ngram import NGram
from minigpt.runs.run import RunConfig
from minigpt.sampling import SampleConfig
from minigpt.scoring import document_hashes
from minigpt.tokenizer import Tokenizer
from minigpt.train import TrainResult
from minigpt.validation import evaluate_loss


def training_facts(config: RunConfig, result: TrainResult) -> dict:
    """Return how every report of a training begins: what was trained, on what, how far."""
    return {
        "data": described(config),
        "parameters": count_parameters(config.model),
        "steps": result.step,
        "tokens": result.tokens,
        "tokens_per_second": round(result.tokens / result.seconds),
    }


def described(config: RunConfig) -> str:
    """Return what a run learned from, for people: the data, and of storyworld its size."""
    return f"{config.data} ({config.world} world)" if config.data in GENERATED else config.data


def validation_batches(data: Data, config: RunConfig) -> EvalWindows | EvalDocuments:
    """Return all of the validation text in batches: whole stories, or windows of plain text."""
    rows = 4 * (config.training.micro_batch_size or config.training.batch_size)  # no gradients
    kind = EvalWindows if data.floor_nats is None else EvalDocuments
    return kind(data.validation, rows, config.model.block_size)


def model_card(
    model: GPT,
    tokenizer: Tokenizer,
    data: Data,
    config: RunConfig,
    per_task: int = 200,
    n_stories: int = 1000,
) -> dict:
    """Return losses and their baselines, samples and, of storyworld, stories and tasks.

    Tasks are asked only of a model that conversations have taught what they are; others write a
    tenth of the stories.
    """
    device = choose_device(config.training.device)
    dtype = choose_dtype(device, config.training.dtype)
    batches = validation_batches(data, config)
    bar = Bar(batches, desc="evaluating", unit=" batches", leave=False)
    val_loss = evaluate_loss(model, bar, device, dtype)
    report = loss_scores(val_loss, batches.n_targets, data.n_bytes, data.floor_nats, data.n_stories)
    ngram, ngram_loss = best_ngram(
        data.train.tokens, data.validation.tokens, tokenizer.vocab_size, tokenizer.eot_id
    )
    report |= {"ngram_loss": ngram_loss, "ngram_order": ngram.n}
    if data.floor_nats is not None:
        report["gap_closed"] = gap_closed(val_loss, ngram_loss, report["floor"])
    if data.exam:
        asked, written = (per_task, n_stories) if data.dialogues else (0, -(-n_stories // 10))
        report |= story_card(model, tokenizer, data, asked, written, ngram)
    return report | {"samples": samples(model, tokenizer)}


def story_card(
    model: GPT,
    tokenizer: Tokenizer,
    data: Data,
    per_task: int = 200,
    n_stories: int = 1000,
    ngram: NGram | None = None,
) -> dict:
    """Return tasks and stories of a storyworld model, with a progress bar for each."""
    assert data.exam is not None
    with Bars() as bars:
        seen = document_hashes(data.train.tokens, tokenizer)
        if data.dialogues:
            seen.update(data.dialogues.hashes)
        return data.exam(model, tokenizer, seen, per_task, n_stories, ngram=ngram, on_progress=bars)


def samples(model: GPT, tokenizer: Tokenizer, count: int = 3) -> list[str]:
    """Let the model write some texts."""
    sampling = SampleConfig(max_new_tokens=min(model.config.block_size - 1, 200))
    ids = generate(model, [[tokenizer.eot_id]] * count, sampling, stop_ids=[tokenizer.eot_id])
    return [tokenizer.decode(row) for row in ids]
