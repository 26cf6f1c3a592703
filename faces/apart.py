"""Photos decoded in processes of their own, which are ended when they take too long or too much memory.

No thread can be stopped while a decoder written in C is at work, and some files are made to keep it at work for
minutes. What takes as long as its pixels are many, and no longer, is decoded here and now: a JPEG that is one pass, of
ordinary size. All else goes to a fresh interpreter, with a limit on its memory, and on its time.
"""

from __future__ import annotations

import contextlib
import json
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from common.errors import BadImage, TooSmall
from common.memory import at_most
from faces import jpeg_scans
from faces.decode import COST, MAX_PIXELS, Decode, decode_image, open_header

AT_ONCE = 12_000_000  # pixels of a one-pass JPEG that is decoded without a process
MARGIN = 512 << 20  # bytes that a worker may take beside the pixels: the file, twice, and what libraries hold
GRACE = 5  # seconds after which a worker whose parent has gone ends itself


@contextlib.contextmanager
def decoder(seconds: float | None) -> Iterator[Decode]:
    """`decode_image`, or with a limit on the seconds that a photo may take an `Apart`, closed at the end."""
    if seconds is None:
        yield decode_image
        return
    apart = Apart(seconds)
    try:
        yield apart
    finally:
        apart.close()


class Apart:
    """`apart(data, name)` as `faces.decode.decode_image`, and BadImage after `seconds`. From several threads, each with
    a worker of its own, which is kept for the next photo."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()

    def __call__(self, data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> np.ndarray:
        with open_header(data, name, max_pixels=max_pixels, min_side=min_side) as image:
            small = image.width * image.height <= AT_ONCE
            plain = image.format in ("JPEG", "MPO") and jpeg_scans.scans_of(data) == 1
        if small and plain:
            return decode_image(data, name, max_pixels=max_pixels, min_side=min_side)
        job = {"name": name, "max_pixels": max_pixels, "min_side": min_side, "seconds": self.seconds}
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        answer = self._done(worker or _Worker(), job, data)
        if isinstance(answer, np.ndarray):
            return answer
        if "small" in answer:
            raise TooSmall(name, *answer["small"])
        raise BadImage(name, answer["bad"])

    def _done(self, worker: _Worker, job: dict, data: bytes) -> np.ndarray | dict:
        timer, begin = threading.Timer(self.seconds, worker.kill), time.monotonic()
        timer.start()
        try:
            answer = worker.decoded(job, data)
        except (OSError, EOFError):
            worker.end()
            if time.monotonic() - begin >= self.seconds:
                raise BadImage(job["name"], f"not decoded within {self.seconds:g} s, given up") from None
            raise BadImage(job["name"], "broken image (its decoder ended on it, or took too much memory)") from None
        finally:
            timer.cancel()
            timer.join()  # or it might end the worker when that has another photo
        if worker.poll() is None:
            with self._lock:
                self._idle.append(worker)
        return answer

    def close(self) -> None:
        """End the workers."""
        with self._lock:
            workers, self._idle = self._idle, []
        for worker in workers:
            worker.end()


class _Worker(subprocess.Popen):
    """A fresh interpreter at `work`. It says when it is ready: starting one is not the photo's time."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parent.parent)
        code = f"import sys; sys.path.insert(0, {root!r}); from faces.apart import work; work()"
        super().__init__([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.stdin is None or self.stdout is None:
            raise OSError("a process that was asked for pipes has none")
        self.inp, self.out = self.stdin, self.stdout
        _told(self.out)

    def decoded(self, job: dict, data: bytes) -> np.ndarray | dict:
        """The pixels, or why there are none. OSError or EOFError where the worker has ended."""
        _tell(self.inp, job | {"bytes": len(data)})
        self.inp.write(data)
        self.inp.flush()
        answer = _told(self.out)
        if "shape" not in answer:
            return answer
        pixels = np.empty(answer["shape"], np.uint8)
        view = pixels.data.cast("B")
        while view:
            got = self.out.readinto(view)  # type: ignore[attr-defined]
            if not got:
                raise EOFError
            view = view[got:]
        return pixels

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.inp.close()
        self.kill()
        self.out.close()
        self.wait()


def _tell(out: IO[bytes], what: dict) -> None:
    text = json.dumps(what).encode()
    out.write(struct.pack("<I", len(text)) + text)


def _told(inp: IO[bytes]) -> dict:
    head = inp.read(4)
    if len(head) < 4:
        raise EOFError
    text = inp.read(struct.unpack("<I", head)[0])
    try:
        return json.loads(text)
    except ValueError:
        raise EOFError from None


def work() -> None:
    """The life of a worker: photos come in on stdin, pixels go out on stdout, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    inp, out = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(EOFError, OSError):
        _tell(out, {})
        out.flush()
        while True:
            job = _told(inp)
            data = inp.read(job["bytes"])
            _end_after(job["seconds"] + GRACE)
            with at_most(COST * job["max_pixels"] + MARGIN):
                answer, pixels = _answer(data, job)
            _end_after(0)
            _tell(out, answer)
            if pixels is not None:
                out.write(pixels.data.cast("B"))
            out.flush()
            del data, pixels


def _answer(data: bytes, job: dict) -> tuple[dict, np.ndarray | None]:
    try:
        pixels = decode_image(data, job["name"], max_pixels=job["max_pixels"], min_side=job["min_side"])
    except TooSmall as error:
        return {"small": error.sides}, None
    except BadImage as error:
        return {"bad": error.reason}, None
    return {"shape": pixels.shape}, pixels


def _end_after(seconds: float) -> None:
    """This process ends by itself in so many seconds (0: never): its parent, which would end it, may have gone."""
    if hasattr(signal, "alarm"):
        signal.alarm(int(seconds))
