"""The course as data: modules in reading order, and the chapters that build them."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Reading order = import order: a module may import only from modules above it. Flat modules are
# what the course teaches; the files of a folder ("room") stand together, those of `storyworld`
# apart: its world is told in chapter 5, its exam needs a model.
# The numbers are the chapters that build the module; () is plumbing that no chapter derives.
MODULES: dict[str, tuple[int, ...]] = {
    "support.errors": (),
    "support.console": (),
    "support.settings": (),
    "support.files": (),
    "support.signals": (),
    "support.lock": (10,),
    "support.tensor_files": (16,),
    "support.plots": (),
    "autograd": (1, 2),
    "optim": (3,),
    "nn": (4,),
    "metrics": (4, 7, 17, 18, 22),
    "storyworld": (5,),
    "data.foreign": (),
    "data.decoding": (5,),
    "data.sniffing": (),
    "data.json_records": (),
    "data.formats": (5,),
    "data.records": (5,),
    "data.archives": (5,),
    "data.download": (5,),
    "data.sources": (5,),
    "data.discovery": (5,),
    "data.corpus": (5,),
    "data.corpora": (5,),
    "data.splitting": (5,),
    "data.dedup": (5,),
    "data.cleaning": (5,),
    "bpe": (6,),
    "machine.chunks": (6,),
    "machine.pieces": (6,),
    "cohesion": (6,),
    "vocabulary": (6,),
    "tokenizer": (6,),
    "streaming": (6, 11),
    "chat": (18,),
    "ngram": (7,),
    "embeddings": (7,),
    "batching.token_files": (10,),
    "batching.prepare": (),
    "batching.windows": (10,),
    "batching.layouts": (),
    "batching.messages": (),
    "batching.examples": (),
    "batching.pairs": (),
    "batching.conversations": (18,),
    "batching.packing": (18,),
    "batching.mixture": (18,),
    "cache": (11,),
    "machine.device": (12,),
    "machine.kernels": (12,),
    "machine.optimizer": (),
    "machine.sorting": (12,),
    "machine.distributed": (13,),
    "machine.cluster": (13,),
    "machine.compiling": (12,),
    "attention": (8, 9, 11, 15),
    "layers": (9, 15),
    "moe": (15,),
    "gpt": (9, 15),
    "counts": (9,),
    "classification": (17,),
    "muon": (15,),
    "lora": (19,),
    "quantize": (23,),
    "distillation": (23,),
    "recipe": (10,),
    "pretrained": (16,),
    "runs.upgrades": (),
    "runs.checkpoint": (10,),
    "runs.shipped": (),
    "runs.resume": (10,),
    "runs.side_files": (),
    "runs.adapters": (19,),
    "runs.quantized": (23,),
    "runs.planning": (12,),
    "runs.run": (),
    "runs.findings": (),
    "runs.report": (22,),
    "runs.summary": (),
    "validation": (10,),
    "trainer": (10,),
    "train": (10,),
    "sampling": (11,),
    "generate": (11,),
    "speculative": (23,),
    "conversation": (18,),
    "api": (),
    "export": (16,),
    "scaling": (14,),
    "baselines": (22,),
    "runs.goals": (),
    "finetune": (17, 18),
    "preference": (20,),
    "rl": (21,),
    "scoring": (22,),
    "evaluate": (22,),
    "choices": (22,),
    "comparison": (22,),
    "calibration": (22,),
    "contamination": (22,),
    "tasks": (22,),
    "storyworld.told": (22,),
    "storyworld.exam": (22,),
    "storyworld.corpus": (22,),
    "alignment.rewards": (),
    "alignment.measures": (),
    "alignment.dpo": (),
    "alignment.grpo": (),
    "alignment.stories": (),
    "engine": (24,),
    "openai_api": (),
    "serve": (24,),
    "pictures": (),
    "vision": (25,),
    "checks": (),
    "classroom": (),
    "commands": (),
    "__main__": (),
}


def place(module: str) -> str | None:
    """Return the entry of MODULES that a dotted module belongs to: storyworld.tell -> storyworld.

    None where the course has no such module.
    """
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in MODULES), None)


# Modules whose every definition appears at most once, in the chapter that completes it.
SHOWN_ONCE = {
    "autograd",
    "optim",
    "nn",
    "metrics",
    "bpe",
    "vocabulary",
    "tokenizer",
    "streaming",
    "ngram",
    "embeddings",
    "batching.token_files",
    "batching.windows",
    "cache",
    "attention",
    "layers",
    "gpt",
    "moe",
    "muon",
    "recipe",
    "validation",
    "trainer",
    "train",
    "sampling",
    "generate",
    "lora",
    "preference",
    "rl",
    "quantize",
}

# Rooms, modules and single names that any chapter may import before (or without) explaining them.
IMPORT_ONLY = frozenset(
    {
        "support",
        "storyworld",
        "runs.run",
        "runs.report",
        "checks",
        "machine.chunks",
        "machine.pieces",
        "machine.device",
        "machine.kernels",
        "machine.sorting",
    }
)
IMPORT_ONLY_NAMES = frozenset(
    {
        "data.sources.DataSet",
        "batching.token_files.open_tokens",
        "batching.token_files.write_tokens",
        "batching.windows.IGNORE",
        "batching.windows.answer_rows",
        "cache.KVCache",
        "machine.cluster.Cluster",
        "machine.cluster.H200_NODES",
        "machine.cluster.Step",
        "machine.distributed.world",
        "chat.Encoded",
        "choices.Normalization",
        "choices.Question",
        "comparison.McNemar",
        "comparison.quantile",
        "baselines.LogisticRegression",
        "baselines.NaiveBayes",
        "baselines.majority",
        "engine.ClosingError",
        "engine.Piece",
        "engine.Request",
        "evaluate.answers",
        "evaluate.generate_texts",
        "evaluate.token_losses",
        "metrics.check_pairs",
        "chat.FORMATS",
        "chat.encode_prompt",
        "chat.end_id",
        "counts.active_parameters",
        "generate.decode_step",
        "generate.prefill",
        "gpt.MLPS",
        "gpt.NORMS",
        "gpt.POSITIONS",
        "gpt.ResolvedConfig",
        "lora.PARTS",
        "muon.Muon",
        "muon.orthogonalize_shards",
        "preference.check_pairs",
        "quantize.QuantConfig",
        "quantize.quantized_bytes",
        "rl.RLConfig",
        "runs.adapters.begin_adapter",
        "runs.resume.Metrics",
        "serve.Limits",
        "serve.STREAM_HEADERS",
        "serve.Server",
        "serve.Service",
        "serve.open_socket",
        "validation.Objective",
        "vision.join_patches",
        "vision.picture_probabilities",
    }
)


def is_import_only(module: str, name: str) -> bool:
    """Tell whether any chapter may import `name` from the dotted module."""
    parts = module.split(".")
    rooms = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
    return bool(rooms & IMPORT_ONLY) or f"{module}.{name}" in IMPORT_ONLY_NAMES


LONGEST_CELL = 45  # lines of one code cell


def chapter_number(path: Path) -> int:
    """Return the chapter a notebook belongs to: chapters/solutions/08_attention.ipynb -> 8."""
    return int(path.name.split("_")[0])


def notebooks(root: Path = ROOT) -> list[Path]:
    """Return every notebook of the course: chapters, then their exercises and solutions."""
    folders = (root / "chapters", root / "chapters/exercises", root / "chapters/solutions")
    return [path for folder in folders for path in sorted(folder.glob("*.ipynb"))]


def ready_chapters(root: Path = ROOT) -> set[int]:
    """Return the numbers of the chapters that exist; all others are still planned."""
    return {chapter_number(path) for path in (root / "chapters").glob("*.ipynb")}


def first_sentence(path: Path) -> str:
    """Return the first paragraph of a module's docstring as one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def package_readme(root: Path = ROOT) -> str:
    """Return minigpt/README.md: what each module and room is for, in reading order."""
    rows, rooms = [], set()
    for name, chapters in MODULES.items():
        room, _, file = name.partition(".")
        path = root / "minigpt" / room
        if file and room not in rooms:
            rows.append(f"| **[{room}/]({room})** | **{first_sentence(path / '__init__.py')}** | |")
        rooms.add(room)
        source = path / f"{file}.py" if file else path.with_suffix(".py")
        is_folder = not file and path.is_dir()
        source = path / "__init__.py" if is_folder else source
        if not source.is_file() or room == "__main__":
            continue  # planned
        link = f"[{room}/]({room})" if is_folder else f"[{name}]({name.replace('.', '/')}.py)"
        built = ", ".join(f"{chapter:02d}" for chapter in chapters)
        rows.append(f"| {link} | {first_sentence(source)} | {built} |")
    return "\n".join([README_HEAD, *rows, ""])


README_HEAD = """\
# The package, in reading order

Flat modules are what the course teaches; folders hold what serves it. A module imports only from
modules above it, which a test proves. Made by `python tools/course.py` from the order of modules
and their docstrings.

| module | what it does | chapters |
| --- | --- | --- |"""


if __name__ == "__main__":
    (ROOT / "minigpt" / "README.md").write_text(package_readme(), encoding="utf-8", newline="\n")
