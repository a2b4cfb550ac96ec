"""Planted faults are caught; and none of the list is stale."""

import ast

import planted
import pytest
from planted import FAULTS, Fault, files_of, plant, run_planted, sources, verdict


@pytest.fixture(scope="module")
def texts():
    return sources()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_changes_one_place_and_its_tests_exist(fault, texts):
    path, text = plant(fault, texts)
    ast.parse(text)
    assert text != texts[path]
    assert files_of(fault)


def test_names_of_faults_are_unique():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_a_stale_fault_says_how_to_mend_it(texts):
    with pytest.raises(ValueError, match=r"stale fault 'x': 0 places.*tests/planted.py — mend"):
        plant(Fault("x", "no such line", "", ()), texts)
    with pytest.raises(ValueError, match="no test file is called test_none"):
        files_of(planted.fault("x", "", "", "none"))


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(fault, tmp_path):
    result = run_planted(fault, tmp_path)
    assert verdict(result) == "caught", result.stdout[-2000:]


@pytest.mark.soak
def test_a_change_that_is_no_fault_survives(tmp_path):
    """The copied tree passes its tests, so what fails with a fault fails because of it."""
    harmless = planted.fault("none", r"^MANY_DOCUMENTS = ", "MANY_DOCUMENTS = 0 + ", "splitting")
    assert verdict(run_planted(harmless, tmp_path)) == "survives"
