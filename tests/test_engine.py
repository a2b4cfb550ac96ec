"""Continuous batching: everybody gets what he would get alone, and gives his slot back."""

import random
import time

import pytest
import torch
from serving import BLOCK, TOKENIZER, chat_ids, chat_stops, solo, wait_until, wild_model

from minigpt.engine import BusyError, ClosingError, Engine, Piece, Request
from minigpt.sampling import SampleConfig
from minigpt.support.errors import ConfigError, TrainingError

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = ["where", "is", "tom", "in", "the", "park", "red", "ball", "汤姆", "在", "公园", "里"]
RNG = random.Random(4)
QUESTIONS = [" ".join(RNG.choices(WORDS, k=RNG.randint(1, 9))) for _ in range(11)]


@pytest.fixture(scope="module")
def model():
    return wild_model()


def request(text: str, **settings) -> Request:
    fields = {"stop", "top_logprobs"} & settings.keys()
    own = {name: settings.pop(name) for name in fields}
    config = SampleConfig(**{"temperature": 0.0, "max_new_tokens": 30} | settings)
    return Request(chat_ids(text), config, stop_ids=chat_stops(), **own)


def finish(engine: Engine) -> None:
    """Take steps until nothing is left to do."""
    while engine.active or engine.waiting:
        engine.step()


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_slot", "options"),
    [(1, {}), (3, {}), (8, {}), (3, {"positions": "learned", "norm": "layer"}), (3, {"window": 9})],
)
def test_each_of_many_gets_its_solo_text(n_slot, options):
    model = wild_model(**options)
    engine = Engine(model, TOKENIZER, n_slot)
    got: list[list[Piece]] = [[] for _ in QUESTIONS]
    for number, question in enumerate(QUESTIONS):
        # Different lengths: they leave at different steps, and others take their slots.
        engine.submit(request(question, max_new_tokens=5 + 3 * number), got[number].append)
        engine.step()
    finish(engine)
    for number, question in enumerate(QUESTIONS):
        alone = solo(model, question, max_new_tokens=5 + 3 * number)
        assert text_of(got[number]) == TOKENIZER.decode(alone)
        assert got[number][-1].n_tokens == len(alone)
        assert got[number][-1].finish == ("length" if len(alone) == 5 + 3 * number else "stop")
        assert [piece.is_last for piece in got[number]] == [False] * (len(got[number]) - 1) + [True]


@pytest.mark.slow
def test_a_seed_gives_the_solo_text_whoever_else_is_served(model):
    engine = Engine(model, TOKENIZER, 4)
    hot = {"temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.3, "frequency_penalty": 0.4}
    got: list[list[Piece]] = [[] for _ in range(6)]
    for seed in range(6):
        engine.submit(request("where is tom", seed=seed, **hot), got[seed].append)
    finish(engine)
    alone = [TOKENIZER.decode(solo(model, "where is tom", seed=seed, **hot)) for seed in range(6)]
    assert [text_of(pieces) for pieces in got] == alone
    assert len(set(alone)) > 3


def test_a_request_joins_between_two_steps(model):
    engine = Engine(model, TOKENIZER, 2)
    first, second = [], []
    engine.submit(request("red ball", max_new_tokens=20), first.append)
    for _ in range(5):
        engine.step()
    engine.submit(request("the park", max_new_tokens=3), second.append)
    engine.step()
    assert [answer.n_tokens for answer in engine.active] == [6, 1]
    finish(engine)
    # The second had three steps of its own and cost the first none.
    assert engine.n_steps == first[-1].n_tokens == 20


def test_no_more_answers_grow_than_there_are_slots(model):
    engine = Engine(model, TOKENIZER, 2)
    got = [[] for _ in range(5)]
    for pieces in got:
        engine.submit(request("in the park", max_new_tokens=4), pieces.append)
    engine.step()
    assert (len(engine.active), len(engine.waiting)) == (2, 3)
    finish(engine)
    assert engine.n_steps == 12
    assert all(pieces[-1].finish for pieces in got)


def test_who_hangs_up_frees_the_slot_before_the_next_token(model):
    engine = Engine(model, TOKENIZER, 2)
    gone, other, waiting = [], [], []
    leaver = engine.submit(request("where is tom"), gone.append)
    engine.submit(request("red ball", max_new_tokens=9), other.append)
    engine.submit(request("with a ball", max_new_tokens=9), waiting.append)
    never = engine.submit(request("the park"), gone.append)
    engine.step()
    engine.step()
    delivered = len(gone)
    leaver.cancel()
    never.cancel()
    engine.step()
    assert leaver.n_tokens == 2
    assert [answer.n_tokens for answer in engine.active] == [3, 1]
    finish(engine)
    assert len(gone) == delivered
    assert never.n_tokens == 0
    assert text_of(other) == TOKENIZER.decode(solo(model, "red ball", max_new_tokens=9))
    assert text_of(waiting) == TOKENIZER.decode(solo(model, "with a ball", max_new_tokens=9))


def test_half_a_character_is_never_delivered(model):
    engine = Engine(model, TOKENIZER, 1)
    whole = "汤🙂é"
    ids = TOKENIZER.byte_tokens(whole.encode("utf-8"))
    assert len(ids) > len(whole)
    bias = tuple((token, 100.0) for token in ids)
    got: list[Piece] = []
    engine.submit(request("x", logit_bias=bias, max_new_tokens=40, temperature=1.0), got.append)
    finish(engine)
    written = TOKENIZER.decode(
        solo(model, "x", logit_bias=bias, temperature=1.0, max_new_tokens=40)
    )
    assert text_of(got) == written
    # What random bytes leave undecodable becomes U+FFFD; what is a character comes whole.
    assert len(got) < 40
    assert all(piece.text for piece in got[:-1])


def test_a_stop_string_over_several_tokens_ends_the_text_before_it(model):
    whole = TOKENIZER.decode(solo(model, "where is tom"))
    stop = whole[7:12]
    place = whole.index(stop)
    engine = Engine(model, TOKENIZER, 1)
    got: list[Piece] = []
    engine.submit(request("where is tom", stop=(stop,)), got.append)
    finish(engine)
    assert text_of(got) == whole[:place]
    assert got[-1].finish == "stop"
    assert engine.n_steps < 30


def test_scores_are_the_models_own(model):
    engine = Engine(model, TOKENIZER, 1)
    got: list[Piece] = []
    ids = solo(model, "red ball", max_new_tokens=8)
    config = {"temperature": 0.0, "max_new_tokens": 8, "top_logprobs": 3}
    engine.submit(request("red ball", **config), got.append)
    finish(engine)
    scores = [token for piece in got for token in piece.tokens]
    assert [token.id for token in scores] == ids
    idx = torch.tensor([[*chat_ids("red ball"), *ids]])
    logprobs = model(idx)[0].detach()[0, len(chat_ids("red ball")) - 1 : -1].log_softmax(-1)
    for token, row in zip(scores, logprobs, strict=True):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        assert [i for i, _ in token.top] == row.topk(3).indices.tolist()
        assert token.top[0] == (token.id, pytest.approx(token.logprob))


def test_a_full_queue_refuses_and_counts_nobody_who_left(model):
    engine = Engine(model, TOKENIZER, 1, n_waiting=2)
    first = engine.submit(request("a"), print)
    engine.submit(request("b"), print)
    with pytest.raises(BusyError, match="2 requests are waiting"):
        engine.submit(request("c"), print)
    first.cancel()
    engine.submit(request("d"), print)


def test_what_cannot_fit_is_refused_before_it_waits(model):
    engine = Engine(model, TOKENIZER, 1)
    n = len(chat_ids("a"))
    fits = Request(chat_ids("a"), SampleConfig(max_new_tokens=BLOCK - n, temperature=0.0))
    got: list[Piece] = []
    engine.submit(fits, got.append)
    finish(engine)
    assert got[-1].n_tokens == BLOCK - n
    for bad in (
        Request(chat_ids("a"), SampleConfig(max_new_tokens=BLOCK - n + 1)),
        Request(chat_ids("a"), SampleConfig(max_new_tokens=0)),
        Request((), SampleConfig(max_new_tokens=1)),
        Request((99999,), SampleConfig(max_new_tokens=1)),
        Request((1,), SampleConfig(max_new_tokens=1, logit_bias=((99999, 1.0),))),
    ):
        with pytest.raises(ConfigError):
            engine.submit(bad, print)
    assert not engine.waiting


def test_logits_that_are_not_finite_end_one_answer_alone(model):
    engine = Engine(model, TOKENIZER, 2)
    good, bad = [], []
    engine.submit(request("red ball", max_new_tokens=9), good.append)
    engine.submit(request("the park", max_new_tokens=9), bad.append)
    engine.step()
    engine.logits[1] = torch.nan
    finish(engine)
    assert isinstance(bad[-1].error, TrainingError)
    assert text_of(good) == TOKENIZER.decode(solo(model, "red ball", max_new_tokens=9))


def test_the_thread_works_waits_and_ends(model):
    engine = Engine(model, TOKENIZER, 2)
    thread = engine.start()
    got: list[Piece] = []
    for count in (1, 2):
        engine.submit(request("red ball", max_new_tokens=5), got.append)
        assert wait_until(lambda n=count: sum(piece.is_last for piece in got) == n)
    steps = engine.n_steps
    time.sleep(0.05)
    assert engine.n_steps == steps == 10  # it waits, and does not turn in circles
    engine.stop()
    thread.join(5)
    assert not thread.is_alive()
    with pytest.raises(ClosingError):
        engine.submit(request("a"), print)


def test_a_fault_of_the_engine_is_survived(model, monkeypatch, capsys):
    engine = Engine(model, TOKENIZER, 2)
    broken = [True]
    read = engine.read

    def read_or_fail() -> None:
        if broken.pop() if broken else False:
            raise RuntimeError("secret path")
        read()

    monkeypatch.setattr(engine, "read", read_or_fail)
    thread = engine.start()
    first, second = [], []
    engine.submit(request("red ball", max_new_tokens=5), first.append)
    assert wait_until(lambda: first and first[-1].is_last)
    assert "RuntimeError" in str(first[-1].error)
    assert "secret" not in str(first[-1].error)
    engine.submit(request("red ball", max_new_tokens=5), second.append)
    assert wait_until(lambda: second and second[-1].is_last)
    assert text_of(second) == TOKENIZER.decode(solo(model, "red ball", max_new_tokens=5))
    engine.stop()
    thread.join(5)
    assert "secret path" in capsys.readouterr().err  # the operator is told


def test_after_closing_answers_have_a_while_to_end(model):
    engine = Engine(model, TOKENIZER, 1)
    short, long = [], []
    engine.submit(request("red ball", max_new_tokens=3), short.append)
    engine.submit(request("the park", max_new_tokens=30), long.append)
    engine.close(seconds=60)
    for _ in range(5):
        engine.step()
    assert short[-1].finish == "length"
    assert not long[-1].is_last
    engine.close(seconds=-1)
    finish(engine)
    assert isinstance(long[-1].error, ClosingError)
    assert not engine.active
