"""The next token: every sampler against its distribution, penalties against other packages."""

import dataclasses
import json
import math
import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minigpt.machine import sorting
from minigpt.sampling import (
    History,
    SampleConfig,
    add_bias,
    adjust_logits,
    draw,
    keep_min_p,
    keep_top_p,
    next_probabilities,
    next_tokens,
    penalize_counts,
    penalize_repetition,
)
from minigpt.support.errors import ConfigError, TrainingError

GREEDY = {"temperature": 0.0}
LOGITS = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]).log()  # probabilities to count with by hand


# The distribution of the next token


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.2, 0.15, 0.1, 0.05]),
        ({"temperature": 0.0}, [1, 0, 0, 0, 0]),
        ({"temperature": 0.5}, [0.25, 0.04, 0.0225, 0.01, 0.0025]),  # squares
        ({"temperature": 1e-300}, [1, 0, 0, 0, 0]),
        ({"temperature": 1e300}, [1, 1, 1, 1, 1]),
        ({"top_k": 1}, [1, 0, 0, 0, 0]),
        ({"top_k": 3}, [0.5, 0.2, 0.15, 0, 0]),
        ({"top_k": 99}, [0.5, 0.2, 0.15, 0.1, 0.05]),
        ({"top_p": 0.6}, [0.5, 0.2, 0, 0, 0]),  # 0.5 alone is not enough
        ({"top_p": 0.45}, [1, 0, 0, 0, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0, 0]),
        ({"top_p": 5e-324}, [1, 0, 0, 0, 0]),
        ({"min_p": 0.25}, [0.5, 0.2, 0.15, 0, 0]),  # at least 0.125
        ({"min_p": 0.999}, [1, 0, 0, 0, 0]),
        ({"top_k": 4, "top_p": 0.7, "min_p": 0.35}, [0.5, 0.2, 0, 0, 0]),
    ],
)
def test_probabilities_and_samples_follow_the_distribution_by_hand(options, expected):
    expected = torch.tensor(expected) / sum(expected)
    found = next_probabilities(LOGITS, SampleConfig(**options))[0]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)

    count = 20_000
    uniforms = torch.rand(count, generator=torch.Generator().manual_seed(1)).tolist()
    drawn = draw(found.expand(count, -1).contiguous(), uniforms).bincount(minlength=5)
    assert (drawn[expected == 0] == 0).all()
    kept = expected > 0
    chi_square = ((drawn - count * expected)[kept] ** 2 / (count * expected[kept])).sum()
    assert chi_square < 23.5  # 4 degrees of freedom exceed it once in 10,000 seeds


def test_rows_of_a_batch_are_filtered_each_by_itself():
    logits = torch.randn(3, 17, generator=torch.Generator().manual_seed(0)) * 3
    config = SampleConfig(temperature=0.8, top_k=9, top_p=0.9, min_p=0.02)
    alone = torch.cat([next_probabilities(row[None], config) for row in logits])
    torch.testing.assert_close(next_probabilities(logits, config), alone)


def test_filters_keep_what_meets_their_limit_exactly():
    probabilities = torch.tensor([[0.5, 0.25, 0.25]])
    assert (keep_min_p(probabilities, 0.5) > 0).tolist() == [[True, True, True]]
    assert (keep_top_p(probabilities, 0.5) > 0).tolist() == [[True, False, False]]
    assert (keep_top_p(probabilities, 0.75) > 0).tolist() == [[True, True, False]]


@pytest.mark.parametrize("enough", [64, 5000])  # sorted as far as needed, and whole
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_top_p_of_rows_flat_and_steep_equals_a_sort_of_all(top_p, enough, monkeypatch):
    monkeypatch.setattr(sorting, "ENOUGH", enough)
    sharpness = torch.tensor([0.0, 0.1, 1.0, 3.0, 10.0])[:, None]
    logits = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0)) * sharpness
    logits[0] += torch.linspace(0, 1e-3, 1000)  # no two are equal
    probabilities = logits.softmax(dim=-1)
    found = keep_top_p(probabilities, top_p)
    sizes = []
    for row, kept in zip(probabilities.tolist(), found, strict=True):
        falling, together = sorted(range(1000), key=lambda token: -row[token]), 0.0
        while together < top_p:
            together += row[falling.pop(0)]
        sizes.append(1000 - len(falling))
        assert abs(sizes[-1] - int((kept > 0).sum())) <= 1  # rounding may shift the last one
        assert kept[falling[1:]].sum() == 0
    assert min(sizes) < 64 < max(sizes)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(5))


@pytest.mark.parametrize("total", [0.3, 0.9, 0.9999, 1.0])
def test_sorting_as_far_as_needed_gives_the_beginning_of_a_whole_sort(total, monkeypatch):
    monkeypatch.setattr(sorting, "ENOUGH", 40)
    noise = torch.randn(3, 301, generator=torch.Generator().manual_seed(0))
    lengths = set()
    for sharpness in (1.0, 8.0):
        probabilities = (noise * sharpness).softmax(dim=-1)
        values, ids = sorting.sort_until(probabilities, total)
        lengths.add(values.size(1))
        expected = probabilities.sort(dim=-1, descending=True, stable=True)
        assert torch.equal(values, expected.values[:, : values.size(1)])
        assert torch.equal(ids, expected.indices[:, : values.size(1)])
        assert (values.sum(dim=-1) >= min(total, 0.9999)).all()
    assert lengths == {0.3: {40}, 1.0: {301}}.get(total, {40, 301})


def test_equal_logits_leave_exactly_top_k_tokens():
    assert (next_probabilities(torch.zeros(2, 7), SampleConfig(top_k=3)) > 0).sum().item() == 6


def test_draw_never_returns_a_token_of_probability_zero():
    probabilities = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]])
    for uniform, token in ((0.0, 1), (1 - 2**-24, 3)):
        assert draw(probabilities, [uniform]).tolist() == [token]


@settings(max_examples=100, deadline=None)
@given(
    logits=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=8),
    temperature=st.floats(0, 1e308),
    top_k=st.none() | st.integers(1, 10),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1, exclude_max=True),
)
def test_every_valid_setting_gives_a_distribution_with_the_likeliest_token(
    logits, temperature, top_k, top_p, min_p
):
    logits = torch.tensor([logits])
    config = SampleConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    probabilities = next_probabilities(logits, config)
    assert abs(probabilities.sum().item() - 1) < 1e-4
    unfiltered = next_probabilities(logits, SampleConfig(temperature=temperature))
    assert unfiltered[probabilities > 0].max() == unfiltered.max()  # one of them, where equal


# Penalties and bias


def random_logits(*shape: int) -> torch.Tensor:
    """Return logits of both signs."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5)) * 4


def history_of(prompts: list[list[int]], written: list[list[int]], vocab_size: int) -> History:
    """Return the history of rows that have all grown by the same number of tokens."""
    history = History(prompts, vocab_size)
    for tokens in zip(*written, strict=True):
        history.append(list(range(len(prompts))), tokens)
    return history


PROMPTS = [[1, 2, 2], [0], [16, 3, 5, 7]]
WRITTEN = [[4, 4, 2, 4], [9, 8, 7, 0], [3, 3, 3, 3]]


@pytest.mark.parametrize("penalty", [0.5, 1.2, 5.0])
def test_repetition_penalty_is_that_of_transformers(penalty):
    processors = pytest.importorskip("transformers.generation.logits_process")
    logits, history = random_logits(3, 17), history_of(PROMPTS, WRITTEN, 17)
    found = penalize_repetition(logits, history.seen, penalty)
    for row in range(3):  # theirs takes rows of one length
        ids = torch.tensor([PROMPTS[row] + WRITTEN[row]])
        processor = processors.RepetitionPenaltyLogitsProcessor(penalty)
        expected = processor(ids, logits[row : row + 1].clone())[0]
        torch.testing.assert_close(found[row], expected)
        assert not torch.equal(found[row], logits[row])


def test_presence_and_frequency_penalties_count_what_was_written_and_not_the_prompt():
    logits, history = random_logits(3, 17), history_of(PROMPTS, WRITTEN, 17)
    found = penalize_counts(logits, history.counts, presence=0.5, frequency=0.25)
    for row in range(3):
        for token in range(17):
            count = WRITTEN[row].count(token)
            less = 0.5 * (count > 0) + 0.25 * count
            assert found[row, token].item() == pytest.approx(logits[row, token].item() - less)


def test_bias_is_added_to_the_tokens_named_and_leaves_the_logits_given_alone():
    logits = random_logits(2, 5)
    before = logits.clone()
    expected = logits + torch.tensor([0.0, -3.0, 0.0, 0.0, 7.5])
    torch.testing.assert_close(add_bias(logits, ((4, 7.5), (1, -3))), expected)
    assert torch.equal(logits, before)


def test_adjustments_act_in_the_order_of_the_fields():
    """The repetition penalty sees the model's own signs, the constraint what all others left."""
    config = SampleConfig(
        repetition_penalty=2.0,
        presence_penalty=1.0,
        frequency_penalty=0.5,
        logit_bias=((0, 10.0), (2, -8.0)),
    )
    history, met = history_of([[1]], [[0, 0]], 4), []

    def constraint(logits, history):
        met.append(logits.clone())
        return logits.index_fill(1, torch.tensor([3]), -math.inf)

    logits = torch.tensor([[1.0, -1.0, 3.0, 2.0]])
    found = adjust_logits(logits, config, history, constraint)
    assert met[0].tolist() == [[1 / 2 - 1 - 2 * 0.5 + 10, -2.0, 3 - 8.0, 2.0]]
    assert found.tolist() == [[8.5, -2.0, -5.0, -math.inf]]
    names = [field.name for field in dataclasses.fields(SampleConfig)]
    order = ["repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias"]
    order += ["temperature", "top_k", "top_p", "min_p"]
    assert [name for name in names if name in order] == order


def test_what_is_off_changes_and_costs_nothing():
    logits = random_logits(2, 5)
    assert adjust_logits(logits, SampleConfig()) is logits
    assert adjust_logits(logits, SampleConfig(), history_of([[1], [2]], [[3], [4]], 5)) is logits
    assert not SampleConfig(logit_bias=((1, 1.0),)).reads_history
    for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
        assert SampleConfig(**{name: 0.5}).reads_history


@pytest.mark.parametrize("options", [GREEDY, {}, {"top_k": 1}])
def test_every_way_of_choosing_sees_penalties_and_bias(options):
    logits = torch.tensor([[9.0, 8.0, 0.0]] * 2)
    history, uniforms = history_of([[1], [2]], [[0], [0]], 3), [0.5, 0.5]
    config = SampleConfig(**options, repetition_penalty=50.0)
    assert next_tokens(logits, config, uniforms, history)[1] == 1
    config = SampleConfig(**options, presence_penalty=2.0)
    assert next_tokens(logits, config, uniforms, history).tolist() == [1, 1]
    config = SampleConfig(**options, logit_bias=((2, 100.0),))
    assert next_tokens(logits, config, uniforms).tolist() == [2, 2]


def test_history_follows_rows_that_end_and_change_places():
    history = History([[1], [2, 2], [3]], 6)
    history.append([0, 1, 2], [4, 5, 4])
    history.append([2, 1], [4, 0])  # row 0 ended, the last one took its place
    assert history.prompts == [[3], [2, 2]]
    assert history.written == [[4, 4], [5, 0]]
    assert history.counts.tolist() == [[0, 0, 0, 0, 2, 0], [1, 0, 0, 0, 0, 1]]
    assert history.seen.nonzero().tolist() == [[0, 3], [0, 4], [1, 0], [1, 2], [1, 5]]


def test_penalties_of_half_precision_are_computed_in_float32():
    logits = torch.tensor([[1.0, 0.5]], dtype=torch.bfloat16)
    config = SampleConfig(frequency_penalty=0.001)
    found = adjust_logits(logits, config, history_of([[1]], [[0]], 2))
    torch.testing.assert_close(found, torch.tensor([[0.999, 0.5]]))  # bfloat16 would give 1.0


def test_a_constraint_that_forbids_everything_is_named_as_the_cause():
    logits, history = random_logits(2, 5), History([[1], [2]], 5)

    def nothing_in_row_1(logits, history):
        return logits.index_fill(0, torch.tensor([1]), -math.inf)

    with pytest.raises(ConfigError, match=r"the constraint forbids every token.*end of the text"):
        next_tokens(logits, SampleConfig(), [0.5, 0.5], history, nothing_in_row_1)


def test_settings_survive_json():
    config = SampleConfig(logit_bias=((3, -5), (0, 1.5)), repetition_penalty=1.1, top_k=4)
    stored = json.loads(json.dumps(dataclasses.asdict(config)))
    assert SampleConfig(**stored) == config
    assert hash(SampleConfig(**stored)) == hash(config)


def test_damaged_logits_are_found_behind_penalties_too():
    logits = torch.tensor([[math.nan, 1.0]])
    config = SampleConfig(repetition_penalty=1.5, presence_penalty=1.0)
    with pytest.raises(TrainingError, match="not finite"):
        next_tokens(logits, config, [0.5], history_of([[0]], [[1]], 2))


# Bad input


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("max_new_tokens", -1, "a whole number >= 0"),
        ("max_new_tokens", 1e9, "a whole number >= 0"),
        ("max_new_tokens", True, "a whole number >= 0"),
        ("temperature", -1.0, "a number >= 0"),
        ("temperature", math.nan, "a number >= 0"),
        ("temperature", math.inf, "a number >= 0"),
        ("temperature", "hot", "a number >= 0"),
        ("top_k", 0, "a whole number >= 1, or None"),
        ("top_k", -5, "a whole number >= 1, or None"),
        ("top_k", 2.5, "a whole number >= 1, or None"),
        ("top_p", 0.0, "a number above 0 and <= 1"),
        ("top_p", 2, "a number above 0 and <= 1"),
        ("top_p", math.nan, "a number above 0 and <= 1"),
        ("min_p", 1.0, "a number >= 0 and below 1"),
        ("min_p", -0.1, "a number >= 0 and below 1"),
        ("seed", -1, "a whole number >= 0"),
        ("truncate", "right", "one of no, left"),
        ("compile", 1, "True or False"),
        ("repetition_penalty", 0.0, "a number >= 0.01 and <= 100"),
        ("repetition_penalty", math.inf, "a number >= 0.01 and <= 100"),
        ("presence_penalty", 2.5, "a number >= -2 and <= 2"),
        ("frequency_penalty", math.nan, "a number >= -2 and <= 2"),
        ("logit_bias", {5: -100}, "pairs of a token id and a number"),
        ("logit_bias", ((5,),), "pairs of a token id and a number"),
        ("logit_bias", ((-1, 1.0),), "pairs of a token id and a number"),
        ("logit_bias", ((5, math.nan),), "pairs of a token id and a number"),
        ("logit_bias", ((5, 101.0),), "from -100 to 100"),
        ("logit_bias", ((5, 1.0), (5, 2.0)), "each id once"),
    ],
)
def test_impossible_settings_show_value_and_remedy(field, value, remedy):
    with pytest.raises(ConfigError) as error:
        SampleConfig(**{field: value})
    assert f"{field} = {value!r}" in str(error.value)
    assert remedy in str(error.value)
    assert "--" + field.replace("_", "-") in str(error.value)


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, -(10**400), 0, 1, 1.0, b"", [], {}, 1j, (1,), [[0, 1]], ((4, -5),)])
)
NAMES = [field.name for field in dataclasses.fields(SampleConfig)]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING))
@example({"repetition_penalty": 10**400})  # no float at all
@example({"temperature": 2**64})  # float32 holds it, an int in torch does not
def test_any_setting_is_taken_or_refused_by_a_config_error(options):
    try:
        config = SampleConfig(**options)
    except ConfigError:
        return
    history = History([[0, 3]], 5)
    history.append([0], [3])
    if all(token < 5 for token, _ in config.logit_bias):
        logits = adjust_logits(LOGITS, config, history)
        assert abs(next_probabilities(logits, config).sum().item() - 1) < 1e-4


def test_a_token_banned_by_minus_infinity_is_never_drawn():
    logits = LOGITS.clone()
    logits[0, 0] = -math.inf
    for options in ({}, GREEDY, {"temperature": 1e300}, {"temperature": 1e-9}):
        assert next_probabilities(logits, SampleConfig(**options))[0, 0] == 0


def test_next_tokens_are_those_that_drawing_gives():
    logits = torch.randn(500, 13, generator=torch.Generator().manual_seed(0)).round()  # with ties
    uniforms = [random.Random(0).random() for _ in logits]
    for options in (GREEDY, {}, {"temperature": 0.5, "top_k": 3}):
        config = SampleConfig(**options)
        expected = draw(next_probabilities(logits, config), uniforms)
        assert torch.equal(next_tokens(logits, config, uniforms), expected)
    logits[3, 1] = math.nan
    with pytest.raises(TrainingError, match="not finite"):
        next_tokens(logits, SampleConfig(**GREEDY), uniforms)
