"""Who may ask the server, what it says when it cannot judge, and how it ends."""

from __future__ import annotations

import base64
import contextlib
import http.client
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from common.errors import UserError
from tests.web.test_api import MODELS, SMALL, encoded, post, refusal
from web import server as web_server
from web.api import build_app
from web.body import Held, Limits, RequestRefused
from web.guard import is_own_name, read_token
from web.opened import open_service
from web.options import ServeOptions

LOCAL = "http://localhost"
SECRET = "a-secret-of-some-length"


@pytest.fixture(scope="module")
def service():
    made = open_service(ServeOptions(model=str(MODELS[0]), runtime="onnx", face="whole"), MODELS)
    yield made
    made.close()


@pytest.fixture
def gate(service):
    """Judging waits until the gate is opened; `gate.entered` counts who came so far."""
    gate, judge = threading.Event(), service.judge
    gate.entered = 0

    def wait(upload, ask):
        gate.entered += 1
        assert gate.wait(60)
        return judge(upload, ask)

    service.judge = wait
    yield gate
    gate.set()
    del service.judge


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True), ("localhost:8000", True), ("127.0.0.1:8000", True), ("[::1]:8000", True),
        ("192.168.1.7:8000", True), ("LOCALHOST", True), ("faces.example", True), ("Faces.Example.:443", True),
        ("evil.example", False), ("evil.example:8000", False), ("localhost.evil.example", False), ("", False),
        ("127.0.0.1.evil.example", False), ("evil.example:127.0.0.1", False), ("[::1", False), ("127.1", False),
    ],
)  # fmt: skip
def test_a_name_that_was_not_told_is_not_believed(host, own):
    assert is_own_name(host, ("faces.example",)) is own


def test_dns_rebinding_reads_nothing(service):
    """A page of evil.example that makes its name point here: same origin to the browser, but the Host tells."""
    rebound = {"host": "evil.example:8000", "origin": "http://evil.example:8000", "sec-fetch-site": "same-origin"}
    with TestClient(build_app(service, SMALL, threads=1), base_url=LOCAL) as client:
        for path in ("/", "/v1/model", "/docs", "/healthz", "/readyz", "/openapi.json"):
            answer = client.get(path, headers=rebound)
            assert answer.status_code == 421 and "evil.example" in refusal(answer), path
            assert "content-security-policy" in answer.headers
        answer = client.post("/v1/detect", content=encoded(), headers={"content-type": "image/jpeg", **rebound})
        assert answer.status_code == 421
    with TestClient(build_app(service, SMALL, threads=1, hosts=["evil.example"]), base_url=LOCAL) as client:
        assert client.get("/healthz", headers=rebound).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "http://localhost:3000"}, 403),  # another program's page on the same machine
        ({"origin": "http://evil.example"}, 403),  # plain HTTP: browsers send no Sec-Fetch-Site
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost", "sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://faces.example", "sec-fetch-site": "same-origin"}, 200),  # through a proxy's own name
        ({"sec-fetch-site": "none"}, 200),
    ],
)
def test_the_origin_is_compared_with_the_host(service, headers, status):
    with TestClient(build_app(service, SMALL, threads=1), base_url=LOCAL) as client:
        answer = client.post("/v1/detect", content=encoded(), headers={"content-type": "image/jpeg", **headers})
        assert answer.status_code == status, answer.text


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


def test_a_token_is_asked_for_everywhere_but_by_probes(service):
    with TestClient(build_app(service, SMALL, threads=1, token=SECRET), base_url=LOCAL) as client:
        for path in ("/", "/v1/model", "/docs", "/openapi.json", "/nowhere", "/healthz/../v1/model"):
            answer = client.get(path)
            assert answer.status_code == 401 and "Bearer" in refusal(answer), path
            assert answer.headers.get_list("www-authenticate") == ['Bearer realm="faces"', 'Basic realm="faces"']
        assert post(client, ("a.jpg", encoded())).status_code == 401
        for given in ("", "Bearer", "Bearer wrong", f"Token {SECRET}", basic("wrong"), "Basic !", basic("ü")):
            assert client.get("/v1/model", headers={"authorization": given}).status_code == 401, given
        for given in (f"Bearer {SECRET}", f"bearer {SECRET}", basic(SECRET)):
            assert client.get("/v1/model", headers={"authorization": given}).status_code == 200, given
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_other_addresses_want_a_token(tmp_path, monkeypatch):
    monkeypatch.delenv("FACES_TOKEN", raising=False)
    file = tmp_path / "token"
    assert read_token(ServeOptions(), loopback=True) is None
    with pytest.raises(UserError, match=r"`host` 0\.0\.0\.0: .*`token_file`.*FACES_TOKEN"):
        read_token(ServeOptions(host="0.0.0.0"), loopback=False)
    asked = ServeOptions(host="0.0.0.0", token_file=str(file))
    with pytest.raises(UserError, match="cannot be read"):
        read_token(asked, loopback=False)
    for text in ("short", "two lines of it\nand more", "ä" * 20):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="at least 16 printable"):
            read_token(asked, loopback=False)
    file.write_text(SECRET + "\n")
    assert read_token(asked, loopback=False) == SECRET
    monkeypatch.setenv("FACES_TOKEN", SECRET * 2)
    assert read_token(ServeOptions(), loopback=True) == SECRET * 2


def test_readiness_tells_of_a_stall_and_of_a_full_queue(service, gate):
    app = build_app(service, Limits(waiting=2), threads=1)
    with TestClient(app, base_url=LOCAL) as client, ThreadPoolExecutor(4) as pool:
        assert client.get("/readyz").json() == {"status": "ok", "waiting": 0}
        first = pool.submit(post, client, ("a.jpg", encoded(1, 64)))
        while not gate.entered:
            time.sleep(0.01)
        assert client.get("/readyz").status_code == 200, "a photo that is being judged is no stall"
        app.state.line.patience = 0.05
        time.sleep(0.1)
        answer = client.get("/readyz")
        assert answer.status_code == 503 and answer.json()["status"] == "stalled" and answer.headers["retry-after"]
        assert client.get("/healthz").status_code == 200
        app.state.line.patience = 60
        second = pool.submit(post, client, ("b.jpg", encoded(2, 64)))
        while app.state.held.requests < 2:
            time.sleep(0.01)
        assert client.get("/readyz").json()["status"] == "busy"
        full = post(client, ("c.jpg", encoded(3, 64)))
        assert full.status_code == 503 and "too many requests" in refusal(full) and full.headers["retry-after"]
        gate.set()
        assert first.result().status_code == second.result().status_code == 200
        assert client.get("/readyz").status_code == 200 and client.head("/readyz").status_code == 200


def test_of_many_bodies_that_come_together_as_many_as_there_is_room_for_are_taken():
    """Each a piece at a time, in turn: 8 of 10 fit. Their room is that of the others as soon as one is refused, not
    only when its connection is closed, which takes a while."""
    held, refused = Held(Limits(max_bytes=32, held_bytes=256)), set()
    with contextlib.ExitStack() as under_way:
        takers = [under_way.enter_context(held.request()) for _ in range(10)]
        for _ in range(31):
            for number, take in enumerate(takers):
                if number not in refused:
                    try:
                        take(1)
                    except RequestRefused:
                        refused.add(number)
        assert len(refused) == 2 and held.total == 8 * 31 and held.requests == 10
    assert held.total == held.requests == 0


def test_a_server_that_is_told_to_stop_finishes_or_says_503_and_cuts_nobody(service, gate, monkeypatch):
    monkeypatch.setattr(web_server, "DRAIN_SECONDS", 0.5)
    app = build_app(service, Limits(), threads=2)
    line = app.state.line
    with web_server.listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        serving = web_server.make_server(app, stopping=line.stopping.set, leave_seconds=30)
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [sock]})
        thread.start()

        def ask(pieces: int = 1) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            data = encoded(1, 64)
            connection.putrequest("POST", "/v1/detect")
            connection.putheader("Content-Type", "image/jpeg")
            connection.putheader("Content-Length", str(len(data)))
            connection.endheaders()
            for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
                connection.send(piece)
                if pieces > 1:  # its body is still on the way when the server stops
                    assert slow.wait(60)
            answer = connection.getresponse()
            answer.read()
            return answer.status

        slow = threading.Event()
        with ThreadPoolExecutor(40) as pool:
            asked = [pool.submit(ask) for _ in range(16)]
            sending = pool.submit(ask, 2)
            while line.held.requests < 17:
                time.sleep(0.01)
            serving.handle_exit(15, None)
            while not line.stopping.is_set():
                time.sleep(0.01)
            late = [pool.submit(ask) for _ in range(4)]
            assert all(one.result() == 503 for one in late)
            slow.set()
            assert sending.result() == 503
            gate.set()
            found = [one.result() for one in asked]
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(set(found)) == [200, 503] and found.count(200) == 2
