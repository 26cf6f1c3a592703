"""The API as its own description says: schemathesis makes requests of it, good and bad, and holds every answer to it.

By hand: `pip install schemathesis`, then `python -m pytest -m slow tests/web/test_schema.py -s`."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from discriminator.detector import Detector
from faces.preprocess import Preprocess
from tests.discriminator.conftest import make_calibration, make_net
from tests.web.running import running
from web.api import More, build_app
from web.body import Limits
from web.fetching import Target
from web.making import Maker
from web.opened import open_service
from web.options import ServeOptions
from web.service import Upload

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "models" / "detector.safetensors"
TOKEN = "a-secret-of-a-test"
CHECKS = (  # all of them but two: a body that the description allows need not be a photo; nothing is stored here
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,missing_required_header,unsupported_method,"
    "allow_header_conformance,ignored_auth"
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def fetched(url: str) -> Upload:
    """As the fetcher answers, without a network."""
    Target.of(url)
    from tests.web.schema_hooks import JPEG  # needs schemathesis

    return Upload("a.jpg", JPEG)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("small") / "detector.safetensors"
    Detector(make_net(), Preprocess(32), make_calibration(), {"trained_on": "nothing"}).save(path)
    return path


@pytest.fixture(params=["small", "shipped", "alone"])
def app(request, small, generator):
    """A small detector with all that a server may do besides; the shipped one with the same; and with nothing."""
    model = small if request.param == "small" else SHIPPED
    asked = ServeOptions(model=str(model), face="auto" if model == SHIPPED else "whole", max_pixels=1.0)
    services = [open_service(asked, (SHIPPED,)) for _ in range(1 + (request.param != "alone"))]
    more = More(services[1], fetched, Maker(str(generator))) if len(services) > 1 else More()
    token = None if request.param == "alone" else TOKEN
    yield build_app(services[0], Limits(max_bytes=200_000, max_files=4), threads=2, more=more, token=token)
    for one in services:
        one.close()


def test_every_answer_is_one_that_the_description_knows(app, tmp_path):
    pytest.importorskip("schemathesis")
    with running(app) as address:
        done = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "run", f"{address}openapi.json", "--url", address,
                "--checks", CHECKS, "--seed", "1", "--max-examples", os.environ.get("EXAMPLES", "60"),
                "--continue-on-failure", "--request-timeout", "60", "--suppress-health-check", "all",
                "-H", f"Authorization:Bearer {TOKEN}",
            ],
            env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.web.schema_hooks", "PYTHONPATH": os.pathsep.join(
                [str(ROOT), os.environ.get("PYTHONPATH", "")])},
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        asked = urllib.request.Request(f"{address}metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(asked) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    got = {(one.labels["route"], one.labels["status"]): int(one.value)
           for family in families for one in family.samples if one.name == "faces_requests_total"}  # fmt: skip
    print(*sorted(got.items()), sep="\n")
    print(done.stdout[-20_000:], done.stderr[-2000:])
    assert done.returncode == 0, done.stdout[-6000:]
    routes = {"/v1/detect", "/v1/report", "/v1/model", "/healthz", "/readyz", "/metrics"}
    assert all(got.get((route, "200")) for route in routes), "photos must have been judged, too"
    assert app.state.held.total == app.state.held.requests == 0
