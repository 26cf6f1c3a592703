"""The HTTP API: requests to the service and back. What it answers is what `detect.py` says as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from common.errors import UserError, one_line
from common.parallel import cores
from discriminator.explaining.methods import NAMES
from web.body import HOW, Held, Limits, RequestRefused, busy, linger, read_uploads
from web.guard import Guard, check_site
from web.page import api_page, main_page
from web.service import FRAMES, Answer, Ask, Service, Upload

T = TypeVar("T")
VIDEO_SECONDS = 60.0  # where a video may take as long as it likes
STALL_SECONDS = 15.0  # beyond what a video may take, after which a thread's work counts as stalled
OPTIONS = {"face", "fpr", "threshold", "explain", "evidence", "stability"}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
FORBID = "default-src 'none'; frame-ancestors 'none'"  # of answers that are no page
BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "video/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}
ERROR = {
    "application/json": {
        "schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    }
}
ERRORS = {
    400: "the one photo or video of the request can't be read, or the form is broken",
    401: "the server has a token, and the request does not bring it",
    403: "a browser sent it from another site",
    408: "the body came too slowly",
    413: "too many bytes or photos",
    415: "neither a form nor an image nor a video",
    421: "the Host header has a name that the server does not go by",
    422: "an option that is not to be had, or no photo",
    503: "busy, or stopping; see Retry-After",
}


class Json(Response):
    """ASCII only: a name may hold anything, lone surrogates too."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


class _Line:
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

    async def judged(self, request: Request, uploads: list[Upload], ask: Ask) -> list[Answer]:
        """The answers to a request's photos, in their order."""
        own = asyncio.Semaphore(self.threads)  # the photos of one request do not stand in line before all others'

        async def one(upload: Upload) -> Answer:
            async with own:
                return await self._one(request, upload, ask)

        tasks = [asyncio.create_task(one(upload)) for upload in uploads]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _one(self, request: Request, upload: Upload, ask: Ask) -> Answer:
        async with contextlib.AsyncExitStack() as turn:
            await self.unless_stopped(self._turn(turn, upload))
            if await request.is_disconnected():
                raise ClientDisconnect()
            key = object()
            self._running[key] = time.monotonic()
            try:
                work = asyncio.get_running_loop().run_in_executor(self._pool, self.service.judge, upload, ask)
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


def build_app(
    service: Service,
    limits: Limits,
    *,
    threads: int | None = None,
    cors: Sequence[str] = (),
    hosts: Sequence[str] = (),
    token: str | None = None,
    version: str = "",
) -> FastAPI:
    """The application. threads: photos that are judged at once (default: one for each core). cors: origins whose pages
    may ask, none by default. hosts: names that it goes by besides localhost and addresses. token: what a request must
    bring. Its `state.line` is told when the server stops."""
    app = FastAPI(
        title="Real, or generated?",
        version=version or "0",
        description="Verdicts on photos and videos of faces: REAL, FAKE (made by a GAN), UNSURE or NO FACE.",
        docs_url=None,
        redoc_url=None,
        default_response_class=Json,
    )
    line = _Line(service, limits, threads or cores())
    app.state.line, app.state.held = line, line.held
    _add_detect(app, line, cors)
    _add_facts(app, line)
    _add_pages(app)
    _add_errors(app)
    if cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors),
            allow_methods=["GET", "POST"],
            allow_headers=["content-type", "authorization"],
        )
    app.add_middleware(Guard, hosts=hosts, token=token, limits=limits)
    app.add_middleware(_Careful)
    return app


FACE = Annotated[
    Literal["auto", "whole", "required"] | None, Query(description="as for detect.py; default: the server's")
]
FPR = Annotated[float | None, Query(description="a calibrated false-alarm rate, as for detect.py")]
OWN_THRESHOLD = Annotated[float | None, Query(description="your own threshold, as for detect.py")]
EXPLAIN = Annotated[
    str,
    Query(
        max_length=200,
        description=f"{NAMES}: maps of why, or all; frames: small pictures of a video's frames; several with commas",
    ),
]


EVIDENCE = Annotated[bool, Query(description="what each photo's file itself tells, in the entry of its first face")]
STABILITY = Annotated[
    bool, Query(description="judge each photo in other versions, too; UNSURE where FAKE and REAL change places")
]


def _add_detect(app: FastAPI, line: _Line, cors: Sequence[str]) -> None:
    service, limits = line.service, line.limits
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": ERROR} for status, text in ERRORS.items()
    }
    told = "as detect.py's JSON: an entry of results for each face and video, in the files' order"
    page = {"text/html": {"schema": {"type": "string"}}}

    async def answered(request: Request, make: Callable[[], Ask]) -> tuple[list[Answer], Ask, float]:
        """The answers to a request's photos, what it asked for, and the seconds that took."""
        begin = time.perf_counter()
        with contextlib.ExitStack() as place:
            try:
                take = place.enter_context(line.held.request())
                check_site(request, cors)
                _known_options(request)
                ask = make()
                uploads = await line.unless_stopped(read_uploads(request, limits, take))
            except (RequestRefused, UserError) as error:
                if getattr(error, "status", 0) != 408:
                    await linger(request, limits)
                raise
            answers = await line.judged(request, uploads, ask)
        if len(answers) == 1 and (reason := answers[0].failure):
            raise RequestRefused(400, f"{uploads[0].name}: {reason}", file=uploads[0].name)
        return answers, ask, time.perf_counter() - begin

    @app.post(
        "/v1/detect", summary="Judge photos and videos", response_class=Json,
        openapi_extra={"requestBody": BODY}, responses={200: {"description": told}, **refusals},
    )  # fmt: skip
    async def detect(
        request: Request, face: FACE = None, fpr: FPR = None, threshold: OWN_THRESHOLD = None, explain: EXPLAIN = "",
        evidence: EVIDENCE = False, stability: STABILITY = False,
    ) -> Response:  # fmt: skip
        """Photos and videos as multipart/form-data in fields called file, or one as the body.

        A video's entry has its verdict and, in `frames`, that of each frame that was looked at. What can't be read
        never stops the others: its entry says why. Where it is the only one, the status is 400. Nothing that comes is
        written to a disk or a log."""
        wanted = [name for name in explain.split(",") if name]
        beside = {"evidence": evidence, "stability": stability}
        judged = await answered(request, lambda: service.ask(face, fpr, threshold, wanted, **beside))
        return Json(service.document(*judged))

    @app.post(
        "/v1/report", summary="A report on photos and videos to hand on", response_class=HTMLResponse,
        openapi_extra={"requestBody": BODY},
        responses={200: {"description": "one HTML file that needs nothing else", "content": page}, **refusals},
    )  # fmt: skip
    async def report(
        request: Request, face: FACE = None, fpr: FPR = None, threshold: OWN_THRESHOLD = None, explain: EXPLAIN = "",
        evidence: EVIDENCE = False, stability: STABILITY = False,
    ) -> Response:  # fmt: skip
        """As /v1/detect, told as the page that `detect.py --report` writes."""
        wanted = [name for name in explain.split(",") if name and name != FRAMES]
        beside = {"evidence": evidence, "stability": stability, "report": True}
        judged = await answered(request, lambda: service.ask(face, fpr, threshold, wanted, **beside))
        text = await asyncio.get_running_loop().run_in_executor(None, service.report, *judged)
        return HTMLResponse(text, headers={"Content-Disposition": 'attachment; filename="report.html"'})


def _add_facts(app: FastAPI, line: _Line) -> None:
    limits = line.limits
    known = line.service.model() | {
        "limits": {"bytes": limits.max_bytes, "files": limits.max_files, "pixels": line.service.max_pixels}
        | {"video_seconds": line.service.limits.seconds, "video_frames": line.service.limits.frames}
    }

    @app.get("/v1/model", summary="The detector: thresholds, false-alarm rates, data, SHA-256", response_class=Json)
    async def model() -> Response:
        return Json(known)

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Whether the server answers", response_class=Json)
    async def healthz() -> Response:
        return Json({"status": "ok", "waiting": line.held.requests})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", summary="Whether photos should be sent here: 503 while none is judged", response_class=Json)
    async def readyz() -> Response:
        trouble = line.trouble()
        told = {"status": trouble or "ok", "waiting": line.held.requests}
        if seconds := line.stalled():
            told["seconds"] = round(seconds)
        return Json(told, 503 if trouble else 200, {"Retry-After": "5"} if trouble else None)


def _add_pages(app: FastAPI) -> None:
    page, page_policy = main_page()

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def root() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": page_policy})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        text, policy = api_page(app.openapi())
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestRefused)
    async def refused(request: Request, error: RequestRefused) -> Response:
        named = {} if error.file is None else {"file": error.file, "status": "unreadable"}
        return Json({"error": str(error), **named}, error.status, error.headers)

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        return Json({"error": re.sub(r"`([a-z]\w*)`", r"\1", str(error))}, 422)  # a parameter is the query's here

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return Json({"error": one_line(f"{first['loc'][-1]}: {first['msg']}")}, 422)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        told = {404: "there is nothing here; see / and /docs", 405: f"not this method; {HOW} by POST to /v1/detect"}
        return Json({"error": told.get(error.status_code, str(error.detail))}, error.status_code, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Json({"error": "the client has gone"}, 499)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return Json({"error": "a fault of the server; its log says more"}, 500)


def _known_options(request: Request) -> None:
    if unknown := sorted(set(request.query_params) - OPTIONS):
        raise RequestRefused(422, f"no option {unknown[0][:40]}; there are {', '.join(sorted(OPTIONS))}")
    if len(request.query_params.multi_items()) > len(request.query_params):
        raise RequestRefused(422, "an option is given twice; give each once")


class _Careful:
    """The headers that every answer has."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def with_headers(message):
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                more = HEADERS | {"Content-Security-Policy": FORBID}
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in more.items() if k.lower().encode() not in there),
                ]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
