"""Photos from addresses: what may be asked, and that a server which misbehaves costs no more than its limits."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from web.body import RequestRefused
from web.fetching import Fetcher, Target, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::", "::1", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::1",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2001:db8::1", "", "localhost", "1", "0x7f000001",
    ],
)  # fmt: skip
def test_no_private_address_is_asked(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111"])
def test_public_addresses_are(address):
    assert is_public(address) and ipaddress.ip_address(address)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/passwd", "only http"), ("ftp://x.example/a", "only http"), ("gopher://x", "only http"),
        ("//x.example/a", "only http"), ("photo.jpg", "only http"), ("http://", "only http"),
        ("http://x.example:8080/", "usual ports"), ("http://x.example:22/", "usual ports"),
        ("http://x:y@z/", "password"), ("", "no web address"), ("http://[::1", "no web address"),
        ("http://a b/", "no web address"), ("http://x\r\nHost: y/", "no web address"),
        ("http://x.example:99999/", "no web address"), ("http://x\\@y/", "no web address"),
        ("http://" + "a" * 3000, "2000"), ("http://" + "a" * 70 + ".example/", "no web address"),
        ("http://x..y/", "no web address"),
    ],
)  # fmt: skip
def test_addresses_that_are_not_fetched(url, words):
    with pytest.raises(RequestRefused, match=words) as refused:
        Fetcher(1000, 1, resolve=lambda *_: pytest.fail("nothing is looked up"))(url)
    assert refused.value.status == 422


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "2130706433", "0177.0.0.1", "0", "127.1"])
def test_this_machine_is_not_asked_by_any_name(host):
    with pytest.raises(RequestRefused, match="public internet|no address for"):
        Fetcher(1000, 2)(f"http://{host}/")


def test_names_and_paths_are_written_as_they_travel():
    target = Target.of("https://bücher.example/ä b".replace(" ", "%20") + "?q=ü#part")
    assert (target.host, target.path) == ("xn--bcher-kva.example", "/%C3%A4%20b?q=%C3%BC")


class Pages(BaseHTTPRequestHandler):
    """A server that behaves by its path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with contextlib.suppress(OSError):
            self._answer()

    def _answer(self):
        self.server.seen.append((self.path, self.headers["Host"]))
        way = self.path.strip("/")
        if way.startswith("to="):
            self.send_response(302)
            self.send_header("Location", way[3:])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif way == "drip":
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
        elif way == "drip-head":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self.close_connection = True
            for i in range(90):
                self.wfile.write(b"X-%d: y\r\n" % i)
                self.wfile.flush()
                time.sleep(0.1)
        elif way.startswith("bytes="):
            data = bytes(int(way[6:]))
            self.send_response(200)
            if int(way[6:]) % 2:
                self.send_header("Content-Length", str(len(data)))
            else:
                self.close_connection = True
            self.end_headers()
            self.wfile.write(data)
        else:
            self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def there():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.seen, server.daemon_threads = [], True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def fetcher(server, *, seconds=5.0, resolve=lambda *_: ["127.0.0.1"], allowed=lambda one: one == "127.0.0.1"):
    return Fetcher(5000, seconds, resolve=resolve, allowed=allowed, ports={"http": server.server_port, "https": 443})


def test_what_lies_there_comes_back_from_the_address_that_was_checked(there):
    looked_up = []

    def rebinding(host, port):  # the second answer would be another machine's
        looked_up.append(host)
        return ["127.0.0.1"] if len(looked_up) == 1 else ["10.0.0.1"]

    upload = fetcher(there, resolve=rebinding)("http://photos.example/bytes=999")
    assert upload.data == bytes(999) and upload.name == "bytes=999" and looked_up == ["photos.example"]
    assert there.seen[-1] == ("/bytes=999", f"photos.example:{there.server_port}")


def test_one_private_address_among_public_ones_is_enough(there):
    with pytest.raises(RequestRefused, match="public internet"):
        fetcher(there, resolve=lambda *_: ["127.0.0.1", "10.0.0.1"])("http://x.example/bytes=1")


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("bytes=5001", 413, "larger than"),
        ("bytes=5002", 413, "larger than"),
        ("nothing", 422, "status 404"),
        ("to=/to=/to=/to=/to=/to=/to=/to=/bytes=3", 422, "leads on more than"),
        ("to=http://inner.example/bytes=3", 422, "public internet"),
        ("to=file:///etc/passwd", 422, "only http"),
        ("to=http://x.example:22/", 422, "usual ports"),
    ],
)
def test_what_is_refused_on_the_way(there, path, status, words):
    names = {"photos.example": ["127.0.0.1"], "inner.example": ["10.0.0.7"]}
    with pytest.raises(RequestRefused, match=words) as refused:
        fetcher(there, resolve=lambda host, port: names[host])(f"http://photos.example/{path}")
    assert refused.value.status == status


def test_a_redirect_is_followed(there):
    assert fetcher(there)("http://photos.example/to=/bytes=7").data == bytes(7)


@pytest.mark.parametrize("path", ["drip", "drip-head"])
def test_slow_servers_are_left(there, path):
    begin = time.monotonic()
    with pytest.raises(RequestRefused, match="not here after") as refused:
        fetcher(there, seconds=0.6)(f"http://photos.example/{path}")
    assert refused.value.status == 408 and time.monotonic() - begin < 3


def test_a_name_that_is_looked_up_for_long_is_left(there):
    """The clock ran, and nobody looked at it until the name's address was there."""
    begin = time.monotonic()
    with pytest.raises(RequestRefused, match=r"not here after 0\.3 s") as refused:
        fetcher(there, seconds=0.3, resolve=lambda *_: time.sleep(4) or ["127.0.0.1"])("http://slow.example/bytes=1")
    assert refused.value.status == 408 and time.monotonic() - begin < 3


def test_a_connection_that_stands_when_time_is_over_is_left(there, monkeypatch):
    """Looking up took half of the time, connecting the other: who was to end it found nothing to end."""
    connect = socket.create_connection

    def late(address, timeout=None):
        time.sleep(0.4)
        return connect(address, timeout)

    monkeypatch.setattr("web.fetching.socket.create_connection", late)
    slow = fetcher(there, seconds=0.6, resolve=lambda *_: time.sleep(0.4) or ["127.0.0.1"])
    begin = time.monotonic()
    with pytest.raises(RequestRefused, match="not here after") as refused:
        slow("http://photos.example/drip")
    assert refused.value.status == 408 and time.monotonic() - begin < 2
