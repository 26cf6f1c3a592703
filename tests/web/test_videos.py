"""Videos over HTTP: verdicts, the strip of frames, and what one may cost."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time

import numpy as np
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from PIL import Image

import detect
from faces.procedural.portrait import render_face
from faces.video import Limits
from tests.faces.video_files import write
from tests.program import Program
from tests.web.test_api import MODELS, encoded, post, refusal
from web.api import build_app
from web.body import Limits as BodyLimits
from web.opened import open_service
from web.options import ServeOptions


@pytest.fixture(scope="module")
def service():
    asked = ServeOptions(
        model=str(MODELS[0]), runtime="onnx", face="whole", max_pixels=1.0, video_frames=8, video_seconds=20
    )
    made = open_service(asked, MODELS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(service):
    with TestClient(
        build_app(service, BodyLimits(max_bytes=2_000_000, max_files=4), threads=2), base_url="http://localhost"
    ) as made:
        yield made


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    faces = [render_face(seed, 128) for seed in range(3)]
    path = write(
        tmp_path_factory.mktemp("clip") / "clip.mp4", 30, picture=lambda i, h, w: faces[i % 3], size=(128, 128)
    )
    return open(path, "rb").read()


def test_a_video_has_a_verdict_and_each_frame_its_own(client, clip):
    (row,) = post(client, ("clip.mp4", clip)).json()["results"]
    assert row["verdict"] in ("REAL", "FAKE", "UNSURE") and row["video"]["frames"] == len(row["frames"]) == 8
    assert row["video"]["seconds"] == pytest.approx(3) and "8 of 8 frames" in row["note"]
    assert [frame["seconds"] for frame in row["frames"]] == sorted(frame["seconds"] for frame in row["frames"])
    assert all(frame["picture"] is None and 0 <= frame["probability"] <= 1 for frame in row["frames"])
    logits = sorted(frame["logit"] for frame in row["frames"])
    assert row["logit"] == pytest.approx(np.mean(logits[1:-1]), abs=1e-4)


def test_a_video_has_its_story_as_of_the_command(client, clip, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(clip)
    words = [str(tmp_path / "clip.mp4"), "--evidence", "--json", "--face", "whole", "--runtime", "onnx"]
    (told,) = json.loads(CliRunner().invoke(Program(detect.main), words).stdout)["results"]
    (row,) = post(client, ("clip.mp4", clip), query="?evidence=true").json()["results"]
    assert row["evidence"] == told["evidence"]
    assert row["evidence"][0]["facts"] == {"sha256": hashlib.sha256(clip).hexdigest()}


def test_the_strip_shows_the_frames(client, clip):
    (row,) = post(client, ("clip.mp4", clip), query="?explain=frames,patches").json()["results"]
    for frame in row["frames"]:
        head, data = frame["picture"].split(",", 1)
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (160, 160)
            shown = np.asarray(picture.resize((32, 32))).astype(int)
        drawn = np.asarray(Image.fromarray(render_face(frame["frame"] % 3, 128)).resize((32, 32)))
        assert np.abs(shown - drawn).mean() < 12


def test_beside_photos_and_under_other_names(client, clip):
    told = post(client, ("a.jpg", encoded()), ("clip.jpg", clip), ("photo.mp4", encoded()), ("b.mp4", b"hello")).json()
    assert [("video" in row, row["status"]) for row in told["results"]] == [
        (False, "judged"),
        (True, "judged"),
        (False, "judged"),
        (False, "unreadable"),
    ]
    assert told["summary"]["files"] == 4


def test_as_the_body(client, clip):
    answer = client.post("/v1/detect", content=clip, headers={"content-type": "video/mp4"})
    assert answer.status_code == 200 and answer.json()["results"][0]["file"] == "video"
    answer = client.post("/v1/detect", content=clip[:300], headers={"content-type": "video/mp4"})
    assert answer.status_code == 400 and "video: " in refusal(answer)


def test_what_a_video_may_cost(service, clip):
    before = service.limits
    try:
        service.limits = Limits(pixels=10_000, frames=8, seconds=20.0, threads=1)
        with TestClient(
            build_app(service, BodyLimits(max_bytes=len(clip) - 1), threads=1), base_url="http://localhost"
        ) as client:
            assert post(client, ("clip.mp4", clip)).status_code == 413
        with TestClient(build_app(service, BodyLimits(), threads=1), base_url="http://localhost") as client:
            answer = post(client, ("clip.mp4", clip))
            assert answer.status_code == 400 and "more than 10,000 pixels" in refusal(answer)
            service.limits = Limits(frames=8, seconds=1e-9, threads=1)
            begin = time.monotonic()
            answer = post(client, ("clip.mp4", clip))
            assert answer.status_code == 400 and "refused" in refusal(answer) and time.monotonic() - begin < 5
    finally:
        service.limits = before


def test_nothing_outside_of_the_video_is_read(client, tmp_path):
    """Playlists name files and addresses of the server."""
    (tmp_path / "secret.mp4").write_bytes(b"x")
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{tmp_path}/secret.mp4\n",
        f"ffconcat version 1.0\nfile {tmp_path}/secret.mp4\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ):
        answer = post(client, ("a.mp4", text.encode()))
        assert answer.status_code == 400 and "not a video that can be read" in refusal(answer)
