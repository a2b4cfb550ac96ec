"""Losses equal naive loops and closed forms; answers equal those of each prompt alone."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from minigpt import storyworld
from minigpt.batching.token_files import write_tokens
from minigpt.batching.windows import EvalDocuments
from minigpt.chat import SPECIAL, encode_prompt, end_id
from minigpt.evaluate import (
    answers,
    batches_by_length,
    best_ngram,
    cut_windows,
    gap_closed,
    generate_texts,
    likeliest,
    loss_scores,
    score_examples,
    text_score,
    token_losses,
)
from minigpt.generate import generate
from minigpt.gpt import GPT, GPTConfig
from minigpt.ngram import NGram, count_ngrams, join_documents
from minigpt.sampling import SampleConfig
from minigpt.scoring import example_items
from minigpt.support.errors import ConfigError, DataError
from minigpt.tokenizer import BPETokenizer, CharTokenizer
from minigpt.validation import evaluate_loss

TEXTS = [text for text, _ in storyworld.documents(30)]
CONFIG = GPTConfig(vocab_size=400, block_size=24, n_layer=2, n_head=2, n_embd=16)


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(TEXTS, 400, special_tokens=SPECIAL)


def random_model(config: GPTConfig = CONFIG, seed: int = 0) -> GPT:
    """A model whose blocks and head say something: all weights random."""
    torch.manual_seed(seed)
    model = GPT(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def unigram_model(tokenizer, probabilities: dict[int, float]) -> GPT:
    """A model that always says the same; what these ids leave is shared by all others."""
    model = GPT(dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size)).eval()
    left = (1 - sum(probabilities.values())) / (tokenizer.vocab_size - len(probabilities))
    p = torch.full((tokenizer.vocab_size,), left)
    p[list(probabilities)] = torch.tensor(list(probabilities.values()))
    model.head = torch.nn.Linear(CONFIG.n_embd, tokenizer.vocab_size)
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = p.log()
    return model


@pytest.fixture(scope="module")
def model() -> GPT:
    return random_model()


def naive_nats(model: GPT, context: list[int], target: int) -> float:
    """Return -log p of one token, by one forward pass of its context alone."""
    with torch.no_grad():
        logits = model(torch.tensor([context]))[0][0, -1]
    return -float(logits.double().log_softmax(dim=-1)[target])


# --- losses ---


def test_token_losses_equal_a_loop_over_tokens(model):
    rng = np.random.default_rng(0)
    rows = [rng.integers(400, size=size).tolist() for size in (5, 2, 24, 25, 7, 1)]
    found = token_losses(model, rows)
    assert [len(row) for row in found] == [4, 1, 23, 24, 6, 0]
    for row, losses in zip(rows, found, strict=True):
        expected = [naive_nats(model, row[:n], row[n]) for n in range(1, len(row))]
        np.testing.assert_allclose(losses, expected, atol=1e-4)


def test_batches_hold_every_row_once_and_bound_the_padded_size():
    lengths = np.random.default_rng(1).integers(1, 50, size=200).tolist()
    batches = list(batches_by_length(lengths, most_tokens=120))
    assert sorted(place for batch in batches for place in batch) == list(range(200))
    assert all(max(lengths[p] for p in b) * len(b) <= 120 for b in batches)
    assert list(batches_by_length([500, 3], most_tokens=120)) == [[1], [0]]  # alone if too long


@pytest.mark.parametrize("stride", [None, 1, 5, 24])
def test_text_score_equals_a_naive_loop(model, tokenizer, stride):
    text = TEXTS[0][:200] + TEXTS[1][:60]
    ids = [tokenizer.eot_id, *tokenizer.encode(text)]
    step, T = stride or 12, 24
    nats = []
    for place in range(1, len(ids)):  # the first window that has it as a target
        first = max(0, -(-(place - T) // step)) * step
        assert place - first == place or place - first > T - step
        nats.append(naive_nats(model, ids[first:place], ids[place]))
    score = text_score(model, tokenizer, text, stride)
    assert len(ids) > 3 * T
    assert score.loss == pytest.approx(np.mean(nats), abs=1e-5)
    assert score.perplexity == pytest.approx(math.exp(np.mean(nats)), rel=1e-4)
    n_bytes = len(text.encode("utf-8"))
    assert score.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / n_bytes, rel=1e-5)
    assert (score.n_tokens, score.n_bytes) == (len(ids) - 1, n_bytes)


@pytest.mark.parametrize("tokenizer_kind", ["bpe", "char"])
def test_a_uniform_model_has_the_vocabulary_as_perplexity(tokenizer, tokenizer_kind):
    if tokenizer_kind == "char":
        tokenizer = CharTokenizer.train(TEXTS)
    model = GPT(dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size))
    torch.nn.init.zeros_(model.head.weight)
    score = text_score(model, tokenizer, TEXTS[:3])
    assert score.perplexity == pytest.approx(tokenizer.vocab_size)
    n_tokens = sum(len(tokenizer.encode(text)) for text in TEXTS[:3])
    n_bytes = sum(len(text.encode("utf-8")) for text in TEXTS[:3])
    by_hand = n_tokens * math.log2(tokenizer.vocab_size) / n_bytes
    assert score.bits_per_byte == pytest.approx(by_hand)
    assert score.n_documents == 3


def test_bits_per_byte_do_not_depend_on_the_tokenizer():
    """Two ways to cut "abab" into tokens, and a model of each that finds a pair equally likely."""
    pairs = BPETokenizer.train(["ab" * 50], 258)  # the bytes, one merge, <|endoftext|>
    single = BPETokenizer.train(["a b"], 257)
    assert (len(pairs.encode("abab")), len(single.encode("abab"))) == (2, 4)
    of_pairs = unigram_model(pairs, {pairs.encode("ab")[0]: 1 / 64})
    of_bytes = unigram_model(single, dict.fromkeys(single.encode("ab"), 1 / 8))
    scores = [text_score(*model, "ab" * 9) for model in ((of_pairs, pairs), (of_bytes, single))]
    assert [score.bits_per_byte for score in scores] == pytest.approx([3, 3], rel=1e-4)
    assert scores[0].perplexity == pytest.approx(64, rel=1e-4)
    assert scores[1].perplexity == pytest.approx(8, rel=1e-4)


def test_documents_are_read_from_their_start(model, tokenizer):
    alone = [text_score(model, tokenizer, text) for text in TEXTS[:3]]
    together = text_score(model, tokenizer, iter([TEXTS[0], "", *TEXTS[1:3]]))
    assert together.n_documents == 3
    nats = sum(score.loss * score.n_tokens for score in alone)
    assert together.loss == pytest.approx(nats / sum(score.n_tokens for score in alone))


def test_text_score_of_stories_follows_from_the_validation_loss(tokenizer, tmp_path):
    """The same texts as `evaluate_loss`, but for <|endoftext|>, which no text score counts."""
    model = random_model(dataclasses.replace(CONFIG, block_size=512))
    ids = [tokenizer.encode(text) for text in TEXTS[:4]]
    eot = tokenizer.eot_id
    file = write_tokens(tmp_path / "val.bin", [[*row, eot] for row in ids], 400, eot)
    batches = EvalDocuments(file, 2, 512)
    val_loss = evaluate_loss(model, batches, torch.device("cpu"), torch.float32)
    ends = sum(token_losses(model, [[eot, *row, eot]])[0][-1] for row in ids)
    score = text_score(model, tokenizer, TEXTS[:4])
    nats = score.loss * score.n_tokens + ends
    assert nats == pytest.approx(val_loss * batches.n_targets, rel=1e-5)


def test_unknown_characters_are_counted(model):
    tokenizer = CharTokenizer.train(["abc "])
    model = random_model(dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size))
    assert text_score(model, tokenizer, "a红b球c").n_unknown == 2
    assert text_score(model, tokenizer, "abc").n_unknown == 0


@pytest.mark.parametrize("size", range(2, 30))
@pytest.mark.parametrize(("block_size", "stride"), [(8, 4), (8, 8), (8, 1), (7, 3)])
def test_windows_cover_every_target_once(size, block_size, stride):
    ids, targets = list(range(size)), []
    for window, new in cut_windows(ids, block_size, stride):
        assert 2 <= len(window) <= block_size + 1
        assert window == list(range(window[0], window[-1] + 1))
        assert window[0] == 0 or len(window) - new > block_size - stride
        targets += window[-new:]
    assert targets == ids[1:]


@pytest.mark.parametrize("texts", ["", [], ["", ""]])
def test_an_empty_text_is_refused(model, tokenizer, texts):
    with pytest.raises(DataError, match=r"0 characters.*give a text that is not empty"):
        text_score(model, tokenizer, texts)


@pytest.mark.parametrize("stride", [0, -1, 25])
def test_impossible_stride(model, tokenizer, stride):
    with pytest.raises(ConfigError, match=rf"stride = {stride}.*--stride.*1 to 24"):
        text_score(model, tokenizer, "text", stride)


def test_loss_scores_by_hand():
    assert loss_scores(2.0, n_targets=30, n_bytes=100) == {
        "val_loss": 2.0,
        "bits_per_byte": pytest.approx(60 / 100 / math.log(2)),
    }
    scores = loss_scores(2.0, 30, 100, floor_nats=45.0, n_stories=5)
    assert scores["floor"] == 1.5
    assert scores["excess"] == pytest.approx(1 / 3)
    assert scores["gap_nats_per_story"] == pytest.approx(0.5 * 30 / 5)
    assert gap_closed(1.5, ngram_loss=1.5, floor=0.5) == 0
    assert gap_closed(0.6, ngram_loss=1.5, floor=0.5) == pytest.approx(0.9)


def test_the_best_ngram_is_the_best_of_all_orders(tokenizer):
    train, val = (
        join_documents([tokenizer.encode(text) for text in texts], tokenizer.eot_id)
        for texts in (TEXTS[:25], TEXTS[25:])
    )
    model, loss = best_ngram(train, val, 400, tokenizer.eot_id, highest_order=4)
    counts = count_ngrams(train, 400, tokenizer.eot_id, 4)
    losses = [NGram(counts, n).loss(val) for n in range(1, 5)]
    assert loss == min(losses) == model.loss(val)
    assert losses[model.n - 1] == loss
    assert len(set(losses)) == 4
    assert best_ngram(train, val, 400, tokenizer.eot_id, 4, most_counted=500)[1] > loss


# --- asking ---


def ask(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def said(text: str) -> dict:
    return {"role": "assistant", "content": text}


def test_answers_equal_those_of_each_prompt_alone(model, tokenizer):
    asked = [ask(text) for text in ("Who?", "Where is Tom", "a", "谁？", "b c")]
    found = answers(model, tokenizer, asked, max_new_tokens=6, batch_size=2)
    stop = (end_id(tokenizer), tokenizer.eot_id)
    sampling = SampleConfig(6, temperature=0.0)
    for messages, text in zip(asked, found, strict=True):
        ids = generate(model, [encode_prompt(messages, tokenizer)], sampling, stop)[0]
        assert text == tokenizer.decode(ids).strip()
    assert len(set(found)) > 1


def test_answers_end_at_the_end_token(tokenizer):
    model = unigram_model(tokenizer, {end_id(tokenizer): 0.9})
    assert answers(model, tokenizer, [ask("Who?")] * 3) == [""] * 3
    model = unigram_model(tokenizer, {tokenizer.encode("a")[0]: 0.9})
    assert answers(model, tokenizer, [ask("Who?")], max_new_tokens=5) == ["aaaaa"]


def test_progress_is_told_by_batch(model, tokenizer):
    told = []
    answers(model, tokenizer, [ask("a")] * 5, 2, 2, lambda *progress: told.append(progress))
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_long_prompts_lose_their_middle_with_a_warning(model, tokenizer, monkeypatch):
    """The marks of all roles stay, and so do the first and the last words of the template."""
    asked, user, end = [], tokenizer.special_tokens["<|user|>"], end_id(tokenizer)
    begin = tokenizer.special_tokens["<|assistant|>"]

    def write(model, prompts, sampling, *args):
        asked.extend(prompts)
        assert sampling.max_new_tokens == 3
        return [[] for _ in prompts]

    monkeypatch.setattr("minigpt.evaluate.generate_texts", write)
    long = "Good or bad? " + "one two three four five six seven " * 4 + "Answer:"
    with pytest.warns(UserWarning, match="1 of 2 prompts are longer than the context of 24"):
        assert answers(model, tokenizer, [ask(long), ask("a")], 3) == ["", ""]
    cut, short = asked
    assert short == encode_prompt(ask("a"), tokenizer)
    assert len(cut) == 24 - 3
    assert (cut[0], cut[-2:]) == (user, [end, begin])
    text = tokenizer.decode(cut[1:-2])
    assert long.startswith(text[:5])
    assert long.endswith(text[-5:])


@pytest.mark.parametrize(
    ("limit", "room", "prompt"), [(None, 6, 18), (3, 3, 21), (12, 12, 12), (200, 200, 12)]
)
def test_the_room_for_answers_is_a_setting(model, tokenizer, monkeypatch, limit, room, prompt):
    """A long answer never takes more than half of the context from the prompt."""
    asked = []

    def write(model, prompts, sampling, *args):
        asked.append((sampling.max_new_tokens, len(prompts[0])))
        return [[]]

    monkeypatch.setattr("minigpt.evaluate.generate_texts", write)
    with pytest.warns(UserWarning, match=f"1 of 1 .* with {24 - prompt} for the answer"):
        answers(model, tokenizer, [ask("one two three four five six seven " * 9)], limit)
    assert asked == [(room, prompt)]


def test_no_two_batches_share_their_random_numbers(model, tokenizer):
    prompts, sampling = [[tokenizer.eot_id]] * 6, SampleConfig(12)
    rows = generate_texts(model, prompts, sampling, [], batch_size=2)
    assert len({tuple(row) for row in rows}) == 6
    assert rows == generate_texts(
        model, [[tokenizer.eot_id]] * 6, SampleConfig(12), [], batch_size=2
    )


def test_likeliest_is_the_choice_of_least_loss(model, tokenizer):
    choices = ["red", "a red ball", "蓝", "x"]
    asked = [ask("Which?"), ask("What color?"), ask("颜色？")]
    found = likeliest(model, tokenizer, asked, choices)
    for messages, text in zip(asked, found, strict=True):
        prompt = encode_prompt(messages, tokenizer)
        nats = []
        for choice in choices:
            row, total = list(prompt), 0.0
            for token in [*tokenizer.encode(choice), end_id(tokenizer)]:
                total += naive_nats(model, row, token)
                row.append(token)
            nats.append(total)
        assert text == choices[int(np.argmin(nats))]


def test_score_examples_grades_what_the_model_answers(tokenizer, monkeypatch):
    examples = [[*ask(f"Number {n}"), said("odd" if n % 2 else "even")] for n in range(8)]
    rooms = []

    def oracle(model, tokenizer, asked, max_new_tokens, on_progress=None):
        rooms.append(max_new_tokens)
        numbers = [int(messages[-1]["content"].split()[-1]) for messages in asked]
        return ["odd" if n % 2 or n == 6 else "even" for n in numbers]  # wrong about 6

    monkeypatch.setattr("minigpt.evaluate.answers", oracle)
    items = example_items(examples, ["low"] * 6 + ["high"] * 2)
    scores, found = score_examples(None, tokenizer, items, items, max_new_tokens=7)
    assert set(scores) == {"accuracy", "f1", "precision", "recall", "low", "high"}
    assert found[:2] == ["even", "odd"]
    assert (scores["low"]["score"], scores["high"]["score"]) == (1, 0.5)
    assert scores["accuracy"]["score"] == 1 - 1 / 8
    assert scores["accuracy"]["baselines"]["majority"] == 0.5
    scores, _ = score_examples(None, tokenizer, example_items(examples), metric="bleu")
    assert set(scores) == {"bleu"}
    assert rooms == [7, None], "the right answers are not looked at"


def test_a_tokenizer_without_chat_tokens_is_refused(model):
    plain = BPETokenizer.train(["text"], 300)
    with pytest.raises(ConfigError, match=r"no special tokens.*trained with"):
        answers(model, plain, [ask("Who?")])
