"""What a server may do besides judging: figures, problem details, a second detector, addresses, faces."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from common.errors import UserError
from faces.procedural.portrait import render_face
from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.files import save_generator
from stylegan2_ada.generator import Generator
from synth.sample import sample
from web.api import More, build_app
from web.body import Limits, RequestRefused
from web.making import MOST, Maker
from web.opened import open_service
from web.options import ServeOptions
from web.service import Upload

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "detector.safetensors"
TOKEN = "a-secret-of-a-test"


def encoded(seed: int = 3) -> bytes:
    out = io.BytesIO()
    Image.fromarray(render_face(seed, 128)).save(out, "JPEG")
    return out.getvalue()


def fetched(url: str) -> Upload:
    if not url.startswith("https://photos.example/"):
        raise RequestRefused(422, f"url {url}: not an address of the public internet")
    return Upload("a.jpg", encoded())


@pytest.fixture(scope="module")
def service():
    made = open_service(ServeOptions(model=str(MODEL), runtime="onnx", face="whole"), (MODEL,))
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(service, generator):
    other = open_service(ServeOptions(model=str(MODEL), runtime="onnx", face="whole", threshold=1.0), (MODEL,))
    more = More(other, fetched, Maker(str(generator)))
    app = build_app(service, Limits(max_bytes=200_000), threads=2, more=more, token=TOKEN)
    with TestClient(app, base_url="http://localhost", headers={"authorization": f"Bearer {TOKEN}"}) as made:
        yield made
    other.close()


def post(client, query="", **how):
    return client.post(f"/v1/detect{query}", content=encoded(), headers={"content-type": "image/jpeg"}, **how)


def figures(client) -> dict:
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_figures_count_what_was_asked(client):
    before = figures(client)
    assert post(client).status_code == 200 and client.get("/nowhere/secret-name.jpg").status_code == 404
    after = figures(client)

    def more(name, **labels):
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0)

    assert more("faces_requests_total", route="/v1/detect", method="POST", status="200") == 1
    assert more("faces_requests_total", route="other", method="GET", status="404") == 1
    assert sum(value for (name, _), value in after.items() if name == "faces_answers_total") > 0
    assert more("faces_request_seconds_count", route="/v1/detect") == 1
    assert after[("faces_waiting_requests", ())] == after[("faces_held_bytes", ())] == 0
    assert not any("secret-name" in str(key) for key in after)
    assert after[("process_resident_memory_bytes", ())] > 1e6


def test_figures_want_the_token(client):
    assert client.get("/metrics", headers={"authorization": ""}).status_code == 401
    assert client.get("/healthz", headers={"authorization": ""}).status_code == 200


def test_problem_details_where_they_are_accepted(client):
    accept = {"accept": "application/problem+json", "content-type": "image/jpeg"}
    answer = client.post("/v1/detect", content=b"hello", headers=accept)
    told = answer.json()
    assert answer.headers["content-type"] == "application/problem+json" and answer.status_code == 400
    assert told["status"] == 400 and told["title"] == "Bad Request" and told["type"] == "about:blank"
    assert told["detail"] == told["error"] and told["file_status"] == "unreadable" and told["file"] == "image"
    answer = client.get("/v1/model", headers={"accept": accept["accept"], "authorization": ""})
    assert (
        answer.status_code == 401
        and answer.json()["status"] == 401
        and len(answer.headers.get_list("www-authenticate")) == 2
    )


def test_two_detectors(client, service):
    first, second = post(client).json(), post(client, "?detector=other").json()
    assert first["results"][0]["probability"] == second["results"][0]["probability"]
    assert second["results"][0]["threshold"] == 1 and second["results"][0]["false_alarm_rate"] is None
    assert client.get("/v1/model?detector=other").json()["operating_point"]["threshold"] == 1
    assert client.get("/v1/model").json()["compare"]
    with TestClient(build_app(service, Limits(), threads=1), base_url="http://localhost") as alone:
        answer = post(alone, "?detector=other")
        assert answer.status_code == 422 and "one detector" in answer.json()["error"]
        assert alone.get("/v1/faces").status_code == alone.post("/v1/fetch").status_code == 404
        answer = alone.post("/v1/detect", json={"url": "https://photos.example/a.jpg"})
        assert answer.status_code == 415, "no address is fetched where nobody said so"


def test_photos_by_their_addresses(client):
    answer = client.post("/v1/detect", json={"url": "https://photos.example/a.jpg"})
    assert answer.status_code == 200 and answer.json()["results"][0]["file"] == "a.jpg"
    assert client.post("/v1/fetch", json={"url": "https://photos.example/a.jpg"}).content == encoded()
    for body in ({"url": "http://127.0.0.1/"}, {"url": 1}, {}, [], {"url": "x", "more": 1}):
        assert client.post("/v1/detect", json=body).status_code == 422
    assert client.post("/v1/fetch", content=encoded(), headers={"content-type": "image/jpeg"}).status_code == 415
    assert client.app.state.held.total == 0


def pictures(answer) -> list[np.ndarray]:
    assert answer.status_code == 200, answer.text
    urls = [one["picture"] for one in answer.json()["pictures"]]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


def test_made_faces_are_those_of_synth(client, generator):
    maker = Maker(str(generator))
    expected = sample(maker._generator, [3, 5])
    found = pictures(client.get("/v1/faces?seeds=3,5&truncation=1"))
    np.testing.assert_array_equal(np.stack(found), expected.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(pictures(client.get("/v1/faces?seeds=3&mix=3&truncation=1"))[0], found[0])
    every = ",".join(str(i) for i in range(maker._generator.num_ws))
    mixed = pictures(client.get(f"/v1/faces?seeds=3&mix=5&styles={every}&truncation=1"))
    np.testing.assert_array_equal(mixed[0], found[1])
    walk = pictures(client.get("/v1/faces?seeds=3&to=5&steps=4&truncation=1"))
    assert len(walk) == 4 and np.abs(walk[0].astype(int) - found[0]).max() <= 1
    assert np.abs(walk[-1].astype(int) - found[1]).max() <= 1


@pytest.mark.parametrize("channels", [1, 4])
def test_a_walk_of_grey_and_of_transparent_faces(channels, tmp_path):
    torch.manual_seed(1)
    save_generator(tmp_path / "g.safetensors", Generator(GeneratorConfig(resolution=16, img_channels=channels)))
    maker = Maker(str(tmp_path / "g.safetensors"))
    opened = [np.asarray(Image.open(io.BytesIO(face.png))) for face in maker.make("3", 1, to=5, steps=3)]
    ends = sample(maker._generator, [3, 5]).transpose(0, 2, 3, 1).squeeze()
    for image, end in zip((opened[0], opened[-1]), ends, strict=True):
        assert image.shape == end.shape and np.abs(image.astype(int) - end).max() <= 1


@pytest.mark.parametrize(
    "query",
    ["seeds=x", "seeds=0-99999999", "seeds=1-17", "seeds=-1", "truncation=9", "mix=1&to=2", "styles=blue&mix=1"]
    + ["steps=99&to=2", "class_index=3", "seeds=99999999999", "trunction=1", "seeds=1&seeds=2"],
)
def test_faces_that_are_not_made(client, query):
    answer = client.get(f"/v1/faces?{query}")
    assert answer.status_code == 422 and answer.json()["error"] and MOST == 16


def test_a_generator_that_is_none(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="x.safetensors"):
        Maker(str(tmp_path / "x.safetensors"))
    with pytest.raises(UserError, match="`generator` nowhere: no such file"):  # not `network`, which serve.py has not
        Maker("nowhere")
