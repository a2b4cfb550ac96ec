"""A report that holds all that a report can hold, for several test files."""

TASK = {
    "metric": "exact",
    "score": 0.93,
    "low": 0.9,
    "high": 0.96,
    "n": 1200,
    "baseline": 0.41,
    "baseline_name": "last_mention",
    "baselines": {"last_mention": 0.41},
}
REPORT = {
    "data": "storyworld",
    "parameters": 1328768,
    "steps": 2000,
    "tokens": 4096000,
    "tokens_per_second": 10223,
    "val_loss": 0.72,
    "bits_per_byte": 0.17,
    "floor": 0.52,
    "excess": 0.38,
    "gap_nats_per_story": 23.5,
    "ngram_loss": 1.19,
    "ngram_order": 6,
    "gap_closed": 0.701,
    "contamination": 0.0,
    "tasks": {"translation_en_zh": TASK, "question_changed": TASK | {"score": 0.5}},
    "stories": {
        "n": 1000,
        "temperature": 1.0,
        "consistent": 0.91,
        "low": 0.89,
        "high": 0.93,
        "new": 0.999,
        "mean_log_q_minus_log_p": -1.25,
        "faults": {"wrong detail": 80, "wrong event": 10},
        "sentences_before_fault": 6.5,
    },
    "answers": [
        {
            "task": "summary",
            "prompt": "Tell. " * 40 + "Sum it up.",
            "answer": "It is.",
            "right": "It was.",
        }
    ],
    "samples": ["One day.\nThe end.", "从前，有一天。"],
    "seconds": {"training": 100.0, "total": 120.5},
}
