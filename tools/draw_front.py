"""Draw the README's picture: the report card of the model that comes with the package.

python tools/draw_front.py writes docs/little.png again after `tools/make_little.py`.
"""

import json
from pathlib import Path

from minigpt.runs.findings import TASK_NAMES
from minigpt.support import plots

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "little.png"


def main() -> None:
    """Read the shipped report and draw its tasks beside their best baselines."""
    report = ROOT / "minigpt" / "models" / "little" / "report.json"
    tasks = json.loads(report.read_text(encoding="utf-8"))["tasks"]
    plots.use_style()
    named = {TASK_NAMES.get(name, name): task for name, task in tasks.items()}
    figure = plots.scores(named, "the model that comes with minigpt, and the best baseline")
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
