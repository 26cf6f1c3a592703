"""What is no proper HTTP, too slow, too large, or all at once, over a real socket: each gets one clear answer."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.web.running import running
from tests.web.test_api import MODELS, encoded
from web import server as web_server
from web.api import build_app
from web.body import Limits
from web.opened import open_service
from web.options import ServeOptions

TOKEN = "a-secret-of-some-length"
END = b"Connection: close"
SECRET = f"Authorization: Bearer {TOKEN}\r\n".encode()


@pytest.fixture(scope="module")
def service():
    made = open_service(ServeOptions(model=str(MODELS[0]), runtime="onnx", face="whole"), MODELS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def place(service):
    limits = Limits(max_bytes=200_000, body_seconds=1.0)
    app = build_app(service, limits, threads=2, token=TOKEN)
    with running(app) as address:
        yield urlsplit(address).port
    assert app.state.held.total == app.state.held.requests == 0


def said(port: int, *pieces: bytes, pause: float = 0.0, seconds: float = 20.0) -> tuple[int, dict, dict]:
    """What comes back until the server closes: status, headers, and the body, which is one JSON object."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        except OSError:  # it has heard enough
            pass
        found = b""
        while chunk := connection.recv(1 << 16):
            found += chunk
    head, _, body = found.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    assert int(headers["content-length"]) == len(body), "one answer and nothing behind it"
    return int(first.split()[1]), headers, json.loads(body)


def head(*lines: bytes, path: bytes = b"/v1/detect", method: bytes = b"POST") -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: localhost", *lines, SECRET, b""])


def post(body: bytes, *lines: bytes, kind: bytes = b"image/jpeg", length: int | None = None) -> bytes:
    own = (b"Content-Type: " + kind, b"Content-Length: %d" % (len(body) if length is None else length))
    return head(*own, END, *lines) + body


ODD = {
    "no http": (b"hello\r\n\r\n", 400, "no HTTP request"),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n", 400, "no HTTP request"),
    "no host": (b"GET /v1/model HTTP/1.1\r\n\r\n", 400, "no HTTP request"),
    "two hosts": (head(b"Host: evil.example", method=b"GET", path=b"/"), 400, "no HTTP request"),
    "another host": (b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 421, "evil.example"),
    "huge header": (head(b"X-A: " + b"a" * 100_000, END), 431, "at most 32 KiB"),
    "many headers": (head(*[b"X-%d: %s" % (i, b"a" * 100) for i in range(1000)], END), 431, "at most 32 KiB"),
    "huge address": (head(END, path=b"/" + b"a" * 100_000, method=b"GET"), 431, "at most 32 KiB"),
    "nul in header": (head(b"X-A: a\x00b"), 400, "no HTTP request"),
    "folded name": (head(b"X A: b"), 400, "no HTTP request"),
    "two lengths": (head(b"Content-Length: 3", b"Content-Length: 4") + b"abc", 400, "no HTTP request"),
    "length of letters": (head(b"Content-Length: three") + b"abc", 400, "no HTTP request"),
    "another encoding": (head(b"Transfer-Encoding: gzip") + b"abc", 501, "Content-Length or in chunks"),
    "length and chunks": (
        head(b"Transfer-Encoding: chunked", b"Content-Length: 3", b"Content-Type: image/png", END)
        + b"3\r\nabc\r\n0\r\n\r\n", 400, "not an image",
    ),
    "broken chunk": (head(b"Transfer-Encoding: chunked", b"Content-Type: image/png") + b"zz\r\nabc", 400, "no HTTP"),
    "chunk larger than all": (
        head(b"Transfer-Encoding: chunked", b"Content-Type: image/png") + b"f" * 16 + b"\r\nabc", 413, "chunk of more",
    ),
    "no token": (b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 401, "Bearer"),
    "another origin": (post(b"x", b"Origin: http://evil.example"), 403, "another site"),
    "unknown method": (head(END, method=b"BREW"), 405, "not this method"),
    "whole address": (head(END, path=b"http://evil.example/", method=b"GET"), 404, "nothing"),
    "too large": (post(b"", length=10**9, kind=b"image/png"), 413, "MiB"),
    "endless number": (post(b"", length=10**15, kind=b"image/png"), 413, "MiB"),
    "no boundary": (post(b"--x", kind=b"multipart/form-data"), 400, "boundary"),
    "form of zeros": (post(bytes(9000), kind=b"multipart/form-data; boundary=b"), 400, "boundary is not in it"),
    "cut form": (
        post(b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nab',
             kind=b"multipart/form-data; boundary=b"), 400, "ends early",
    ),
    "form of bare line feeds": (
        post(b'--b\nContent-Disposition: form-data; name="file"; filename="a"\n\nab\n--b--\n',
             kind=b"multipart/form-data; boundary=b"), 400, "the form is broken",
    ),
    "text": (post(b"x", kind=b"text/plain"), 415, "not understood"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_requests_get_one_clear_answer(place, name):
    sent, status, words = ODD[name]
    found, headers, told = said(place, sent)
    assert found == status and words in told["error"], told
    assert told["status"] in (status, "unreadable") and headers["content-type"] == "application/json"
    assert headers["connection"] == "close" and headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store" and "default-src 'none'" in headers["content-security-policy"]


def test_slow_heads_and_slow_bodies_are_told_so(place, monkeypatch):
    monkeypatch.setattr(web_server, "HEAD_SECONDS", 0.5)
    found, _, told = said(place, b"GET / HT", b"TP/1.1\r\n", *[b"X: y\r\n"] * 10, pause=0.1)
    assert found == 408 and "after 0.5 s" in told["error"]
    found, _, told = said(place, post(b"", length=1000), *[b"x"] * 20, pause=0.1)
    assert found == 408 and "the body was not here after 1 s" in told["error"]
    with socket.create_connection(("127.0.0.1", place), timeout=20) as silent:
        assert silent.recv(10) == b"", "a connection that says nothing is closed without a word"


def test_32_at_once_are_each_answered_for_themselves(place):
    """Good photos, broken ones, refused and slow ones together: nobody's answer depends on the neighbours."""
    good = post(encoded(1, 64))
    asked = [
        [(good, 200, ""), (post(b"hello"), 400, "not an image"), *[ODD[name] for name in ("no token", "too large")]][
            i % 4
        ]
        for i in range(32)
    ]
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda one: said(place, one[0][:40], one[0][40:], pause=0.05, seconds=120), asked))
    for (_, status, words), (answered, _, told) in zip(asked, found, strict=True):
        assert answered == status and words in told.get("error", ""), told
    scores = {told["results"][0]["probability"] for status, _, told in found if status == 200}
    assert len(scores) == 1
