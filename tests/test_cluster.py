"""Formulas of a cluster: against rings walked through by hand, and the page that prints them."""

import re
import shlex

import pytest
import tyro
from machinery import ROOT

from minigpt.commands.arguments import parse, stored_settings
from minigpt.commands.train import TrainCommand
from minigpt.machine.cluster import (
    SIZES,
    Cluster,
    all_gather_bytes,
    all_reduce_bytes,
    break_even_tokens,
    bubble,
    expect_step,
    expectation_table,
    rank_bytes,
    step_bytes,
)
from minigpt.runs.run import PRESETS

PAGE = ROOT / "docs/clusters.md"


def walk_ring(size: int, part: int) -> int:
    """Pass parts around a ring until all know all of them; return how many bytes each has sent."""
    known = [{rank} for rank in range(size)]
    sent = 0
    for turn in range(size - 1):
        passed = [(rank - turn) % size for rank in range(size)]
        for rank in range(size):
            known[(rank + 1) % size].add(passed[rank])
        sent += part
    assert all(len(each) == size for each in known)
    return sent


@pytest.mark.parametrize("size", [2, 3, 7])
def test_a_ring_sends_what_the_formula_says(size):
    parts = 5
    assert all_gather_bytes(size * parts, size) == walk_ring(size, parts)
    assert all_reduce_bytes(size * parts, size) == 2 * walk_ring(size, parts)
    assert step_bytes(1000, 1, is_sharded=True) == step_bytes(1000, 1, is_sharded=False) == 0


def test_splitting_costs_half_as_much_traffic_again():
    assert step_bytes(1000, 4, is_sharded=False) == 2 * 3 / 4 * 4000
    assert step_bytes(1000, 4, is_sharded=True) == 1.5 * step_bytes(1000, 4, is_sharded=False)


@pytest.mark.parametrize(("stage", "held"), [(0, 16_000), (1, 10_000), (2, 7_000), (3, 4_000)])
def test_each_stage_splits_one_thing_more(stage, held):
    """Four processes share 4,000 bytes of weights, as many of gradients, 8,000 of averages."""
    assert rank_bytes(1000, 4, stage) == held
    assert rank_bytes(1000, 1, stage) == 16_000


def test_there_is_no_fourth_stage():
    with pytest.raises(ValueError, match="stage = 4, expected 0, 1, 2 or 3"):
        rank_bytes(1000, 4, 4)


def test_a_step_waits_for_rounds_and_bytes_over_the_slowest_link():
    cluster = Cluster(2, flops=1000, utilization=0.5, inside=100, between=10, latency=3)
    alone = expect_step(50, 10, 1, cluster=cluster)
    assert (alone.compute, alone.exchange) == (6, 0)  # 3,000 operations at 500 a second
    assert alone.efficiency == alone.overlapped == 1
    pair = expect_step(50, 10, 2, cluster=cluster)
    assert pair.exchange == 2 * 3 + 200 / 100
    four = expect_step(50, 10, 4, is_sharded=True, cluster=cluster)
    assert four.exchange == 9 * 3 + 450 / 10
    assert four.efficiency == 6 / (6 + 72)
    assert four.overlapped == 6 / 72


@pytest.mark.parametrize("is_sharded", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_at_the_break_even_both_last_equally_long(size, is_sharded):
    cluster = Cluster(latency=0)
    tokens = break_even_tokens(size, is_sharded, cluster)
    step = expect_step(10**9, tokens, size, is_sharded, cluster)
    assert step.efficiency == pytest.approx(0.5)
    assert step.overlapped == pytest.approx(1)


def idle_share(stages: int, pieces: int) -> float:
    """Run a pipeline slot by slot: stage s works on piece p in slot s + p."""
    slots = range(stages + pieces - 1)
    busy = sum(0 <= slot - stage < pieces for slot in slots for stage in range(stages))
    return 1 - busy / (stages * len(slots))


@pytest.mark.parametrize(("stages", "pieces"), [(1, 5), (4, 1), (4, 16), (7, 3)])
def test_a_pipelines_bubble_is_that_of_its_timetable(stages, pieces):
    assert bubble(stages, pieces) == pytest.approx(idle_share(stages, pieces))


@pytest.mark.parametrize("batch_tokens", [524_288, None])
def test_the_page_on_clusters_prints_what_the_formulas_say(batch_tokens):
    assert expectation_table(batch_tokens) in PAGE.read_text(encoding="utf-8")


def commands_on_the_page() -> list[str]:
    """Return what follows `train` in each command of the page, variables put in."""
    page = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"(?m)-m minigpt train (.*)$", page)
    settings = re.findall(r'settings="(.*)"', page)
    plain = [command for command in found if "$" not in command]
    script = [command for command in found if "$" in command]
    assert len(plain) >= 5
    assert len(script) == 1
    assert len(settings) == 2
    return plain + [
        script[0].replace("$settings", each).replace("$out", "out") for each in settings
    ]


@pytest.mark.parametrize("command", commands_on_the_page())
def test_each_command_of_the_page_on_clusters_is_understood(command):
    words = shlex.split(command)
    preset = words[0] if words[0] in PRESETS else None
    stored = stored_settings(words, preset)
    assert (stored is None) == (preset is not None)  # a resumed run brings its own settings
    words = words[1:] if preset else words
    defaults = TrainCommand(tyro.MISSING, run=PRESETS[preset or "tiny"]())
    chosen = parse(TrainCommand, "train", words, defaults)
    assert chosen.resume == (stored is not None)
