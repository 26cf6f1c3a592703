"""Work on many images in threads: Pillow, OpenCV and hashlib run without the interpreter's lock, on all cores."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")
Progress = Callable[[int, int], None]  # of (done, in all)
Stages = Callable[[str, int, int], None]  # of (stage, done, in all)
CHUNK = 16
AHEAD = 8  # chunks for each worker that may be done before they are asked for


def cores() -> int:
    """The cores this process may use, which in a container or under a job scheduler are not all of the machine's."""
    try:
        return min(16, len(os.sched_getaffinity(0)))
    except AttributeError:  # not Linux
        return min(16, os.cpu_count() or 1)


def stage(progress: Stages | None, name: str) -> Progress | None:
    """`progress(stage, done, total)` as a function of (done, total) during one stage."""
    return None if progress is None else lambda done, total: progress(name, done, total)


def told(items: Iterable[T], total: int, progress: Progress | None, every: int = 1) -> Iterator[T]:
    """`items` as they come; progress(done, total) after `every` so many of them, and after the last."""
    for done, item in enumerate(items, start=1):
        yield item
        if progress is not None and (done % every == 0 or done == total):
            progress(done, total)


def in_order(
    work: Callable[[int], T], count: int, workers: int | None = None, *, chunk: int = CHUNK, ahead: int = AHEAD
) -> Iterator[T]:
    """work(0), work(1), … work(count - 1), done in `workers` threads (default: one per core) and given in this order.

    The threads run ahead of the reader by `ahead` chunks each and no more: a slow reader does not fill the memory. An
    exception of `work` is raised here; then, and when the reader stops, what has not begun is not begun any more."""
    workers = max(1, cores() if workers is None else workers)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="faces")

    def part(start: int) -> list[T]:
        return [work(i) for i in range(start, min(start + chunk, count))]

    starts = iter(range(0, count, chunk))
    try:
        waiting = deque(pool.submit(part, start) for start in islice(starts, ahead * workers))
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(pool.submit(part, start) for start in islice(starts, 1))
    finally:  # also on Ctrl-C and on a full disk
        pool.shutdown(wait=True, cancel_futures=True)


def in_batches(
    work: Callable[[S], T], items: Iterable[S], batch: int, workers: int | None = None, *, patience: float | None = None
) -> Iterator[list[T]]:
    """work(item) of each item, done in `workers` threads (default: one per core), in the items' order, `batch` at once.

    The items are drawn in a thread of their own, so they may come slowly, as from a pipe: a batch that is not full
    after `patience` seconds (None: however long it takes) is given away as it is. Two batches ahead of the reader are
    done and no more. An exception of `work` or `items` is raised here."""
    workers = max(1, cores() if workers is None else workers)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="faces")
    room, stop = threading.Semaphore(2 * batch + workers), threading.Event()
    begun: queue.SimpleQueue = queue.SimpleQueue()  # futures, then None or an exception

    def feed() -> None:
        try:
            for item in items:
                room.acquire()
                if stop.is_set():
                    return
                begun.put(pool.submit(work, item))
            begun.put(None)
        except BaseException as error:  # raised where the results are read
            begun.put(error)

    threading.Thread(target=feed, name="faces-feeder", daemon=True).start()
    try:
        while True:
            part: list[T] = []
            while len(part) < batch:
                try:
                    future = begun.get(timeout=patience if part else None)
                except queue.Empty:
                    break
                if future is None or isinstance(future, BaseException):
                    if part:
                        yield part
                    if future is None:
                        return
                    raise future
                part.append(future.result())
                room.release()
            yield part
    finally:  # also on Ctrl-C
        stop.set()
        room.release()
        pool.shutdown(wait=False, cancel_futures=True)
