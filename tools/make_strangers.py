"""Make the strangers of chapter 16: tiny random models, written and computed by `transformers`.

    python tools/make_strangers.py

chapters/stored/strangers/ gets a folder for each family, as `save_pretrained` writes it, and beside
the weights `expected.safetensors`: some ids, their logits and 12 greedy tokens, all computed by
`transformers`. So the chapter has its oracle where that package is not installed.
"""

import json
from pathlib import Path

import torch
from course import ROOT
from safetensors.torch import save_file

FOLDER = ROOT / "chapters" / "stored" / "strangers"
KEPT = ("config.json", "model.safetensors")
LLAMA = {
    **{"vocab_size": 29, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6},
    "max_position_embeddings": 32,
}
SCALED = {
    **{"rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 2.0, "original_max_position_embeddings": 16},
}
SIZES = {
    "gpt2": {"vocab_size": 29, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 4},
    "llama": {**LLAMA, "tie_word_embeddings": False, "rope_parameters": SCALED},
    "qwen3": {**LLAMA, "tie_word_embeddings": True},
}


def stranger(family: str):
    """Return a random model of a family: a config and a class of `transformers`."""
    import transformers

    names = {"gpt2": "GPT2", "llama": "Llama", "qwen3": "Qwen3"}
    kind = getattr(transformers, f"{names[family]}Config")
    head = "LMHeadModel" if family == "gpt2" else "ForCausalLM"
    torch.manual_seed(16)
    model = getattr(transformers, names[family] + head)(kind(**SIZES[family])).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    return model


@torch.no_grad()
def expected(model) -> dict[str, torch.Tensor]:
    """Return ids (2, 32), their logits (2, 32, V), and 12 greedy tokens after the first 5 ids."""
    idx = torch.randint(29, (2, 32), generator=torch.Generator().manual_seed(0))
    row = idx[:1, :5]
    for _ in range(12):
        row = torch.cat((row, model(input_ids=row).logits[:, -1:].argmax(-1)), dim=1)
    return {"idx": idx, "logits": model(input_ids=idx).logits, "greedy": row[0, 5:]}


def make(family: str, folder: Path) -> None:
    """Write one stranger."""
    model = stranger(family)
    model.save_pretrained(folder)
    for path in folder.iterdir():
        if path.name not in KEPT:
            path.unlink()
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(settings, indent=1) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8", newline="\n")
    save_file(expected(model), folder / "expected.safetensors")


if __name__ == "__main__":
    for family in SIZES:
        make(family, FOLDER / family)
        print(f"{FOLDER / family}: written")
