"""The body of a request to photos in memory: limits are kept while it comes, and nothing is written to a disk."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser

from starlette.requests import ClientDisconnect, Request

from common.errors import one_line
from web.options import ServeOptions
from web.service import Upload

FIELD = "file"
LINGER = 2.0  # seconds a refused body is still read and thrown away, so that its sender hears why
NAME = "image"  # of a photo that came without a name; a video's is "video"
MOST_HEADERS = 4096  # bytes before a part's photo
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
        """Inside, a request is here; yields a function that takes bytes for it. RequestRefused without room."""
        if self.requests >= self.limits.waiting:
            raise busy("too many requests are waiting")
        self.requests += 1
        own = 0

        def take(count: int) -> None:
            nonlocal own
            if self.total + count > max(self.limits.held_bytes, self.limits.max_bytes):
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


async def read_uploads(request: Request, limits: Limits, take) -> list[Upload]:
    """The photos of a request. `take(n)` is called before n bytes are kept.

    RequestRefused: 400 a broken form, 408 too slow, 413 too large, 415 neither a form nor an image, 422 no photo,
    503 no room."""
    boundary = _boundary(request)
    try:
        async with asyncio.timeout(limits.body_seconds):
            if (length := request.headers.get("content-length", "")).isdecimal() and int(length) > limits.max_bytes:
                raise _too_large(limits)
            body = bytearray()
            async for chunk in request.stream():
                if len(body) + len(chunk) > limits.max_bytes:
                    raise _too_large(limits)
                take(len(chunk))
                body += chunk
    except TimeoutError:
        raise RequestRefused(
            408, f"the body was not here after {limits.body_seconds:g} s; send smaller photos", {"Connection": "close"}
        ) from None
    data = bytes(body)
    del body
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


def _boundary(request: Request) -> bytes | None:
    """Of a form; None where the body is a photo. RequestRefused for other bodies."""
    given = request.headers.get("content-type", "")
    message = Message()
    message["content-type"] = given[:500]
    kind = message.get_content_type() if given else ""
    if kind == "multipart/form-data":
        boundary = message.get_param("boundary")
        if not isinstance(boundary, str) or not 0 < len(boundary) <= 70:
            raise RequestRefused(
                400, "Content-Type: multipart/form-data without its boundary; let your HTTP library set it"
            )
        return boundary.encode("latin-1", "replace")
    if not kind.startswith(("image/", "video/")) and kind not in OCTETS:
        what = f"Content-Type {given[:80]} is" if given else "a body without a Content-Type is"
        raise RequestRefused(415, f"{what} not understood: {HOW}")
    return None


def _too_large(limits: Limits) -> RequestRefused:
    return RequestRefused(
        413, f"more than {limits.max_bytes / (1 << 20):g} MiB in one request; send fewer or smaller photos",
        {"Connection": "close"},
    )  # fmt: skip


def split_form(body: bytes, boundary: bytes, limits: Limits) -> list[Upload]:
    """The photos in a multipart/form-data body (RFC 7578; its delimiters: RFC 2046, section 5.1.1).

    RequestRefused if it is broken. The body is in memory as a whole, so it is cut by searching, in time that grows with
    its length alone."""
    delimiter = b"\r\n--" + boundary
    body = b"\r\n" + body
    at, uploads = body.find(delimiter), list[Upload]()
    if at < 0 and len(body) == 2:
        raise RequestRefused(422, f"no photo came; {HOW}")
    if at < 0:
        raise RequestRefused(400, "the form is broken (its boundary is not in it); let your HTTP library write it")
    while True:
        start = at + len(delimiter)
        if body.startswith(b"--", start):
            break
        at = body.find(delimiter, start)
        if at < 0:
            raise RequestRefused(400, "the form ends early; send it again")
        line = body.find(b"\r\n", start, at + 2)
        empty = line >= 0 and body.startswith(b"\r\n", line + 2)  # a part without headers
        blank = line if empty else body.find(b"\r\n\r\n", start, at)
        if line < 0 or body[start:line].strip(b" \t") or blank < 0 or blank - start > MOST_HEADERS:
            raise RequestRefused(
                400, "the form is broken (a part without a proper head); let your HTTP library write it"
            )
        name = _file_name(body[line + 2 : blank])
        if len(uploads) >= limits.max_files:
            raise RequestRefused(413, f"more than {limits.max_files} photos in one request; send them in several")
        uploads.append(Upload(name, body[blank + 4 : at]))
    if not uploads:
        raise RequestRefused(422, f"no photo came; {HOW}")
    return uploads


def _file_name(head: bytes) -> str:
    """What the sender of a part calls its photo; only ever told back. RequestRefused where the part is no photo."""
    part = HeaderParser().parsestr(head.decode("latin-1"))
    field, given = (part.get_param(key, header="content-disposition") for key in ("name", "filename"))
    if (named := _utf8(field)) != FIELD:
        raise RequestRefused(422, f"the form has a field {named[:40]!r}; photos go into fields called {FIELD}")
    if given is None:
        raise RequestRefused(422, f"the form's field {FIELD} is text, not a file; with curl, -F {FIELD}=@photo.jpg")
    return _utf8(given)[:MOST_NAME] or NAME


def _utf8(value: str | tuple | None) -> str:
    """RFC 7578, section 5.1: parameters are UTF-8 as they are; a tuple is RFC 2231's encoding, which it forbids."""
    text = value[2] if isinstance(value, tuple) else value or ""
    return text.encode("latin-1", "replace").decode("utf-8", "replace")
