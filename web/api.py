"""The HTTP API: requests to the service and back. What it answers is what `detect.py` says as JSON."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from common.errors import UserError
from common.parallel import cores
from discriminator.explaining.methods import ALL, METHODS, NAMES
from web.body import Limits, RequestRefused, linger, read_uploads
from web.counting import KIND, Counting, Counts
from web.described import as_json, describe, refusals
from web.fetching import MOST_URL, Fetcher
from web.guard import Guard, check_site
from web.headers import Careful
from web.line import Line
from web.page import api_page, main_page
from web.problems import Json, add_errors
from web.service import FRAMES, Answer, Ask, Service, Upload

ROUTES = ("/", "/docs", "/openapi.json", "/metrics", "/healthz", "/readyz") + tuple(
    f"/v1/{name}" for name in ("detect", "report", "model", "fetch", "faces")
)
BODY: dict[str, Any] = {
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
ADDRESS: dict[str, Any] = {
    "type": "object",
    "required": ["url"],
    "properties": {"url": {"type": "string", "pattern": r"^https?://[^\s\\]+$", "maxLength": MOST_URL}},
    "additionalProperties": False,
}


@dataclass(frozen=True)
class More:
    """What a server may do besides. other: a second detector, asked for as `detector=other`. fetch: photos by their
    addresses. maker: faces of a generator (`web.making.Maker`; not imported here, it takes PyTorch)."""

    other: Service | None = None
    fetch: Fetcher | None = None
    maker: Any = None


def build_app(
    service: Service,
    limits: Limits,
    *,
    threads: int | None = None,
    cors: Sequence[str] = (),
    hosts: Sequence[str] = (),
    token: str | None = None,
    version: str = "",
    more: More = More(),  # noqa: B008 (frozen)
) -> FastAPI:
    """The application. threads: photos that are judged at once (default: one for each core). cors: origins whose pages
    may ask, none by default. hosts: names that it goes by besides localhost and addresses. token: what a request must
    bring. more: what it may do besides. Its `state.line` is told when the server stops."""
    app = FastAPI(
        title="Real, or generated?",
        version=version or "0",
        description="Verdicts on photos and videos of faces: REAL, FAKE (made by a GAN), UNSURE or NO FACE.",
        docs_url=None,
        redoc_url=None,
        default_response_class=Json,
    )
    line = Line(service, limits, threads or cores())
    app.state.line, app.state.held = line, line.held
    counts = Counts(waiting=lambda: line.held.requests, held=lambda: line.held.total, stalled=line.stalled)
    _add_detect(app, _Door(line, cors, more, counts))
    _add_facts(app, line, more, counts)
    _add_pages(app)
    add_errors(app)
    app.state.options = describe(app, token=token is not None)
    if cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors),
            allow_methods=["GET", "POST"],
            allow_headers=["content-type", "authorization"],
        )
    app.add_middleware(Guard, hosts=hosts, token=token, limits=limits)
    app.add_middleware(Careful)
    app.add_middleware(Counting, counts=counts, routes=frozenset(ROUTES))
    return app


FACE = Annotated[
    Literal["auto", "whole", "required"] | None, Query(description="as for detect.py; default: the server's")
]
_SHARE: dict[str, Any] = {"minimum": 0, "maximum": 1}  # for programs; what is told of others says more than theirs
_WORD = f"({'|'.join((*METHODS, ALL, FRAMES))})?"
FPR = Annotated[
    float | None, Query(description="a calibrated false-alarm rate, as for detect.py", json_schema_extra=_SHARE)
]
OWN_THRESHOLD = Annotated[
    float | None, Query(description="your own threshold, as for detect.py", json_schema_extra=_SHARE)
]
EXPLAIN = Annotated[
    str,
    Query(
        max_length=200,
        description=f"{NAMES}: maps of why, or all; frames: small pictures of a video's frames; several with commas",
        json_schema_extra={"pattern": f"^{_WORD}(,{_WORD})*$"},
    ),
]
EVIDENCE = Annotated[bool, Query(description="what each photo's file itself tells, in the entry of its first face")]
STABILITY = Annotated[
    bool, Query(description="judge each photo in other versions, too; UNSURE where FAKE and REAL change places")
]
DETECTOR = Annotated[
    Literal["first", "other"], Query(description="other: the second one, of a server that was started to compare two")
]
REFUSALS = refusals(400, 403, 408, 413, 415, 422, 503)


class _Door:
    """A request's way in: whether it may come, what it wants, its photos, their answers."""

    def __init__(self, line: Line, cors: Sequence[str], more: More, counts: Counts):
        self.line, self.cors, self.more, self.counts = line, cors, more, counts
        self.body: dict[str, Any] = BODY
        if more.fetch is not None:
            self.body = {**BODY, "content": {**BODY["content"], "application/json": {"schema": ADDRESS}}}

    def service(self, detector: str) -> Service:
        return _of(self.line, self.more, detector)

    async def fetched(self, url: str) -> Upload:
        assert self.more.fetch is not None
        return await self.line.apart(self.more.fetch, url)

    @contextlib.asynccontextmanager
    async def uploads(self, request: Request, make: Callable[[], Ask | None]):
        """Inside, a request's photos are in memory; yields them and what `make` makes of its options."""
        limits = self.line.limits
        with contextlib.ExitStack() as place:
            try:
                take = place.enter_context(self.line.held.request())
                check_site(request, self.cors)
                _known_options(request)
                ask = make()
                fetch = None if self.more.fetch is None else self.fetched
                found = await self.line.unless_stopped(read_uploads(request, limits, take, fetch))
            except (RequestRefused, UserError) as error:
                if getattr(error, "status", 0) != 408:
                    await linger(request, limits)
                raise
            yield found, ask

    async def answered(
        self, request: Request, service: Service, make: Callable[[], Ask]
    ) -> tuple[list[Answer], Ask, float]:
        """The answers to a request's photos, what it asked for, and the seconds that took."""
        begin = time.perf_counter()
        async with self.uploads(request, make) as (uploads, ask):
            answers = await self.line.judged(request, uploads, ask, service)
        for answer in answers:
            for result in answer.results:
                self.counts.judged(result)
        if len(answers) == 1 and (reason := answers[0].failure):
            raise RequestRefused(400, f"{uploads[0].name}: {reason}", file=uploads[0].name)
        return answers, ask, time.perf_counter() - begin


def _of(line: Line, more: More, detector: str) -> Service:
    if detector == "other":
        if more.other is None:
            raise UserError("detector=other: this server was started with one detector")
        return more.other
    return line.service


def _add_detect(app: FastAPI, door: _Door) -> None:
    told = "as detect.py's JSON: an entry of results for each face and video, in the files' order"
    page = {"text/html": {"schema": {"type": "string"}}}

    @app.post(
        "/v1/detect", summary="Judge photos and videos", response_class=Json,
        openapi_extra={"requestBody": door.body}, responses={200: as_json("Answer", told), **REFUSALS},
    )  # fmt: skip
    async def detect(
        request: Request, face: FACE = None, fpr: FPR = None, threshold: OWN_THRESHOLD = None, explain: EXPLAIN = "",
        evidence: EVIDENCE = False, stability: STABILITY = False, detector: DETECTOR = "first",
    ) -> Response:  # fmt: skip
        """Photos and videos as multipart/form-data in fields called file, or one as the body.

        A video's entry has its verdict and, in `frames`, that of each frame that was looked at. What can't be read
        never stops the others: its entry says why. Where it is the only one, the status is 400. Nothing that comes is
        written to a disk or a log."""
        wanted = [name for name in explain.split(",") if name]
        beside = {"evidence": evidence, "stability": stability}
        by = door.service(detector)
        judged = await door.answered(request, by, lambda: by.ask(face, fpr, threshold, wanted, **beside))
        return Json(by.document(*judged))

    @app.post(
        "/v1/report", summary="A report on photos and videos to hand on", response_class=HTMLResponse,
        openapi_extra={"requestBody": door.body},
        responses={200: {"description": "one HTML file that needs nothing else", "content": page}, **REFUSALS},
    )  # fmt: skip
    async def report(
        request: Request, face: FACE = None, fpr: FPR = None, threshold: OWN_THRESHOLD = None, explain: EXPLAIN = "",
        evidence: EVIDENCE = False, stability: STABILITY = False, detector: DETECTOR = "first",
    ) -> Response:  # fmt: skip
        """As /v1/detect, told as the page that `detect.py --report` writes."""
        wanted = [name for name in explain.split(",") if name and name != FRAMES]
        beside = {"evidence": evidence, "stability": stability, "report": True}
        by = door.service(detector)
        judged = await door.answered(request, by, lambda: by.ask(face, fpr, threshold, wanted, **beside))
        text = await door.line.apart(by.report, *judged)
        return HTMLResponse(text, headers={"Content-Disposition": 'attachment; filename="report.html"'})

    if door.more.fetch is not None:
        _add_fetch(app, door)
    if door.more.maker is not None:
        _add_faces(app, door)


def _add_fetch(app: FastAPI, door: _Door) -> None:
    @app.post(
        "/v1/fetch", summary="The bytes of a photo or video at a public address", response_class=Response,
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": ADDRESS}}}},
        responses={200: {"description": "the photo or video", "content": {"application/octet-stream": {}}}, **REFUSALS},
    )  # fmt: skip
    async def fetch(request: Request) -> Response:
        """For the page, which shows what it asks about. /v1/detect and /v1/report take the same JSON."""
        if "json" not in request.headers.get("content-type", ""):
            raise RequestRefused(415, 'send JSON: {"url": "https://…"}')
        async with door.uploads(request, lambda: None) as (uploads, _):
            (upload,) = uploads
            return Response(upload.data, media_type="application/octet-stream")


SEED = Annotated[int | None, Query(ge=0, le=2**32 - 1)]


def _add_faces(app: FastAPI, door: _Door) -> None:
    @app.get(
        "/v1/faces", summary="Make faces with the server's generator", response_class=Json,
        responses={200: as_json("Faces", "pictures, each with what it was made of"), **refusals(403, 422, 503)},
    )  # fmt: skip
    async def faces(
        request: Request, seeds: Annotated[str, Query(max_length=200)] = "1-4",
        truncation: Annotated[float, Query(ge=-2, le=2)] = 0.7, mix: SEED = None,
        styles: Annotated[str, Query(max_length=100)] = "coarse", to: SEED = None,
        steps: Annotated[int, Query(ge=2, le=16)] = 8, class_index: Annotated[int | None, Query(ge=0, le=9999)] = None,
    ) -> Response:  # fmt: skip
        """Pictures as PNGs in `data:` addresses: of seeds; with `mix` each with that seed's styles in the layers
        `styles`; with `to` a walk from the first seed to that one."""
        check_site(request, door.cors)
        _known_options(request)
        more = {"mix": mix, "styles": styles, "to": to, "steps": steps, "class_index": class_index}
        with door.line.held.request():
            made = await door.line.apart(lambda: door.more.maker.make(seeds, truncation, **more))
        return Json({"generator": door.more.maker.to_dict(), "pictures": [face.to_dict() for face in made]})


def _add_facts(app: FastAPI, line: Line, more: More, counts: Counts) -> None:
    limits = line.limits
    beside = {
        "limits": {"bytes": limits.max_bytes, "files": limits.max_files, "pixels": line.service.max_pixels}
        | {"video_seconds": line.service.limits.seconds, "video_frames": line.service.limits.frames},
        "allow_urls": more.fetch is not None,
        "compare": more.other is not None,
        "generator": None if more.maker is None else more.maker.to_dict(),
    }
    services = {"first": line.service} | ({"other": more.other} if more.other is not None else {})
    known = {name: service.model() | beside for name, service in services.items()}

    @app.get(
        "/v1/model", summary="The detector: thresholds, false-alarm rates, data, SHA-256", response_class=Json,
        responses={200: as_json("Model", "the detector, and what this server does"), **refusals(422)},
    )  # fmt: skip
    async def model(request: Request, detector: DETECTOR = "first") -> Response:
        _known_options(request)
        _of(line, more, detector)
        return Json(known[detector])

    @app.get("/metrics", summary="The server's own figures, for Prometheus", response_class=PlainTextResponse)
    def metrics() -> Response:
        return Response(counts.text(), media_type=KIND)

    @app.head("/healthz", include_in_schema=False)
    @app.get(
        "/healthz", summary="Whether the server answers", response_class=Json,
        responses={200: as_json("Health", "it does")},
    )  # fmt: skip
    async def healthz() -> Response:
        return Json({"status": "ok", "waiting": line.held.requests})

    @app.head("/readyz", include_in_schema=False)
    @app.get(
        "/readyz", summary="Whether photos should be sent here: 503 while none is judged", response_class=Json,
        responses={200: as_json("Health", "yes"), 503: as_json("Health", "not now: stalled, busy or stopping")},
    )  # fmt: skip
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


def _known_options(request: Request) -> None:
    known = sorted(request.app.state.options.get(request.url.path, ()))
    if unknown := sorted(set(request.query_params) - set(known)):
        there = f"there are {', '.join(known)}" if known else "there is none here"
        raise RequestRefused(422, f"no option {unknown[0][:40]}; {there}")
    if len(request.query_params.multi_items()) > len(request.query_params):
        raise RequestRefused(422, "an option is given twice; give each once")
