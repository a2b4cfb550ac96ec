"""Nobody pays for what is not used: what each command imports, told by a fresh interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each test starts Python, and most of them torch

# What only several processes, a compiled model, or other people's packages need.
HEAVY = (
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "transformers",
    "hypothesis",
)
TOLD = "\nimports: "
PROGRAM = f"""
import json, sys
from minigpt.commands import main
for words in json.loads(sys.argv[1]):
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    assert not code, (words, code)
print({TOLD!r} + json.dumps(sorted(sys.modules)))
"""


def imported(*commands: list, folder: Path | None = None) -> set[str]:
    """Run commands in one new process; return the names of all modules that it imported."""
    words = [[str(word) for word in command] for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(words)],
        capture_output=True,
        encoding="utf-8",
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.rpartition(TOLD)[2]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a text, examples, and a run that was trained on the text."""
    folder = tmp_path_factory.mktemp("startup")
    lines = [f"Line {n} of my own text.\n" for n in range(300)]
    (folder / "my.txt").write_text("".join(lines), "utf-8")
    examples = [{"prompt": f"number {n}?", "answer": str(n % 3)} for n in range(60)]
    text = "".join(json.dumps(example) + "\n" for example in examples)
    (folder / "examples.jsonl").write_text(text, "utf-8")
    return folder


SMALL = ["--block-size", 64, "--n-layer", 1, "--n-head", 2, "--n-embd", 16, "--vocab-size", 280]
SMALL += ["--batch-size", 4, "--max-steps", 3, "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(folder) -> tuple[Path, set[str]]:
    """A finished run, and what training it and resuming it imported."""
    run = folder / "run"
    begin = ["train", "--data", folder / "my.txt", "--out", run, *SMALL]
    return run, imported(begin, ["train", "--out", run, "--resume", "--max-steps", 5])


def test_train_in_one_process_imports_no_distributed_parts_and_no_compiler(trained):
    assert trained[1].isdisjoint(HEAVY)
    assert "torch.optim" in trained[1]  # the names are still those of torch's modules


def test_finetune_does_not_either(folder):
    words = ["finetune", "--data", folder / "examples.jsonl", "--out", folder / "tuned", *SMALL]
    assert imported(words).intersection(HEAVY) == set()


def test_using_a_run_does_not_either_and_draws_nothing(trained, folder):
    use = ["--checkpoint", trained[0], "--max-new-tokens", 3]
    found = imported(["generate", *use], ["chat", *use, "--message", "Hello"])
    assert found.isdisjoint((*HEAVY, "matplotlib"))
    words = ["--checkpoint", trained[0], "--text", folder / "my.txt", "--out", folder / "report"]
    words += ["--data", folder / "examples.jsonl"]
    assert imported(["evaluate", *words]).intersection(HEAVY) == set()


def test_help_imports_torch_at_most():
    names = ("generate", "train", "chat", "finetune", "evaluate", "doctor")
    found = imported(*([name, "--help"] for name in names))
    assert found.isdisjoint((*HEAVY, "matplotlib"))


def test_what_computes_nothing_does_without_torch():
    course = Path(__file__).resolve().parents[1]
    commands = [["--help"], ["data", "list"], ["data", "--help"], ["exercise"], ["progress"]]
    assert imported(*commands, folder=course).isdisjoint((*HEAVY, "torch", "matplotlib"))


def test_several_processes_and_the_compiler_are_what_is_left_out():
    """A negative control: where torch's own optimizer is made, all of it is there."""
    code = "import sys, torch; torch.optim.AdamW([torch.zeros(1)]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch._dynamo", "sympy"} <= set(done.stdout.split())
