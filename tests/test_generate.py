"""Generation: the cache against no cache, histories, beams, stop strings, bad input."""

import dataclasses
import itertools
import math
import random

import pytest
import torch
from helpers import tiny_model

from minigpt import generate as generation
from minigpt.generate import (
    PREFILL_ROWS,
    beam_search,
    evaluating,
    generate,
    stream,
    window_start,
)
from minigpt.gpt import GPT
from minigpt.machine import compiling
from minigpt.sampling import SampleConfig, draw, next_probabilities
from minigpt.streaming import StopStrings
from minigpt.support.errors import ConfigError, TrainingError

GREEDY = {"temperature": 0.0}


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
def test_cached_equals_uncached_past_the_window_where_contexts_shift_at_different_times(
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


# What was written


def penalized_without_cache(
    model: GPT, prompt: list[int], config: SampleConfig, row: int = 0
) -> list[int]:
    """Count everything anew for each token, by plain loops: slow, and simple enough to trust."""
    written, generator = [], random.Random(f"{config.seed} {row}")
    with evaluating(model), torch.no_grad():
        for _ in range(config.max_new_tokens):
            tokens = prompt + written
            window = tokens[window_start(len(tokens), model.config.block_size) :]
            logits = model(torch.tensor([window]))[0][:, -1]
            for token in set(tokens):
                by = config.repetition_penalty
                logits[0, token] *= 1 / by if logits[0, token] > 0 else by
            for token in set(written):
                logits[0, token] -= config.presence_penalty
                logits[0, token] -= config.frequency_penalty * written.count(token)
            for token, bias in config.logit_bias:
                logits[0, token] += bias
            uniform = generator.getrandbits(24) / 2**24
            written.append(draw(next_probabilities(logits, config), [uniform]).item())
    return written


PENALTIES = [
    {"repetition_penalty": 1.5},
    {"presence_penalty": 1.5, "frequency_penalty": 0.5},
    {"logit_bias": ((3, 2.0), (8, -100))},
    {
        "repetition_penalty": 1.2,
        "presence_penalty": -0.5,
        "frequency_penalty": 1.0,
        "logit_bias": ((12, 1.5),),
        "top_k": 6,
    },
]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("block_size", [3, 9])
@pytest.mark.parametrize("penalties", PENALTIES, ids=str)
def test_each_row_is_penalized_for_its_own_text_past_the_window_and_as_rows_end(
    penalties, block_size, temperature
):
    model = tiny_model(block_size)
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8][:n] for n in (1, 3, 8) if n <= block_size]
    prompts += [[11, 11], [12]]
    plain = SampleConfig(max_new_tokens=16, temperature=temperature, seed=1)
    config = dataclasses.replace(plain, **penalties)
    whole = [penalized_without_cache(model, ids, config, row) for row, ids in enumerate(prompts)]
    assert generate(model, prompts, config) == whole
    assert generate(model, prompts, plain) != whole
    assert list(stream(model, prompts[0], config)) == whole[0]
    stop_ids = {whole[0][3], whole[1][7], whole[3][11]}
    stopped = [list(itertools.takewhile(lambda t: t not in stop_ids, ids)) for ids in whole]
    assert generate(model, prompts, config, stop_ids) == stopped
    assert len({len(ids) for ids in stopped}) > 1  # they ended one after the other


def test_what_a_truncated_prompt_forgets_counts_as_having_occurred():
    model, prompt = tiny_model(), [12, *range(9), 2]
    config = SampleConfig(5, temperature=0.0, truncate="left", repetition_penalty=3.0)
    expected = penalized_without_cache(model, prompt, config)
    assert generate(model, [prompt], config) == [expected]
    window = prompt[window_start(len(prompt), 9) :]
    assert penalized_without_cache(model, window, config) != expected


def test_a_constraint_sees_each_rows_text_and_has_the_last_word():
    """A small grammar: after an even token comes an odd one, and the other way round."""
    model, prompts, met = tiny_model(), [[1, 2], [4], [6, 7, 3], [5, 5]], []

    def in_turns(logits, history):
        met.append([[*prompt, *new] for prompt, new in zip(*both(history), strict=True)])
        for row, ids in enumerate(met[-1]):
            logits[row, ids[-1] % 2 :: 2] = -math.inf
        return logits

    def both(history):
        return history.prompts, history.written

    for temperature in (0.0, 1.0):
        config = SampleConfig(20, temperature=temperature, logit_bias=((0, 100), (1, 100)))
        met.clear()
        answers = generate(model, prompts, config, stop_ids=[9], constraint=in_turns)
        for prompt, answer in zip(prompts, answers, strict=True):
            text = prompt[-1:] + answer
            assert all(a % 2 != b % 2 for a, b in itertools.pairwise(text))
        assert met[0] == sorted(prompts, key=len)  # in the order of the rows
        assert [len(rows[0]) - len(met[0][0]) for rows in met] == list(range(20))
        one = list(stream(model, prompts[0], config, [9], in_turns))
        assert one == generate(model, prompts[:1], config, [9], in_turns)[0]


def test_a_bias_for_an_unknown_token_is_refused_before_any_computing():
    config = SampleConfig(logit_bias=((13, 1.0),))
    for write in (generate, stream):
        with pytest.raises(ConfigError, match=r"token id 13 .*--logit-bias .*up to 12"):
            write(tiny_model(), [[1]] if write is generate else [1], config)


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


def test_a_finished_continuation_is_never_forgotten():
    for seed, n_beam in itertools.product((5, 20), (1, 2, 3)):  # the seed 20 tempts to forget
        model, best = tiny_model(vocab_size=5, seed=seed), -math.inf
        for n in (1, 2, 3, 4, 6):
            found = beam_search(model, [1, 2], n_beam, n, stop_ids=[3])
            assert 1 <= len(found) <= n_beam
            assert found == sorted(found, key=lambda beam: -beam[1])
            assert found[0][1] > best - 1e-4
            over = (score for ids, score in found if len(ids) < n)  # those that ended
            best = max(best, max(over, default=-math.inf))


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
    changed = {"repetition_penalty": 1.5, "frequency_penalty": 0.5}
    penalized = generate(model, prompts, dataclasses.replace(config, **changed), (5,))
    assert generate(model, prompts, dataclasses.replace(compiled, **changed), (5,)) == penalized
    assert penalized != expected


def test_one_program_makes_all_tokens(quickly_compiled):
    model = tiny_model(40)
    torch._dynamo.utils.counters.clear()
    for seed in range(3):
        generate(model, [[1, 2, 3]], SampleConfig(max_new_tokens=30, seed=seed, compile=True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
