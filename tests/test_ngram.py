"""N-gram models against counting with dictionaries, by hand, and as probabilities."""

import doctest
import itertools
import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from minigpt import ngram
from minigpt.batching.token_files import write_tokens
from minigpt.batching.windows import IGNORE, EvalDocuments
from minigpt.ngram import Bigram, NGram, count_ngrams, join_documents
from minigpt.storyworld import documents
from minigpt.support.errors import ConfigError, DataError
from minigpt.tokenizer import BPETokenizer

EOT = 3  # not the first id, so that nothing depends on it
SMOOTHINGS = ("additive", "absolute", "kneser_ney")


def random_documents(seed: int, count: int = 40, vocab_size: int = 9) -> list[list[int]]:
    """Return documents of uneven words with some order in them, one in ten of a single token."""
    rng = random.Random(seed)
    words = [token for token in range(vocab_size) if token != EOT]
    found = []
    for number in range(count):
        length = 1 if number % 10 == 0 else rng.randrange(2, 14)
        document = [rng.choice(words)]
        while len(document) < length:
            follows = (document[-1] * 2 + len(words) // 3) % len(words)
            document.append(words[follows] if rng.random() < 0.6 else rng.choice(words[:5]))
        found.append(document)
    return found


class Dictionaries:
    """The same models the slow way: follow the formulas, token by token, run by run."""

    def __init__(self, documents, vocab_size, n, smoothing, alpha=1.0):
        self.vocab_size, self.n, self.smoothing, self.alpha = vocab_size, n, smoothing, alpha
        self.counts = Counter()
        for document in documents:
            text = (EOT, *document, EOT)
            for end in range(1, len(text)):
                for start in range(max(0, end - n + 1), end + 1):
                    self.counts[text[start : end + 1]] += 1
        before = defaultdict(set)
        for run in self.counts:
            before[run[1:]].add(run[0])
        self.adjusted = {
            run: count
            if smoothing != "kneser_ney" or len(run) == n or (run[0] == EOT and len(run) > 1)
            else len(before[run])
            for run, count in self.counts.items()
        }
        self.amounts = {k: self.estimate(k) for k in range(1, n + 1)}
        self.followers = defaultdict(list)
        for run in self.counts:
            self.followers[run[:-1]].append(run)

    def estimate(self, k):
        """Return the discounts D1, D2, D3+ of one order, with the formulas of the papers."""
        sizes = Counter(self.adjusted[run] for run in self.counts if len(run) == k)
        n1, n2, n3, n4 = (sizes[i] for i in (1, 2, 3, 4))
        if self.smoothing == "absolute":
            d = n1 / (n1 + 2 * n2) if n1 * n2 else 0.5
            return d, d, d
        if n1 * n2 * n3 * n4:
            y = n1 / (n1 + 2 * n2)
            d = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
            if min(d) > 0:
                return d
        return 0.5, 1.0, 1.5

    def probability(self, context, token):
        """Return p(token | context), the context cut to n - 1 tokens by the caller."""
        if self.smoothing == "additive":
            total = sum(self.counts[run] for run in self.followers[context])
            alpha = self.alpha
            return (self.counts[(*context, token)] + alpha) / (total + alpha * self.vocab_size)
        lower = self.probability(context[1:], token) if context else 1 / self.vocab_size
        runs = self.followers[context]
        if not runs or (context and context[-1] == EOT and len(context) > 1):
            return lower
        amounts = self.amounts[len(context) + 1]
        total = sum(self.adjusted[run] for run in runs)
        freed = sum(amounts[min(self.adjusted[run], 3) - 1] for run in runs)
        count = self.adjusted.get((*context, token), 0)
        own = count - amounts[min(count, 3) - 1] if count else 0.0
        return own / total + freed / total * lower

    def probabilities(self, documents):
        found = []
        for document in documents:
            text = (EOT, *document, EOT)
            for end in range(1, len(text)):
                context = text[max(0, end - self.n + 1) : end]
                found.append(self.probability(context, text[end]))
        return found


def test_docstrings_examples():
    result = doctest.testmod(ngram)
    assert result.attempted >= 7
    assert result.failed == 0


# --- the fast models equal the slow ones ---


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_equals_dictionaries(smoothing, n, seed):
    training, held_out = random_documents(seed), random_documents(seed + 100, count=15)
    slow = Dictionaries(training, 11, n, smoothing, alpha=0.3)
    counts = count_ngrams(join_documents(training, EOT), 11, EOT, n)
    fast = NGram(counts, smoothing=smoothing, alpha=0.3)
    for texts in (training[:15], held_out):
        expected = slow.probabilities(texts)
        found = fast.probabilities(join_documents(texts, EOT))
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        loss = -sum(map(math.log, expected)) / len(expected)
        assert fast.loss(join_documents(texts, EOT)) == pytest.approx(loss, abs=1e-12)


def test_random_corpora_reach_both_ways_to_estimate_discounts():
    estimated = set()
    for seed in range(3):
        slow = Dictionaries(random_documents(seed), 11, 4, "kneser_ney")
        estimated |= {amounts == (0.5, 1.0, 1.5) for amounts in slow.amounts.values()}
    assert estimated == {True, False}


@pytest.mark.parametrize("counts", [[1, 1, 1], [2, 2, 7], [9]])
def test_discounts_without_runs_of_one_or_two_leave_something_of_every_count(counts):
    assert ngram.discounts(np.array(counts), "absolute").tolist() == [0, 0.5, 0.5, 0.5]
    assert ngram.discounts(np.array(counts), "kneser_ney").tolist() == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_one_count_serves_every_order(smoothing):
    tokens = join_documents(random_documents(5), EOT)
    counts = count_ngrams(tokens, 9, EOT, 5)
    for n in range(1, 6):
        alone = NGram(count_ngrams(tokens, 9, EOT, n), smoothing=smoothing)
        shared = NGram(counts, n, smoothing)
        assert shared.n == n
        np.testing.assert_array_equal(shared.probabilities(tokens), alone.probabilities(tokens))


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_probabilities_sum_to_1_after_every_context(smoothing, n):
    training = random_documents(7)
    model = NGram(count_ngrams(join_documents(training, EOT), 12, EOT, n), smoothing=smoothing)
    contexts = [*itertools.product(range(12), repeat=2), (), (EOT,), (0, 1, 2, 4), (11,) * 9]
    contexts += [(EOT, *document[:cut]) for document in training[:5] for cut in range(4)]
    for context in contexts:
        p = model.next_probabilities(context)
        assert p.shape == (12,)
        assert p.min() > 0, context
        assert p.sum() == pytest.approx(1, abs=1e-12), context


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_next_probabilities_are_those_that_score_a_text(smoothing):
    training, held_out = random_documents(1), random_documents(2, count=8)
    model = NGram(count_ngrams(join_documents(training, EOT), 9, EOT, 4), smoothing=smoothing)
    found = iter(model.probabilities(join_documents(held_out, EOT)))
    for document in held_out:
        text = [EOT, *document, EOT]
        for end in range(1, len(text)):
            p = model.next_probabilities(text[:end])[text[end]]
            assert p == pytest.approx(next(found), rel=1e-12)


# --- by hand ---


def test_bigram_by_hand():
    # 0 is <|endoftext|>; pairs: 0-1 twice, 1-2, 2-0, 1-1, 1-0.
    tokens = join_documents([[1, 2], [1, 1]], eot_id=0)
    model = Bigram(tokens, vocab_size=3, alpha=1.0)
    assert model.counts.tolist() == [[0, 2, 0], [1, 1, 1], [1, 0, 0]]
    assert model.probabilities[0].tolist() == [1 / 5, 3 / 5, 1 / 5]
    assert model.probabilities[1].tolist() == [2 / 6, 2 / 6, 2 / 6]
    assert model.probabilities[2].tolist() == [2 / 4, 1 / 4, 1 / 4]
    by_hand = -(math.log(3 / 5) + math.log(2 / 6) + math.log(1 / 4) + math.log(2 / 4)) / 4
    assert model.loss(join_documents([[1, 2, 2]], eot_id=0)) == pytest.approx(by_hand)


def test_bigram_is_the_additive_model_of_order_2():
    training, held_out = random_documents(3), random_documents(4)
    tokens, others = join_documents(training, EOT), join_documents(held_out, EOT)
    table = Bigram(tokens, vocab_size=10, alpha=0.25)
    model = NGram(count_ngrams(tokens, 10, EOT, 2), smoothing="additive", alpha=0.25)
    for context in range(10):
        expected = model.next_probabilities([context])
        np.testing.assert_allclose(table.probabilities[context], expected)
    assert table.loss(others) == pytest.approx(model.loss(others), abs=1e-12)


def test_kneser_ney_prefers_what_follows_many_words_absolute_what_is_frequent():
    # 9 ("Francisco") is frequent, but only ever follows 8 ("San"); 7 follows six different words.
    texts = [[8, 9]] * 12 + [[word, 7] for word in (0, 1, 2, 4, 5, 6)]
    counts = count_ngrams(join_documents(texts, EOT), 12, EOT, 2)
    unseen = [10]
    absolute = NGram(counts, smoothing="absolute").next_probabilities(unseen)
    kneser_ney = NGram(counts, smoothing="kneser_ney").next_probabilities(unseen)
    assert absolute[9] > absolute[7]
    assert kneser_ney[7] > 2 * kneser_ney[9]


def test_unseen_contexts_ask_the_shorter_run():
    tokens = join_documents(random_documents(6), EOT)
    model = NGram(count_ngrams(tokens, 11, EOT, 3))
    for unseen in ([10, 0], [4, 10, 0]):  # id 10 never occurs
        np.testing.assert_allclose(
            model.next_probabilities(unseen), model.next_probabilities([0]), rtol=1e-12
        )
    flat = NGram(count_ngrams(tokens, 11, EOT, 3), smoothing="additive")
    np.testing.assert_allclose(flat.next_probabilities([10, 0]), 1 / 11)


def test_nothing_is_seen_of_the_document_before():
    first, second = random_documents(8, count=2)
    training = join_documents(random_documents(9), EOT)
    model = NGram(count_ngrams(training, 9, EOT, 5))
    alone = model.probabilities(join_documents([second], EOT))
    after = model.probabilities(join_documents([first, second], EOT))
    np.testing.assert_array_equal(after[len(first) + 1 :], alone)
    swapped = model.loss(join_documents([second, first], EOT))
    assert swapped == pytest.approx(model.loss(join_documents([first, second], EOT)), abs=1e-12)


def test_order_of_training_documents_does_not_matter_and_doubling_does():
    texts = random_documents(10)
    held_out = join_documents(random_documents(11), EOT)

    def loss(documents):
        return NGram(count_ngrams(join_documents(documents, EOT), 9, EOT, 3)).loss(held_out)

    assert loss(texts) == loss(texts[::-1])
    assert loss(texts) != loss(texts + texts)


# --- generation ---


def test_generates_what_it_was_taught_and_stops():
    model = NGram(count_ngrams(join_documents([[5, 1, 4, 0, 2]] * 200, EOT), 6, EOT, 4))
    texts = [model.generate(seed=seed) for seed in range(40)]
    assert texts.count([5, 1, 4, 0, 2]) > 30
    assert all(EOT not in text for text in texts)
    assert [model.generate([5, 1], seed=seed) for seed in range(40)].count([4, 0, 2]) > 30
    assert len(model.generate(max_new_tokens=2)) <= 2
    assert model.generate(max_new_tokens=0) == []


def test_generates_with_the_probabilities_that_it_states():
    model = NGram(count_ngrams(join_documents(random_documents(12), EOT), 9, EOT, 3))
    stated = model.next_probabilities([EOT, 4])
    drawn = Counter(
        (model.generate([4], max_new_tokens=1, seed=seed) or [EOT])[0] for seed in range(3000)
    )
    for token in range(9):
        error = math.sqrt(stated[token] * (1 - stated[token]) / 3000)
        assert abs(drawn[token] / 3000 - stated[token]) < 4.5 * error, token


def test_the_seed_decides():
    model = NGram(count_ngrams(join_documents(random_documents(13), EOT), 9, EOT, 2))
    texts = [tuple(model.generate(seed=seed)) for seed in range(30)]
    assert texts == [tuple(model.generate(seed=seed)) for seed in range(30)]
    assert len(set(texts)) > 10


# --- real documents ---


@pytest.fixture(scope="module")
def stories():
    """Return a tokenizer, training and held-out ids of storyworld, and the held-out floor."""
    training = [text for text, _ in documents(600, seed=0)]
    held_out = list(documents(60, seed=10_000))
    tokenizer = BPETokenizer.train(training[:200], 600)
    ids = tokenizer.encode_batch(training), tokenizer.encode_batch([text for text, _ in held_out])
    train, validation = (join_documents(side, tokenizer.eot_id) for side in ids)
    return tokenizer, train, validation, sum(nats for _, nats in held_out) / len(validation)


def test_stories_longer_runs_help_kneser_ney_is_best_and_none_beats_the_floor(stories):
    tokenizer, train, validation, floor = stories
    counts = count_ngrams(train, tokenizer.vocab_size, tokenizer.eot_id, 6)
    losses = {s: [NGram(counts, n, s).loss(validation) for n in range(1, 7)] for s in SMOOTHINGS}
    kneser_ney, absolute, additive = (losses[s] for s in reversed(SMOOTHINGS))
    assert all(later < earlier for earlier, later in itertools.pairwise(kneser_ney[:5]))
    assert min(kneser_ney) < min(absolute) < min(additive)
    assert additive[5] > additive[2]  # without shorter runs, long ones are seen too seldom
    assert floor < min(kneser_ney)
    text = tokenizer.decode(NGram(counts).generate(seed=1))
    assert len(text) > 20


def test_loss_is_the_mean_over_the_targets_of_eval_documents(stories, tmp_path):
    tokenizer, train, validation, _ = stories
    eot = tokenizer.eot_id
    end = np.flatnonzero(validation == eot)[3] + 1
    few = np.concatenate([[eot], validation[:end], [eot]])  # empty documents are no targets
    file = write_tokens(tmp_path / "val.bin", [few], tokenizer.vocab_size, eot)
    model = NGram(count_ngrams(train, tokenizer.vocab_size, eot, 4))
    nats = []
    for idx, targets in EvalDocuments(file, batch_size=3, block_size=2000):
        for row, answers in zip(idx.tolist(), targets.tolist(), strict=True):
            for place, answer in enumerate(answers):
                if answer != IGNORE:
                    nats.append(-math.log(model.next_probabilities(row[: place + 1])[answer]))
    assert len(nats) == end
    assert model.loss(file.tokens) == pytest.approx(sum(nats) / len(nats), abs=1e-12)


# --- bad input ---


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "0 tokens.*<|endoftext|> after each"),
        ([1, 2], r"2 tokens that do not end with <\|endoftext\|> \(3\).*after each"),
        ([1, 9, EOT], "id 9 in a vocabulary of 9.*token 1.*one tokenizer"),
        ([1, -1, EOT], "id -1 in a vocabulary of 9.*token 1.*one tokenizer"),
        ([EOT, EOT], "only empty documents.*give whole documents"),
    ],
)
def test_tokens_that_cannot_be_counted(tokens, message):
    with pytest.raises(DataError, match=message):
        count_ngrams(np.array(tokens, dtype=np.int64), 9, EOT, 2)
    model = NGram(count_ngrams(np.array([1, EOT]), 9, EOT, 2))
    with pytest.raises(DataError, match=message):
        model.loss(np.array(tokens, dtype=np.int64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 3}, "n = 3, but runs of 1 to 2 were counted.*smaller n"),
        ({"n": 0}, "n = 0.*smaller n|n = 0.*longer"),
        ({"smoothing": "laplace"}, "'laplace'.*kneser_ney"),
        ({"alpha": 0}, "alpha = 0.*above 0"),
        ({"alpha": math.nan}, "alpha = nan.*above 0"),
    ],
)
def test_bad_options(options, message):
    counts = count_ngrams(np.array([1, EOT]), 9, EOT, 2)
    with pytest.raises(ConfigError, match=message):
        NGram(counts, **options)


def test_no_order_and_no_alpha():
    with pytest.raises(ConfigError, match=r"n = 0.*give n above 0"):
        count_ngrams(np.array([1, EOT]), 9, EOT, 0)
    with pytest.raises(ConfigError, match=r"alpha = -1.*give alpha above 0"):
        Bigram(np.array([1, EOT]), 9, alpha=-1)
