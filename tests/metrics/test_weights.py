import hashlib
import http.server
import threading
import time

import pytest
import torch

from common.errors import UserError
from metrics import weights
from metrics.inception import InceptionFeatures


@pytest.fixture(autouse=True)
def nothing_found(tmp_path, monkeypatch):
    monkeypatch.delenv(weights.ENVIRONMENT, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture
def server(monkeypatch):
    """A local web server with one file; ``serve(data)`` points the download at it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.data)))
            self.end_headers()
            self.wfile.write(self.server.data)

        def log_message(self, *_):
            pass

    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()

    def serve(data):
        found.data = data
        monkeypatch.setattr(weights, "URL", f"http://127.0.0.1:{found.server_port}/file.pth")

    yield serve
    found.shutdown()
    found.server_close()


def test_the_order_is_option_environment_cache(tmp_path, monkeypatch):
    option, environment, cached = tmp_path / "a.pth", tmp_path / "b.pth", weights.cache_path()
    cached.parent.mkdir(parents=True)
    for path in (option, environment, cached):
        path.touch()
    monkeypatch.setenv(weights.ENVIRONMENT, str(environment))
    assert weights.find_weights(option) == option
    assert weights.find_weights() == environment
    monkeypatch.delenv(weights.ENVIRONMENT)
    assert weights.find_weights() == cached
    with pytest.raises(UserError, match="`inception_weights` .*absent.pth: no such file"):
        weights.find_weights(tmp_path / "absent.pth")
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path))
    with pytest.raises(UserError, match=f"{weights.ENVIRONMENT} .*no such file"):
        weights.find_weights()


def test_download_is_checked_and_kept(server, monkeypatch):
    data = bytes(range(256)) * 9000
    server(data)
    monkeypatch.setattr(weights, "SHA256", hashlib.sha256(data).hexdigest())
    seen = []
    path = weights.find_weights(progress=lambda done, total: seen.append((done, total)))
    assert path == weights.cache_path() and path.read_bytes() == data
    assert seen[-1] == (len(data), len(data)) and len(seen) > 1


def test_wrong_download_leaves_nothing(server):
    server(b"a login page")
    with pytest.raises(UserError, match="SHA-256"):
        weights.find_weights()
    assert list(weights.cache_path().parent.iterdir()) == []


def test_offline_says_what_to_do(monkeypatch):
    monkeypatch.setattr(weights, "URL", "http://127.0.0.1:9/file.pth")  # the discard port: nobody listens
    with pytest.raises(UserError, match=r"could not be fetched .*download http\S+ and put it at \S+\.pth") as caught:
        weights.find_weights()
    assert "\n" not in str(caught.value) and weights.ENVIRONMENT in str(caught.value)
    with pytest.raises(UserError, match="are not here; download"):
        weights.find_weights(download=False)


def test_a_network_that_never_answers_does_not_hang(monkeypatch):
    monkeypatch.setattr("common.download.urllib.request.urlopen", lambda *_, **__: time.sleep(5))
    began = time.monotonic()
    with pytest.raises(UserError, match="no answer"):
        weights.find_weights(timeout=0.1)
    assert time.monotonic() - began < 3


class Other:
    def __init__(self):
        self.answer = 42


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "not a PyTorch weight file"),
        (b"hello, I am text", "not a PyTorch weight file"),
        ({"fc.weight": torch.zeros(2, 2)}, "other weights than the FID InceptionV3"),
        ([1, 2, 3], "other weights"),
        (Other(), "not a PyTorch weight file"),
        ({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, "do not fit together"),
        ({"Conv2d_1a_3x3.conv.weight": 1.0, "Conv2d_1a_3x3.conv.bias": 2.0}, "do not fit together"),
        (
            {"Conv2d_1a_3x3.conv.weight": torch.zeros(16, 3, 3, 3), "Conv2d_1a_3x3.conv.bias": torch.zeros(16)},
            r"layer Conv2d_1a_3x3 has shape \(16, 3, 3, 3\), the FID InceptionV3 has \(32, 3, 3, 3\)",
        ),
        (
            {"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3), "Conv2d_1a_3x3.conv.bias": torch.zeros(32)},
            "no layer Conv2d_2a_3x3",
        ),
    ],
)
def test_wrong_files_are_refused_in_one_line(content, line, tmp_path):
    path = tmp_path / "wrong.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=line) as caught:
        InceptionFeatures(path, 64)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_absent_and_truncated_files(tmp_path, random_inception):
    with pytest.raises(UserError, match="absent.pth: cannot be read"):
        InceptionFeatures(tmp_path / "absent.pth", 64)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(random_inception.path.read_bytes()[:1_000_000])
    with pytest.raises(UserError, match="not a PyTorch weight file, or damaged"):
        InceptionFeatures(cut, 64)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    kernel = torch.zeros(32, 3, 3, 3)
    kernel[1, 2, 0, 0] = torch.nan
    torch.save({"Conv2d_1a_3x3.conv.weight": kernel, "Conv2d_1a_3x3.conv.bias": torch.zeros(32)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: layer Conv2d_1a_3x3 holds NaN .* damaged; give the FID"):
        weights.load_folded(tmp_path / "w.pth")


def test_the_classifier_comes_along(random_inception):
    folded, _ = weights.load_folded(random_inception.path)
    weight, bias = folded["fc"]
    assert torch.equal(weight, random_inception.state["fc.weight"]) and bias.shape == (1008,)
