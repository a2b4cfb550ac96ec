"""Ask the shipped model by EleutherAI's harness and by `minigpt.tasks`: every item must agree.

    pip install lm-eval
    python tools/compare_harness.py DATA        # the folder of the downloaded data sets

Four tasks, the first 120 items of each at most. The harness reads the exported model and begins
each text as a document does (`add_bos_token`), as ours was trained. Exit code 1 where a choice
differs, or a log-likelihood or a perplexity by more than 1e-5 of its size.
"""

import argparse
import bz2
import csv
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import minigpt
from minigpt.choices import choice_log_likelihoods
from minigpt.export import export_folder
from minigpt.tasks import read_task, run_task

N_ITEMS, TOLERANCE = 120, 1e-5
LETTERED = (
    "{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}"
)
TEMPLATES = {  # what the harness shows, what it may choose from, and what is right
    "hellaswag": ("{{ctx}}", "{{endings}}", "{{label}}"),
    "arc-easy": ("{{question}}\nAnswer:", "{{choices}}", "{{answer}}"),
    "mmlu": (f"{LETTERED}\nAnswer:", ["A", "B", "C", "D"], "{{answer}}"),
    "lambada": ("{{text.split(' ')[:-1]|join(' ')}}", None, "{{' '+text.split(' ')[-1]}}"),
}


def items(data: Path, task: str) -> list[dict[str, Any]]:
    """Return a task's items from the data set's own files."""
    if task == "hellaswag":
        packed = (data / task / "hellaswag_val_full.txt.bz2").read_bytes()
        lines = bz2.decompress(packed).decode("utf-8").split("\n")
        groups = [lines[n : n + 6] for n in range(0, len(lines) - 5, 6)]
        return [{"ctx": c, "label": int(right), "endings": ends} for c, right, *ends in groups]
    if task == "mmlu":
        with (data / task / "test" / "abstract_algebra_test.csv").open(encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        return [{"question": q.strip(), "choices": c, "answer": int(a)} for q, *c, a in rows]
    name = {"arc-easy": "arc_easy.jsonl", "lambada": "lambada_test.jsonl"}[task]
    lines = (data / task / name).read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    if task == "lambada":
        return [{"text": each["text"]} for each in found]
    return [{"question": e["query"], "choices": e["choices"], "answer": e["gold"]} for e in found]


def harness_samples(folder: Path, files: dict[str, Path]) -> dict[str, list[dict]]:
    """Return what the harness found for each item of each task, in order."""
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    scores = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    tasks = []
    for task, (shown, choices, right) in TEMPLATES.items():
        settings = {"task": task, "dataset_path": "json", "test_split": "test"}
        settings |= {"dataset_kwargs": {"data_files": {"test": str(files[task])}}}
        settings |= {"doc_to_text": shown, "doc_to_target": right, "metric_list": scores}
        kind = "multiple_choice" if choices else "loglikelihood"
        tasks.append(settings | {"output_type": kind, "doc_to_choice": choices})
    model = HFLM(str(folder), device="cpu", dtype="float32", batch_size=8, add_bos_token=True)
    found = simple_evaluate(model, tasks=tasks, log_samples=True, bootstrap_iters=0)
    return {
        task: sorted(samples, key=lambda sample: sample["doc_id"])
        for task, samples in found["samples"].items()
    }


def gap(ours: float, theirs: float) -> float:
    """Return a difference as a share of the size."""
    return abs(ours - theirs) / abs(theirs)


def main() -> int:
    """Print a line for each task; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    little = minigpt.load("little", device="cpu")
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_folder(little.model, little.tokenizer, folder / "hf")
        files = {task: folder / f"{task}.jsonl" for task in TEMPLATES}
        for task, file in files.items():
            lines = [json.dumps(item) + "\n" for item in items(data, task)[:N_ITEMS]]
            file.write_text("".join(lines), encoding="utf-8")
        for task, samples in harness_samples(folder / "hf", files).items():
            asked = read_task(files[task], "letters" if task == "mmlu" else "text")
            result = run_task(little.model, little.tokenizer, asked)
            if task == "lambada":
                mean = sum(sample["resps"][0][0][0] for sample in samples) / len(samples)
                worst = gap(result.facts["perplexity"], math.exp(-mean))
            else:
                scores = choice_log_likelihoods(little.model, little.tokenizer, asked.items)
                worst = max(
                    gap(ours, theirs[0][0])
                    for row, sample in zip(scores, samples, strict=True)
                    for ours, theirs in zip(row, sample["resps"], strict=True)
                )
            theirs = [bool(sample["acc"]) for sample in samples]
            assert result.right is not None
            same = result.right.astype(bool).tolist() == theirs
            print(
                f"{task}: {len(samples)} items, right {int(result.right.sum())} and {sum(theirs)}, "
                f"{'every item alike' if same else 'ITEMS DIFFER'}, differ by at most {worst:.0e}"
            )
            failed |= not same or worst > TOLERANCE
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
