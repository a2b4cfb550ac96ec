"""The course as data: modules in reading order, and the chapters that build them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Reading order = import order: a module may import only from modules above it.
# The numbers are the chapters that build the module; () is plumbing that no chapter derives.
MODULES: dict[str, tuple[int, ...]] = {
    "errors": (),
    "files": (),
    "plots": (),
    "autograd": (1, 2),
    "optim": (3,),
    "nn": (4,),
    "metrics": (4, 7, 18, 22),
    "baselines": (22,),
    "storyworld": (5,),
    "archives": (5,),
    "download": (5,),
    "sources": (5,),
    "corpus": (5,),
    "splitting": (5,),
    "tables": (5,),
    "dedup": (5,),
    "cleaning": (5,),
    "bpe": (6,),
    "words": (6,),
    "tokenizer": (6,),
    "streaming": (6, 11),
    "chat": (18,),
    "records": (),
    "examples": (),
    "ngram": (7,),
    "embeddings": (7,),
    "token_files": (10,),
    "prepare": (),
    "batches": (10,),
    "kernels": (12,),
    "cache": (11,),
    "attention": (8, 9, 11),
    "layers": (9, 15),
    "pointer": (15,),
    "gpt": (9, 15),
    "counts": (9,),
    "vision": (25,),
    "device": (12,),
    "signals": (),
    "distributed": (13,),
    "muon": (15,),
    "recipe": (10,),
    "lock": (10,),
    "checkpoint": (10,),
    "resume": (10,),
    "validation": (10,),
    "trainer": (10,),
    "train": (10,),
    "sampling": (11,),
    "compiling": (12,),
    "generate": (11,),
    "scaling": (14,),
    "pretrained": (16,),
    "lora": (19,),
    "conversations": (18,),
    "finetune": (17, 18),
    "preference": (20,),
    "rl": (21,),
    "quantize": (23,),
    "runs": (),
    "scoring": (22,),
    "evaluate": (22,),
    "told": (22,),
    "exam": (22,),
    "report": (22,),
    "serve": (24,),
    "benchmarks": (),
    "checks": (),
    "classroom": (),
    "commands": (),
    "__main__": (),
}

# Modules whose every definition appears at most once, in the chapter that completes it.
SHOWN_ONCE = {
    "autograd", "optim", "nn", "metrics", "bpe", "tokenizer", "streaming", "ngram",
    "embeddings", "cache", "attention", "layers", "gpt", "token_files", "batches", "recipe",
    "validation", "trainer", "train", "sampling", "generate", "muon",
    "lora", "preference", "rl", "quantize",
}  # fmt: skip

# Modules, and single names, that any chapter may import before (or without) explaining them.
IMPORT_ONLY = frozenset(
    {"errors", "files", "plots", "storyworld", "signals", "runs", "checks", "device", "kernels"}
)
IMPORT_ONLY_NAMES = frozenset({
    "storyworld.story", "storyworld.documents", "storyworld.lexicon", "storyworld.tables.World",
    "storyworld.tell.render", "storyworld.tell.sample", "storyworld.verify",
    "sources.Source", "attention.EXPLICIT_ON_CPU_UP_TO",
})  # fmt: skip

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
