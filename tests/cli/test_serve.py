"""`python serve.py` as a process: its socket, its patience, its end."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import serve
from faces.procedural.portrait import render_face
from tests.program import Program
from web import server as web_server

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 1.0  # seconds for a request's head, in this test
START = f"""
import sys
import web.server as server
server.HEAD_SECONDS = {PATIENCE}
import serve
from common.cli import run
sys.argv[0] = "serve.py"
run(serve.main)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(port, process, its working folder): the shipped detector's ONNX file, faces by the cascade."""
    folder = tmp_path_factory.mktemp("served")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FACES_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    env["FACES_FACE_MODEL"] = "haar"
    arguments = ["--port", "0", "--offline", "--timeout", "2", "--max-mb", "1", "--access-log", "--threads", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", START, *arguments, "--model", str(ROOT / "models" / "detector.safetensors")],
        cwd=folder, env=env, stderr=subprocess.PIPE, stdout=open(folder / "out", "wb"), text=True,
    )  # fmt: skip
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("http://"):
            break
    assert lines and "by ONNX Runtime" in lines[0] and "false alarms" in lines[0], lines
    yield int(lines[-1].split(":")[2].split("/")[0]), process, folder
    if process.poll() is None:
        process.kill()
        process.wait()


def photo() -> bytes:
    out = io.BytesIO()
    Image.fromarray(render_face(5, 256)).save(out, "PNG")
    return out.getvalue()


def test_a_photo_over_a_socket(served):
    port, process, folder = served
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/detect", photo(), {"Content-Type": "image/png"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        told = json.load(answer)
    assert told["faces"]["finder"] == "haar" and str(folder) not in json.dumps(told)
    assert [row["status"] for row in told["results"]] == ["judged"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        assert "default-src 'none'" in answer.headers["content-security-policy"] and b"<main>" in answer.read()
        assert "server" not in answer.headers
    with open(f"/proc/{process.pid}/maps") if os.path.exists("/proc/self/maps") else io.StringIO() as maps:
        assert "libtorch" not in maps.read(), "ONNX Runtime serves without PyTorch"


def exchange(port: int, *pieces: bytes, pause: float = 0.0) -> tuple[bytes, float]:
    """(what came until the other end closed, seconds it took)."""
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(pause)
        got = b""
        while more := sock.recv(65536):
            got += more
    return got, time.monotonic() - begin


def test_who_sends_slowly_is_not_waited_for(served):
    port = served[0]
    got, took = exchange(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    assert got.startswith(b"HTTP/1.1 408") and b"after 1 s" in got and PATIENCE * 0.9 < took < PATIENCE + 3
    got, took = exchange(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTT", pause=0.2)
    assert got.startswith(b"HTTP/1.1 200") and took < PATIENCE + 4
    head = b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    got, took = exchange(port, head + b"x")
    assert got.startswith(b"HTTP/1.1 408") and b"after 2 s" in got and took < 8


def test_a_large_body_is_refused_before_it_is_sent(served):
    head = b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    got, took = exchange(served[0], head + b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 413") and took < 2
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    got, _ = exchange(served[0], head + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 20)
    assert got.startswith(b"HTTP/1.1 413") and b"100 Continue" not in got


def test_the_address_is_taken_and_other_words_for_no(served, monkeypatch):
    def refused(*arguments: str) -> str:
        result = CliRunner().invoke(Program(serve.main), arguments)
        assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.stderr
        return result.stderr

    assert "another program serves there" in refused("--port", str(served[0]))
    assert "no such address" in refused("--host", "no.such.host.invalid", "--port", "0")
    assert "no such detector file" in refused("--port", "0", "--model", "absent.safetensors")
    model = ("--port", "0", "--face", "whole", "--model", str(ROOT / "models" / "detector.onnx"))
    assert "give one of them" in refused(*model, "--fpr", "0.01", "--threshold", "0.5")
    for origin in ("https://their.example/", "their.example", "https://Their.example", "https://their.example/page"):
        assert f"--cors {origin}: is no origin" in refused("--cors", origin)
    for name in ("http://faces.example", "faces.example:8443", "faces.example/"):
        assert f"--allow-host {name}: give a name alone" in refused("--allow-host", name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "FastAPI and uvicorn, not installed here: it comes with the extra web: pip install" in refused("--port", "0")


def test_only_this_machine_is_served_unless_it_is_said():
    assert web_server.is_loopback("127.0.0.1") and web_server.is_loopback("::1") and web_server.is_loopback("localhost")
    assert not web_server.is_loopback("0.0.0.0") and not web_server.is_loopback("192.168.0.1")
    default = serve.main.make_context("serve.py", []).params
    assert default["host"] == "127.0.0.1" and default["cors"] == () and default["access_log"] is False


def test_answers_are_not_held_back():
    """asyncio turns Nagle's algorithm off only where a socket names its protocol; 40 ms of each answer hang on it."""
    with web_server.listen("127.0.0.1", 0) as sock:
        assert sock.proto == socket.IPPROTO_TCP
        assert web_server.address(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}/"


def test_help_answers_at_once():
    code = "import sys, serve; sys.exit(bool({'torch', 'fastapi', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0
    assert "--max-pixels" in CliRunner().invoke(Program(serve.main), ["--help"]).output


def test_next_brings_the_token():
    there = "http://localhost:8000/"
    assert serve.by_curl(there, serve.ServeOptions(), False) == f"curl -F file=@photo.jpg {there}v1/detect"
    for asked, word in (
        (serve.ServeOptions(token_file="a b.txt"), "$(cat 'a b.txt')"),
        (serve.ServeOptions(), "$FACES_TOKEN"),
    ):
        said = serve.by_curl(there, asked, True)
        assert said == f'curl -H "Authorization: Bearer {word}" -F file=@photo.jpg {there}v1/detect'


def test_the_end_is_quiet_and_nothing_of_a_photo_is_left(served):
    """Last of this file: the server is stopped."""
    port, process, folder = served
    secret = "a-name-to-look-for"
    body = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{secret}.jpg"\r\n\r\n'.encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/detect", body + photo() + b"\r\n--b--",
        {"Content-Type": "multipart/form-data; boundary=b"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert secret in answer.read().decode()
    process.send_signal(signal.SIGINT)
    err = process.stderr.read()
    process.wait(timeout=20)
    assert process.returncode in (0, 130) and "Traceback" not in err
    assert f"Next: open http://127.0.0.1:{port}/ in a browser" in err
    out = (folder / "out").read_text()
    assert "POST /v1/detect" in out + err and secret not in out + err
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["out"]
