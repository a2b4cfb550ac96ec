"""Write a model for other programs: a folder that `transformers` and vLLM open, or a GGUF file.

The folder is what is published on huggingface.co: config.json, model.safetensors, tokenizer.json
and what tells a program how to write and chat. GGUF is the one file of llama.cpp and of the
programs built on it; it is written by the package `gguf`. Weights are written in float32, bit for
bit. A model or a tokenizer that cannot be expressed is refused, and the setting is named.

Sources: github.com/huggingface/transformers, version 5; github.com/ggml-org/ggml, docs/gguf.md.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from minigpt.bpe import GPT2_PATTERN, GPT4_PATTERN, PATTERN
from minigpt.chat import ROLES, ChatFormat, can_chat, chat_format
from minigpt.classification import refuse_classifier
from minigpt.gpt import ARCHITECTURES, GPT, GPTConfig, ResolvedConfig
from minigpt.layers import llama3_slowdown
from minigpt.pretrained import SETTINGS, place_of
from minigpt.quantize import refuse_quantized
from minigpt.support.errors import ConfigError
from minigpt.support.files import atomic_write
from minigpt.support.tensor_files import WEIGHTS
from minigpt.tokenizer import BPETokenizer, Tokenizer
from minigpt.vocabulary import to_symbols

CLASSES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
HF_FILES = (
    *("config.json", "generation_config.json", WEIGHTS, "tokenizer.json"),
    *("tokenizer_config.json", "chat_template.jinja"),
)
GGUF_FILE = "model.gguf"

# --- which family a model belongs to ---


def family_of(config: GPTConfig) -> str:
    """Return the published family that computes what a model computes.

    Raises ConfigError that names what keeps the nearest family from it.
    """
    misfits = {family: differences(config.resolved(), family) for family in ARCHITECTURES}
    family = min(misfits, key=lambda name: len(misfits[name]))
    if misfits[family]:
        raise ConfigError(
            f"no published family has a model like this; {family} comes nearest, but for "
            f"{', '.join(misfits[family])}",
            "export",
            "train a model with the usual architecture, which is that of qwen3",
        )
    return family


def differences(c: ResolvedConfig, family: str) -> list[str]:
    """Return the settings, with their values, that a family cannot express."""
    fixed = ["norm", "mlp", "positions", "window", "qk_norm"]
    fixed += [] if family == "llama" else ["biases"]
    usual = GPTConfig(vocab_size=1, **ARCHITECTURES[family])
    found = [
        f"{name} = {getattr(c, name)!r}"
        for name in fixed
        if getattr(c, name) != getattr(usual, name)
    ]
    if family == "gpt2" and c.n_kv_head != c.n_head:
        found.append(f"n_kv_head = {c.n_kv_head}")
    if family == "gpt2" and c.head_dim * c.n_head != c.n_embd:
        found.append(f"head_dim = {c.head_dim}")
    return found


# --- a folder for transformers ---


def export_folder(model: GPT, tokenizer: Tokenizer, out: Path) -> str:
    """Write a model and its tokenizer as `transformers` reads them; return the family's name."""
    refuse_classifier(model, "be exported")
    refuse_quantized(model, "be exported")
    family = family_of(model.config)
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {
        "config.json": config_json(model.config, family, tokenizer),
        "generation_config.json": {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": end_ids(tokenizer),
            "pad_token_id": tokenizer.eot_id,
            "do_sample": False,
        },
        "tokenizer_config.json": tokenizer_json(model.config, tokenizer),
    }
    for name, content in files.items():
        atomic_write(out / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    tokenizer.save(out / "tokenizer.json")
    if can_chat(tokenizer):
        atomic_write(out / "chat_template.jinja", chat_template(chat_format(tokenizer)) + "\n")
    save_file(family_weights(model, family), out / WEIGHTS, metadata={"format": "pt"})
    return family


def family_weights(model: GPT, family: str) -> dict[str, Tensor]:
    """Return a model's weights under the names and in the layout of a family."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():  # a tied head comes once, as the embedding
        place, tensor = place_of(name, family), parameter.detach().cpu()
        parts.setdefault(place.name, []).append(tensor.T if place.transposed else tensor)
    return {name: torch.cat(found, dim=-1).contiguous() for name, found in parts.items()}


def config_json(config: GPTConfig, family: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return config.json; rotary settings in the words of both generations of readers."""
    values = dataclasses.asdict(config.resolved())
    content = {
        "model_type": family,
        "architectures": [CLASSES[family]],
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": end_ids(tokenizer)[0],
        "pad_token_id": tokenizer.eot_id,
        "torch_dtype": "float32",
        "dtype": "float32",
        "use_cache": True,
    }
    content |= {key: values[name] for name, (key, *_) in SETTINGS[family].items()}
    if family == "gpt2":
        dropped = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        return content | dropped | {"activation_function": "gelu_new"}
    content |= {"hidden_act": "silu", "attention_dropout": 0.0, "attention_bias": config.biases}
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling is not None:
        keys = ("factor", "low_freq_factor", "high_freq_factor")
        rope = {"rope_type": "llama3", **dict(zip(keys, config.rope_scaling, strict=False))}
        rope["original_max_position_embeddings"] = int(config.rope_scaling[3])
        content["rope_scaling"] = dict(rope)
    content["rope_theta"] = config.rope_theta
    content["rope_parameters"] = rope | {"rope_theta": config.rope_theta}
    if family == "llama":
        return content | {"mlp_bias": config.biases}
    no_window = {"use_sliding_window": False, "sliding_window": None}
    return content | no_window | {"max_window_layers": config.n_layer}


def tokenizer_json(config: GPTConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return tokenizer_config.json: which special token begins, ends and pads."""
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names[tokenizer.bos_id],
        "eos_token": names[end_ids(tokenizer)[0]],
        "pad_token": names[tokenizer.eot_id],
        "model_max_length": config.block_size,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
    }


def end_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids at which a text is over; the end of an answer comes first."""
    ids = [tokenizer.eot_id]
    if can_chat(tokenizer):
        ids.insert(0, tokenizer.special_tokens[chat_format(tokenizer).end])
    return ids


def chat_template(form: ChatFormat, marks_answers: bool = True) -> str:
    """Return a chat format as the Jinja template by which `transformers` writes conversations.

    marks_answers: tell `transformers` what the assistant said, as fine-tuning there asks for it;
    other programs may not know that statement.
    """

    def quoted(text: str) -> str:
        return "'" + text.replace("\n", "\\n") + "'"

    asks = quoted(form.opening.replace("{role}", "assistant"))
    before, _, behind = form.opening.partition("{role}")
    opening = f"{quoted(before)} + message['role'] + {quoted(behind)}"
    said = f"(message['content']{' | trim' if form.trims else ''}) + {quoted(form.end)}"
    begin, end = ("{% generation %}", "{% endgeneration %}") if marks_answers else ("", "")
    return "".join(
        [
            f"{{{{- {quoted(form.begin)} }}}}" if form.begin else "",
            "{%- for message in messages %}",
            f"{{%- if message['role'] not in {list(ROLES)} %}}",
            "{{- raise_exception('unknown role ' + message['role']) }}{%- endif %}",
            f"{{{{- {opening} }}}}",
            f"{{%- if message['role'] == 'assistant' %}}{begin}{{{{- {said} }}}}{end}",
            f"{{%- else %}}{{{{- {said} }}}}{{%- endif %}}",
            f"{{{{- {quoted(form.after)} }}}}" if form.after else "",
            "{%- endfor %}",
            f"{{%- if add_generation_prompt %}}{{{{- {asks} }}}}{{%- endif %}}",
        ]
    )


# --- a file for llama.cpp ---

# The patterns that llama.cpp knows, by its names for them.
GGUF_PATTERNS = {PATTERN: "qwen2", GPT4_PATTERN: "llama-bpe", GPT2_PATTERN: "gpt-2"}
GGUF_NAMES = {
    "embedding": "token_embd",
    "positions": "position_embd",
    "norm": "output_norm",
    "head": "output",
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
}


def export_gguf(model: GPT, tokenizer: Tokenizer, path: Path) -> str:
    """Write a model and its tokenizer as one GGUF file in float32; return the family's name."""
    refuse_classifier(model, "be exported")
    refuse_quantized(model, "be exported")
    try:
        import gguf  # pyright: ignore[reportMissingImports]
    except ImportError:
        remedy = "pip install minigpt-course[gguf]"
        raise ConfigError("GGUF files are written by the package gguf", "export", remedy) from None
    family = family_of(model.config)
    kind = check_gguf(model.config, tokenizer, family)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    writer = gguf.GGUFWriter(temporary, family)
    write_settings(writer, model.config)
    assert isinstance(tokenizer, BPETokenizer)
    write_vocabulary(writer, tokenizer, model.config.vocab_size, kind)
    for name, tensor in gguf_weights(model, family).items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.replace(path)
    return family


def check_gguf(config: GPTConfig, tokenizer: Tokenizer, family: str) -> str:
    """Return llama.cpp's name for how a tokenizer cuts text; refuse what it cannot express."""
    if not isinstance(tokenizer, BPETokenizer):
        remedy = "use a model with --tokenizer bpe, or --format hf"
        raise ConfigError("GGUF knows no vocabulary of characters", "export", remedy)
    vocabulary = tokenizer.vocabulary
    kind = GGUF_PATTERNS.get(vocabulary.pattern)
    misfits = {
        "a pattern that llama.cpp does not know": kind is None,
        "rope_scaling in a model that is not of Llama's family": bool(
            config.rope_scaling and family != "llama"
        ),
        "biases in a model of Llama's family": config.biases and family == "llama",
        "ignore_merges, which llama.cpp ties to the pattern": vocabulary.ignore_merges
        != (kind == "llama-bpe"),
    }
    for what, holds in misfits.items():
        if holds:
            raise ConfigError(f"GGUF cannot express {what}", "export", "use --format hf")
    assert kind is not None
    return kind


def write_settings(writer: Any, config: GPTConfig) -> None:
    """Write a model's sizes under llama.cpp's names."""
    c = config.resolved()
    writer.add_name("minigpt")
    writer.add_context_length(c.block_size)
    writer.add_embedding_length(c.n_embd)
    writer.add_block_count(c.n_layer)
    writer.add_feed_forward_length(c.n_hidden)
    writer.add_head_count(c.n_head)
    writer.add_head_count_kv(c.n_kv_head)
    if c.norm == "layer":
        writer.add_layer_norm_eps(c.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(c.norm_eps)
        writer.add_rope_freq_base(c.rope_theta)
        writer.add_rope_dimension_count(c.head_dim)
        writer.add_key_length(c.head_dim)
        writer.add_value_length(c.head_dim)
    writer.add_vocab_size(c.vocab_size)
    writer.add_file_type(0)  # all in float32


def write_vocabulary(writer: Any, tokenizer: BPETokenizer, vocab_size: int, kind: str) -> None:
    """Write tokens, merges, special tokens and the chat template."""
    from gguf import TokenType  # pyright: ignore[reportMissingImports]

    vocabulary = tokenizer.vocabulary
    tokens = [f"[PAD{number}]" for number in range(vocab_size)]  # of an id that no token has
    types = [TokenType.UNUSED] * vocab_size
    for data, number in vocabulary.ids.items():
        tokens[number], types[number] = to_symbols(data), TokenType.NORMAL
    for token in vocabulary.added:
        special = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
        tokens[token.id], types[token.id] = token.content, special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{to_symbols(a)} {to_symbols(b)}" for a, b in vocabulary.merges])
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(end_ids(tokenizer)[0])
    writer.add_pad_token_id(tokenizer.eot_id)
    writer.add_add_bos_token(False)
    if can_chat(tokenizer):
        writer.add_chat_template(chat_template(chat_format(tokenizer), marks_answers=False))


def gguf_weights(model: GPT, family: str) -> dict[str, Tensor]:
    """Return a model's weights under llama.cpp's names: its matrices lie as ours do."""
    c, found = model.config, {}
    for name, parameter in model.named_parameters():
        module, _, kind = name.rpartition(".")
        prefix = ""
        if module.startswith("blocks."):
            _, layer, module = module.split(".", 2)
            prefix = f"blk.{layer}."
        tensor = parameter.detach().cpu().contiguous()
        if family == "llama" and module in ("attention.query", "attention.key"):
            tensor = interleaved(tensor, c.head_dim)
        found[f"{prefix}{GGUF_NAMES[module]}.{kind}"] = tensor
    if family == "gpt2":
        found = joined(found, c.n_layer)
    if c.rope_scaling is not None:
        slowdown = llama3_slowdown(c.head_dim, c.rope_theta, *c.rope_scaling)
        found["rope_freqs.weight"] = slowdown
    return found


def interleaved(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows of a matrix (H * D, C) so that the two of each rotated pair are neighbors.

    Ours, like those of `transformers`, lie half a head apart; llama.cpp's for Llama side by side.
    """
    halves = weight.unflatten(0, (-1, 2, head_dim // 2))  # (H, 2, D/2, C)
    return halves.transpose(1, 2).flatten(0, 2).contiguous()


def joined(weights: dict[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    """Put queries, keys and values of each layer into one matrix, as GPT-2 has them."""
    for layer in range(n_layer):
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"blk.{layer}.attn_{part}.{kind}") for part in "qkv"]
            weights[f"blk.{layer}.attn_qkv.{kind}"] = torch.cat(parts)
    return weights
