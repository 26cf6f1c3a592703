"""Errors as JSON: today's `error`, and beside it the fields of RFC 9457 (problem details)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from common.errors import UserError, one_line
from web.body import HOW, RequestRefused

PROBLEM = "application/problem+json"
PHRASES = {one.value: one.phrase for one in HTTPStatus}
ERRORS = {
    400: "the one photo or video of the request can't be read, or the form is broken",
    401: "the server has a token, and the request does not bring it",
    403: "a browser sent it from another site",
    408: "the body came too slowly",
    413: "too many bytes or photos",
    415: "neither a form nor an image nor a video",
    421: "the Host header has a name that the server does not go by",
    422: "an option that is not to be had, or no photo",
    431: "too much address and headers",
    503: "busy, or stopping; see Retry-After",
}


class Json(JSONResponse):
    """ASCII only: a name may hold anything, lone surrogates too."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


class _Problem(Json):
    media_type = PROBLEM


def fields(line: str, status: int) -> dict[str, Any]:
    """What every error's answer says."""
    title = PHRASES.get(status, "Client Closed Request")
    return {"error": line, "type": "about:blank", "title": title, "status": status, "detail": line}


def problem(
    request: Request, line: str, status: int, headers: Mapping[str, str] | None = None, file: str | None = None
) -> Response:
    """An error's answer: `error` is the one line, and RFC 9457's `type`, `title` and `detail` say the same. `status` is
    its number, but with an unreadable `file` the file's word, as it always was; who accepts problem+json gets the
    number and that in `file_status`."""
    told = fields(line, status)
    if file is not None:
        told |= {"file": file, "status": "unreadable"}
    if PROBLEM not in request.headers.get("accept", ""):
        return Json(told, status, headers)
    if file is not None:
        told |= {"status": status, "file_status": "unreadable"}
    return _Problem(told, status, headers)


def add_errors(app: FastAPI) -> None:
    """Every exception's answer."""

    @app.exception_handler(RequestRefused)
    async def refused(request: Request, error: RequestRefused) -> Response:
        return problem(request, str(error), error.status, error.headers, error.file)

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        return problem(request, re.sub(r"`([a-z]\w*)`", r"\1", str(error)), 422)  # a parameter is the query's here

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return problem(request, one_line(f"{first['loc'][-1]}: {first['msg']}"), 422)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        told = {404: "there is nothing here; see / and /docs", 405: f"not this method; {HOW} by POST to /v1/detect"}
        line = told.get(error.status_code, str(error.detail))
        return problem(request, line, error.status_code, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return problem(request, "the client has gone", 499)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return problem(request, "a fault of the server; its log says more", 500)
