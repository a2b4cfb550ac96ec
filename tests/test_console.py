"""A console that lacks letters (cp1252): no command ends for it, and one line says so."""

import io
import sys

import pytest
from helpers import write
from machinery import ROOT

from minigpt import commands
from minigpt.checks import check
from minigpt.support import console

RED = "红球在雨中。"
LITTLE = ROOT / "minigpt" / "models" / "little" / "tokenizer.json"
SAID = {  # a command, and what it prints of characters that cp1252 has not
    "generate --checkpoint little --max-new-tokens 5 --seed 1 --prompt 红球。": b"???",
    "chat --checkpoint little --message 龙": b"",
    f"tokenizer show --tokenizer {LITTLE} --text 你✓◀": b"'?'",
    "tokenizer train --data 中文.txt --vocab-size 300 --out 新.json": b"?.json",
    "data prepare 中文.txt --out 好": b"",
    "evaluate --checkpoint little --text 中文.txt": b"",
    "generate --checkpoint 没有": b"PYTHONUTF8=1",
    "没有": b"unknown command '??'",
    "train --help": b"",
    "grade --help": b"",
    "data list": b"",
    "progress": b".....  not begun",
}


@pytest.mark.parametrize("words", SAID)
def test_no_command_ends_for_want_of_a_letter(tmp_path, monkeypatch, words):
    write(tmp_path / "中文.txt", "\n".join(f"{RED}第{n}句。" for n in range(60)))
    monkeypatch.chdir(tmp_path)
    streams = {}
    for name in ("stdout", "stderr"):
        streams[name] = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", newline="")
        monkeypatch.setattr(sys, name, streams[name])
    try:
        code = commands.main(words.split())
    except SystemExit as end:  # of tyro's help
        code = end.code
    printed, errors = (streams[name].buffer for name in ("stdout", "stderr"))
    for stream in streams.values():
        stream.flush()
    both = printed.getvalue() + errors.getvalue()
    assert code == (2 if words == "没有" else int("没有" in words)), both
    assert SAID[words] in both
    assert b"Traceback" not in both


def test_marks_become_ascii_and_a_letter_is_reported_once(monkeypatch):
    stream, errors = (io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2))
    monkeypatch.setattr(sys, "stderr", errors)
    console.take_everything(stream)
    print("✓ a → b ■□", file=stream, flush=True)
    assert stream.buffer.getvalue().splitlines() == [b"+ a -> b #."]
    console.say_what_is_unseen()
    print("红球", "é", "龙", file=stream, flush=True)
    assert stream.buffer.getvalue().splitlines()[1] == "?? é ?".encode("cp1252")
    for _ in range(2):
        console.say_what_is_unseen()
    errors.flush()
    assert errors.buffer.getvalue().count(b"\n") == 1
    assert b"this console cannot show" in errors.buffer.getvalue()


def test_a_verdict_is_printed_on_any_console(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    check("attention.window_mask", None)
    stream.flush()
    assert stream.buffer.getvalue().startswith(b"x attention.window_mask: not answered yet")
