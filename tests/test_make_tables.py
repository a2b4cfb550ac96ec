"""Tables that chapters store: each has its cells, three seeds for each row, and a command."""

import json

import pytest
from machinery import ROOT, make_tables

CELLS = make_tables.table_cells()
TIMES = "times"  # by tools/measure_chapters.py
STORED = [p for p in sorted((ROOT / "chapters" / "stored").glob("*.json")) if p.stem != TIMES]


def test_every_stored_table_has_its_cells_and_every_table_is_stored():
    assert {path.stem for path in STORED} == set(CELLS)
    assert CELLS


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_table_has_three_seeds_and_says_how_it_was_made(path):
    table = json.loads(path.read_text(encoding="utf-8"))
    assert table["seeds"] == list(make_tables.SEEDS)
    assert table["made by"] == f"python tools/make_tables.py {path.stem}"
    assert all(len(values) == 3 for values in table["rows"].values())


def test_a_table_is_made_of_its_cells():
    cells = ["small_rows = ['a', 'b']", "def small_row(row, seed):\n    return ord(row) + seed / 3"]
    made = make_tables.make("small", cells)
    assert made["rows"] == {"a": [97.0, 97.3333, 97.6667], "b": [98.0, 98.3333, 98.6667]}
    cells[1] = "def small_row(row, seed):\n    return 0.5, seed / 3, 1.0"
    assert make_tables.make("small", cells)["rows"]["b"][1] == [0.5, 0.3333, 1.0]
    with pytest.raises(KeyError):
        make_tables.make("other", cells)
