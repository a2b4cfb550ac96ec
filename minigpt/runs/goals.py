"""Settings of runs that learn from preferences or from rewards, beside those of every run."""

from dataclasses import dataclass
from typing import Annotated, Literal

from minigpt.support.settings import above, at_least, check_fields


@dataclass(frozen=True)
class DPOConfig:
    """Describe how a model learns from pairs of answers (--task dpo)."""

    beta: Annotated[float, above(0)] = 0.1
    """With dpo: how strongly the model is held to the checkpoint; a larger one changes it less."""
    rejected: str | None = None
    """With dpo: the worse answer, such as "{worse}", beside --prompt and --answer."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class GRPOConfig:
    """Describe how a model learns from rewards of its own answers (--task grpo)."""

    reward: str | None = None
    """With grpo: file.py:function or module:function; function(prompt, answer, row) returns a
    number (None: 1 for the row's answer and 0 for others; of storyworld, 1 for a story that its
    own reader finds right)."""
    group_size: Annotated[int, at_least(2)] = 8
    """With grpo: answers to each prompt, which are compared with each other; --batch-size counts
    all answers of a step."""
    kl: Annotated[float, at_least(0)] = 0.0
    """With grpo: weight of the penalty for leaving the checkpoint (0: none)."""
    answer_temperature: Annotated[float, above(0)] = 1.0
    """With grpo: temperature of the answers that are drawn."""
    divide_by_deviation: bool = False
    """With grpo: divide advantages by the deviation of their group, as GRPO first did."""
    world: Literal["little", "full"] = "little"
    """With dpo or grpo and --data storyworld: the size of the world."""

    def __post_init__(self):
        check_fields(self)
