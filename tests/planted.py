"""Faults that tests must notice: one line of the package changed, and the tests that then fail.

Each drops a mask, a seed, a scale or a rank term, or moves a boundary by one. A fault is a regular
expression that matches one place of the package, wherever that place has moved to; what matches
nowhere is stale and is mended or deleted here.

To see one of them: `python tests/planted.py "the name of the fault"`; all: `pytest -m soak`.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "minigpt",
    "tests",
    "tools",
    "conftest.py",
    "pyproject.toml",
)  # what a mutated tree has of its own
NOT_SEARCHED = ("checks", "classroom")  # they hold wrong answers on purpose


class Fault(NamedTuple):
    """One change of the package, and the test files (globs) of which at least one must fail."""

    name: str
    pattern: str
    replacement: str
    tests: tuple[str, ...]


def fault(name: str, pattern: str, replacement: str, *tests: str) -> Fault:
    """Return a fault whose tests are given by name: "train" is tests/test_train.py."""
    return Fault(name, pattern, replacement, tuple(f"test_{test}.py" for test in tests))


FAULTS = [
    # Pieces of chunks
    fault(
        "a merge that begins inside a character is not looked at",
        r"tail, head = last_part\(first\), first_part\(second\)",
        'tail, head = first.decode("utf-8", "ignore")[-1:].encode(), first_part(second)',
        "pieces",
    ),
    fault(
        "a piece reaches over the end of a chunk",
        r"joined\[np\.cumsum\(\[len\(chunk\) for chunk in chunks\]\)\[:-1\] - 1\] = False",
        "pass",
        "pieces",
    ),
    # Attention
    fault(
        "bfloat16 on a CPU forgets the mask",
        r"(return attend\(q\.float\(\), k\.float\(\), v\.float\(\)), mask, is_causal,",
        r"\1, None, True,",
        "attention",
    ),
    fault(
        "a query sees the key after its own",
        r"device=device\)\.tril\(\)$",
        "device=device).tril(1)",
        "attention",
    ),
    fault(
        "scores are not divided by the root of the head's size",
        r"scores = q / math\.sqrt\(q\.size\(-1\)\) @ k",
        "scores = q @ k",
        "attention",
    ),
    fault(
        "several tokens without a mask see what comes after them",
        r"is_causal = mask is None and q\.size\(2\) > 1",
        "is_causal = False",
        "attention",
    ),
    fault(
        "documents of a row see each other",
        r"\(same & causal_mask\((.*?)\)\)\[:, None\]",
        r"causal_mask(\1).expand_as(same)[:, None]",
        "attention",
        "gpt",
    ),
    fault(
        "a window reaches one place too far",
        r"triu\(1 - window\)",
        "triu(-window)",
        "attention",
    ),
    fault(
        "a cache forgets its window",
        r"return seen if self\.window is None else seen & .*$",
        "return seen",
        "cache",
    ),
    fault(
        "a given mask overrules the window",
        r"return near if mask is None else near & mask",
        "return near if mask is None else mask",
        "gpt",
    ),
    fault(
        "the router's share is not paid",
        r"self\.transform\(tokens\[rows\], expert\) \* shares\[rows, place, None\]",
        "self.transform(tokens[rows], expert)",
        "moe",
    ),
    fault(
        "the balance loss counts and has no gradient",
        r"\(loads \* probabilities\.mean\(dim=0\)\)\.sum\(\)",
        "(loads * probabilities.detach().mean(dim=0)).sum()",
        "moe",
    ),
    fault(
        "a copied layer takes its last batch's loss along",
        r'self\.__dict__ \| \{"auxiliary_loss": 0\.0\}',
        "self.__dict__",
        "moe",
    ),
    fault(
        "rotary positions turn the wrong way",
        r"(return torch\.cat\(\(cos, cos\), dim=-1\), torch\.cat\(\()-sin, sin\)",
        r"\1sin, -sin)",
        "attention",
        "gpt",
    ),
    fault(
        "dropout acts outside of training too",
        r"self\.dropout if self\.training else 0\.0",
        "self.dropout",
        "attention",
        "gpt",
    ),
    # Published models
    fault(
        "GPT-2's matrices are not turned round",
        r"third, is_gpt2 and is_matrix\)",
        "third, False)",
        "pretrained",
    ),
    fault(
        "GPT-2's queries and keys are exchanged",
        r'JOINT = \("attention\.query", "attention\.key",',
        'JOINT = ("attention.key", "attention.query",',
        "pretrained",
    ),
    fault(
        "rotations are not slowed down for a longer context",
        r"frequencies = frequencies / slowdown",
        "pass",
        "pretrained",
    ),
    fault(
        "a tensor that the model does not have is passed over",
        r"(    )if surplus:\n",
        r"\1if not surplus:\n",
        "pretrained",
    ),
    fault(
        "an index may name files of other folders",
        r'set\(name\) & set\("/[^"]*"\)',
        "False",
        "pretrained",
    ),
    fault(
        "a header may claim any length",
        r"if length > min\(LARGEST_HEADER, size - 8\):",
        "if False:",
        "tensor_files",
    ),
    fault(
        "an exported model that can chat does not stop at the end of an answer",
        r"ids\.insert\(0, tokenizer\.special_tokens\[chat_format\(tokenizer\)\.end\]\)",
        "pass",
        "export",
    ),
    fault(
        "Llama's pairs are not brought together for llama.cpp",
        r"tensor = interleaved\(tensor, c\.head_dim\)",
        "pass",
        "export",
    ),
    # Cache
    fault(
        "a prompt after a past loses its mask",
        r"if \(T > 1 and self\.length > 0\) or self\.window is not None",
        "if self.window is not None",
        "cache",
        "generate",
    ),
    fault(
        "uneven rows see what is not theirs",
        r"self\.mask = self\.seen\(self\.places, end\)",
        "self.mask = self.seen(self.places.amax().expand_as(self.places), end)",
        "cache",
        "generate",
    ),
    fault(
        "a cache's mask is one place short",
        r"seen = distances >= 0",
        "seen = distances > 0",
        "cache",
        "generate",
    ),
    # Packed conversations and windows
    fault(
        "every epoch deals the same conversations",
        r"default_rng\(\(self\.seed, epoch\)\)(\s+by_length)",
        r"default_rng((self.seed, 0))\1",
        "packing",
    ),
    fault(
        "batches of like length ignore the seed",
        r"default_rng\(\(self\.seed, epoch\)\)(\s+blurred)",
        r"default_rng((0, epoch))\1",
        "packing",
    ),
    fault("LoRA forgets its scale", r"self\.scale \* change", "change", "lora"),
    fault(
        "LoRA does not begin as the base", r"torch\.zeros\(self\.out", "torch.ones(self.out", "lora"
    ),
    fault(
        "an adapter takes any base",
        r"if fingerprint_weights\(base\.state_dict\(\)\) != adapter\.base_sha256",
        "if False",
        "lora",
    ),
    fault(
        "a checkpoint of an adapter holds the base as well",
        r"if not is_adapted\(model\):",
        "if True:",
        "lora",
    ),
    fault(
        "DPO forgets the reference",
        r"beta \* \(policy - reference\)",
        "beta * policy",
        "preference",
    ),
    fault(
        "chosen and rejected are swapped",
        r"rewards\[0::2\], rewards\[1::2\]",
        "rewards[1::2], rewards[0::2]",
        "preference",
    ),
    fault(
        "a pair's answers are the same one",
        r'"chosen": plain\["rejected"\]',
        '"chosen": plain["chosen"]',
        "pairs",
    ),
    fault(
        "the reward of an answer is taken with the wrong sign",
        r"return self\.reward\.grade\(self\.taught",
        "return -self.reward.grade(self.taught",
        "alignment",
    ),
    fault(
        "the first answer of a talk is compared, not the last",
        r"end = max\(place for place",
        "end = min(place for place",
        "alignment",
    ),
    fault("no baseline", r"rewards - rewards\.mean\(dim=1, keepdim=True\)", "rewards", "rl"),
    fault("the ratio is never clipped", r"ratio\.clamp\(1 - low, 1 \+ high\)", "ratio", "rl"),
    fault("answers are made ahead of the update", r"on_policy = True", "on_policy = False", "rl"),
    fault(
        "what was cut learns to end", r" if len\(ids\) < c\.max_answer_tokens else ids", "", "rl"
    ),
    fault(
        "instruction tuning forgets the documents",
        r"conversations\.joined\(documents\.first\(count\)\) if count else conversations",
        "conversations",
        "mixture",
    ),
    fault(
        "rows that were added for the last process are trained on",
        r"torch\.full_like\(targets\[:1\], IGNORE\)\.expand",
        "targets[:1].expand",
        "mixture",
    ),
    fault(
        "the second phase begins as high as the first",
        r"return config\.second_phase \* rise_and_fall",
        "return rise_and_fall",
        "recipe",
    ),
    fault(
        "no separator between conversations of a row",
        r"end \+= size \+ 1",
        "end += size",
        "packing",
    ),
    fault(
        "questions are trained on like answers",
        r", where=self\.trained\[there\]\)",
        ")",
        "packing",
    ),
    fault(
        "windows of every step start at the same places",
        r"default_rng\(\(self\.seed, step\)\)(\s+starts = rng)",
        r"default_rng(self.seed)\1",
        "windows",
    ),
    fault(
        "all processes train on the same rows",
        r"slice\(rank \* rows // world_size, \(rank \+ 1\) \* rows // world_size\)",
        "slice(0, rows // world_size)",
        "windows",
        "distributed",
    ),
    fault(
        "padding of documents becomes a target",
        r"steps\[:-1\] >= lengths",
        "steps[:-1] > lengths",
        "windows",
    ),
    # Training
    fault(
        "a ring passes on the whole tensor in every round",
        r"return \(size - 1\) / size \* whole",
        "return (size - 1) * whole",
        "cluster",
    ),
    fault(
        "ZeRO splits gradients before the optimizer's averages",
        r"for first in \(3, 2, 1\)",
        "for first in (3, 1, 2)",
        "cluster",
    ),
    fault(
        "torchrun's wish to end comes before the verdict on a lost peer",
        r"raise watch\.wait_for_verdict\(\) or SystemExit",
        "raise SystemExit",
        "distributed",
    ),
    fault(
        "all processes draw the same dropout",
        r"\{seed\} \{step\} \{micro_step\} \{rank\}",
        "{seed} {step} {micro_step}",
        "train*",
        "distributed",
    ),
    fault(
        "every step draws the same dropout",
        r"\{seed\} \{step\} \{micro_step\} \{rank\}",
        "{seed} {micro_step} {rank}",
        "train*",
    ),
    fault(
        "gradients of several processes are too small",
        r"loss \* \(share \* size\)",
        "loss * share",
        "train*",
        "distributed",
    ),
    fault(
        "pieces of a batch weigh alike",
        r"share = int\(\(targets != IGNORE\)\.sum\(\)\) / total",
        "share = len(targets) / len(batch[0])",
        "train*",
    ),
    fault(
        "gradients are clipped while they are scaled",
        r"self\.scaler\.unscale_\(optimizer\)",
        "pass",
        "train*",
    ),
    fault(
        "the last step has no validation of its own",
        r"\(last or step % config\.eval_interval == 0\)",
        "step % config.eval_interval == 0",
        "train*",
    ),
    fault(
        "the default warm-up is a fifth",
        r"min\(20, steps // 10\)",
        "min(20, steps // 5)",
        "train*",
        "recipe",
    ),
    fault(
        "validation batches weigh alike",
        r"loss\.item\(\) \* predicted$",
        "loss.item() * targets.numel()",
        "train*",
        "validation",
    ),
    fault(
        "an update of Muon ignores the shape",
        r"0\.2 \* max\(parameters\[0\]\.shape\[-2:\]\) \*\* 0\.5",
        "0.2",
        "muon",
    ),
    fault(
        "Muon decays weights whatever its learning rate",
        r"1 - group\[\"lr\"\] \* group\[\"weight_decay\"\]",
        '1 - group["weight_decay"]',
        "muon",
    ),
    # JSON
    fault(
        "columns of different lengths become records",
        r"len\(lengths\) == 1 and lengths != \{-1\}",
        "lengths != {-1}",
        "json_records",
    ),
    fault(
        "the questions of an article lose their context",
        r'\{"context": context, \*\*question, "opening": context\}',
        '{**question, "opening": context}',
        "json_records",
    ),
    # Consoles
    fault(
        "a letter that the console lacks ends the command",
        r'reconfigure\(errors="minigpt\.stand_in"\)',
        'reconfigure(errors="strict")',
        "console",
    ),
    fault(
        "nobody hears of letters that were not shown",
        r"lost_letters\.update\(lacking\)",
        "pass",
        "console",
    ),
    # Checkpoints and resuming
    fault(
        "a new run's folder may be lost with the power",
        r"(for folder in reversed\(missing\):\n)\s+fsync_directory\(folder\.parent\)",
        r"\1        pass",
        "power_cut",
        "checkpoint",
    ),
    fault(
        "a checkpoint's new name may be lost with the power",
        r"(path = publish\([^\n]*\n)\s+fsync_directory\(folder\)\n",
        r"\1",
        "checkpoint",
        "crash",
    ),
    fault(
        "a file's new name may be lost with the power",
        r"(        raise\n)    fsync_directory\(path\.parent\)\n",
        r"\1",
        "files",
    ),
    fault(
        "settings that a checkpoint lacks may change",
        r"for key in sorted\(before\.keys\(\) \| now\.keys\(\)\)(\s+if key not in free)",
        r"for key in sorted(before.keys())\1",
        "train*",
        "resume",
    ),
    fault(
        "a resumed run logs its first step twice",
        r"\[\"step\"\] <= step:",
        '["step"] <= step + 1:',
        "train*",
        "resume",
        "crash",
    ),
    # Sampling
    fault(
        "temperature does nothing",
        r"\(logits / temperature\)\.softmax",
        "logits.softmax",
        "sampling",
        "generate",
    ),
    fault(
        "top-p leaves out the token that reaches it",
        r"before = values\.cumsum\(dim=-1\) - values\b",
        "before = values.cumsum(dim=-1)",
        "sampling",
        "generate",
    ),
    fault(
        "what top-k keeps does not sum to 1",
        r"return normalize\((torch\.zeros_like\(probabilities\)\.scatter\(-1, ids, values\))\)",
        r"return \1",
        "sampling",
        "generate",
    ),
    fault(
        "rows of a batch share their random numbers",
        r"random\.Random\(f\"\{config\.seed\} \{(\w+)\}\"\)",
        'random.Random(f"{config.seed}")',
        "generate",
    ),
    # Scores
    fault(
        "macro averages are micro averages",
        r"if average == \"micro\":",
        'if average in ("micro", "macro"):',
        "metrics",
    ),
    fault(
        "BLEU has no penalty for short texts",
        r"np\.exp\(penalty \+ (np\.log\(precisions\)\.mean\(\))\)",
        r"np.exp(\1)",
        "metrics",
    ),
    fault(
        "a sentence left out costs all after it",
        r"common_length\(found, wanted\) / longest",
        "sum(map(str.__eq__, found, wanted)) / longest",
        "metrics",
    ),
    fault(
        "sentences too many cost nothing",
        r"longest = max\(len\(found\), len\(wanted\)\)",
        "longest = len(wanted)",
        "metrics",
    ),
    fault(
        "what stands in quotes ends its sentence",
        r"(\(\?<=\[\.!\?\]\\\"\)\\s\+)\(\?!\[a-z\]\)",
        r"\1",
        "metrics",
    ),
    fault(
        "an interval's samples are not drawn anew",
        r"rng\.integers\(n_items, size=n_items\)",
        "rng.permutation(n_items)",
        "metrics",
    ),
    fault(
        "the adjusted Rand index forgets chance",
        r"chance = rows \* columns / .*",
        "chance = 0.0",
        "classification",
    ),
    # Serving
    fault(
        "a slot that is used again remembers a stranger",
        r"slot\.positions\.zero_\(\).*",
        "pass",
        "engine",
    ),
    fault(
        "the row that fills a gap keeps the length of the one before it",
        r"self\.cache\.positions\[row\] = self\.cache\.positions\[last\]",
        "pass",
        "engine",
    ),
    fault(
        "who hung up keeps the slot",
        r"\.is_over or self\.active\[row\]\.is_cancelled",
        ".is_over",
        "engine",
    ),
    fault(
        "a header may have any size",
        r"if size > self\.limits\.header_bytes:",
        "if False:",
        "serve",
    ),
    fault(
        "one token too many fits into the context",
        r"if wanted > room:",
        "if wanted > room + 1:",
        "openai_api",
    ),
    # Classification
    fault(
        "a head sees a text without its last token",
        r"torch\.from_numpy\(lengths\[places\] - 1\)",
        "torch.from_numpy(lengths[places] - 2)",
        "classification",
    ),
    fault(
        "the best head may have any weights",
        r"loss \+ decay \* weight\.square",
        "loss + 0 * weight.square",
        "classification",
    ),
    fault(
        "the norm of a frozen body learns",
        r"(parts = \[\*model\.blocks\[n_layer - blocks :\], model\.norm\]) if blocks else \[\]",
        r"\1 if blocks is not None else []",
        "classification",
    ),
    fault(
        "a classifier's padding is part of its mean",
        r"return x\.cumsum\(dim=1\) / counts",
        "return x.mean(dim=1, keepdim=True).expand_as(x)",
        "classification",
    ),
    fault(
        "a group's scale is that of its neighbors too",
        r"codes\.unflatten\(-1, \(scales\.size\(-1\), -1\)\)",
        "codes.unflatten(-1, (-1, scales.size(-1))).transpose(-1, -2)",
        "quantize",
    ),
    fault(
        "the upper of two packed codes is lost",
        r"halves\[\.\.\., 0::2\] \| \(halves\[\.\.\., 1::2\] << 4\)",
        "halves[..., 0::2] | halves[..., 1::2]",
        "quantize",
    ),
    fault(
        "a refused token is replaced by one of the model's, whatever the draft had",
        r"missing = \(p - q\)\.clamp\(min=0\)",
        "missing = p",
        "speculative",
    ),
    fault(
        "refused tokens stay in the cache",
        r"cache\.advance\(len\(written\) - idx\.size\(1\)\)",
        "pass",
        "speculative",
    ),
    fault(
        "a softened loss shrinks with the temperature",
        r"return temperature\*\*2 \* F\.kl_div",
        "return F.kl_div",
        "distillation",
    ),
    fault(
        "Wilson's interval forgets that the truth has a spread of its own",
        r"\+ spread / n / 4\)",
        "+ 0 * spread)",
        "comparison",
    ),
    fault(
        "McNemar's test looks at one side alone",
        r"min\(1\.0, 2 \* tail / 2\*\*n\)",
        "min(1.0, tail / 2**n)",
        "comparison",
    ),
    fault(
        "the most certain answers have no bin",
        r"np\.minimum\(\(sure \* n_bins\)\.astype\(int\), n_bins - 1\)",
        "(sure * n_bins).astype(int)",
        "calibration",
    ),
    fault(
        "a temperature divides the wrong choices alone",
        r"total - of_right / temperature",
        "total - of_right",
        "calibration",
    ),
    fault(
        "of two items that share an n-gram one is forgotten",
        r"owners\[run\]\.add\(place\)",
        "owners[run] = {place}",
        "contamination",
    ),
    fault(
        "patches come column by column",
        r"squares\.permute\(0, 2, 3, 1, 4, 5\)\.flatten\(3\)",
        "squares.permute(0, 3, 2, 1, 4, 5).flatten(3)",
        "vision",
    ),
    fault(
        "a patch sees only the ones before it",
        r"mask = torch\.ones\(T, T, dtype=torch\.bool, device=x\.device\)",
        "mask = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()",
        "vision",
    ),
    fault(
        "the patches of a picture see the words behind it",
        r"mask = arrival_mask\(\[0\] \* T \+ list\(range\(1, L \+ 1\)\)\)",
        "mask = arrival_mask([L] * T + list(range(1, L + 1)))",
        "vision",
    ),
    fault(
        "a picture's label is read from its first patch",
        r"self\.hidden\(pictures, mask=mask\)\.mean\(dim=1\)",
        "self.hidden(pictures, mask=mask)[:, 0]",
        "vision",
    ),
    fault(
        "light pictures keep their light as ink",
        r"1 - gray if gray\.median\(\) > 0\.5 else gray",
        "gray",
        "pictures",
    ),
    fault(
        "an item's n-grams are not compared in lower case",
        r"for letter in characters\(text\.lower\(\)\) if letter\.isalnum",
        "for letter in characters(text) if letter.isalnum",
        "contamination",
    ),
    fault(
        "a choice begins one token late",
        r"-float\(losses\[-n:\]\.sum\(\)\)",
        "-float(losses[-n + 1 :].sum())",
        "choices",
    ),
    fault(
        "the space before a choice stays with the context",
        r"kept = context\.rstrip\(\)",
        "kept = context",
        "choices",
    ),
    fault(
        "models side by side are tested as if each were the only one",
        r"pair\[\"p_adjusted\"\] = p$",
        'pair["p_adjusted"] = pair["p"]',
        "tasks",
    ),
    fault(
        "seen items are the ones that are scored",
        r"np\.flatnonzero\(seen < LEAKED\)",
        "np.flatnonzero(seen >= LEAKED)",
        "tasks",
    ),
    fault(
        "tokens in overlapping windows count twice",
        r"row_losses\[-new:\]",
        "row_losses",
        "evaluate",
    ),
    fault(
        "bits are counted per character",
        r"n_bytes \+= len\(text\.encode\(\"utf-8\"\)\)",
        "n_bytes += len(text)",
        "evaluate",
    ),
    # Storyworld
    fault(
        "pairs kept apart are a contradiction",
        r"(world = world or World\.full\(\)\n    reader = Reader\(world)\.readable,",
        r"\1,",
        "fair_grade",
        "storyworld",
    ),
    fault(
        "a story that its world never tells has a probability",
        r"if reader\.world is not world:",
        "if False:",
        "fair_grade",
        "storyworld",
    ),
    fault(
        "stories to order are graded by the full world",
        r"verify\(text, lesson\.language, world\)",
        "verify(text, lesson.language)",
        "little_world",
        "exam",
    ),
    fault(
        "an elder who never came is a reason",
        r" +if \"elder\" in facts\.cast or .*\n",
        "",
        "little_world",
    ),
    fault(
        "a little run has the full world's exam",
        r"return partial\(examine, world=self\.world\)",
        "return examine",
        "corpora",
    ),
    # Data
    fault(
        "a piece that ends at the boundary does not end its document",
        r"position < boundary == end:",
        "False:",
        "splitting",
    ),
    fault(
        "near repeats are compared with those that went",
        r"if found\[-1\] is None:",
        "if True:",
        "dedup",
    ),
    fault(
        "likeness counts what two texts share twice",
        r"\(len\(a\) \+ len\(b\) - common\)",
        "(len(a) + len(b))",
        "dedup",
    ),
    fault(
        "all hash functions of MinHash are one",
        r"self\.factors \* block \+ self\.offsets",
        "self.factors[:1] * block + self.offsets[:1]",
        "dedup",
    ),
    fault(
        "what becomes equal by cleaning stays twice",
        r"    records = .*exact_repeats.*\n(    steps\.append.*repeats after cleaning)",
        r"\1",
        "cleaning",
    ),
    # Conversations
    fault(
        "the end of an answer is not learned",
        r"\[is_answer\] \* \(len\(head\) \+ len\(text\) \+ 1 - n_given\)",
        "[is_answer] * (len(head) + len(text) - n_given) + [all_]",
        "chat",
    ),
    fault(
        "forgetting turns forgets the system's message",
        r"first = 1 if messages and messages\[0\]\[\"role\"\] == \"system\" else 0",
        "first = 0",
        "chat",
    ),
    fault(
        "the library's share of texts is not checked for half characters",
        r"( +)for text in theirs:\n +check_surrogates\(text\)\n",
        "",
        "tokenizer",
    ),
    # Scaling laws
    fault(
        "the optimum forgets that a weight takes 6 operations a token",
        r"product = compute / 6  # N D",
        "product = compute",
        "scaling",
    ),
    fault(
        "the fitted law is left in units of a typical run",
        r"x = torch\.cat\(\[x\[:1\], x\[1:3\] \+ x\[3:\] \* typical, x\[3:\]\]\)",
        "x = x.clone()",
        "scaling",
    ),
    fault(
        "a resample draws every run once",
        r"chosen = rng\.integers\(len\(N\), size=len\(N\)\)",
        "chosen = rng.permutation(len(N))",
        "scaling",
    ),
    fault(
        "squares instead of Huber's loss",
        r"F\.huber_loss\((predicted / DELTA, log_losses / DELTA, reduction=\"sum\")\)",
        r"F.mse_loss(\1)",
        "scaling",
    ),
]


def sources() -> dict[Path, str]:
    """Return every file of the package that may hold a planted fault, with its text."""
    files = sorted((ROOT / "minigpt").rglob("*.py"))
    return {
        path.relative_to(ROOT): path.read_text(encoding="utf-8")
        for path in files
        if path.relative_to(ROOT / "minigpt").parts[0] not in NOT_SEARCHED
    }


def plant(fault: Fault, texts: dict[Path, str]) -> tuple[Path, str]:
    """Return the file that a fault changes and its changed text; raise ValueError if stale."""
    found = [
        (path, match)
        for path, text in texts.items()
        for match in re.finditer(fault.pattern, text, re.MULTILINE)
    ]
    if len(found) != 1:
        places = ", ".join(path.as_posix() for path, _ in found) or "none"
        raise ValueError(
            f"stale fault {fault.name!r}: {len(found)} places match ({places}) "
            f"— tests/planted.py — mend its pattern {fault.pattern!r}, or delete it"
        )
    ((path, match),) = found
    text = texts[path]
    return path, text[: match.start()] + match.expand(fault.replacement) + text[match.end() :]


def files_of(fault: Fault) -> list[str]:
    """Return the test files of a fault that exist; raise ValueError where there is none."""
    found = {path.name for name in fault.tests for path in (ROOT / "tests").glob(name)}
    if not found:
        raise ValueError(f"fault {fault.name!r}: no test file is called {' or '.join(fault.tests)}")
    return [f"tests/{name}" for name in sorted(found)]


def run_planted(fault: Fault, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a fault's tests in a copy of the tree that has it."""
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for path in ROOT.iterdir():
        if path.name not in COPIED and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    path, text = plant(fault, sources())
    (folder / path).write_text(text, encoding="utf-8")
    options = [
        "-x",
        "-q",
        "-p",
        "no:nbval",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=--strict-markers",
    ]
    command = [sys.executable, "-m", "pytest", *options, "-m", "not soak", *files_of(fault)]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in environment.items() if "PYTEST" not in name}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def verdict(result: subprocess.CompletedProcess[str]) -> str:
    """Say what became of a fault; an error outside of a test may have another cause."""
    if result.returncode == 0:
        return "survives"
    return "caught" if result.returncode == 1 and "\nFAILED " in result.stdout else "cannot run"


def main(words: list[str]) -> int:
    """Plant the faults whose names hold these words, or all; print what became of each."""
    uncaught = 0
    for fault in FAULTS:
        if not all(word in fault.name for word in words):
            continue
        with tempfile.TemporaryDirectory() as folder:
            result = run_planted(fault, Path(folder))
        failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
        uncaught += verdict(result) != "caught"
        print(f"{verdict(result):<10} {fault.name}  {''.join(failed)[:120]}", flush=True)
    return int(uncaught > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
