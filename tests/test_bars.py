"""Progress bars: one moving line on a terminal, a line now and then elsewhere."""

import os
import re
import subprocess
import sys
import time

import pytest

from minigpt.commands import bars
from minigpt.commands.bars import Bar, Bars, training_bar


def test_elsewhere_short_work_says_nothing(capsys):
    for _ in Bar(range(1000), desc="counting"):
        pass
    assert capsys.readouterr() == ("", "")


def test_elsewhere_long_work_says_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(bars, "SECONDS_A_LINE", 0.05)
    with Bar(total=200, desc="counting") as bar:
        for _ in range(200):
            time.sleep(0.002)
            bar.update()
    err = capsys.readouterr().err
    lines = err.splitlines()
    assert "\r" not in err
    assert 3 < len(lines) < 100, "not each of the 200 updates"
    assert all(re.match(r"counting: +\d+%", line) for line in lines)


def test_stages_come_one_after_the_other(monkeypatch):
    made = []

    class Kept(Bar):
        def __init__(self, *args, **options):
            assert all(bar.disable for bar in made), "the one before is closed"
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(bars, "Bar", Kept)
    with Bars() as show:
        for stage in ("answering", "telling"):
            for done in (1, 2, 3):
                show(stage, done, 3)
    assert [bar.n for bar in made] == [3, 3]


def test_a_resumed_training_counts_time_from_where_it_begins(monkeypatch):
    made = []

    class Kept(Bar):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(bars, "Bar", Kept)
    with training_bar("training", 200, first_step=150) as show:
        show({"step": 160, "loss": 2.0})
        show({"step": 160, "val_loss": 2.5})
        facts = made[0].format_dict
        assert (facts["n"], facts["initial"], facts["total"]) == (160, 150, 200)
        assert made[0].postfix == "loss=2.000, val_loss=2.500"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals of this kind")
@pytest.mark.parametrize("width", [0, 60])
def test_on_a_terminal_bars_move_and_leave_nothing_behind(width):
    import fcntl
    import pty
    import struct
    import termios

    code = (
        "import time\nfrom minigpt.commands.bars import Bars\n"
        "with Bars() as show:\n"
        "    for stage in ('first', 'second'):\n"
        "        for done in range(1, 4):\n"
        "            show(stage, done, 3); time.sleep(0.12)\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    os.set_blocking(ours, False)
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True)
    shown = os.read(ours, 1 << 16).decode("utf-8")
    os.close(theirs)
    os.close(ours)
    assert "first:" in shown
    assert "second:" in shown
    assert "\n" not in shown, "a bar never goes to another line"
    last = [part for part in shown.split("\r") if part][-1]
    assert not last.strip(), "what a bar drew last is wiped away"
