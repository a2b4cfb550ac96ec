"""The judge's process: asks the student's process for answers, and compares what they return.

An answer has to pass twice. First its check runs beside it, as in the student's own notebook: that
sees how an answer works, but in a process where the student's code could have changed anything.
Then the same check runs here, where the answer is a stand-in: each call goes over the pipe as JSON.
What the other process believes about verdicts does not matter to this one.
"""

import json
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection

import torch

from minigpt.checks import TOPICS, judge, more_checks, registered
from minigpt.classroom.limits import Limits, restrict
from minigpt.classroom.notebook import Step
from minigpt.classroom.peer import Peer, PeerConfused, PeerGone
from minigpt.support.signals import ignore_ctrl_c

Verdict = tuple[str, str]  # passed, failed, blank, error, missing, stopped or unknown; message


def preside(
    connection: Connection,
    events: Connection,
    steps: list[Step],
    known: set[str],
    student: str,
    private: str | None,
    limits: Limits,
) -> None:
    """Judge a notebook: entry point of the judge's process.

    Sends one event after the other, as JSON: ["step", number] before a cell runs, ["verdict", name,
    verdict, message] for each check that is not known yet, ["gone", reason] or ["end"].
    """
    ignore_ctrl_c()
    torch.set_num_threads(1)
    os.environ["MINIGPT_STUDENT"] = student
    if private:
        os.environ["MINIGPT_CHECKS"] = private
    restrict(limits)
    peer = Peer(connection, serve=_refuse, strict=True)
    try:
        for number, step in enumerate(steps):
            _send(events, "step", number)
            for name, verdict in verdicts(peer, step, known):
                _send(events, "verdict", name, *verdict)
    except PeerConfused as error:
        _send(events, "gone", f"it sent what is no answer ({error})")
    except PeerGone:
        _send(events, "gone", "")
    else:
        _send(events, "end")


def _send(events: Connection, *event: str | int) -> None:
    events.send_bytes(json.dumps(event).encode("utf-8"))


def _refuse(question: dict) -> None:
    raise ValueError("the judge answers no questions")


def verdicts(peer: Peer, step: Step, known: set[str]) -> Iterator[tuple[str, Verdict]]:
    """Run one step in the other process and yield the verdict of each check it asks for."""
    failure: Verdict | None = None
    try:
        if step.source.strip():
            peer.ask({"run": step.source})
    except Exception as error:
        failure = "error", _explained(error)
    for name in step.missing:
        yield name, ("missing", step.refused or f"the cell calls check({name!r}, ...) no more")
    for name, expression in step.asked:
        if name in known:
            continue
        if step.refused:
            yield name, ("failed", step.refused)
        elif failure:
            yield name, failure
        else:
            yield from _judge_twice(peer, name, expression)


def _judge_twice(peer: Peer, name: str, expression: str) -> Iterator[tuple[str, Verdict]]:
    """Judge an answer beside it and, if it passed and can travel, here; then by further checks."""
    entry = registered(name)
    travels = entry is None or entry.travels
    try:
        peer.ask({"take": [name, expression]})
    except Exception as error:
        yield name, ("error", _explained(error))
        return
    verdict: Verdict = "passed", "passed"
    if not travels or name.split(".")[0] in TOPICS:  # private checks stay private if they can
        verdict = _beside(peer, name)
    if verdict[0] == "passed" and travels:
        verdict = _here(peer, name, name)
    yield name, verdict
    for other in more_checks(name):
        yield other, _here(peer, other, name)


def _beside(peer: Peer, name: str) -> Verdict:
    """Let the other process judge."""
    match peer.ask({"judge": name}):
        case [str() as verdict, str() as message]:
            return verdict, message
    raise PeerConfused("not a verdict")


def _here(peer: Peer, check: str, name: str) -> Verdict:
    """Judge the answer of exercise `name` by a check in this process."""
    try:
        answer = peer.ask({"give": name})
    except Exception as error:
        return "error", _explained(error)
    return judge(check, answer)


def _explained(error: Exception) -> str:
    return getattr(error, "explained", None) or str(error)
