"""Work that is done in a thread beside the network: encoding and writing what has been rendered."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Behind(contextlib.AbstractContextManager):
    """`with Behind(write) as later: later(a); later(b)` calls `write(a)`, `write(b)` one after another in a thread.

    At most `ahead` calls are on their way, then the next one waits: memory stays flat. What goes wrong in the thread is
    raised by a later call, or at the end of the block, which waits for all calls even where an exception leaves it.
    """

    def __init__(self, function: Callable[..., object], ahead: int = 2):
        self._function, self._ahead = function, ahead
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: deque[Future] = deque()

    def __call__(self, *args: object) -> None:
        while self._pending and (len(self._pending) >= self._ahead or self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._function, *args))

    def __exit__(self, kind, *_) -> None:
        self._thread.shutdown()
        while self._pending:
            failed = self._pending.popleft().exception()
            if failed is not None and kind is None:
                raise failed
