"""Generation: every sampler against its distribution, the cache against no cache, bad input."""

import dataclasses
import itertools
import math
import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minigpt import generate as generation
from minigpt.generate import (
    PREFILL_ROWS,
    beam_search,
    evaluating,
    generate,
    stream,
    window_start,
)
from minigpt.gpt import GPT, GPTConfig
from minigpt.machine import compiling
from minigpt.sampling import (
    FEW,
    SampleConfig,
    draw,
    keep_min_p,
    keep_top_p,
    next_probabilities,
    next_tokens,
)
from minigpt.streaming import StopStrings
from minigpt.support.errors import ConfigError, TrainingError

GREEDY = {"temperature": 0.0}
LOGITS = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]).log()  # probabilities to count with by hand


def tiny_model(block_size: int = 9, seed: int = 0, **changes) -> GPT:
    """Return a random model whose predictions differ clearly from token to token."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 13, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 20}
    model = GPT(GPTConfig(**{**sizes, "head_dim": 6, "block_size": block_size, **changes}))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def without_cache(model: GPT, prompt: list[int], config: SampleConfig, row: int = 0) -> list[int]:
    """Run the whole window anew for each token: slow, and simple enough to trust."""
    tokens, generator = list(prompt), random.Random(f"{config.seed} {row}")
    with evaluating(model), torch.no_grad():
        for _ in range(config.max_new_tokens):
            window = tokens[window_start(len(tokens), model.config.block_size) :]
            logits = model(torch.tensor([window]))[0][:, -1]
            uniform = generator.getrandbits(24) / 2**24
            tokens.append(draw(next_probabilities(logits, config), [uniform]).item())
    return tokens[len(prompt) :]


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


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_top_p_of_rows_flat_and_steep_equals_a_sort_of_all(top_p):
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
    assert min(sizes) < FEW < max(sizes)  # both ways were taken
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(5))


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


# Cached generation


@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 5, 8, 100])
def test_window_keeps_the_newest_half_whenever_it_is_full(block_size):
    start, keep = 0, (block_size + 1) // 2
    for length in range(1, 5 * block_size + 3):
        if length - start > block_size:
            start = length - keep
        assert window_start(length, block_size) == start


@pytest.mark.parametrize("temperature", [0.0, 1.0])  # greedy texts soon repeat, drawn ones do not
@pytest.mark.parametrize("block_size", [1, 2, 3, 8, 9])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "learned", "norm": "layer"},
    ],
    ids=str,
)
def test_cached_equals_uncached_past_the_window_where_rows_hop_at_different_times(
    options, block_size, temperature
):
    model = tiny_model(block_size, **options)
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8, 9][:n] for n in (1, 3, 5, 8, 9, 2) if n <= block_size]
    config = SampleConfig(max_new_tokens=3 * block_size + 5, temperature=temperature)
    expected = [without_cache(model, prompt, config, row) for row, prompt in enumerate(prompts)]
    assert generate(model, prompts, config) == expected
    if temperature:
        assert len({token for row in expected for token in row}) > 3


def test_cached_logits_equal_uncached_ones_within_rounding():
    model, torch_tokens = tiny_model(block_size=9), torch.randint(13, (2, 9))
    with evaluating(model), torch.no_grad():
        full, _ = model(torch_tokens)
        cache = model.new_cache(2)
        parts = [model(part, cache=cache)[0] for part in torch_tokens.split([4, 1, 3, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), full, atol=1e-5, rtol=1e-5)


def test_a_row_does_not_depend_on_the_other_rows():
    model = tiny_model()
    config = SampleConfig(max_new_tokens=25, seed=4)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [10]]
    together = generate(model, prompts, config, stop_ids=[2])
    assert generate(model, prompts[:1], config, stop_ids=[2])[0] == together[0]
    others = [[7], prompts[1], [0, 0, 0, 0, 0, 0, 0, 0], [5]]
    assert generate(model, others, config, stop_ids=[2])[1] == together[1]


def test_rows_that_ended_leave_the_others_as_they_were():
    model, prompts = tiny_model(), [[n, n + 1] for n in range(8)]
    free = generate(model, prompts, SampleConfig(max_new_tokens=30, seed=1))
    stopped = generate(model, prompts, SampleConfig(max_new_tokens=30, seed=1), stop_ids={0, 5})
    for long, short in zip(free, stopped, strict=True):
        until = next((i for i, token in enumerate(long) if token in (0, 5)), len(long))
        assert short == long[:until]
    assert len({len(row) for row in stopped}) > 2


def test_seed_reproduces_and_other_seeds_differ():
    model, prompts = tiny_model(), [[1, 2], [1, 2]]
    texts = [generate(model, prompts, SampleConfig(max_new_tokens=20, seed=s)) for s in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]  # equal prompts get numbers of their own


def test_generation_touches_no_global_random_state_and_restores_each_modules_mode():
    model = tiny_model(dropout=0.5)
    model.train()
    model.blocks[0].eval()
    before, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    first = generate(model, [[1]], SampleConfig(max_new_tokens=12))
    assert first == generate(model, [[1]], SampleConfig(max_new_tokens=12))  # no dropout
    iterator = stream(model, [1], SampleConfig(max_new_tokens=12))
    next(iterator)
    iterator.close()
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(before, torch.get_rng_state())
    assert model(torch.tensor([[1]]))[0].requires_grad  # no inference mode left behind


def test_stream_gives_the_same_ids_as_generate_one_by_one():
    model, config = tiny_model(), SampleConfig(max_new_tokens=30, seed=9, top_p=0.9)
    answer = generate(model, [[1, 2, 3]], config, stop_ids=[7])[0]
    assert list(stream(model, [1, 2, 3], config, stop_ids=[7])) == answer
    endless = stream(model, [1, 2, 3], SampleConfig(max_new_tokens=10**9, seed=9, top_p=0.9))
    assert list(itertools.islice(endless, len(answer))) == answer


def test_generating_in_two_calls_equals_one_call():
    model = tiny_model()
    config = {"temperature": 0.0, "truncate": "left"}
    whole = generate(model, [[1, 2, 3]], SampleConfig(max_new_tokens=40, **config))[0]
    rest = generate(model, [[1, 2, 3, *whole[:22]]], SampleConfig(max_new_tokens=18, **config))[0]
    assert whole[22:] == rest


def test_many_prompts_are_read_a_few_at_a_time_and_dropped_without_copies(monkeypatch):
    """What 40 unequal prompts get is what each gets alone, most of them ending early."""
    model = tiny_model(block_size=60, vocab_size=40)
    prompts = [[(7 * row + i) % 40 for i in range(1 + row * 5 % 17)] for row in range(40)]
    config, stops = SampleConfig(max_new_tokens=25, seed=3), set(range(0, 40, 9))
    shapes = []
    model.embedding.register_forward_pre_hook(lambda *call: shapes.append(tuple(call[1][0].shape)))
    together = generate(model, prompts, config, stops)
    prefills = [shape for shape in shapes if shape[1] > 1]
    assert max(rows for rows, _ in prefills) == PREFILL_ROWS
    assert sum(rows * T for rows, T in prefills) < 1.5 * sum(map(len, prompts))  # little padding
    steps = sum(min(len(answer), 24) for answer in together)  # none after the 25th token
    assert sum(rows for rows, T in shapes if T == 1) == steps  # rows that ended cost nothing
    monkeypatch.setattr("minigpt.generate.PREFILL_ROWS", 1000)
    assert generate(model, prompts, config, stops) == together
    for row in range(0, 40, 7):
        alone = without_cache(model, prompts[row], config, row)
        ends = [i for i, token in enumerate(alone) if token in stops]
        assert together[row] == alone[: ends[0] if ends else None]


def test_each_token_costs_one_step_of_one_token():
    model, shapes = tiny_model(block_size=40), []
    model.embedding.register_forward_pre_hook(lambda *call: shapes.append(tuple(call[1][0].shape)))
    generate(model, [[1, 2, 3], [4]], SampleConfig(max_new_tokens=5))
    assert shapes == [(2, 3)] + [(2, 1)] * 4  # none after the last token


def test_no_prompts_and_no_new_tokens_are_fine():
    model = tiny_model()
    assert generate(model, []) == []
    assert generate(model, [[1], [2]], SampleConfig(max_new_tokens=0)) == [[], []]
    assert list(stream(model, [1], SampleConfig(max_new_tokens=0))) == []


# Beam search


def log_probability(model: GPT, prompt: list[int], ids: list[int]) -> float:
    """Score a continuation with the plain forward pass."""
    with evaluating(model), torch.no_grad():
        log_probs = model(torch.tensor([prompt + ids]))[0][0].log_softmax(dim=-1)
    return sum(log_probs[len(prompt) - 1 + i, token].item() for i, token in enumerate(ids))


@pytest.mark.parametrize("stop_id", [None, 2])
def test_beam_search_with_enough_beams_equals_trying_everything(stop_id):
    model, prompt, steps = tiny_model(vocab_size=4, n_kv_head=4), [1, 3], 3
    scored = {}
    for ids in itertools.product(range(4), repeat=steps):
        if stop_id in ids:
            ids = ids[: ids.index(stop_id) + 1]
        scored[ids] = log_probability(model, prompt, list(ids))
    expected = sorted(scored.items(), key=lambda item: -item[1])
    stop_ids = [] if stop_id is None else [stop_id]
    found = beam_search(model, prompt, 4**steps, steps, stop_ids)
    assert [ids for ids, _ in found] == [[i for i in ids if i != stop_id] for ids, _ in expected]
    torch.testing.assert_close([s for _, s in found], [s for _, s in expected], atol=1e-4, rtol=0)


def test_one_beam_is_greedy_past_the_window_too():
    model = tiny_model()
    answer = without_cache(model, [1, 2], SampleConfig(max_new_tokens=30, **GREEDY))
    assert beam_search(model, [1, 2], 1, 30)[0][0] == answer
    stop = answer[11]
    ended = beam_search(model, [1, 2], 1, 30, stop_ids=[stop])[0][0]
    assert ended == answer[: answer.index(stop)]


def test_more_beams_find_what_greedy_misses():
    gains = []
    for seed in range(6):
        model = tiny_model(seed=seed)
        (_, greedy), (_, best) = (beam_search(model, [1], n, 6)[0] for n in (1, 30))
        gains.append(best - greedy)
    assert min(gains) > -1e-4
    assert max(gains) > 0.1


# Stop strings


@pytest.mark.parametrize(
    ("strings", "text", "expected"),
    [
        (["END"], "the END of it", "the "),
        (["END"], "the EN", "the EN"),
        (["END"], "EENEND", "EEN"),
        (["aab"], "aaab", "a"),
        (["\n\n", "User:"], "hi\nUser: x", "hi\n"),
        (["abcd", "bc"], "abcd", "a"),  # "bc" is complete first
        (["bc", "abc"], "abc", ""),  # complete together: the longer one counts
        (["龙王"], "东海龙王", "东海"),
        ([], "all of it", "all of it"),
    ],
)
def test_stop_string_is_found_however_the_text_is_split(strings, text, expected):
    for cuts in itertools.product([False, True], repeat=len(text) - 1):
        pieces, stop = [text[0]], StopStrings(strings)
        for cut, character in zip(cuts, text[1:], strict=True):
            if cut:
                pieces.append("")
            pieces[-1] += character
        shown = ""
        for piece in pieces:
            shown += stop.push(piece)
            assert expected.startswith(shown)
        assert shown + stop.flush() == expected
        assert stop.found == (expected != text)
    assert stop.push("more") == ("" if stop.found else "more")


def test_stop_strings_hold_back_no_more_than_they_must():
    stop = StopStrings(["\nUser:"])
    assert [stop.push(piece) for piece in ("Hi", "\n", "Us", "a")] == ["Hi", "", "", "\nUsa"]


@pytest.mark.parametrize("strings", [[""], ["a", ""], "END"])
def test_impossible_stop_strings_are_refused(strings):
    with pytest.raises(ConfigError, match="give a list of strings that are not empty"):
        StopStrings(strings)


# Bad input


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("max_new_tokens", -1, "a whole number >= 0"),
        ("max_new_tokens", 1e9, "a whole number >= 0"),
        ("max_new_tokens", True, "a whole number >= 0"),
        ("temperature", -1.0, "0 is greedy"),
        ("temperature", math.nan, "0 is greedy"),
        ("temperature", math.inf, "0 is greedy"),
        ("temperature", "hot", "0 is greedy"),
        ("top_k", 0, "a whole number >= 1, or None"),
        ("top_k", -5, "a whole number >= 1, or None"),
        ("top_k", 2.5, "a whole number >= 1, or None"),
        ("top_p", 0.0, "above 0, up to 1"),
        ("top_p", 2, "above 0, up to 1"),
        ("top_p", math.nan, "above 0, up to 1"),
        ("min_p", 1.0, "from 0 to below 1"),
        ("min_p", -0.1, "from 0 to below 1"),
        ("seed", -1, "a whole number >= 0"),
        ("truncate", "right", '"no" or "left"'),
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
    | st.sampled_from([10**400, -(10**400), 0, 1, 1.0, b"", [], {}, 1j])
)
NAMES = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "truncate")


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING))
@example({"temperature": 2**64})  # float32 holds it, an int in torch does not
def test_any_setting_is_taken_or_refused_by_a_config_error(options):
    try:
        config = SampleConfig(**options)
    except ConfigError:
        return
    assert abs(next_probabilities(LOGITS, config).sum().item() - 1) < 1e-4


@pytest.mark.parametrize(
    "write",
    [
        lambda model, prompt: generate(model, [[1], prompt]),
        lambda model, prompt: stream(model, prompt),  # at once, not at the first token
        lambda model, prompt: beam_search(model, prompt, 2, 3),
    ],
)
@pytest.mark.parametrize(
    ("prompt", "cause", "remedy"),
    [
        ([], "the prompt is empty", "<|endoftext|>"),
        ([1] * 12, "the prompt has 12 tokens and the context 9", "--truncate left"),
        ([1, 13], "token id 13 is outside of the vocabulary of 13", "trained with"),
        ([1, -1], "token id -1 is outside", "trained with"),
    ],
)
def test_bad_prompts_are_refused_before_any_computing(write, prompt, cause, remedy):
    with pytest.raises(ConfigError) as error:
        write(tiny_model(), prompt)
    assert cause in str(error.value)
    assert remedy in str(error.value)


@pytest.mark.parametrize("length", [9, 10, 14, 15, 40])
def test_truncate_left_equals_giving_the_window_alone(length):
    model, prompt = tiny_model(), [n * n % 13 for n in range(length)]
    config = SampleConfig(max_new_tokens=1, truncate="left", **GREEDY)
    window = prompt[window_start(length, 9) :]
    assert 5 <= len(window) <= 9
    assert generate(model, [prompt], config) == generate(model, [window], config)
    assert (
        beam_search(model, prompt, 1, 1, truncate="left")[0][0]
        == generate(model, [window], config)[0]
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_never_become_a_token(value, temperature):
    model = tiny_model()
    torch.nn.init.constant_(model.norm.weight, value)
    config = SampleConfig(temperature=temperature)
    for write in (
        lambda: generate(model, [[1]], config),
        lambda: beam_search(model, [1], 2, 3),
        lambda: next(stream(model, [1], config)),
    ):
        with pytest.raises(TrainingError, match=r"not finite.*use an earlier checkpoint"):
            write()
    one_bad = LOGITS.repeat(3, 1)
    one_bad[1, 2] = math.nan
    with pytest.raises(TrainingError):
        next_probabilities(one_bad, config)


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


@pytest.mark.parametrize("n_beam", [0, -1, True, 1.5])
def test_impossible_beams_are_refused(n_beam):
    with pytest.raises(ConfigError, match="give 1 or more"):
        beam_search(tiny_model(), [1], n_beam, 3)


# ---- compiled


@pytest.fixture(params=["growing", "static"])
def quickly_compiled(monkeypatch, request):
    """Trace and record the step as torch.compile does, but run it without a C++ compiler.

    With the cache of CPUs, whose length grows in one program, and with the static one of GPUs.
    """
    torch._dynamo.reset()
    is_static = request.param == "static"
    step = torch.compile(
        generation.decode_step, backend="aot_eager", fullgraph=True, dynamic=not is_static
    )
    monkeypatch.setattr(compiling, "compile_step", lambda *_: step)
    cache_of = compiling.StaticCache if is_static else compiling.cache_to_compile
    monkeypatch.setattr(compiling, "cache_to_compile", cache_of)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_kv_head": 1},
        {"positions": "learned", "norm": "layer"},
    ],
    ids=str,
)
def test_compiled_steps_give_the_same_past_the_window_and_as_rows_end(options, quickly_compiled):
    model = tiny_model(9, **options)
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8, 9][:n] for n in (1, 3, 9, 2)]
    config = SampleConfig(max_new_tokens=30, seed=3)
    compiled = dataclasses.replace(config, compile=True)
    for stop_ids in ((), (5,)):
        expected = generate(model, prompts, config, stop_ids)
        assert generate(model, prompts, compiled, stop_ids) == expected
    assert len({len(row) for row in expected}) > 1  # they ended one after the other


def test_one_program_makes_all_tokens(quickly_compiled):
    model = tiny_model(40)
    torch._dynamo.utils.counters.clear()
    for seed in range(3):
        generate(model, [[1, 2, 3]], SampleConfig(max_new_tokens=30, seed=seed, compile=True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
