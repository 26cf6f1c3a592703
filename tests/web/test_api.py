"""The HTTP API, from within the process: what it says of good, bad and hostile requests."""

from __future__ import annotations

import gzip
import hashlib
import html
import io
import json
import re
import shlex
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from PIL import Image

import detect
from common.errors import UserError
from discriminator.detector import Detector
from discriminator.detector_base import Raw
from discriminator.explaining.attribution import Explainer
from discriminator.explaining.methods import METHODS
from discriminator.verdict import Threshold
from faces.procedural.portrait import render_face
from tests.program import Program
from web.api import build_app
from web.batching import BatchingQueue
from web.body import Limits, split_form
from web.opened import known_failures, open_service
from web.options import ServeOptions

ROOT = Path(__file__).resolve().parents[2]
MODELS = (ROOT / "models" / "detector.safetensors", ROOT / "models" / "detector.onnx")
SMALL = Limits(max_bytes=200_000, max_files=4)


def encoded(seed: int = 3, size: int = 128, form: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(render_face(seed, size)).save(out, form)
    return out.getvalue()


def png(width: int, height: int, claimed: tuple[int, int] | None = None) -> bytes:
    """A black PNG in few bytes; `claimed`: the size its header says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", *(claimed or (width, height)), 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes((1 + 3 * width) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def service():
    made = open_service(ServeOptions(model=str(MODELS[0]), runtime="onnx", face="whole", max_pixels=1.0), MODELS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(service):
    with TestClient(build_app(service, SMALL, threads=2), base_url="http://localhost") as made:
        yield made


def post(client, *photos, query=""):
    return client.post(f"/v1/detect{query}", files=[("file", photo) for photo in photos])


def refusal(answer) -> str:
    """An error's one line; every answer that is one looks like this."""
    told = answer.json()
    assert answer.status_code >= 400 and "\n" not in told["error"]
    assert set(told) - {"file"} == {"error", "type", "title", "status", "detail"} and told["detail"] == told["error"]
    assert told["status"] == ("unreadable" if "file" in told else answer.status_code)
    return told["error"]


def test_one_bad_photo_never_stops_the_others(client):
    answer = post(client, ("a.jpg", encoded(1)), ("b.jpg", b"hello"), ("c.mp4", b"x" * 50), ("d.png", encoded(2)))
    assert answer.status_code == 200
    told = answer.json()
    assert [row["file"] for row in told["results"]] == ["a.jpg", "b.jpg", "c.mp4", "d.png"]
    assert [row["status"] for row in told["results"]] == ["judged", "unreadable", "unreadable", "judged"]
    assert told["results"][1]["error"] == "not an image" and "not a video" in told["results"][2]["error"]
    assert told["summary"]["unreadable"] == 2 and told["summary"]["files"] == 4
    assert told["summary"]["exit_code"] in (1, 2)


@pytest.mark.parametrize(
    ("data", "name", "status", "words"),
    [
        (b"hello", "a.jpg", 400, "a.jpg: not an image"),
        (encoded()[:900], "cut.jpg", 400, "cut.jpg: truncated"),
        (b"", "empty.png", 400, "empty file"),
        (png(2000, 1000), "large.png", 400, "more than the 1,000,000 allowed"),
        (png(10, 10, (60000, 60000)), "bomb.png", 400, "bomb.png:"),
        (png(8, 8), "dot.png", 400, "too small"),
        (b"x" * 5000, "clip.mp4", 400, "clip.mp4: not a video that can be read"),
        (b"", "clip.mp4", 400, "clip.mp4: empty file"),
    ],
)
def test_the_only_photo_is_bad(client, data, name, status, words):
    answer = post(client, (name, data))
    assert answer.status_code == status and words in refusal(answer)
    assert answer.json()["file"] == name and answer.json()["status"] == "unreadable"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("face=both", "'auto', 'whole' or 'required'"),
        ("face=required", "started to judge photos whole"),
        ("fpr=0.3", "give one of"),
        ("fpr=x", "fpr: "),
        ("threshold=2", "from 0 to 1"),
        ("threshold=nan", "from 0 to 1"),
        ("threshold=.5&fpr=.01", "give one of them"),
        ("threshold=.5&threshold=.6", "given twice"),
        ("explain=why", "patches, gradcam, saliency"),
        ("explain=gradcam", "needs PyTorch"),
        ("explian=patches", "no option explian"),
    ],
)
def test_options_that_are_not_to_be_had(client, query, words):
    answer = post(client, ("a.jpg", encoded()), query=f"?{query}")
    assert answer.status_code == 422 and words in refusal(answer) and "--threshold" not in refusal(answer)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("image/jpeg", 200),
        ("IMAGE/whatever; x=1", 200),
        ("application/octet-stream", 200),
        (None, 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("video/mp4", 200),
        ("multipart/mixed; boundary=x", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=" + 80 * "x", 400),
        ("multipart/form-data; boundary=x", 400),
    ],
)
def test_content_types(client, kind, status):
    headers = {} if kind is None else {"content-type": kind}
    answer = client.post("/v1/detect", content=encoded(), headers=headers)
    assert answer.status_code == status
    if status == 200:
        assert answer.json()["results"][0]["file"] == kind.partition("/")[0].lower().replace("application", "image")
    else:
        refusal(answer)


def test_too_much_is_refused_while_it_comes(client):
    answer = client.post("/v1/detect", content=bytes(200_001), headers={"content-type": "image/png"})
    assert answer.status_code == 413 and answer.headers["connection"] == "close"
    body = (bytes(10_000) for _ in range(200))  # nothing says beforehand how long it is
    answer = client.post("/v1/detect", content=body, headers={"content-type": "image/png"})
    assert answer.status_code == 413 and "MiB" in refusal(answer)
    assert post(client, *[("a.jpg", b"x")] * 4).status_code == 200
    answer = post(client, *[("a.jpg", b"x")] * 5)
    assert answer.status_code == 413 and "more than 4 photos" in refusal(answer)
    assert client.app.state.held.total == client.app.state.held.requests == 0


def form(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end


def part(name: bytes, data: bytes, field: bytes = b"file") -> bytes:
    head = b'Content-Disposition: form-data; name="' + field + b'"; filename="' + name + b'"\r\nContent-Type: x/y'
    return head + b"\r\n\r\n" + data


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\r\n", b"--b", b"\r\n--b", b"--b--", b"\0" * 99, encoded(), b"\r\n-\r\n--\r\n--a--\r\n"]
)
def test_a_form_gives_back_the_bytes_that_went_in(data):
    if b"\r\n--b" in b"\r\n" + data:  # a sender's boundary is never in its data
        return
    (first, second) = split_form(form(part("ä 1.jpg".encode(), data), part(b"b", data)), b"b", SMALL)
    assert (first.name, first.data) == ("ä 1.jpg", data) and (second.name, second.data) == ("b", data)


def test_forms_are_read_as_other_programs_write_them():
    """An independent encoder, with a boundary, preamble and padding of its own."""
    import httpx2

    photos = [(f'p {i};"q".jpg', np.random.default_rng(i).bytes(5000)) for i in range(3)]
    request = httpx2.Request("POST", "http://x/", files=[("file", photo) for photo in photos])
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    found = split_form(b"preamble\r\n" + request.read() + b"epilogue", boundary, SMALL)
    assert [upload.data for upload in found] == [data for _, data in photos]
    assert split_form(b"\r\n--b\r\n" + part(b"x", b"1") + b"\r\n--b--", b"b", SMALL)[0].data == b"1"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 422, "no photo came"),
        (b"--b--\r\n", 422, "no photo came"),
        (b"garbage", 400, "its boundary is not in it"),
        (form(part(b"a", b"1"), end=b""), 400, "ends early"),
        (form(b"no blank line"), 400, "without a proper head"),
        (b"--bb\r\n\r\n\r\n--b--", 400, "without a proper head"),
        (form(b"a: " + b"b" * 5000 + b"\r\n\r\n1"), 400, "without a proper head"),
        (form(b"\r\n1"), 422, "field ''"),
        (form(part(b"a", b"1", b"photo")), 422, "field 'photo'"),
        (form(part(b"a", b"0.01", b"fpr")), 422, "options behind a ? of the address"),
        (form(b'Content-Disposition: form-data; name="file"\r\n\r\n1'), 422, "is text, not a file"),
    ],
)
def test_broken_forms(client, body, status, words):
    answer = client.post("/v1/detect", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == status and words in refusal(answer)


def test_hostile_names_come_back_as_they_are_and_never_as_markup(client):
    names = ["<img src=x onerror=alert(1)>.jpg", "../../etc/passwd", "a\u202egpj.exe", "x" * 999, "\x1b[2J"]
    for name in names:
        body = form(part(name.encode(), b"nothing"))
        answer = client.post("/v1/detect", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
        assert answer.headers["content-type"] == "application/json" and answer.content.isascii()
        assert answer.json()["file"] == name[:255] and refusal(answer).isprintable()
    # encodings that Python knows and that make no text
    for filename in (b"filename*=utf-7''+2AA-", b'filename="\xed\xa0\x80\xff"', b"filename*=unicode_escape''%5Cud800"):
        body = form(b'Content-Disposition: form-data; name="file"; ' + filename + b"\r\n\r\n1")
        answer = client.post("/v1/detect", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
        assert answer.status_code in (400, 422) and refusal(answer)


def test_the_server_is_asked_by_its_own_page_only(service, client):
    def ask(app_client, **headers):
        return app_client.post("/v1/detect", content=encoded(), headers={"content-type": "image/jpeg", **headers})

    assert ask(client, **{"sec-fetch-site": "same-origin"}).status_code == 200
    other = {"sec-fetch-site": "cross-site", "origin": "https://elsewhere.example"}
    answer = ask(client, **other)
    assert answer.status_code == 403 and "allow its origin" in refusal(answer)
    assert "access-control-allow-origin" not in answer.headers
    with TestClient(
        build_app(service, SMALL, threads=1, cors=["https://elsewhere.example"]), base_url="http://localhost"
    ) as opened:
        answer = ask(opened, **other)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://elsewhere.example"
        assert ask(opened, **other | {"origin": "https://third.example"}).status_code == 403


def test_nothing_but_the_api(client):
    for path in ("/nowhere", "/v1", "/../serve.py", "/static/x"):
        assert client.get(path).status_code == 404 and refusal(client.get(path))
    assert client.get("/v1/detect").status_code == 405 and refusal(client.put("/v1/detect"))
    assert client.head("/healthz").status_code == 200 and client.get("/healthz").json()["status"] == "ok"


def test_explanations_lie_where_the_network_looked(client):
    wide = io.BytesIO()
    Image.fromarray(render_face(4, 256)[64:192]).save(wide, "PNG")
    (row,) = post(client, ("w.png", wide.getvalue()), query="?explain=patches").json()["results"]
    told = row["explain"]
    assert (told["width"], told["height"]) == (256, 128)
    assert told["region"] == [[64, 0], [192, 0], [192, 128], [64, 128]], "the centred square that Preprocess cuts out"
    found = np.array(told["patch_map"])
    detector = Detector.load(MODELS[0])
    (ours,) = detector.predict([np.asarray(Image.open(wide))])
    np.testing.assert_allclose(found, ours.patch_map, atol=1e-3)
    assert "explain" not in post(client, ("w.png", wide.getvalue())).json()["results"][0]


def test_a_report_is_the_page_that_detect_writes(client):
    name = "<img src=x onerror=alert(1)>.png"
    files = [("file", (name, encoded(4, 96, "PNG"))), ("file", ("b.jpg", b"nothing"))]
    answer = client.post("/v1/report?explain=patches,frames", files=files)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "2 photos and videos" in answer.text and "<img src=x" not in answer.text
    told = client.get("/v1/model").json()
    assert told["detector"]["sha256"] in answer.text and str(ROOT) not in answer.text
    assert told["measured"]["lines"][0][1:] in answer.text
    assert post(client, ("a.jpg", encoded())).json()["measured"] == told["measured"]
    assert client.post("/v1/report", files=files[1:]).status_code == 400
    assert client.post("/v1/report?threshold=2", files=files).status_code == 422


def test_a_reports_command_judges_the_same_in_the_same_way(client, tmp_path, monkeypatch):
    """It left out what was tried and told, and rounded the threshold."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-a b.png").write_bytes(encoded(4, 96, "PNG"))
    files = [("file", ("-a b.png", encoded(4, 96, "PNG")))]
    page = client.post("/v1/report?threshold=0.123456789&stability=true&evidence=true", files=files).text
    said = re.search(r"to repeat it</th><td>([^<]+)", page)[1]
    words = shlex.split(html.unescape(said))
    assert words[:3] == ["python", "detect.py", "./-a b.png"]
    assert CliRunner().invoke(Program(detect.main), words[2:]).exit_code in (0, 1)
    (row,) = json.loads((tmp_path / "report.json").read_text())["results"]
    query = "?threshold=0.123456789&stability=true&evidence=true"
    (served,) = post(client, ("-a b.png", files[0][1][1]), query=query).json()["results"]
    for name in ("verdict", "threshold", "probability", "stability", "evidence"):
        assert row[name] == served[name], name
    plain = client.post("/v1/report?fpr=0.05", files=files).text
    assert "detect.py &#x27;./-a b.png&#x27; --face whole --fpr 0.05 --report report.html<" in plain
    # where no faces can be looked for, auto is whole, and the command would look for them
    assert " --face whole " in client.post("/v1/report?face=auto", files=files).text


def test_what_is_packed_for_the_way_is_refused_and_not_judged(client):
    """A Content-Encoding says that the bytes are not the photo's own (RFC 9110, 8.4; 415 where it is not undone)."""
    packed = {"content-type": "image/jpeg", "content-encoding": "gzip"}
    answer = client.post("/v1/detect", content=gzip.compress(encoded()), headers=packed)
    assert answer.status_code == 415 and "Content-Encoding gzip" in refusal(answer)
    plain = {"content-type": "image/jpeg", "content-encoding": "identity"}
    assert client.post("/v1/detect", content=encoded(), headers=plain).status_code == 200


def test_everything_has_its_story_where_it_was_asked_for(client):
    """As of `detect.py --evidence`: what can't be opened, too."""
    photos = [("a.jpg", encoded()), ("b.jpg", b"nothing"), ("large.png", png(2000, 1000)), ("c.mp4", b"x" * 50)]
    for row, (name, data) in zip(post(client, *photos, query="?evidence=true").json()["results"], photos, strict=True):
        line = row["evidence"][0]
        assert line["kind"] == "SHA-256" and line["facts"]["sha256"] == hashlib.sha256(data).hexdigest(), name


def test_gradcam_takes_pytorch_only_where_it_may():
    service = open_service(ServeOptions(model=str(MODELS[0]), face="whole"))
    with TestClient(build_app(service, SMALL, threads=2), base_url="http://localhost") as client:
        there = client.get("/v1/model").json()["maps"]
        assert there == [name for name in METHODS if name in there] and {"patches", "gradcam", "lrp"} <= set(there)
        (row,) = post(client, ("a.png", encoded(5, 256, "PNG")), query="?explain=gradcam,patches,lrp").json()["results"]
    cam = np.array(row["explain"]["gradcam"])
    assert cam.max() == 1 and cam.min() >= 0 and row["explain"]["gradcam_towards"] in ("FAKE", "REAL")
    maps = row["explain"]["maps"]
    assert maps["lrp"]["signed"] and not maps["lrp"]["note"]
    for one in maps.values():
        assert 0 < np.abs(np.array(one["values"])).max() <= 1
    assert open_service(ServeOptions(model=str(MODELS[1]), face="whole")).maps == ["patches"]


def test_a_report_draws_each_map_once(monkeypatch):
    drawn, explain = [], Explainer.__call__
    monkeypatch.setattr(Explainer, "__call__", lambda self, seen, method, **how: drawn.append(method) or explain(
        self, seen, method, **how))  # fmt: skip
    service = open_service(ServeOptions(model=str(MODELS[0]), face="whole"))
    with TestClient(build_app(service, SMALL, threads=2), base_url="http://localhost") as client:
        answer = client.post(
            "/v1/report?explain=gradcam,saliency",
            content=encoded(5, 256, "PNG"),
            headers={"content-type": "image/png"},
        )
    assert answer.status_code == 200 and "Grad-CAM" in answer.text and drawn == ["gradcam", "saliency"]


def test_the_model_tells_what_it_is(client):
    told = client.get("/v1/model").json()
    detector = Detector.load(MODELS[0])
    assert told["detector"]["sha256"] == detector.sha256 and told["detector"]["file"] == "detector.safetensors"
    assert told["calibration"] == detector.calibration.to_dict() and told["meta"] == detector.meta
    assert told["operating_point"]["threshold"] == detector.calibration.at().threshold
    assert told["limits"] == {"bytes": 200_000, "files": 4, "pixels": 1_000_000} | {
        "video_seconds": 30.0,
        "video_frames": 64,
    }
    assert told["known_failures"] and not any("[" in line or "`" in line for line in told["known_failures"])
    assert str(ROOT) not in json.dumps(told)
    assert known_failures(ROOT / "other.safetensors", MODELS) == []


def test_many_at_once_are_all_answered_and_alike(client):
    data = encoded(7, 96)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda i: post(client, (f"{i}.jpg", data)), range(64)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["results"][0]["probability"] for answer in answers}) == 1
    assert [answer.json()["results"][0]["file"] for answer in answers] == [f"{i}.jpg" for i in range(64)]


def test_a_busy_server_says_so(service):
    limits = Limits(max_bytes=30_000, held_bytes=30_000, wait_seconds=0.3)
    gate = threading.Event()
    judge = service.judge
    try:
        service.judge = lambda upload, ask: (gate.wait(20), judge(upload, ask))[1]
        with (
            TestClient(build_app(service, limits, threads=1), base_url="http://localhost") as client,
            ThreadPoolExecutor(4) as pool,
        ):
            first = pool.submit(post, client, ("a.jpg", encoded(1, 64)))
            while not client.app.state.held.total:
                time.sleep(0.01)
            late = post(client, ("b.jpg", encoded(2, 64)))
            assert late.status_code == 503 and "turn did not come" in refusal(late) and late.headers["retry-after"]
            full = post(client, ("c.jpg", bytes(29_000)))
            assert full.status_code == 503 and "too many photos" in refusal(full)
            gate.set()
            assert first.result().status_code == 200
            assert client.app.state.held.total == client.app.state.held.requests == 0
    finally:
        gate.set()
        del service.judge


def test_a_fault_is_told_without_its_insides(service, monkeypatch):
    monkeypatch.setattr(service, "judge", lambda upload, ask: 1 / 0, raising=False)
    with TestClient(build_app(service, SMALL, threads=1), "http://localhost", raise_server_exceptions=False) as client:
        answer = post(client, ("a.jpg", encoded()))
        assert answer.status_code == 500 and "division" not in answer.text and refusal(answer)
        assert client.app.state.held.requests == 0


class Slow(Detector):
    """Counts what it is asked at once, and gives no number for one kind of picture."""

    def __init__(self, like: Detector):
        super().__init__(like.net, like.preprocess, like.calibration)
        self.batches: list[int] = []

    def once(self, pixels):
        time.sleep(0.02)
        self.batches.append(len(pixels))
        if (pixels == 1).all((1, 2, 3)).any():
            raise UserError("not numbers")
        return Raw(pixels.mean((1, 2, 3)).astype(np.float64), None)


def test_one_thread_judges_what_waits_together_and_each_gets_its_own():
    inner = Slow(Detector.load(MODELS[0]))
    together, rule = BatchingQueue(inner, most=16), Threshold.of(inner.calibration)
    pictures = [np.full((256, 256, 3), value, np.uint8) for value in range(0, 240, 4)]
    pictures.insert(30, np.full((256, 256, 3), 255, np.uint8))

    def ask(picture):
        try:
            return together.verdicts([picture], rule)[0].logit
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(ask, pictures))
    together.close()
    assert found.pop(30) == "not numbers"
    np.testing.assert_allclose(found, [v / 127.5 - 1 for v in range(0, 240, 4)], atol=1e-6)
    assert max(inner.batches) > 4 and max(inner.batches) <= 16 and len(inner.batches) < 40
