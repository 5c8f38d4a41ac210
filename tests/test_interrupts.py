"""Putting back goes to its end, and Ctrl-C is not lost."""

from __future__ import annotations

import signal
import threading

import pytest
from interrupting import Interrupter, press_ctrl_c

from profiler import interrupts
from profiler.interrupts import to_the_end

pytestmark = pytest.mark.usefixtures("ctrl_c")


def test_ctrl_c_waits_until_everything_is_back():
    done = []

    def put_back():
        done.append("begun")
        press_ctrl_c()
        done.append("through")

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        to_the_end(put_back)
    assert done == ["begun", "through"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_goes_to_the_handler_that_there_was():
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        to_the_end(lambda: to_the_end(press_ctrl_c))
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_an_interrupt_from_elsewhere_lets_it_begin_anew():
    tries = []

    def put_back():
        tries.append(len(tries))
        if len(tries) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_the_end(put_back)
    assert tries == [0, 1]


def test_another_thread_puts_back_as_well():
    done = []
    thread = threading.Thread(target=lambda: to_the_end(lambda: done.append(1)))
    thread.start()
    thread.join()
    assert done == [1]


def test_an_interrupt_at_any_line_leaves_ctrl_c_to_the_program():
    handler = signal.getsignal(signal.SIGINT)
    count = Interrupter().run(lambda: to_the_end(int)).lines
    for at in range(1, count + 1):
        Interrupter(at).run(lambda: to_the_end(int))
        assert signal.getsignal(signal.SIGINT) is handler, at


@pytest.mark.parametrize("next_use", [int, lambda: to_the_end(int)], ids=["none", "another"])
def test_where_ctrl_c_was_not_given_back_the_next_one_still_ends_the_program(monkeypatch, next_use):
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(interrupts._Hold, "end", lambda self: None)
        to_the_end(int)
    next_use()
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()
    assert signal.getsignal(signal.SIGINT) is handler
