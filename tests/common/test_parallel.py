"""Threads that keep their order and do not run away."""

from __future__ import annotations

import threading
import time

import pytest

from common import parallel
from common.parallel import in_order


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 300])
def test_order(workers, count):
    def work(i):
        if i % 37 == 0:
            time.sleep(0.001)
        return i * i

    assert list(in_order(work, count, workers)) == [i * i for i in range(count)]


def test_a_slow_reader_holds_the_threads_back():
    begun = []
    results = in_order(lambda i: begun.append(i), 10_000, 2, chunk=4)
    for _ in range(10):
        next(results)
    time.sleep(0.1)
    assert len(begun) <= 4 * (parallel.AHEAD * 2 + 4)
    results.close()
    after = len(begun)
    time.sleep(0.05)
    assert len(begun) == after and not [t for t in threading.enumerate() if t.name.startswith("faces_")]


def test_an_error_comes_out_and_ends_it():
    begun = []

    def work(i):
        begun.append(i)
        if i == 20:
            raise OSError(28, "No space left on device")
        return i

    with pytest.raises(OSError, match="No space"):
        list(in_order(work, 100_000, 2))
    assert len(begun) < 1000
