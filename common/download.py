"""One file from the internet into a cache: checked by its SHA-256, whole or absent, and given up on in time."""

from __future__ import annotations

import hashlib
import os
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from common.errors import UserError
from common.files import sha256_of, written_whole

BLOCK = 1 << 18
T = TypeVar("T")

Progress = Callable[[int, int], None]


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None,
    max_bytes: int,
    timeout: float = 10.0,
    progress: Progress | None = None,
) -> None:
    """Fetch `url` to `target`, whose folder is made where it is missing.

    sha256: hex digest that the file must have; None: not pinned. max_bytes: what it can't be larger than; a page that
    comes in its place must not fill the disk. timeout: seconds to wait for the connection and for each read. progress:
    called with (bytes so far, bytes in all or 0).

    Raises OSError, EOFError or http.client.HTTPException for what goes wrong on the way, ValueError where something
    else came; nothing is left behind then.
    """
    with open_url(url, timeout) as response:
        if url.startswith("https:") and not response.geturl().startswith("https:"):
            raise UserError("it leads to an address without https; download it otherwise and give the file")
        length = response.headers.get("Content-Length") or ""
        total, done, digest = int(length) if length.isdecimal() else 0, 0, hashlib.sha256()
        if total > max_bytes:
            raise UserError(f"{_size(total)} are offered, and that file has no more than {_size(max_bytes)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target, shared=True) as temporary:
            with temporary.open("wb") as out:
                while block := response.read(BLOCK):
                    done += len(block)
                    if done > max_bytes:
                        raise UserError(f"more than {_size(max_bytes)} came, which is not that file")
                    out.write(block)
                    digest.update(block)
                    if progress is not None:
                        progress(done, total)
            if total and done != total:
                raise EOFError(f"the connection ended after {done} of {total} bytes")
            if sha256 is not None and digest.hexdigest() != sha256:
                raise UserError(f"what came has SHA-256 {digest.hexdigest()}, not {sha256}, and was thrown away")


@dataclass(frozen=True)
class FetchedOnce:
    """A published file of weights: where it lies, or how it is fetched once.

    what, verb: "the weights", "are". kind: what a person may give in its place. parameter, environment: by which they
    name a file of their own. cached: where a fetched one is kept. trusted: what lies there is not checked again.
    """

    what: str
    verb: str
    kind: str
    url: str
    sha256: str
    max_bytes: int
    parameter: str
    environment: str
    cached: Path
    trusted: bool = False

    def find(
        self,
        path: str | os.PathLike | None = None,
        *,
        allow_download: bool = True,
        timeout: float = 10.0,
        progress: Progress | None = None,
    ) -> Path:
        """`path`, else what the environment variable names, else the cache's, else a download into the cache.

        A file that the user names is taken as it is; what is fetched must have the known SHA-256. UserError where a
        named file is not there, or where there is none and it can't be fetched (`timeout` seconds for each step); the
        line says what to download and where to put it.
        """
        for given, name in ((path, f"`{self.parameter}`"), (os.environ.get(self.environment), self.environment)):
            if given:
                if not Path(given).is_file():
                    raise UserError(f"{name} {given}: no such file; give {self.kind}")
                return Path(given)
        if self.cached.is_file() and (self.trusted or sha256_of(self.cached) == self.sha256):
            return self.cached
        advice = (
            f"download {self.url} and put it at {self.cached}, or name its place with `{self.parameter}` or"
            f" {self.environment}"
        )
        if not allow_download:
            raise UserError(f"{self.what} {self.verb} not here; {advice}")
        try:
            download(
                self.url, self.cached, sha256=self.sha256, max_bytes=self.max_bytes, timeout=timeout, progress=progress
            )
        except Exception as error:  # name resolution, TLS, HTTP, disk: the user's next step is the same
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{self.what} could not be fetched ({reason}); {advice}") from error
        return self.cached


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 30 else f"{count / 2**20:.1f} MiB"


def open_url(url: str, timeout: float):
    """`urlopen` that gives up in time."""
    request = urllib.request.Request(url, headers={"User-Agent": "ganface"})
    return within(2 * timeout, lambda: urllib.request.urlopen(request, timeout=timeout))


def within(seconds: float, work: Callable[[], T]) -> T:
    """`work()`, or TimeoutError after so many seconds. A socket's timeout does not cover name resolution, which nobody
    can end: it goes on in a thread of its own, that nobody waits for."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # handed to the waiting thread
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError:
        if done.done():  # its own
            raise
        raise TimeoutError(f"no answer in {seconds:.0f} s") from None
