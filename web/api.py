"""The HTTP API: requests to the service and back. What it answers is what `detect.py --json` says."""

from __future__ import annotations

import asyncio
import json
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
from web.body import HOW, Held, Limits, Refused, busy, linger, read_uploads
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
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}
ERROR = {
    "application/json": {
        "schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    }
}
ERRORS = {
    400: "the one photo of the request can't be read, or the form is broken",
    403: "a browser sent it from another site",
    408: "the body came too slowly",
    413: "too many bytes or photos",
    415: "neither a form nor an image; videos",
    422: "an option that is not to be had, or no photo",
    503: "busy; see Retry-After",
}


class Json(Response):
    """ASCII only: a name may hold anything, lone surrogates too."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


def build_app(
    service: Service, limits: Limits, *, threads: int, cors: Sequence[str] = (), version: str = ""
) -> FastAPI:
    """The application. threads: photos that are judged at once. cors: origins whose pages may ask, none by default."""
    app = FastAPI(
        title="Real, or generated?",
        version=version or "0",
        description="Verdicts on photos of faces: REAL, FAKE (made by a GAN), UNSURE or NO FACE.",
        docs_url=None,
        redoc_url=None,
        default_response_class=Json,
    )
    pool = ThreadPoolExecutor(threads, thread_name_prefix="judge")
    slots, held = asyncio.Semaphore(threads), Held(limits)
    known = service.model() | {
        "limits": {"bytes": limits.max_bytes, "files": limits.max_files, "pixels": service.max_pixels}
    }
    page, page_policy = main_page()
    app.state.held = held

    async def one(request: Request, upload: Upload, ask: Ask) -> Answer:
        try:
            async with asyncio.timeout(limits.wait_seconds):
                await slots.acquire()
        except TimeoutError:
            raise busy(f"a photo's turn did not come within {limits.wait_seconds:g} s") from None
        try:
            if await request.is_disconnected():
                raise ClientDisconnect()
            return await asyncio.get_running_loop().run_in_executor(pool, service.judge, upload, ask)
        finally:
            slots.release()

    @app.post(
        "/v1/detect",
        summary="Judge photos",
        response_class=Json,
        openapi_extra={"requestBody": BODY},
        responses={
            200: {"description": "as detect.py --json: one entry of results for each face, in the order of the photos"},
            **{status: {"description": text, "content": ERROR} for status, text in ERRORS.items()},
        },
    )
    async def detect(
        request: Request,
        face: Annotated[
            Literal["auto", "whole", "required"] | None, Query(description="as detect.py --face; default: the server's")
        ] = None,
        fpr: Annotated[float | None, Query(description="a calibrated false-alarm rate, as detect.py --fpr")] = None,
        threshold: Annotated[float | None, Query(description="your own threshold, as detect.py --threshold")] = None,
        explain: Annotated[
            str, Query(max_length=40, description="patches, gradcam, or both with a comma: maps of where it was seen")
        ] = "",
    ) -> Response:
        """Photos as multipart/form-data in fields called file, or one photo as the body.

        A photo that can't be read never stops the others: its entry says why. Where it is the only one, the status is
        400. Nothing that comes is written to a disk or a log."""
        begin = time.perf_counter()
        with held.request() as take:
            try:
                _same_site(request, cors)
                if unknown := sorted(set(request.query_params) - OPTIONS):
                    raise Refused(422, f"no option {unknown[0][:40]}; there are {', '.join(sorted(OPTIONS))}")
                if len(request.query_params.multi_items()) > len(request.query_params):
                    raise Refused(422, "an option is given twice; give each once")
                ask = service.ask(face, fpr, threshold, [name for name in explain.split(",") if name])
                uploads = await read_uploads(request, limits, take)
            except (Refused, UserError) as error:
                if getattr(error, "status", 0) != 408:
                    await linger(request, limits)
                raise
            own = asyncio.Semaphore(threads)  # the photos of one request do not stand in line before all others'

            async def judged(upload: Upload) -> Answer:
                async with own:
                    return await one(request, upload, ask)

            tasks = [asyncio.create_task(judged(upload)) for upload in uploads]
            try:
                answers = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
        if len(answers) == 1 and (reason := answers[0].failure):
            status = 415 if answers[0].is_video else 400
            raise Refused(status, f"{uploads[0].name}: {reason}", file=uploads[0].name)
        return Json(service.document(answers, ask, time.perf_counter() - begin))

    @app.get("/v1/model", summary="The detector: thresholds, false-alarm rates, data, SHA-256", response_class=Json)
    async def model() -> Response:
        return Json(known)

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Whether the server answers", response_class=Json)
    async def healthz() -> Response:
        return Json({"status": "ok", "waiting": held.requests})

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def root() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": page_policy})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        text, policy = api_page(app.openapi())
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        named = {} if error.file is None else {"file": error.file, "status": "unreadable"}
        return Json({"error": str(error), **named}, error.status, error.headers)

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        return Json({"error": str(error)}, 422)

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

    if cors:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(cors), allow_methods=["GET", "POST"], allow_headers=["content-type"]
        )
    app.add_middleware(_Careful)
    return app


def _same_site(request: Request, cors: Sequence[str]) -> None:
    """Any page that a person looks at could make the browser ask a server on the same machine: not this one."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site not in (None, "same-origin", "none") and origin not in cors and "*" not in cors:
        raise Refused(403, "a page of another site may not ask here; start the server with --cors ORIGIN to allow it")


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
