"""Work ahead in threads: order, batches, slow sources, and errors where the results are read."""

from __future__ import annotations

import threading
import time

import pytest

from common.parallel import in_batches


def test_batches_in_order_whatever_ends_first():
    def work(i: int) -> int:
        time.sleep(0.002 * (i % 3))
        return i * i

    parts = list(in_batches(work, range(23), 5, 4))
    assert [len(part) for part in parts] == [5, 5, 5, 5, 3]
    assert [x for part in parts for x in part] == [i * i for i in range(23)]
    assert list(in_batches(work, [], 5)) == []


def test_a_slow_source_does_not_hold_back_what_is_done():
    go = threading.Event()

    def slowly():
        yield 1
        yield 2
        go.wait(20)
        yield 3

    parts = in_batches(lambda x: x, slowly(), 10, 2, patience=0.1)
    assert next(parts) == [1, 2]
    go.set()
    assert list(parts) == [[3]]


def test_no_more_is_done_ahead_than_two_batches():
    begun = []
    parts = in_batches(lambda i: begun.append(i) or i, iter(range(1000)), 4, 2)
    assert next(parts) == [0, 1, 2, 3]
    time.sleep(0.1)
    assert len(begun) <= 4 + 2 * 4 + 2 + 1
    parts.close()
    time.sleep(0.05)
    assert len(begun) < 30


def test_errors_come_where_the_results_are_read():
    def work(i: int) -> int:
        if i == 6:
            raise KeyError("six")
        return i

    def broken():
        yield from range(3)
        raise OSError("gone")

    parts = in_batches(work, range(100), 4, 2)
    assert next(parts) == [0, 1, 2, 3]
    with pytest.raises(KeyError, match="six"):
        next(parts)
    parts = in_batches(work, broken(), 4, 2)
    assert next(parts) == [0, 1, 2]
    with pytest.raises(OSError, match="gone"):
        next(parts)
