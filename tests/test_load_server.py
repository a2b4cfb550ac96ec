"""The load that is put on a server: everyone gets the solo text, and a fault is seen."""

import pytest
from machinery import load_server
from serving import BLOCK, TOKENIZER, serving, solo, wild_model

from minigpt.engine import Engine

needed = "needs Starlette and uvicorn: pip install minigpt-course[serve]"
pytest.importorskip("starlette", reason=needed)
pytest.importorskip("uvicorn", reason=needed)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def load(monkeypatch):
    """A load of short questions, as the small model has a small context."""
    monkeypatch.setattr(load_server, "QUESTIONS", ("red ball", "a", "汤姆", "the park", "Tom"))
    monkeypatch.setattr(load_server, "PAUSE", 0.01)
    return lambda port: load_server.Load(f"http://127.0.0.1:{port}/", "tiny", BLOCK - 50)


def test_eight_readers_beside_difficult_ones_get_their_solo_texts(load):
    model = wild_model()
    with serving(Engine(model, TOKENIZER, n_slot=4, n_waiting=64)) as client:
        assert load(client.port).faults(clients=8, rounds=6) == []
        seen, seconds = load(client.port).measure(clients=8)
    ids = [solo(model, text, max_new_tokens=BLOCK - 50) for text in load_server.QUESTIONS]
    assert [each.text for each in seen] == [TOKENIZER.decode(each) for each in ids]
    assert [each.n_tokens for each in seen] == [len(each) for each in ids]
    assert all(0 < each.first < seconds for each in seen if each.text)
    assert " 8 at a time:" in load_server.summary(8, seen, seconds)


@pytest.mark.soak
def test_soak_32_readers(load):
    with serving(Engine(wild_model(), TOKENIZER, n_slot=8, n_waiting=64)) as client:
        assert load(client.port).faults(clients=32, rounds=200, slow=8, leaving=8) == []


def test_texts_that_are_mixed_up_and_slots_that_stay_taken_are_seen(load, monkeypatch):
    """Negative controls."""
    engine = Engine(wild_model(), TOKENIZER, n_slot=4, n_waiting=64)
    with serving(engine) as client:
        read = engine.read

        def mix_up() -> None:
            read()
            n = len(engine.active)
            engine.logits[:n] = engine.logits[:n].roll(1, 0)

        monkeypatch.setattr(engine, "read", mix_up)
        assert load(client.port).faults(clients=8, rounds=2)
    health = {"active": 1, "waiting": 0}
    monkeypatch.setattr(load_server.Load, "health", lambda self: health)
    assert load(0).slots_taken(seconds=0.1) == ["1 slots are taken, 0 requests wait"]


def test_a_refusal_is_an_error(load):
    with serving(Engine(wild_model(), TOKENIZER)) as client:
        other = load_server.Load(f"http://127.0.0.1:{client.port}/", "gpt-9")
        with pytest.raises(RuntimeError, match="404"):
            other.read(0)
