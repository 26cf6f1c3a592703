"""Work in a thread beside: in order, bounded, and its errors are not lost."""

import threading

import pytest

from synth.behind import Behind


def test_calls_are_made_in_order_and_waited_for():
    done = []
    with Behind(lambda a, b: done.append((a, b))) as later:
        for i in range(20):
            later(i, -i)
    assert done == [(i, -i) for i in range(20)]


def test_only_so_many_are_on_their_way():
    go, started = threading.Event(), []

    def slow(i):
        started.append(i)
        go.wait(10)

    with Behind(slow, ahead=2) as later:
        later(0)
        later(1)
        third = threading.Thread(target=later, args=(2,))
        third.start()
        third.join(0.1)
        assert third.is_alive() and len(started) <= 1  # waits until one of the two is done
        go.set()
        third.join(10)
    assert started == [0, 1, 2]


def test_errors_come_out():
    def fail(i):
        if i == 1:
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"), Behind(fail) as later:
        later(0)
        later(1)
    with pytest.raises(OSError, match="disk"), Behind(fail) as later:
        for _ in range(100):
            later(1)
    with pytest.raises(KeyboardInterrupt), Behind(fail) as later:  # the first error is told
        later(1)
        raise KeyboardInterrupt
