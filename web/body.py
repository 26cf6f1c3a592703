"""The body of a request to photos in memory: limits are kept while it comes, and nothing is written to a disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from common.errors import one_line
from common.reading import Unreadable, json_of
from web.options import ServeOptions
from web.service import Upload

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "file"
LINGER = 2.0  # seconds a refused body is still read and thrown away, so that its sender hears why
NAME = "image"  # of a photo that came without a name; a video's is "video"
MOST_HEADERS = 4096  # bytes of a header of a part
MOST_NAME = 255  # characters of a name; no file system has longer ones
OCTETS = ("application/octet-stream", "binary/octet-stream")
HOW = (
    "send photos and videos as multipart/form-data in fields called file, or one as the body with Content-Type:"
    " image/jpeg or video/mp4"
)


class RequestRefused(Exception):
    """A request that is not answered with verdicts: an HTTP status and a line that says why and what to do."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None, file: str | None = None):
        super().__init__(one_line(reason))
        self.status, self.headers, self.file = status, headers or {}, file


@dataclass(frozen=True)
class Limits:
    """What a request may take. max_bytes: of a body; max_files: photos in it; body_seconds: until it is here;
    wait_seconds: until a photo's turn comes; held_bytes: of all bodies that are in memory at once; waiting: requests
    at once."""

    max_bytes: int = 32 << 20
    max_files: int = 64
    body_seconds: float = 60.0
    wait_seconds: float = 60.0
    held_bytes: int = 256 << 20
    waiting: int = 2048

    @classmethod
    def of(cls, asked: ServeOptions) -> Limits:
        return cls(
            max_bytes=int(asked.max_mb * (1 << 20)),
            max_files=asked.max_files,
            body_seconds=asked.timeout,
            wait_seconds=asked.timeout,
        )


@dataclass
class Held:
    """Requests and bytes of bodies in memory, of all requests together (the event loop's alone: no lock)."""

    limits: Limits
    total: int = 0
    requests: int = 0

    @contextlib.contextmanager
    def request(self):
        """Inside, a request is here; yields a function that takes bytes for it. RequestRefused without room: what it
        had is given back at once. Else of many that come together each would wait for the others' room, and all
        be refused."""
        if self.requests >= self.limits.waiting:
            raise busy("too many requests are waiting")
        self.requests += 1
        own = 0

        def take(count: int) -> None:
            nonlocal own
            if self.total + count > max(self.limits.held_bytes, self.limits.max_bytes):
                own, self.total = 0, self.total - own
                raise busy("too many photos are waiting")
            own, self.total = own + count, self.total + count

        try:
            yield take
        finally:
            self.requests -= 1
            self.total -= own


def busy(reason: str, headers: dict[str, str] | None = None) -> RequestRefused:
    more = {"Retry-After": "5"} | (headers or {})
    return RequestRefused(503, f"the server is busy: {reason}; try again in a few seconds", more)


Fetch = Callable[[str], Awaitable[Upload]]


async def read_uploads(request: Request, limits: Limits, take, fetch: Fetch | None = None) -> list[Upload]:
    """The photos of a request. `take(n)` is called before n bytes are kept. fetch: gets the photo at an address, for a
    body of JSON; None where the server may not.

    RequestRefused: 400 a broken form, 408 too slow, 413 too large, 415 neither a form nor an image, 422 no photo,
    503 no room."""
    by_address = fetch is not None and _is_json(request)
    boundary = None if by_address else _boundary(request)
    try:
        async with asyncio.timeout(limits.body_seconds):
            if (length := request.headers.get("content-length", "")).isdecimal() and int(length) > limits.max_bytes:
                raise _too_large(limits)
            body = bytearray()
            async for chunk in request.stream():
                if len(body) + len(chunk) > limits.max_bytes:
                    raise _too_large(limits)
                try:
                    take(len(chunk))
                except RequestRefused:
                    body.clear()  # the traceback holds on to it while the answer is sent
                    raise
                body += chunk
    except TimeoutError:
        raise RequestRefused(
            408, f"the body was not here after {limits.body_seconds:g} s; send smaller photos", {"Connection": "close"}
        ) from None
    data = bytes(body)
    del body
    if by_address:
        assert fetch is not None
        upload = await fetch(_url_of(data))
        take(len(upload.data))
        return [upload]
    name = "video" if request.headers.get("content-type", "").lower().startswith("video/") else NAME
    return [Upload(name, data)] if boundary is None else split_form(data, boundary, limits)


async def linger(request: Request, limits: Limits) -> None:
    """Read on for a moment: a connection that is closed while its other end is sending takes the answer with it."""
    if "expect" in request.headers:  # it has not begun to send
        return
    left = 4 * limits.max_bytes
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(LINGER):
            async for chunk in request.stream():
                left -= len(chunk)
                if left < 0:
                    return


def _is_json(request: Request) -> bool:
    return parse_options_header(request.headers.get("content-type", "")[:500])[0] == b"application/json"


def _boundary(request: Request) -> bytes | None:
    """Of a form; None where the body is a photo. RequestRefused for other bodies."""
    if (code := request.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        raise RequestRefused(415, f"Content-Encoding {code[:80]} is not undone here; send the bytes as they are")
    given = request.headers.get("content-type", "")
    kind, options = parse_options_header(given[:500])
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary", b"")
        if not 0 < len(boundary) <= 70:
            raise RequestRefused(
                400, "Content-Type: multipart/form-data without its boundary; let your HTTP library set it"
            )
        return boundary
    if not kind.startswith((b"image/", b"video/")) and kind.decode("latin-1") not in OCTETS:
        what = f"Content-Type {given[:80]} is" if given else "a body without a Content-Type is"
        raise RequestRefused(415, f"{what} not understood: {HOW}")
    return None


def _too_large(limits: Limits) -> RequestRefused:
    return RequestRefused(
        413, f"more than {limits.max_bytes / (1 << 20):g} MiB in one request; send fewer or smaller photos",
        {"Connection": "close"},
    )  # fmt: skip


def _url_of(data: bytes) -> str:
    """The address in a body like {"url": "https://…"}."""
    try:
        told = json_of(data)
    except Unreadable:
        told = None
    if not isinstance(told, dict) or set(told) != {"url"} or not isinstance(told["url"], str):
        raise RequestRefused(422, 'as JSON only {"url": "https://…"} is understood')
    return told["url"]


def split_form(body: bytes, boundary: bytes, limits: Limits) -> list[Upload]:
    """The photos in a multipart/form-data body (RFC 7578), by python-multipart.

    Not by Starlette's `request.form()`, made of the same parser: it writes what is large into temporary files, and
    photos are written nowhere here; its limits are on each part, not on all that is in memory at once. RequestRefused
    if the form is broken. What stands before the first boundary (RFC 2046's preamble) is passed over."""
    first = b"--" + boundary
    if not body.startswith(first):
        at = body.find(b"\r\n" + first)
        if at < 0 and not body:
            raise RequestRefused(422, f"no photo came; {HOW}")
        if at < 0:
            raise RequestRefused(400, "the form is broken (its boundary is not in it); let your HTTP library write it")
        body = body[at + 2 :]
    if body.startswith(first + b"--"):
        raise RequestRefused(422, f"no photo came; {HOW}")
    parts = _Parts(limits)
    parser = MultipartParser(boundary, parts.callbacks(), max_header_count=16, max_header_size=MOST_HEADERS)
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise RequestRefused(
            400, "the form is broken (a part without a proper head); let your HTTP library write it"
        ) from None
    if not parts.ended:
        raise RequestRefused(400, "the form ends early; send it again")
    if not parts.uploads:
        raise RequestRefused(422, f"no photo came; {HOW}")
    return parts.uploads


class _Parts:
    """What the parser finds, part after part."""

    def __init__(self, limits: Limits):
        self.limits, self.ended, self.uploads = limits, False, list[Upload]()
        self._field = self._value = b""
        self._disposition, self._data = b"", bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin, "on_part_data": self._more, "on_part_end": self._finish,
            "on_header_field": self._name, "on_header_value": self._text, "on_header_end": self._header,
            "on_headers_finished": self._headed, "on_end": self._end,
        }  # fmt: skip

    def _begin(self) -> None:
        self._field = self._value = self._disposition = b""
        self._data = bytearray()

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _text(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _headed(self) -> None:
        self._upload_name = _file_name(self._disposition)
        if len(self.uploads) >= self.limits.max_files:
            most = self.limits.max_files
            raise RequestRefused(413, f"more than {most} photos in one request; send them in several")

    def _more(self, data: bytes, start: int, end: int) -> None:
        self._data += memoryview(data)[start:end]

    def _finish(self) -> None:
        self.uploads.append(Upload(self._upload_name, bytes(self._data)))
        self._data = bytearray()

    def _end(self) -> None:
        self.ended = True


def _file_name(disposition: bytes) -> str:
    """What the sender of a part calls its photo; only ever told back. RequestRefused where the part is no photo."""
    _, options = parse_options_header(disposition.decode("latin-1"))
    field, given = (options.get(key) for key in (b"name", b"filename"))
    if (named := _utf8(field or b"")) != FIELD:
        raise RequestRefused(
            422,
            f"the form has a field {named[:40]!r}; photos go into fields called {FIELD},"
            " options behind a ? of the address",
        )
    if given is None:
        raise RequestRefused(422, f"the form's field {FIELD} is text, not a file; with curl, -F {FIELD}=@photo.jpg")
    return _utf8(given)[:MOST_NAME] or NAME


def _utf8(value: bytes) -> str:
    """RFC 7578, section 5.1: parameters are UTF-8 as they are."""
    return value.decode("utf-8", "replace")
