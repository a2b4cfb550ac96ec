"""The files around the code: workflows, templates and the contributors' page name what is there."""

import re

import pytest
import yaml
from machinery import ROOT

import minigpt
from minigpt.commands import COMMANDS

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / ".github").rglob("*.md"))]


def steps_of(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_a_limit_for_each_job_and_pinned_actions(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["name"]
    assert True in workflow, "'on' is read as true by YAML 1.1; the triggers are missing"
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 90, name
    for step in steps_of(workflow):
        assert ("uses" in step) != ("run" in step), step
        assert re.fullmatch(r"[\w/-]+@v\d+", step.get("uses", "a@v1")), step


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_runs_exists(path):
    for step in steps_of(yaml.safe_load(path.read_text(encoding="utf-8"))):
        run = step.get("run", "")
        for command in re.findall(r"-m minigpt (\w+)", run):
            assert command in COMMANDS
        for file in re.findall(r"[\w/-]+\.(?:py|txt)\b", run):
            assert (ROOT / file).exists(), file
        for marker in re.findall(r"-m (\w+)", run.replace("python -m ", "")):
            assert marker == "quick"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_and_commands_that_a_page_names_exist(path):
    text = path.read_text(encoding="utf-8")
    for file in re.findall(r"\b(?:minigpt|tests|tools|docs|chapters)/[\w/]+\.\w+", text):
        wanted = file.replace("NN_name", "01_forward_pass").replace("NAME", "gpt")
        assert (ROOT / wanted.replace("TOPIC", "gpt")).exists(), file
    for command in re.findall(r"-m minigpt (\w+)", text):
        assert command in COMMANDS


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == minigpt.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
