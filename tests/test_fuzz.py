"""Random input of every kind: nothing ends in a traceback, and nothing hangs."""

import pytest
from machinery import fuzz


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("tables", 150), ("commands", 60), ("prompts", 20)])
def test_random_input_never_ends_in_a_traceback(kind, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # or else a folder named `little` here would be the model
    assert not (found := fuzz.faults(kind, count, seed=1)), "\n".join(found)


@pytest.mark.slow
def test_a_server_survives_2000_random_requests(tmp_path, monkeypatch):
    pytest.importorskip("uvicorn", reason="needs the server: pip install minigpt-course[serve]")
    monkeypatch.chdir(tmp_path)
    assert not (found := fuzz.faults("requests", 2000, seed=1)), "\n".join(found)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "count"),
    [("tables", 1000), ("commands", 1000), ("prompts", 300), ("requests", 50_000)],
)
def test_soak_random_input(kind, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not (found := fuzz.faults(kind, count)), "\n".join(found)


def test_a_fault_and_a_hang_are_found(monkeypatch):
    """Negative control: cases that fail or take long are named with their number."""

    def case(rng, folder):
        if rng.random() < 0.3:
            raise KeyError("deep inside")

    monkeypatch.setitem(fuzz.KINDS, "tables", case)
    found = fuzz.faults("tables", 20)
    assert 0 < len(found) < 20
    assert all("KeyError: 'deep inside'" in line for line in found)
    monkeypatch.setattr(fuzz, "SLOWEST", -1.0)
    assert sum(line.endswith(" s") for line in fuzz.faults("tables", 5)) == 5


def test_a_case_is_a_function_of_its_number():
    from random import Random

    files = [fuzz.random_file(Random(f"tables 0 {number}")) for number in (1, 1, 2)]
    assert files[0] == files[1] != files[2]
