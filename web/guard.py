"""Who may ask at all: a request must call this server by one of its names, and know the token where there is one."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request

from common.errors import UserError, one_line
from web.body import Limits, RequestRefused, linger
from web.options import TOKEN_VARIABLE, ServeOptions
from web.problems import problem

LEAST_TOKEN = 16  # characters
MOST_HEAD = 1 << 15  # bytes of a request's address and headers
TOO_LARGE = f"the head of the request is too large: at most {MOST_HEAD >> 10} KiB of address and headers"
OPEN = ("/healthz", "/readyz")  # for probes, without the token


def read_token(asked: ServeOptions, *, loopback: bool) -> str | None:
    """The secret that requests must bring, from `token_file` or the environment; None where there is none.

    UserError where it cannot be read or is too short, or where other machines reach the server and there is none."""
    if asked.token_file is not None:
        where, token = f"`token_file` {asked.token_file}", _first_line(Path(asked.token_file))
    elif TOKEN_VARIABLE in os.environ:
        where, token = f"${TOKEN_VARIABLE}", os.environ[TOKEN_VARIABLE].strip()
    elif loopback:
        return None
    else:
        raise UserError(
            f"`host` {asked.host}: other machines reach it, so requests must bring a secret: write one of at least"
            f" {LEAST_TOKEN} characters into a file and give it with `token_file`, or in the environment as"
            f" {TOKEN_VARIABLE}"
        )
    if len(token) < LEAST_TOKEN or not (token.isascii() and token.isprintable()):
        raise UserError(f"{where}: a token is one line of at least {LEAST_TOKEN} printable ASCII characters")
    return token


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"`token_file` {path}: cannot be read ({getattr(error, 'strerror', '') or error})") from None


def is_own_name(host: str, more: Sequence[str] = ()) -> bool:
    """Whether a Host header (name or address, and perhaps a port) is one that this server goes by.

    A page of somewhere else can make its own name point at this machine (DNS rebinding), and the browser then lets it
    read the answers; but it keeps saying the name. So names are believed only where they were told: `more`, or "*" in
    it for all. An address can't be made to point elsewhere, and localhost is this machine."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        _ = urlsplit(f"//{host}").port
    except ValueError:
        return False
    if name == "localhost" or "*" in more or name in [one.lower().rstrip(".") for one in more]:
        return bool(name)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def check_site(request: Request, cors: Sequence[str]) -> None:
    """RequestRefused (403) where a browser sends what a page of another site asked it to.

    Any page that a person looks at could make the browser ask a server on the same machine. Browsers say which page it
    was: by Sec-Fetch-Site (which no page can set), and older ones, or over plain HTTP, by Origin alone."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site == "same-origin" or "*" in cors or (origin is not None and origin in cors):
        return
    own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if site not in (None, "none") or not own:
        raise RequestRefused(
            403, "a page of another site may not ask here, unless the server was started to allow its origin"
        )


class Guard:
    """In front of an ASGI application: 421 for a Host that is not its own, 401 without the token, 431 for a large head.

    hosts: names it goes by besides its addresses. limits: how much of a refused body is read on, so that its sender
    hears the answer."""

    def __init__(self, app, *, hosts: Sequence[str] = (), token: str | None = None, limits: Limits):
        self.app, self.hosts, self.token, self.limits = app, hosts, token, limits

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        refusal = self._refusal(request)
        if refusal is None:
            await self.app(scope, receive, send)
            return
        if request.method == "POST":
            await linger(request, self.limits)
        status, line, more = refusal
        answer = problem(request, one_line(line), status)
        answer.raw_headers += more
        await answer(scope, receive, send)

    def _refusal(self, request: Request) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        if _size(request) > MOST_HEAD:
            return 431, TOO_LARGE, []
        host = request.headers.get("host")  # HTTP/1.0 may have none; browsers always do
        if host is not None and not is_own_name(host, self.hosts):
            return 421, f"this server does not go by the name {host[:80]!r}; it can be started with --allow-host", []
        asks = request.method == "OPTIONS"  # a browser's question before the request itself has no token
        if self.token is None or asks or request.url.path in OPEN or self._known(request):
            return None
        ways = [(b"www-authenticate", b'Bearer realm="faces"'), (b"www-authenticate", b'Basic realm="faces"')]
        return 401, "this server wants its token: Authorization: Bearer TOKEN, or as the password of any name", ways

    def _known(self, request: Request) -> bool:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        given = given.strip()
        if kind.lower() == "basic":  # browsers ask for a name and a password by themselves
            try:
                given = base64.b64decode(given, validate=True).decode("utf-8", "replace").partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif kind.lower() != "bearer":
            return False
        assert self.token is not None
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.token.encode())


def _size(request: Request) -> int:
    """Bytes of a request's address and headers. The protocol's own limit holds only for a head that comes in pieces."""
    lines = [request.scope["path"].encode("utf-8", "replace"), request.scope["query_string"]]
    return sum(map(len, lines)) + sum(len(name) + len(value) + 4 for name, value in request.headers.raw)
