"""Ctrl-C and requests to end: a flag first, the end after the second, a whole step in between."""

import signal
import threading

import pytest

from minigpt.support.signals import end_on_signals, stop_on_signals, uninterrupted


def test_signals_raise_a_flag_and_the_second_ends_the_program():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals() as stop:
        assert (stop(), stop.exit_code) == (False, 0)
        signal.raise_signal(signal.SIGTERM)
        assert (stop(), stop.exit_code) == (True, 143)
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGINT)
        assert caught.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("number", "name", "code"),
    [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "request to end", 143)],
)
def test_a_signal_is_acknowledged_before_it_ends_the_program(capfd, number, name, code):
    with pytest.raises(SystemExit) as caught, end_on_signals("stopping; go on"):
        signal.raise_signal(number)
    assert caught.value.code == code
    assert capfd.readouterr().err == f"\n{name}: stopping; go on\n"


def test_training_that_asks_itself_takes_over_and_acknowledges_once(capfd):
    with end_on_signals("at once"):
        with stop_on_signals("after this step") as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop()
            assert capfd.readouterr().err == "\nCtrl-C: after this step\n"
            with pytest.raises(SystemExit):
                signal.raise_signal(signal.SIGINT)
            assert capfd.readouterr().err == ""
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGINT)
        assert capfd.readouterr().err == "\nCtrl-C: at once\n"


def test_signals_are_left_alone_in_other_threads():
    entered = []

    def work():
        with stop_on_signals() as stop, uninterrupted():
            entered.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [False]


def test_a_ctrl_c_is_held_back_until_the_block_is_done():
    done, came = [], []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(list(done)))
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("step")
        assert came == [["step"]], "the handler runs once, after the block"
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_come_back_after_an_error():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError, match="inside"), stop_on_signals(), uninterrupted():
        raise ValueError("inside")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
