"""Ctrl-C and its relatives as a request that a loop looks at between two steps."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from common.errors import Ended


class StopRequest:
    """Turns the first Ctrl-C, SIGTERM or lost terminal into a request; a second Ctrl-C interrupts at once."""

    def __init__(self, tell: bool) -> None:
        self.asked = False
        self.number = int(signal.SIGINT)
        self.tell = tell
        self.previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopRequest:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            sig = getattr(signal, name, None)
            if sig is None or (name == "SIGHUP" and signal.getsignal(sig) == signal.SIG_IGN):  # nohup: train on
                continue
            with suppress(ValueError):  # not the main thread: the caller keeps its own handlers
                self.previous[sig] = signal.signal(sig, self._ask)
        return self

    def _ask(self, sig: int, frame) -> None:
        if self.asked and sig == signal.SIGINT:
            raise KeyboardInterrupt
        if self.tell and not self.asked and sig == signal.SIGINT:
            with suppress(OSError):
                os.write(2, b"\nstopping after this step and saving; Ctrl-C again stops at once, without saving\n")
        if not self.asked:
            self.number = sig
        self.asked = True

    def interruption(self) -> KeyboardInterrupt:
        """What to raise when the state is saved: its exit code tells which signal it was."""
        return KeyboardInterrupt() if self.number == signal.SIGINT else Ended(self.number)

    def __exit__(self, *exc) -> None:
        for sig, handler in self.previous.items():
            signal.signal(sig, handler)
