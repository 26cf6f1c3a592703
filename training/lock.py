"""One process at a time for each folder: two of them would delete each other's checkpoints, or write the same files."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common import reading
from common.errors import UserError
from common.files import try_lock

NAME = ".lock"
ANOTHER_RUN = "start a run of its own without `resume`"


class RunLock:
    """`take(folder)` before anything is changed in it; the lock is let go when the `with` block ends.

    doing, advice: what the other process does, and what a person may do about it, for the error."""

    def __init__(self, doing: str = "is training this run", advice: str = ANOTHER_RUN) -> None:
        self.held: dict[Path, int] = {}
        self.doing, self.advice = doing, advice

    def take(self, folder: Path) -> None:
        """Raises UserError, naming the other process, where one is at work in `folder` already."""
        path = folder / NAME
        while folder not in self.held:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            if not try_lock(handle):
                os.close(handle)
                raise UserError(
                    f"{folder}: {_owner(path)} {self.doing}; wait for it, stop it with Ctrl-C, or {self.advice}"
                )
            try:
                same = os.path.samestat(os.fstat(handle), os.stat(path))
            except FileNotFoundError:
                same = False
            if not same:  # the owner before us removed the file after we had opened it
                os.close(handle)
                continue
            self.held[folder] = handle
            with suppress(OSError):  # a full disk: the lock holds all the same, it only has no name on it
                os.ftruncate(handle, 0)
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())

    def release(self) -> None:
        for folder, handle in self.held.items():
            windows = os.name == "nt"  # an open file cannot be removed there; elsewhere the name goes before the lock
            if windows:
                os.close(handle)
            with suppress(OSError):
                os.unlink(folder / NAME)
            if not windows:
                os.close(handle)
        self.held = {}

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *exc) -> None:
        self.release()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes a folder of results, which no other process writes into meanwhile; one that stays empty goes again. Raises
    UserError, naming the other process, where one is at work in it."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with RunLock("is writing into it", "choose another folder") as lock:
            lock.take(folder)
            yield
    finally:
        if made:
            with suppress(OSError):
                folder.rmdir()


def _owner(path: Path) -> str:
    try:
        told = reading.json_file(path)
        here = told["host"] == socket.gethostname()
        return f"process {int(told['pid'])}{'' if here else ' on ' + str(told['host'])}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
