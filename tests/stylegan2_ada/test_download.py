"""Networks from the internet, from a server on this machine."""

import hashlib
import http.server
import os
import re
import threading

import pytest

from stylegan2_ada import download
from stylegan2_ada.download import PUBLISHED, cache_folder, cached_path, fetch, is_remote

DATA = bytes(range(256)) * 5000
HASH = hashlib.sha256(DATA).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        kind = self.path.split("/")[1].split("?")[0]
        if kind == "missing":
            self.send_error(404)
            return
        if kind == "away":
            self.send_response(302)
            self.send_header("Location", "/good/faces.pkl")
            self.end_headers()
            return
        self.send_response(200)
        if kind != "unsized":
            size = {"short": len(DATA) + 1, "huge": 1 << 40}.get(kind, len(DATA))
            self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(DATA)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    Handler.asked.clear()
    return tmp_path / "cache"


def pin(url, value=HASH):
    return f"{url}#sha256={value}"


def test_a_file_is_fetched_once(server, cache):
    seen = []
    path = fetch(pin(f"{server}/good/my faces.pkl?x=1"), lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == DATA and path.parent == cache and path.name.endswith("-my-faces.pkl")
    assert seen[-1] == (len(DATA), len(DATA)) and seen == sorted(seen)
    assert fetch(pin(f"{server}/good/my faces.pkl?x=1", HASH.upper())) == path and len(Handler.asked) == 1
    other = fetch(pin(f"{server}/good/other/my faces.pkl"))  # the same name elsewhere is another file
    assert other != path and len(list(cache.iterdir())) == 2
    assert fetch(pin(f"{server}/unsized/a.pkl")).read_bytes() == DATA
    assert fetch(pin(f"{server}/away/b.pkl")).read_bytes() == DATA


def refused(spec, *words):
    with pytest.raises(ValueError) as e:
        fetch(spec, timeout=2)
    assert "\n" not in str(e.value) and all(word in str(e.value) for word in words), str(e.value)


def test_what_cannot_be_had_leaves_nothing_behind(server, cache, monkeypatch):
    refused(pin(f"{server}/missing"), f"{server}/missing", "404")
    refused(pin(f"{server}/short"), "could not be fetched", "ended after")
    refused(pin(f"{server}/huge"), "1024.0 GiB")
    refused(pin(f"{server}/good", "0" * 64), "SHA-256", HASH, "thrown away")
    refused(pin("http://127.0.0.1:9/closed"), "could not be fetched", "check the connection")
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    refused(pin(f"{server}/unsized"), "more than")
    assert not cache.exists() or list(cache.iterdir()) == []


def test_addresses_that_are_not_taken(server):
    refused(f"{server}/good", "tampered", "#sha256=")
    refused("ftp://example.org/a.pkl", "only https:// and file://")
    refused("https://example.org/a.pkl#md5=0", "sha256=<64 hex digits>")
    refused("https://example.org/a.pkl#sha256=12", "sha256=<64 hex digits>")
    assert Handler.asked == []


def test_a_file_in_the_cache_that_was_changed(server):
    url = pin(f"{server}/good/a.pkl")
    path = fetch(url)
    path.write_bytes(b"other")
    refused(url, "not", "as pinned", f"delete {path}")


def test_file_addresses_are_read_where_they_lie(tmp_path, cache):
    path = tmp_path / "my net.pkl"
    path.write_bytes(DATA)
    assert fetch(path.as_uri()) == path and fetch(pin(path.as_uri())) == path
    refused(pin(path.as_uri(), "0" * 64), "as pinned")
    refused((tmp_path / "absent.pkl").as_uri(), "no such file")
    assert not cache.exists()


def test_an_interrupted_download_leaves_no_file(server, cache):
    class Stopped(Exception):
        pass

    def stop(done, total):
        raise Stopped

    with pytest.raises(Stopped):
        fetch(pin(f"{server}/good/a.pkl"), stop)
    assert list(cache.iterdir()) == []


def test_what_is_an_address():
    for spec in ("https://a.b/c.pkl", "file:///a/b", "ffhq256", "HTTPS://a"):
        assert is_remote(spec)
    for spec in ("a.pkl", "/a/b.pkl", "C:/a.pkl", "latest", "runs"):
        assert not is_remote(spec)
    assert set(PUBLISHED) == {"ffhq256", "ffhq512", "ffhq1024", "celebahq256", "lsundog256"}
    for url in PUBLISHED.values():
        assert re.fullmatch(r"https://[\w.-]+/[\w./-]+\.pkl", url)
    assert cached_path("ffhq256").name.endswith("-ffhq-res256-mirror-paper256-noaug.pkl")


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("FACES_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ganface"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ganface"
