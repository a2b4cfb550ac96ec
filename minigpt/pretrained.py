"""Open published models as this package's GPT: GPT-2, Llama 3 and Qwen3.

The computation is the same; what differs is how tensors are called and laid out, and how settings
are written down. `NAMES` and `place_of` say where each of our tensors is kept, `SETTINGS` what each
of our settings is called. What our model cannot compute as theirs does is refused, and the setting
is named: a wrong model is worse than none.

Weights are read from safetensors files alone. Knows how to write nothing; see export.py.

Sources: Radford et al. 2019 (GPT-2); Grattafiori et al. 2024 (Llama 3); Yang et al. 2025 (Qwen3);
names and settings as github.com/huggingface/transformers has them, version 5.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minigpt.chat import SPECIAL
from minigpt.gpt import ARCHITECTURES, GPT, GPTConfig
from minigpt.support.errors import CheckpointError, ConfigError
from minigpt.support.tensor_files import (
    WEIGHT_TYPES,
    OpenTensors,
    TensorFiles,
    read_object,
    wrong_type,
)
from minigpt.tokenizer import BPETokenizer, Tokenizer, load_tokenizer
from minigpt.vocabulary import AddedToken

HUB = "hf:"  # begins the name of a model to be downloaded: hf:Qwen/Qwen3-0.6B
HUB_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
HUB_WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
LONGEST_CONTEXT = 1 << 20  # positions; the table of rotations takes memory for each

# --- names and shapes ---

LLAMA_NAMES = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "blocks": "model.layers",
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
QWEN3_NAMES = LLAMA_NAMES | {
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
}
GPT2_NAMES = {
    "embedding": "transformer.wte",
    "positions": "transformer.wpe",
    "norm": "transformer.ln_f",
    "head": "lm_head",
    "blocks": "transformer.h",
    "attention_norm": "ln_1",
    "attention.query": "attn.c_attn",  # one matrix for all three
    "attention.key": "attn.c_attn",
    "attention.value": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
NAMES = {"gpt2": GPT2_NAMES, "llama": LLAMA_NAMES, "qwen3": QWEN3_NAMES}
JOINT = ("attention.query", "attention.key", "attention.value")  # in GPT-2's order
# What old files hold beside weights: masks and rotations, which are computed anyway.
NO_WEIGHTS = re.compile(r"\.attn\.(masked_)?bias$|rotary_emb\.inv_freq$")


class Place(NamedTuple):
    """Where a family keeps one of our tensors."""

    name: str
    third: int | None = None  # of a matrix that holds queries, keys and values
    transposed: bool = False  # rows are inputs, not outputs


def place_of(name: str, family: str) -> Place:
    """Return where a family keeps the parameter that our model calls `name`.

    >>> place_of("blocks.3.attention.key.weight", "gpt2")
    Place(name='transformer.h.3.attn.c_attn.weight', third=1, transposed=True)
    """
    names = NAMES[family]
    module, _, kind = name.rpartition(".")
    prefix = ""
    if module.startswith("blocks."):
        _, layer, module = module.split(".", 2)
        prefix = f"{names['blocks']}.{layer}."
    is_gpt2 = family == "gpt2"
    third = JOINT.index(module) if is_gpt2 and module in JOINT else None
    is_matrix = "." in module and kind == "weight"
    return Place(f"{prefix}{names[module]}.{kind}", third, is_gpt2 and is_matrix)


def take(tensors: OpenTensors | dict[str, Tensor], place: Place) -> Tensor:
    """Return the tensor of a place, laid out as ours are: rows are outputs."""
    tensor = tensors[place.name]
    tensor = tensor.T if place.transposed else tensor
    return tensor if place.third is None else tensor.chunk(3)[place.third]


# --- settings ---

# What a family calls our settings; what follows after the name holds where it is left out.
SETTINGS: dict[str, dict[str, tuple]] = {
    "gpt2": {
        "vocab_size": ("vocab_size",),
        "block_size": ("n_positions",),
        "n_layer": ("n_layer",),
        "n_head": ("n_head",),
        "n_embd": ("n_embd",),
        "n_hidden": ("n_inner", None),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "tie_embeddings": ("tie_word_embeddings", True),
    },
    "llama": {
        "vocab_size": ("vocab_size",),
        "block_size": ("max_position_embeddings",),
        "n_layer": ("num_hidden_layers",),
        "n_head": ("num_attention_heads",),
        "n_kv_head": ("num_key_value_heads", None),
        "n_embd": ("hidden_size",),
        "head_dim": ("head_dim", None),
        "n_hidden": ("intermediate_size",),
        "norm_eps": ("rms_norm_eps", 1e-6),
        "tie_embeddings": ("tie_word_embeddings", False),
        "biases": ("attention_bias", False),
    },
}
SETTINGS["qwen3"] = SETTINGS["llama"] | {"head_dim": ("head_dim", 128)}
# Settings that change the computation, and the values with which it is ours; the first is usual.
ONLY: dict[str, dict[str, tuple]] = {
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    "llama": {"hidden_act": ("silu", "swish"), "pretraining_tp": (1,)},
    "qwen3": {
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "use_sliding_window": (False,),
    },
}


def config_from(content: dict[str, Any], where: Path) -> GPTConfig:
    """Return our settings for what a published config.json says; CheckpointError names misfits."""
    family = content.get("model_type")
    if family not in NAMES:
        raise misfit("model_type", family, where, f"one of {', '.join(NAMES)}")
    for key, allowed in ONLY[family].items():
        if content.get(key, allowed[0]) not in allowed:
            raise misfit(key, content[key], where, repr(allowed[0]))
    if content.get("quantization_config") is not None:
        raise misfit("quantization_config", "given", where, "weights that are not quantized")
    settings = dict(ARCHITECTURES[family])
    for name, (key, *usual) in SETTINGS[family].items():
        if key not in content and not usual:
            raise CheckpointError(f"{key} is missing", str(where), "restore the file")
        settings[name] = content.get(key, *usual)
    if family != "gpt2":
        settings |= rotary_settings(content, where)
    if family == "llama" and content.get("mlp_bias", False) != settings["biases"]:
        raise misfit("mlp_bias", content.get("mlp_bias", False), where, "attention_bias's value")
    try:
        config = GPTConfig(**settings)
    except ConfigError as error:
        raise CheckpointError(error.what, str(where), error.remedy) from None
    if config.block_size > LONGEST_CONTEXT:
        key = SETTINGS[family]["block_size"][0]
        raise misfit(key, config.block_size, where, f"at most {LONGEST_CONTEXT}")
    return config


def rotary_settings(content: dict[str, Any], where: Path) -> dict[str, Any]:
    """Return our settings of rotary positions; two generations of files write them differently."""
    given = content.get("rope_parameters") or content.get("rope_scaling") or {}
    if not isinstance(given, dict):
        raise misfit("rope_parameters", given, where, "an object")
    theta = given.get("rope_theta", content.get("rope_theta", 10_000.0))
    kind = given.get("rope_type", given.get("type", "default"))
    if given.get("partial_rotary_factor", content.get("partial_rotary_factor")) not in (None, 1):
        raise misfit("partial_rotary_factor", "given", where, "1: whole heads rotate")
    if kind == "default":
        return {"rope_theta": theta}
    if kind != "llama3":
        raise misfit("rope_type", kind, where, "default or llama3")
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return {"rope_theta": theta, "rope_scaling": [given.get(key) for key in keys]}


def misfit(key: str, value: object, where: Path, wanted: str) -> CheckpointError:
    """Return the error for a model that is not one of ours."""
    what = f"the model has {key} = {str(value)[:60]!r}, which is not supported"
    return CheckpointError(what, str(where), f"use a model with {wanted}")


# --- models ---


def is_pretrained(path: Path) -> bool:
    """Tell whether a path is a published model: a folder with its config.json, or a hub's name."""
    if str(path).startswith(HUB):
        return True
    try:
        return (path / "config.json").is_file() and "model_type" in read_object(
            path / "config.json"
        )
    except (CheckpointError, OSError):
        return False  # whoever reads it as a run will say what is wrong


def load_pretrained(path: Path) -> tuple[GPT, Tokenizer]:
    """Open a published model, weights in float32, and its tokenizer.

    `path` is a folder with config.json, tokenizer.json and safetensors, or "hf:" and a name, which
    is downloaded where the package huggingface_hub is installed. Raises CheckpointError or
    DataError, each one line, for what is damaged, hostile or not one of our families.
    """
    folder = fetch(path.as_posix()[len(HUB) :]) if str(path).startswith(HUB) else path
    where = folder / "config.json"
    content = read_object(where)
    config = config_from(content, where)
    files = TensorFiles(folder)
    places = check_tensors(files, config, content["model_type"])
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    if tokenizer.vocab_size > config.vocab_size:
        what = f"{tokenizer.vocab_size} tokens, and the model knows {config.vocab_size}"
        remedy = "use the model's own tokenizer.json"
        raise CheckpointError(what, str(folder / "tokenizer.json"), remedy)
    model = GPT(config)
    with files.reading() as tensors, torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(take(tensors, places[name]))
    return model.eval(), tokenizer


def check_tensors(files: TensorFiles, config: GPTConfig, family: str) -> dict[str, Place]:
    """Return the place of each of our parameters in some files, which must hold just these.

    Names and shapes are compared before any memory is taken for weights.
    """
    found = {name: each for name, each in files.entries.items() if not NO_WEIGHTS.search(name)}
    stem = "transformer." if family == "gpt2" else "model."
    bare = "" if any(name.startswith(stem) for name in found) else stem  # what a file may leave out
    if config.n_layer > len(found):
        raise unfit(files, f"{config.n_layer} layers in config.json, {len(found)} tensors")
    with torch.device("meta"):  # shapes without memory
        parameters = dict(GPT(config).named_parameters())
    places = {name: place_of(name, family) for name in parameters}
    places = {
        name: each._replace(name=each.name.removeprefix(bare)) for name, each in places.items()
    }
    for name, parameter in parameters.items():
        place, shape = places[name], tuple(parameter.shape)
        if place.third is not None:
            shape = (3 * shape[0], *shape[1:])
        shape = shape[::-1] if place.transposed else shape
        if place.name not in found:
            raise unfit(files, f"{place.name} is missing")
        entry = found[place.name]
        if entry.dtype not in WEIGHT_TYPES:
            raise wrong_type(files.files[place.name], place.name, entry.dtype)
        if entry.shape != shape:
            raise unfit(files, f"{place.name} has the shape {entry.shape}, not {shape}")
    surplus = found.keys() - {place.name for place in places.values()}
    if config.tie_embeddings and "lm_head.weight" in surplus:  # stored twice by some programs
        check_tied(files, places["embedding.weight"].name)
        surplus -= {"lm_head.weight"}
    if surplus:
        raise unfit(files, f"{min(surplus)} is in the file and not in the model")
    return places


def check_tied(files: TensorFiles, embedding: str) -> None:
    """Refuse a head that is another matrix than the embedding, where settings say they are one."""
    with files.reading() as tensors:
        if not torch.equal(tensors["lm_head.weight"], tensors[embedding]):
            raise unfit(
                files, "lm_head.weight is not the embedding, and tie_word_embeddings is true"
            )


def unfit(files: TensorFiles, reason: str) -> CheckpointError:
    """Return the error for weights that are not those of their config.json."""
    what = f"weights do not fit the settings: {reason}"
    return CheckpointError(
        what, str(files.folder), "use the config.json that belongs to the weights"
    )


def fetch(name: str) -> Path:
    """Download a model from huggingface.co, or find it among what was downloaded before."""
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError:
        remedy = "pip install huggingface_hub, or download the model and give its folder"
        raise ConfigError("models are downloaded by huggingface_hub", HUB + name, remedy) from None
    try:
        return Path(snapshot_download(name, allow_patterns=[*HUB_FILES, *HUB_WEIGHTS]))
    except Exception as error:  # of many kinds: no network, no such model, no leave to read it
        reason = f"cannot be downloaded: {type(error).__name__}: {error}".split("\n")[0]
        remedy = "check the name and the network, or give the folder of a model"
        raise CheckpointError(reason[:300], HUB + name, remedy) from None


def pad_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Give a tokenizer the ids that its model has beyond it: they stand for no bytes.

    Published models round their vocabulary up, for speed; training never met the ids above.
    """
    tokenizer.token_bytes += [b""] * (vocab_size - tokenizer.vocab_size)
    tokenizer.vocab_size = len(tokenizer.token_bytes)


# --- learning on ---


def with_chat_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that has the special tokens of conversations too, after all its others."""
    if not isinstance(tokenizer, BPETokenizer):
        return tokenizer
    missing = [name for name in SPECIAL if name not in tokenizer.special_tokens]
    added = [AddedToken(name, tokenizer.vocab_size + n) for n, name in enumerate(missing)]
    vocabulary = tokenizer.vocabulary
    return BPETokenizer(replace(vocabulary, added=(*vocabulary.added, *added)))


def with_more_tokens(weights: dict[str, Tensor], vocab_size: int) -> dict[str, Tensor]:
    """Return weights with rows for more tokens: each new one begins as the mean of the others.

    So it is neither likely nor unlikely at first, and its logit is of the usual size.
    """
    grown = dict(weights)
    for name in ("embedding.weight", "head.weight"):
        table = weights[name]
        new = table.mean(dim=0, keepdim=True).expand(vocab_size - len(table), -1)
        grown[name] = torch.cat((table, new))
    return grown
