"""The maintainers' scripts in tools/, importable for tests."""

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

build_notebooks = importlib.import_module("build_notebooks")
cells = importlib.import_module("cells")
course = importlib.import_module("course")
make_exercises = importlib.import_module("make_exercises")
sync_cells = importlib.import_module("sync_cells")
make_tables = importlib.import_module("make_tables")
fuzz = importlib.import_module("fuzz")
measure_chapters = importlib.import_module("measure_chapters")
load_server = importlib.import_module("load_server")
