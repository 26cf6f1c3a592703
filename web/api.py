"""The HTTP API: requests to the service and back. What it answers is what `detect.py` says as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

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
from web.page import api_page, main_page
from web.service import Answer, Ask, Service, Upload

OPTIONS = {"face", "fpr", "threshold", "explain"}
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
    403: "a browser sent it from another site",
    408: "the body came too slowly",
    413: "too many bytes or photos",
    415: "neither a form nor an image nor a video",
    422: "an option that is not to be had, or no photo",
    503: "busy; see Retry-After",
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
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="judge")
        self._slots, self._videos = asyncio.Semaphore(threads), asyncio.Semaphore(max(1, threads - 1))

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
            try:
                async with asyncio.timeout(self.limits.wait_seconds):
                    if upload.may_be_video:
                        await turn.enter_async_context(self._videos)
                    await turn.enter_async_context(self._slots)
            except TimeoutError:
                raise busy(f"a photo's turn did not come within {self.limits.wait_seconds:g} s") from None
            if await request.is_disconnected():
                raise ClientDisconnect()
            return await asyncio.get_running_loop().run_in_executor(self._pool, self.service.judge, upload, ask)


def build_app(
    service: Service, limits: Limits, *, threads: int | None = None, cors: Sequence[str] = (), version: str = ""
) -> FastAPI:
    """The application. threads: photos that are judged at once (default: one for each core). cors: origins whose pages
    may ask, none by default."""
    app = FastAPI(
        title="Real, or generated?",
        version=version or "0",
        description="Verdicts on photos and videos of faces: REAL, FAKE (made by a GAN), UNSURE or NO FACE.",
        docs_url=None,
        redoc_url=None,
        default_response_class=Json,
    )
    line = _Line(service, limits, threads or cores())
    app.state.held = line.held
    _add_detect(app, line, cors)
    _add_facts(app, line)
    _add_pages(app)
    _add_errors(app)
    if cors:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(cors), allow_methods=["GET", "POST"], allow_headers=["content-type"]
        )
    app.add_middleware(_Careful)
    return app


def _add_detect(app: FastAPI, line: _Line, cors: Sequence[str]) -> None:
    service, limits = line.service, line.limits

    @app.post(
        "/v1/detect",
        summary="Judge photos and videos",
        response_class=Json,
        openapi_extra={"requestBody": BODY},
        responses={
            200: {
                "description": "as detect.py's JSON: an entry of results for each face and video, in the files' order"
            },
            **{status: {"description": text, "content": ERROR} for status, text in ERRORS.items()},
        },
    )
    async def detect(
        request: Request,
        face: Annotated[
            Literal["auto", "whole", "required"] | None, Query(description="as for detect.py; default: the server's")
        ] = None,
        fpr: Annotated[float | None, Query(description="a calibrated false-alarm rate, as for detect.py")] = None,
        threshold: Annotated[float | None, Query(description="your own threshold, as for detect.py")] = None,
        explain: Annotated[
            str,
            Query(
                max_length=200,
                description=f"maps of why: {NAMES}, all; frames: small pictures of a video's frames; several with"
                " commas",
            ),
        ] = "",
    ) -> Response:
        """Photos and videos as multipart/form-data in fields called file, or one as the body.

        A video's entry has its verdict and, in `frames`, that of each frame that was looked at. What can't be read
        never stops the others: its entry says why. Where it is the only one, the status is 400. Nothing that comes is
        written to a disk or a log."""
        begin = time.perf_counter()
        with line.held.request() as take:
            try:
                _same_site(request, cors)
                _known_options(request)
                ask = service.ask(face, fpr, threshold, [name for name in explain.split(",") if name])
                uploads = await read_uploads(request, limits, take)
            except (RequestRefused, UserError) as error:
                if getattr(error, "status", 0) != 408:
                    await linger(request, limits)
                raise
            answers = await line.judged(request, uploads, ask)
        if len(answers) == 1 and (reason := answers[0].failure):
            raise RequestRefused(400, f"{uploads[0].name}: {reason}", file=uploads[0].name)
        return Json(service.document(answers, ask, time.perf_counter() - begin))


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


def _same_site(request: Request, cors: Sequence[str]) -> None:
    """Any page that a person looks at could make the browser ask a server on the same machine: not this one."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site not in (None, "same-origin", "none") and origin not in cors and "*" not in cors:
        raise RequestRefused(
            403, "a page of another site may not ask here, unless the server was started to allow its origin"
        )


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
