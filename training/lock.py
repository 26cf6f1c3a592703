"""One process at a time for each folder or file: two of them would delete each other's checkpoints, or the later one
would replace, unasked, what the other has made."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common import reading
from common.errors import UserError
from common.files import hidden_name, try_lock

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
        self._hold(folder / NAME, folder)

    def take_file(self, file: Path) -> None:
        """The same of a file, which need not be there; its folder has to."""
        self._hold(file.with_name(hidden_name(file.name, NAME)), file)

    def _hold(self, path: Path, what: Path) -> None:
        """path: the file that is locked for it."""
        while path not in self.held:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            if not try_lock(handle):
                os.close(handle)
                raise UserError(
                    f"{what}: {_owner(path)} {self.doing}; wait for it, stop it with Ctrl-C, or {self.advice}"
                )
            try:
                same = os.path.samestat(os.fstat(handle), os.stat(path))
            except FileNotFoundError:
                same = False
            if not same:  # the owner before us removed the file after we had opened it
                os.close(handle)
                continue
            self.held[path] = handle
            with suppress(OSError):  # a full disk: the lock holds all the same, it only has no name on it
                os.ftruncate(handle, 0)
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())

    def release(self) -> None:
        for path, handle in self.held.items():
            windows = os.name == "nt"  # an open file cannot be removed there; elsewhere the name goes before the lock
            if windows:
                os.close(handle)
            with suppress(OSError):
                os.unlink(path)
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


@contextmanager
def alone_at(*files: str | os.PathLike) -> Iterator[None]:
    """Makes the folders of files that are going to be written; nobody else writes these meanwhile, and what stays empty
    of the folders goes again. Raises UserError, naming the other process, where one is at work on one of the files."""
    places = dict.fromkeys(Path(os.path.realpath(Path(file).parent)) / Path(file).name for file in files)
    made = [above for file in places for above in file.parents if not above.exists()]
    try:
        with RunLock("is writing it", "choose another name") as lock:
            for file in places:
                file.parent.mkdir(parents=True, exist_ok=True)
                lock.take_file(file)
            yield
    finally:
        for folder in dict.fromkeys(made):
            with suppress(OSError):  # not empty
                folder.rmdir()


def _owner(path: Path) -> str:
    try:
        told = reading.json_file(path)
        here = told["host"] == socket.gethostname()
        return f"process {int(told['pid'])}{'' if here else ' on ' + str(told['host'])}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
