"""A photo or video from an address of the public internet, for a server that was told it may (`--allow-urls`).

Whoever may ask a server to fetch could make it ask its own machine and its neighbours. So every name is resolved here,
each of its addresses must be a public one, and the connection goes to the very address that was checked: a name that
points elsewhere a moment later (DNS rebinding) changes nothing. Each redirect is checked anew. No proxy is used, no
cookie or password is sent, and nothing is kept.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urljoin, urlsplit

from common.download import within
from common.errors import one_line
from web.body import MOST_NAME, RequestRefused
from web.service import Upload

SCHEMES = {"http": 80, "https": 443}  # and their ports; no others are asked
MOST_URL = 2000  # characters
REDIRECTS = 5
MOVED = (301, 302, 303, 307, 308)
CHUNK = 1 << 16
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class _NotThere(RequestRefused):
    """What could not be fetched."""

    def __init__(self, url: str, why: str, status: int = 422):
        super().__init__(status, f"url {url[:200]}: {why}")


def is_public(address: str) -> bool:
    """Whether an address lies in the public internet: not this machine, a private or link-local network, a multicast
    group or a reserved range, nor an IPv6 form of such an IPv4 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if "%" in address or ip.is_multicast or ip.is_reserved or not ip.is_global:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in NAT64:
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        return all(part.is_global and not part.is_multicast for part in inner if part is not None)
    return True


@dataclass(frozen=True)
class Target:
    """Where a URL leads, taken apart. host: as it stands in the URL, ASCII."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str, ports: dict[str, int] = SCHEMES) -> Target:
        """RequestRefused (422) where it may not be asked."""
        if not 0 < len(url) <= MOST_URL or not url.isprintable() or " " in url or "\\" in url:
            raise _NotThere(one_line(url), f"no web address of at most {MOST_URL} characters without blanks")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            host = host if ":" in host else host.encode("idna").decode("ascii")
        except (ValueError, UnicodeError):
            raise _NotThere(url, "no web address") from None
        if parts.scheme not in ports or not host:
            raise _NotThere(url, "only http:// and https:// are fetched")
        if parts.username is not None or parts.password is not None:
            raise _NotThere(url, "addresses with a name or password are not fetched")
        if port not in (None, ports[parts.scheme]):
            raise _NotThere(url, f"only the usual ports are asked, {ports[parts.scheme]} of {parts.scheme}")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, host, ports[parts.scheme], _quoted(path))


def _quoted(path: str) -> str:
    return "".join(c if c.isascii() else "".join(f"%{byte:02X}" for byte in c.encode()) for c in path)


def _names(host: str, port: int) -> list[str]:
    """The addresses of a name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _To(http.client.HTTPConnection):
    """A connection to one address, whatever the name in its Host header."""

    def __init__(self, target: Target, address: str, until: float, context: ssl.SSLContext):
        super().__init__(target.host, target.port, timeout=max(0.01, until - time.monotonic()))
        self._target, self._address, self._until, self._context = target, address, until, context
        self.wire: socket.socket | None = None

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self._target.port), self.timeout)
        if self._target.scheme == "https":
            name = self._target.host
            self.sock = self._context.wrap_socket(self.sock, server_hostname=name, do_handshake_on_connect=False)
        self.wire = self.sock  # http.client forgets it with the head of an answer that ends the connection
        if time.monotonic() >= self._until:  # whoever cuts it off found no wire yet, and does not come again
            raise TimeoutError
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.do_handshake()


class Fetcher:
    """Fetches photos and videos, each within `max_bytes` and `seconds`, all redirects together.

    resolve (host, port): the addresses of a name; allowed: whether an address may be asked; ports: of each scheme;
    verify: by what certificates are checked (default: the system's)."""

    def __init__(
        self,
        max_bytes: int,
        seconds: float,
        *,
        resolve: Callable[[str, int], Sequence[str]] = _names,
        allowed: Callable[[str], bool] = is_public,
        ports: dict[str, int] = SCHEMES,
        verify: ssl.SSLContext | None = None,
    ):
        self.max_bytes, self.seconds = max_bytes, seconds
        self._resolve, self._allowed, self._ports = resolve, allowed, ports
        self._verify = verify or ssl.create_default_context()

    def __call__(self, url: str) -> Upload:
        """What lies at a URL. RequestRefused: 422 it may not be asked or gives none, 413 too large, 408 too slow."""
        until, at = time.monotonic() + self.seconds, url
        for _ in range(REDIRECTS + 1):
            target = Target.of(at, self._ports)
            found = self._one(at, target, until)
            if isinstance(found, bytes):
                name = unquote(target.path.partition("?")[0].rpartition("/")[2]) or target.host
                return Upload(name[:MOST_NAME], found)
            following = urljoin(at, found)
            if target.scheme == "https" and urlsplit(following).scheme == "http":
                raise _NotThere(url, "leads from https to http")
            at = following
        raise _NotThere(url, f"leads on more than {REDIRECTS} times")

    def _address(self, url: str, target: Target, until: float) -> str:
        left = max(0.01, until - time.monotonic())
        try:
            addresses = within(left, lambda: self._resolve(target.host, target.port))
        except (OSError, UnicodeError):
            if time.monotonic() >= until:
                raise self._too_late(url) from None
            addresses = []
        if not addresses:
            raise _NotThere(url, f"there is no address for {target.host}")
        if not all(map(self._allowed, addresses)):
            raise _NotThere(url, f"{target.host} is not an address of the public internet")
        return addresses[0]

    def _one(self, url: str, target: Target, until: float) -> bytes | str:
        """The bytes at a URL, or where it leads."""
        if time.monotonic() >= until:
            raise self._too_late(url)
        connection = _To(target, self._address(url, target, until), until, self._verify)
        too_late = threading.Timer(max(0.01, until - time.monotonic()), _cut, (connection,))
        too_late.daemon = True
        too_late.start()
        try:
            connection.request(
                "GET", target.path, headers={"Accept": "image/*, video/*", "Accept-Encoding": "identity"}
            )
            answer = connection.getresponse()
            if answer.status in MOVED and (there := answer.headers.get("location")):
                return there
            if answer.status != 200:
                raise _NotThere(url, f"its server answers with status {answer.status}")
            body = self._read(url, answer)
            if time.monotonic() >= until:  # it was cut off
                raise TimeoutError
            return body
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= until or isinstance(error, TimeoutError):
                raise self._too_late(url) from None
            raise _NotThere(url, f"can't be fetched ({one_line(str(error) or type(error).__name__)[:100]})") from None
        finally:
            too_late.cancel()
            connection.close()

    def _too_late(self, url: str) -> _NotThere:
        return _NotThere(url, f"was not here after {self.seconds:g} s", 408)

    def _read(self, url: str, answer: http.client.HTTPResponse) -> bytes:
        too_large = _NotThere(url, f"is larger than {self.max_bytes / (1 << 20):.3g} MiB", 413)
        if (length := answer.headers.get("content-length", "")).isdecimal() and int(length) > self.max_bytes:
            raise too_large
        body = bytearray()
        while chunk := answer.read1(CHUNK):
            body += chunk
            if len(body) > self.max_bytes:
                raise too_large
        if length.isdecimal() and len(body) < int(length):
            raise ValueError("it ended early")
        return bytes(body)


def _cut(connection: _To) -> None:
    """End what waits for the other side, however slowly that drips."""
    if (sock := connection.wire) is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # TLS's own would touch what the reader holds
