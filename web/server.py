"""The process that serves: its socket, and a protocol that does not wait for ever."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import math
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.errors import UserError, one_line
from web.guard import MOST_HEAD, TOO_LARGE
from web.headers import completed
from web.problems import PHRASES, fields

HEAD_SECONDS = 10.0  # for the head of a request
KEEP_SECONDS = 5  # a connection without a request stays open
DRAIN_SECONDS = 1.0  # at the end, in which what still comes is told 503
BACKLOG = 2048
MOST_CHUNK = 4096 << 20  # bytes: the largest body that `max_mb` can allow

REFUSED = {  # by h11, before there is a request
    400: "this is no HTTP request that can be understood ({why}); let your HTTP library write it",
    431: TOO_LARGE,
    501: "a body comes with Content-Length or in chunks, not otherwise encoded",
}


class Protocol(H11Protocol):
    """uvicorn's, which waits for ever for the rest of a request's head, and answers in its own words what is no HTTP;
    this one gives up after `HEAD_SECONDS`, and answers both as all errors are answered."""

    _timer = None

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._hurry()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # h11 keeps to itself what a chunk says of its size, and the application would wait for all of it
        if getattr(getattr(self.conn, "_reader", None), "_bytes_in_chunk", 0) > MOST_CHUNK:
            self._refuse(413, f"a chunk of more than {MOST_CHUNK >> 20} MiB; send fewer or smaller photos")
            return
        self._hurry()

    def connection_lost(self, exc) -> None:
        self._relax()
        super().connection_lost(exc)

    def _hurry(self) -> None:
        """The clock runs from the first byte of a head (or the connection's beginning) until its last."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._relax()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _relax(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            begun, _ = self.conn.trailing_data
            if begun:
                self._refuse(408, f"the head of the request was not here after {HEAD_SECONDS:g} s")
            else:  # a connection that was kept for later
                self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn where h11 can't read on; msg: its own words, which say nothing."""
        error = sys.exc_info()[1]
        status = getattr(error, "error_status_hint", 400)
        status = status if status in REFUSED else 400
        why = one_line(str(error or msg))[:120]
        self._refuse(status, REFUSED[status].format(why=why))

    def _refuse(self, status: int, line: str) -> None:
        """An error's answer without a request; where another answer is under way, the connection only ends."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps(fields(line, status)).encode("ascii")
            own = [
                (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]  # fmt: skip
            head = b"".join(b"%b: %b\r\n" % header for header in completed(own))
            self.transport.write(f"HTTP/1.1 {status} {PHRASES[status]}\r\n".encode() + head + b"\r\n" + body)
        if self.cycle is not None:
            self.cycle.disconnected = True  # what it would still answer comes too late
        self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. UserError where the address is not to be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)  # without the protocol asyncio leaves Nagle's 40 ms in each answer
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except socket.gaierror:
        raise UserError(f"`host` {host}: there is no such address; give an address of this machine") from None
    except OverflowError:
        raise UserError(f"`port` {port}: a port is 0 to 65535") from None
    except OSError as error:
        why = {
            errno.EADDRINUSE: "another program serves there; give another `port` (0: any that is free)",
            errno.EACCES: "ports below 1024 are the administrator's; give a higher `port`",
            errno.EADDRNOTAVAIL: "this machine does not have that address; give another `host`",
        }.get(error.errno or 0) or error.strerror
        raise UserError(f"{host}, port {port}: {why}") from None
    return sock


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address(sock: socket.socket) -> str:
    """The URL under which the page is."""
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def describe(host: str, sock: socket.socket) -> list[str]:
    """Where the page is, and a warning where others than this machine can see it; for people."""
    lines = [f"{address(sock)} (Ctrl-C ends it)"]
    if not is_loopback(host):
        lines.insert(
            0, f"warning: {host} is reached from other machines, and nothing is encrypted here, the token neither"
        )
    return lines


def many_connections() -> None:
    """As many open sockets as the system lets this process have."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wish = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    if soft != resource.RLIM_INFINITY and soft < wish:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wish, hard))


class Server(uvicorn.Server):
    """uvicorn's, which at its end leaves what waits without an answer. This one first tells the application, which
    finishes what is being judged and answers the rest 503. A second signal ends it at once.

    stopping: called once, in the event loop."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._captured_signals or self._loop is None:
            self.force_exit = bool(self._captured_signals)
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._stopping()
        assert self._loop is not None
        self._loop.call_later(DRAIN_SECONDS if self.server_state.connections else 0, self._leave)

    def _leave(self) -> None:
        self.should_exit = True


def make_server(
    app, *, stopping: Callable[[], None], leave_seconds: float, access_log: bool = False, proxy: str | None = None
) -> Server:
    """stopping: called when the server is told to end; leave_seconds: what is being judged then may still take.
    access_log: a line for each request (address, method, path, status), never a photo's name. proxy: addresses
    whose X-Forwarded-* headers are believed."""
    many_connections()
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_level="info" if access_log else "warning",
        access_log=access_log,
        server_header=False,
        proxy_headers=proxy is not None,
        forwarded_allow_ips=proxy,
        timeout_keep_alive=KEEP_SECONDS,
        timeout_graceful_shutdown=math.ceil(leave_seconds),
        backlog=BACKLOG,
        h11_max_incomplete_event_size=MOST_HEAD,
    )
    return Server(config, stopping)
