"""Compiled steps: the same tokens, one program for each form (growing caches: test_generate)."""

import copy
import dataclasses
import shutil

import pytest
import torch
from helpers import tiny_model

from minigpt.generate import generate
from minigpt.machine import compiling
from minigpt.sampling import SampleConfig
from minigpt.support.errors import ConfigError


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="there is no C++ compiler")
def test_truly_compiled_steps_give_the_same_for_models_of_several_forms_in_turns():
    """Steps do not check whose program they run: models are told apart when a text begins."""
    torch._dynamo.reset()
    compiling.compile_program.cache_clear()
    models = [
        tiny_model(9),
        tiny_model(9, seed=1),
        tiny_model(9, n_embd=16),
        tiny_model(9, norm="layer", biases=True),
    ]
    for name, parameter in models[-1].named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    by_columns = copy.deepcopy(models[0])
    for linear in (m for m in by_columns.modules() if isinstance(m, torch.nn.Linear)):
        linear.weight.data = linear.weight.data.T.contiguous().T
    config = SampleConfig(max_new_tokens=20, temperature=0)
    for _ in range(2):
        for model in (*models, by_columns):
            expected = generate(model, [[1, 2, 3]], config)
            compiled = generate(model, [[1, 2, 3]], dataclasses.replace(config, compile=True))
            assert compiled == expected
    assert compiling.compile_program.cache_info().currsize == 4  # two share one


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="there is no C++ compiler")
def test_truly_compiled_steps_notice_that_rows_have_ended():
    """The program compares no sizes itself: torch must choose another when the cache changes."""
    torch._dynamo.reset()
    compiling.compile_program.cache_clear()
    model, prompts = tiny_model(9), [[1, 2, 3], [4, 5, 6], [7]]
    config = SampleConfig(max_new_tokens=20, seed=3)
    expected = generate(model, prompts, config, stop_ids=(5,))
    assert len({len(row) for row in expected}) > 1
    compiled = dataclasses.replace(config, compile=True)
    for _ in range(2):  # back to three rows, too
        assert generate(model, prompts, compiled, stop_ids=(5,)) == expected


def test_a_form_is_all_but_the_weights():
    model = tiny_model()
    assert compiling.program_key(model) == compiling.program_key(tiny_model(seed=1))
    for other in (
        tiny_model(n_embd=16),
        tiny_model(norm="layer"),
        tiny_model(mlp="gelu"),
        tiny_model(norm_eps=1e-3),
        tiny_model().double(),
    ):
        assert compiling.program_key(other) != compiling.program_key(model)
    model.blocks[0].mlp.down = torch.nn.Sequential(model.blocks[0].mlp.down)
    assert compiling.program_key(model) != compiling.program_key(tiny_model())


def test_without_a_compiler_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    config = SampleConfig(compile=True)
    with pytest.raises(ConfigError, match=r"C\+\+ compiler.*leave --compile out"):
        generate(tiny_model(), [[1]], config)


def test_what_a_user_declared_as_changing_stays():
    with torch.compiler.config.patch(dynamic_sources="L['x']"):
        for n in range(2):
            compiling.compile_program(print, n, "cpu")
            assert torch.compiler.config.dynamic_sources == f"L['x'],{compiling.GROWING}"
