"""What stands between requests and the detector: photos in turn, judged in threads beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from web.body import Held, Limits, busy
from web.service import Answer, Ask, Service, Upload

T = TypeVar("T")
VIDEO_SECONDS = 60.0  # where a video may take as long as it likes
STALL_SECONDS = 15.0  # beyond what a video may take, after which a thread's work counts as stalled
ASIDES = 2  # pages fetched and faces made at once


class Line:
    """Photos and videos in front of the service: judged in threads, `threads` at once, in turn. A video takes long:
    one thread is kept for photos where there are several."""

    def __init__(self, service: Service, limits: Limits, threads: int):
        self.service, self.limits, self.threads = service, limits, threads
        self.held = Held(limits)
        self.stopping = asyncio.Event()  # what waits is answered 503 then, what is being judged is finished
        self.patience = (service.limits.seconds or VIDEO_SECONDS) + STALL_SECONDS
        self._running: dict[object, float] = {}  # photos being judged -> since when
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="judge")
        self._slots, self._videos = asyncio.Semaphore(threads), asyncio.Semaphore(max(1, threads - 1))
        self._asides = asyncio.Semaphore(ASIDES)

    async def apart(self, work: Callable[..., T], *given: Any) -> T:
        """What `work` returns that is no photo's judgement and may take seconds; two at once."""
        async with self._asides:
            return await asyncio.get_running_loop().run_in_executor(None, work, *given)

    def stalled(self) -> float:
        """Seconds for which every thread has been at one photo, where that is longer than any may take; else 0."""
        if len(self._running) < self.threads:
            return 0.0
        since = time.monotonic() - max(self._running.values())
        return since if since > self.patience else 0.0

    def trouble(self) -> str:
        """Why no photo should be sent here now, or ""."""
        if self.stopping.is_set():
            return "stopping"
        if self.stalled():
            return "stalled"
        return "busy" if self.held.requests >= self.limits.waiting else ""

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns. RequestRefused (503) where the server stops before."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise busy("it is stopping", {"Connection": "close"})
        finally:
            stop.cancel()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    async def judged(self, request: Request, uploads: list[Upload], ask: Ask, by: Service) -> list[Answer]:
        """The answers to a request's photos, in their order. by: whose ask it is."""
        own = asyncio.Semaphore(self.threads)  # the photos of one request do not stand in line before all others'

        async def one(upload: Upload) -> Answer:
            async with own:
                return await self._one(request, upload, ask, by)

        tasks = [asyncio.create_task(one(upload)) for upload in uploads]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _one(self, request: Request, upload: Upload, ask: Ask, by: Service) -> Answer:
        async with contextlib.AsyncExitStack() as turn:
            await self.unless_stopped(self._turn(turn, upload))
            if await request.is_disconnected():
                raise ClientDisconnect()
            key = object()
            self._running[key] = time.monotonic()
            try:
                work = asyncio.get_running_loop().run_in_executor(self._pool, by.judge, upload, ask)
                return await work
            finally:
                del self._running[key]

    async def _turn(self, turn: contextlib.AsyncExitStack, upload: Upload) -> None:
        try:
            async with asyncio.timeout(self.limits.wait_seconds):
                if upload.may_be_video:
                    await turn.enter_async_context(self._videos)
                await turn.enter_async_context(self._slots)
        except TimeoutError:
            raise busy(f"a photo's turn did not come within {self.limits.wait_seconds:g} s") from None
