"""Published models become ours: logits and greedy text of `transformers`, hostile files refused."""

import json
import shutil
import sys
import types
from pathlib import Path

import helpers
import pytest
import torch
from safetensors.torch import load_file, save_file

import minigpt
from minigpt import pretrained
from minigpt.chat import SPECIAL, encode_prompt
from minigpt.export import export_folder
from minigpt.generate import generate
from minigpt.gpt import ARCHITECTURES, GPT
from minigpt.pretrained import (
    NAMES,
    config_from,
    is_pretrained,
    load_pretrained,
    place_of,
    with_chat_tokens,
    with_more_tokens,
)
from minigpt.runs.run import load_config, open_run
from minigpt.sampling import SampleConfig
from minigpt.support.errors import CheckpointError, ConfigError
from minigpt.support.tensor_files import INDEX, WEIGHTS
from minigpt.tokenizer import BPETokenizer, CharTokenizer

TEXT = "Once there was a fox. 从前有一只狐狸。" * 20
WHERE = Path("config.json")
# Odd sizes, each off what another size would give; positions beyond the old context where scaled.
SIZES = {
    "gpt2": {"vocab_size": 43, "n_positions": 21, "n_embd": 15, "n_layer": 3, "n_head": 5},
    "gpt2, own width": {
        **{"vocab_size": 37, "n_positions": 13, "n_embd": 14, "n_layer": 1, "n_head": 7},
        **{"n_inner": 29, "layer_norm_epsilon": 0.01, "tie_word_embeddings": False},
    },
    "llama": {"num_key_value_heads": 3},
    "llama, tied": {"num_key_value_heads": 1, "head_dim": 14, "tie_word_embeddings": True},
    "llama, biases": {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 0.01},
    "llama, scaled": {
        "max_position_embeddings": 64,
        "rope_parameters": {
            **{"rope_type": "llama3", "rope_theta": 500.0, "factor": 5.0},
            **{"low_freq_factor": 1.0, "high_freq_factor": 3.0},
            "original_max_position_embeddings": 24,
        },
    },
    "qwen3": {"num_key_value_heads": 3, "head_dim": 6},
    "qwen3, tied": {"num_key_value_heads": 1, "head_dim": 10, "tie_word_embeddings": True},
    "qwen3, theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
}
COMMON = {
    **{"vocab_size": 43, "hidden_size": 18, "intermediate_size": 31, "num_hidden_layers": 3},
    **{"num_attention_heads": 9, "num_key_value_heads": 9, "head_dim": 2},
    **{"max_position_embeddings": 21, "tie_word_embeddings": False},
}


def theirs(name: str) -> torch.nn.Module:
    """Return a random model of `transformers`, every number of it random, norms too."""
    transformers = pytest.importorskip("transformers")
    family = name.split(",")[0]
    kinds = {
        "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    }
    sizes = SIZES[name] if family == "gpt2" else COMMON | SIZES[name]
    if sizes.get("rope_parameters", {}).get("rope_type") == "llama3":
        sizes = sizes | {"head_dim": 16}  # fast, middling and slow pairs
    kind, model_kind = kinds[family]
    torch.manual_seed(0)
    model = model_kind(kind(**sizes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    return model


def save(model: torch.nn.Module, folder: Path, **options) -> Path:
    model.save_pretrained(folder, **options)
    vocab_size = model.config.vocab_size
    characters = [chr(0x4E00 + n) for n in range(vocab_size - 2)]
    CharTokenizer.train(["".join(characters)]).save(folder / "tokenizer.json")
    return folder


@torch.no_grad()
def logits_of(model, idx):
    return model(input_ids=idx).logits if hasattr(model.config, "model_type") else model(idx)[0]


@pytest.mark.parametrize("name", SIZES)
def test_logits_and_64_greedy_tokens_are_those_of_transformers(name, tmp_path):
    model = theirs(name)
    ours, tokenizer = load_pretrained(save(model, tmp_path))
    block_size = ours.config.block_size
    assert tokenizer.vocab_size == model.config.vocab_size
    idx = torch.randint(model.config.vocab_size, (3, block_size))
    expected = logits_of(model, idx)
    assert expected.std() > 0.3
    torch.testing.assert_close(logits_of(ours, idx), expected, atol=1e-5, rtol=1e-5)
    row = idx[:1, :2]
    while row.size(1) < min(66, block_size):
        row = torch.cat((row, logits_of(model, row)[:, -1:].argmax(-1)), dim=1)
    config = SampleConfig(row.size(1) - 2, temperature=0.0)
    assert generate(ours, [row[0, :2].tolist()], config) == [row[0, 2:].tolist()]


def test_the_longest_of_them_writes_64_tokens():
    assert SIZES["llama, scaled"]["max_position_embeddings"] >= 64


def test_scaling_changes_what_is_far(tmp_path):
    model = theirs("llama, scaled")
    folder = save(model, tmp_path)
    ours = load_pretrained(folder)[0]
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    settings["rope_parameters"] = {"rope_type": "default", "rope_theta": 500.0}
    (folder / "config.json").write_text(json.dumps(settings), "utf-8")
    plain = load_pretrained(folder)[0]
    idx = torch.randint(model.config.vocab_size, (2, 64))
    assert (logits_of(ours, idx) - logits_of(plain, idx)).abs().max() > 0.01


@pytest.mark.parametrize("name", ["gpt2", "llama, tied", "qwen3"])
def test_several_files_are_one_model(name, tmp_path):
    model = theirs(name)
    whole = load_pretrained(save(model, tmp_path / "whole"))[0]
    folder = save(model, tmp_path / "parts", max_shard_size="4KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    parts = load_pretrained(folder)[0]
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_exactly(dtype, tmp_path):
    model = theirs("qwen3").to(dtype)
    ours = load_pretrained(save(model, tmp_path))[0]
    assert ours.embedding.weight.dtype == torch.float32
    assert torch.equal(ours.embedding.weight, model.model.embed_tokens.weight.float())


def test_old_files_of_gpt2_have_no_prefix_and_masks_beside_weights(tmp_path):
    model = theirs("gpt2")
    folder = save(model, tmp_path)
    expected = load_pretrained(folder)[0]
    tensors = load_file(folder / WEIGHTS)
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old["h.0.attn.bias"] = torch.ones(1, 1, 21, 21, dtype=torch.bool).tril()
    save_file(old, folder / WEIGHTS)
    for a, b in zip(expected.parameters(), load_pretrained(folder)[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_rotary_settings_of_version_4_and_5_are_the_same():
    base = COMMON | {"model_type": "llama"}
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    old = base | {"rope_theta": 5e5, "rope_scaling": scaling | {"rope_type": "llama3"}}
    new = base | {"rope_parameters": scaling | {"rope_type": "llama3", "rope_theta": 5e5}}
    assert config_from(old, WHERE) == config_from(new, WHERE)
    assert config_from(old, WHERE).rope_scaling == (8.0, 1.0, 4.0, 8192.0)


@pytest.mark.parametrize(("name", "family"), [("gpt2", "gpt2"), ("qwen3", "qwen3")])
def test_each_name_has_one_place(name, family):
    model = GPT(config_from(SIZES["gpt2"] | {"model_type": "gpt2"}, WHERE))
    if family != "gpt2":
        model = GPT(config_from(COMMON | {"model_type": family}, WHERE))
    places = [place_of(each, family)[:2] for each, _ in model.named_parameters()]
    assert len(set(places)) == len(places)
    assert (
        len(NAMES[family].values())
        >= len({name for name, _ in model.blocks[0].named_modules()}) / 2
    )


# --- what is not ours ---


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mixtral"}, "model_type = 'mixtral'"),
        ({"model_type": "gpt2"}, "n_positions is missing"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"pretraining_tp": 2}, "pretraining_tp = '2'"),
        ({"attention_bias": True}, "mlp_bias = 'False'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type = 'linear'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "rope_scaling = "),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": 7}, "rope_parameters = '7'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": "18"}, "n_embd = '18'"),
        ({"num_key_value_heads": 4}, "n_kv_head = 4"),
        ({"max_position_embeddings": 1 << 21}, "max_position_embeddings = '2097152'"),
        ({"model_type": "qwen3", "use_sliding_window": True}, "use_sliding_window = 'True'"),
    ],
)
def test_what_our_model_cannot_compute_is_refused_by_name(changes, words):
    with pytest.raises(CheckpointError) as error:
        config_from(COMMON | {"model_type": "llama"} | changes, WHERE)
    assert words in str(error.value)
    assert str(error.value).count(" — ") == 2


# --- hostile and damaged files ---


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A folder that we exported ourselves: it needs no other package."""
    folder = tmp_path_factory.mktemp("good")
    tokenizer = BPETokenizer.train([TEXT], 290, special_tokens=SPECIAL)
    model = helpers.random_model(vocab_size=tokenizer.vocab_size, block_size=64)
    export_folder(model, tokenizer, folder)
    return folder


@pytest.fixture
def folder(good, tmp_path) -> Path:
    return shutil.copytree(good, tmp_path / "model")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_pretrained(folder)
    assert str(error.value).count(" — ") == 2
    return str(error.value)


def change(folder: Path, work) -> None:
    """Rewrite the weights of a folder as `work` changes them."""
    tensors = load_file(folder / WEIGHTS)
    work(tensors)
    save_file(tensors, folder / WEIGHTS)


def split(folder: Path) -> dict:
    """Cut the weights in two files with an index; return the index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = {name: f"model-{n % 2}.safetensors" for n, name in enumerate(tensors)}
    for file in set(names.values()):
        save_file({k: v for k, v in tensors.items() if names[k] == file}, folder / file)
    write_index(folder, names)
    return names


def write_index(folder: Path, names: dict) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": names}), "utf-8")


QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda t: t.pop(QUERY), f"{QUERY} is missing"),
        (lambda t: t.update(extra=torch.zeros(3)), "extra is in the file and not in the model"),
        (lambda t: t.update({QUERY: torch.zeros(24, 25)}), "has the shape (24, 25), not (24, 24)"),
        (lambda t: t.update({QUERY: torch.zeros(576)}), "has the shape (576,)"),
        (lambda t: t.update({QUERY: torch.zeros(24, 24).long()}), "has the type 'I64'"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(290, 24)}), "is not the embedding"),
    ],
)
def test_tensors_that_are_not_those_of_the_settings(folder, work, words):
    change(folder, work)
    assert words in refusal(folder)


def test_a_head_that_is_stored_though_tied_is_taken_where_it_is_the_embedding(folder):
    change(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert load_pretrained(folder)[0].head.weight.shape == (290, 24)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_a_pickle_is_not_opened(folder, name):
    (folder / WEIGHTS).rename(folder / name)
    assert f"{name} is a pickle, which can run any program" in refusal(folder)


def test_no_weights_at_all(folder):
    (folder / WEIGHTS).unlink()
    assert f"no {WEIGHTS}" in refusal(folder)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "C:x.safetensors", 7]
)
def test_an_index_names_only_files_of_its_folder(folder, name):
    names = split(folder)
    assert load_pretrained(folder)[0]
    helpers.write(folder.parent / "x.safetensors", (folder / "model-0.safetensors").read_bytes())
    write_index(folder, names | {QUERY: name})
    assert "which is no file of its folder" in refusal(folder)


def test_an_index_that_is_wrong(folder):
    names = split(folder)
    other = {
        "model-0.safetensors": "model-1.safetensors",
        "model-1.safetensors": "model-0.safetensors",
    }
    write_index(folder, names | {QUERY: other[names[QUERY]]})
    assert f"{QUERY} is said to be in {other[names[QUERY]]}, and is in {names[QUERY]}" in refusal(
        folder
    )
    write_index(folder, {name: file for name, file in names.items() if name != QUERY})
    assert f"{QUERY} is said to be in no file" in refusal(folder)
    write_index(folder, names | {"extra": "model-0.safetensors"})
    assert "extra is said to be in model-0.safetensors, and is in no file" in refusal(folder)
    write_index(folder, names | {QUERY: "model-9.safetensors"})
    assert "cannot be read" in refusal(folder)
    write_index(folder, {})
    assert "no weight_map" in refusal(folder)


def test_a_tensor_in_two_files(folder):
    names = split(folder)
    first, second = sorted(set(names.values()))
    both = load_file(folder / first)
    name = min(both)
    save_file(load_file(folder / second) | {name: both[name]}, folder / second)
    assert f"{name} is also in {first}" in refusal(folder)


@pytest.mark.parametrize("settings", ["[", "[]", '{"a": 1, "a": 2}', '"x"', "[" * 100_000])
def test_settings_that_are_no_object(folder, settings):
    (folder / "config.json").write_text(settings, "utf-8")
    assert "JSON" in refusal(folder)
    assert not is_pretrained(folder)


def test_a_model_with_more_layers_than_tensors_takes_no_memory(folder):
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    settings["num_hidden_layers"] = 10**9
    (folder / "config.json").write_text(json.dumps(settings), "utf-8")
    assert "1000000000 layers in config.json" in refusal(folder)


def test_a_tokenizer_with_more_tokens_than_the_model(folder):
    BPETokenizer.train([TEXT * 2, "other words, entirely"], 310).save(folder / "tokenizer.json")
    assert "tokens, and the model knows 290" in refusal(folder)


# --- one door for all commands ---


def test_a_folder_opens_as_a_run_does(folder, capsys):
    model = minigpt.load(folder, "cpu")
    assert str(folder) in repr(model)
    text = model.write("Once", max_new_tokens=8, temperature=0.0)
    words = ["--checkpoint", folder, "--max-new-tokens", 8, "--temperature", 0]
    before = sorted(folder.iterdir())
    assert helpers.run(capsys, "generate", *words, "--prompt", "Once")[:2] == (0, f"{text}\n")
    assert helpers.run(capsys, "chat", *words, "--message", "Hello")[0] == 0
    story = helpers.write(folder.parent / "story.txt", TEXT)
    code, out, err = helpers.run(capsys, "evaluate", "--checkpoint", folder, "--text", story)
    assert code == 0, err
    assert "bits per byte" in out
    line = helpers.refused(capsys, "evaluate", "--checkpoint", folder)
    assert "a published model comes without a validation text" in line
    assert sorted(folder.iterdir()) == before  # nothing is written beside a published model


EXAMPLES = [{"prompt": f"Say {n}.", "answer": f"{n}!"} for n in range(12)]
TUNE = ["--max-steps", 2, "--batch-size", 2, "--device", "cpu"]


def tune(capsys, folder: Path, out: Path, *more) -> None:
    lines = "".join(json.dumps(example) + "\n" for example in EXAMPLES)
    examples = helpers.write(out.parent / "examples.jsonl", lines)
    words = ["--checkpoint", folder, "--data", examples, "--out", out, *TUNE, *more]
    code, _, err = helpers.run(capsys, "finetune", *words)
    assert code == 0, err


def test_finetune_learns_on_from_a_folder_and_its_run_is_a_run(folder, tmp_path, capsys):
    tune(capsys, folder, tmp_path / "tuned")
    run = open_run(tmp_path / "tuned", "cpu")
    assert run.step == 2
    assert not run.is_published
    assert run.tokenizer.fingerprint == open_run(folder, "cpu").tokenizer.fingerprint


def gpt2_folder(folder: Path) -> Path:
    """A model of GPT-2's family whose tokenizer knows no conversations, as GPT-2's does not."""
    tokenizer = BPETokenizer.train([TEXT], 290)
    sizes = {"vocab_size": tokenizer.vocab_size, "block_size": 128}
    export_folder(helpers.random_model(**{**ARCHITECTURES["gpt2"], **sizes}), tokenizer, folder)
    return folder


def test_a_model_that_knows_no_conversations_gains_their_tokens(tmp_path, capsys):
    folder = gpt2_folder(tmp_path / "gpt2")
    assert "no special tokens" in helpers.refused(
        capsys, "chat", "--checkpoint", folder, "--message", "Hello"
    )
    tune(capsys, folder, tmp_path / "tuned")
    run = open_run(tmp_path / "tuned", "cpu")
    assert run.model.config.vocab_size == run.tokenizer.vocab_size == 294
    base = open_run(folder, "cpu")
    assert run.tokenizer.encode(TEXT) == base.tokenizer.encode(TEXT)
    ids = encode_prompt([{"role": "user", "content": "a"}], run.tokenizer)
    assert ids[0] == run.tokenizer.special_tokens["<|user|>"] >= 290


def test_new_rows_are_the_mean_and_the_old_ones_stay():
    weights = {"embedding.weight": torch.randn(5, 3), "head.weight": torch.randn(5, 3)}
    grown = with_more_tokens(weights | {"other": torch.ones(2)}, 7)
    for name, table in weights.items():
        assert torch.equal(grown[name][:5], table)
        torch.testing.assert_close(grown[name][5:], table.mean(0).expand(2, 3))
    assert torch.equal(grown["other"], torch.ones(2))
    characters = CharTokenizer.train(["abc"])
    assert with_chat_tokens(characters) is characters


def test_a_long_context_is_shortened_to_be_trained(tmp_path, capsys, monkeypatch):
    tokenizer = BPETokenizer.train([TEXT], 290, special_tokens=SPECIAL)
    model = helpers.random_model(vocab_size=tokenizer.vocab_size, block_size=1000)
    export_folder(model, tokenizer, tmp_path / "long")
    monkeypatch.setattr("minigpt.finetune.LONGEST_CONTEXT", 50)
    tune(capsys, tmp_path / "long", tmp_path / "tuned")
    assert load_config(tmp_path / "tuned").model.block_size == 50


def test_ids_beyond_the_tokenizer_are_nothing(folder):
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    settings["vocab_size"] = 320
    (folder / "config.json").write_text(json.dumps(settings), "utf-8")
    name = "model.embed_tokens.weight"
    change(folder, lambda t: t.update({name: torch.cat((t[name], torch.zeros(30, 24)))}))
    run = open_run(folder, "cpu")
    assert run.tokenizer.vocab_size == 320
    assert run.tokenizer.decode([319, *run.tokenizer.encode("fox")]) == "fox"
    assert run.tokenizer.fingerprint  # still that of the file


# --- by name ---


def test_a_name_is_downloaded_by_the_hub_package(folder, monkeypatch):
    asked = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(folder)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    run = open_run(Path("hf:Someone/Some-Model"), "cpu")
    assert run.is_published
    ((name, patterns),) = asked
    assert name == "Someone/Some-Model"
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in patterns)


def test_without_the_package_or_the_network_one_line_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="pip install huggingface_hub"):
        open_run(Path("hf:a/b"))

    def fails(name: str, allow_patterns: list[str]) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=fails)
    )
    line = helpers.refused(capsys, "generate", "--checkpoint", "hf:a/b")
    assert "cannot be downloaded: OSError: no route — hf:a/b" in line


def test_a_name_that_only_looks_like_one_goes_nowhere(monkeypatch):
    monkeypatch.setattr(pretrained, "fetch", lambda name: pytest.fail("the network was asked"))
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_run(Path("runs/my"))
