"""`python evaluate.py generator` from the outside: what it prints and writes, and one line for what cannot be."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from common.cli import run
from metrics.inception import InceptionFeatures
from metrics.stats import load_stats, save_stats
from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.files import save_generator
from stylegan2_ada.generator import Generator
from tests.gaussian import stats_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A trunk that ends after the first 64 channels: enough for --dims 64, and quick."""
    g, state = torch.Generator().manual_seed(0), {}
    for name, shape in (("1a_3x3", (32, 3, 3, 3)), ("2a_3x3", (32, 32, 3, 3)), ("2b_3x3", (64, 32, 3, 3))):
        state[f"Conv2d_{name}.conv.weight"] = torch.randn(shape, generator=g) * 0.2
        state[f"Conv2d_{name}.conv.bias"] = torch.randn(shape[0], generator=g) * 0.1
    path = tmp_path_factory.mktemp("weights") / "trunk.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """real/ and fake/ with twelve images each."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, grain in (("real", 5), ("fake", 7)):
        (root / name).mkdir()
        for i in range(12):
            image = Image.fromarray(rng.integers(0, 256, (grain, grain, 3), dtype=np.uint8)).resize((32, 32))
            image.save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    cfg = GeneratorConfig(resolution=16, z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=16)
    path = tmp_path_factory.mktemp("run") / "generator-000001.safetensors"
    save_generator(path, Generator(cfg), {})
    return path


@pytest.fixture
def evaluate(weights, tmp_path, monkeypatch, capsys):
    """`evaluate(*arguments)` -> code, out, err of the command in `tmp_path`, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("evaluate_script", ROOT / "evaluate.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def call(*arguments, plain=False):
        words = ["generator", *map(str, arguments)]
        if not plain:
            words += ["--inception-weights", str(weights), "--dims", "64", "--device", "cpu"]
        with pytest.raises(SystemExit) as left:
            run(script.main, words)
        said = capsys.readouterr()
        return SimpleNamespace(code=left.value.code or 0, out=said.out, err=said.err)

    return call


def refused(result, *words: str) -> None:
    lines = result.err.splitlines()
    assert result.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), result.err
    for word in words:
        assert word in lines[0], lines[0]


def test_two_folders(evaluate, photos, weights, tmp_path):
    done = evaluate(
        photos / "fake", "--data", photos / "real", "--json", "n.json", "--save-stats", "s.npz", "--report", "r.html"
    )
    assert done.code == 0, done.err
    for name in ("FID-64", "KID-64", "precision", "recall", "density", "coverage"):
        (line,) = (line for line in done.out.splitlines() if line.startswith(name))
        assert "64 dims, resize tf1, 12 generated vs 12 real, seed 0" in line
    told = json.loads((tmp_path / "n.json").read_text())
    assert told["settings"]["weights_sha256"] == InceptionFeatures(weights, 64).weights_sha256
    values = {row["name"]: row["value"] for row in told["metrics"]}
    page = (tmp_path / "r.html").read_text()
    assert "data:image/png;base64" in page and f"{values['FID-64']:.4f}" in page

    again = evaluate(photos / "fake", "--stats", "s.npz", "--metrics", "fid")
    assert f"{values['FID-64']:.4f}" in again.out and "seen before" in again.out
    both = evaluate(photos, "--data", photos, "--metrics", "fid")  # fakes of the one against reals of the other
    assert f"{values['FID-64']:.4f}" in both.out and "the 12 fake ones are measured" in both.out
    turned = evaluate(photos / "real", "--data", photos / "real", "--metrics", "fid", "--no-cache")
    assert " 0.0000 " in turned.out and "seen before" not in turned.out
    np.testing.assert_allclose(load_stats(tmp_path / "s.npz").mu, load_stats("s.npz").mu)


def test_intervals_and_the_sliced_distance(evaluate, photos, tmp_path):
    sides = (photos / "fake", "--data", photos / "real", "--metrics", "fid,ci,kid,mind")
    done = evaluate(*sides, "--json", "n.json")
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in json.loads((tmp_path / "n.json").read_text())["metrics"]}
    assert list(rows) == ["FID-64", "FID-64, unbiased", "KID-64", "MIND-64"]
    assert "delete-half jackknife, 20 halvings" in rows["FID-64, unbiased"]["what"]
    assert rows["FID-64, unbiased"]["value"] < rows["FID-64"]["value"] and rows["MIND-64"]["error"] > 0
    assert "95 % interval" in rows["KID-64"]["what"] and "1000 directions" in rows["MIND-64"]["what"]
    assert "may lie too high" in done.out  # 12 images, 64 dimensions
    assert "seen before" in evaluate(*sides).out


def test_features_of_another_network(evaluate, photos, tmp_path, weights):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "mobile.pth")
    other = ("--features", "timm:mobilenetv3_small_050@32", "--device", "cpu")
    words = (photos / "fake", "--data", photos / "real", *other)
    done = evaluate(
        *words, "--weights", "mobile.pth", "--metrics", "fid,kid,mind,pr", "--json", "n.json", "--save-stats", "s.npz",
        plain=True,
    )  # fmt: skip
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "n.json").read_text())
    assert told["settings"]["features"] == "timm:mobilenetv3_small_050@32" and told["settings"]["dims"] == 1024
    assert [row["name"] for row in told["metrics"]][:3] == ["FD", "KD", "sliced W2 squared"]
    assert "features of timm:mobilenetv3_small_050@32" in done.out
    again = evaluate(
        photos / "fake", "--stats", "s.npz", *other, "--weights", "mobile.pth", "--metrics", "fid", plain=True
    )
    assert f"{told['metrics'][0]['value']:.4f}" in again.out
    refused(evaluate(*words, plain=True), "--features timm:mobilenetv3_small_050@32 takes --weights FILE")
    refused(
        evaluate(*words, "--weights", "mobile.pth", "--dims", "64", plain=True),
        "--dims, --resize and --runtime are Inception",
    )
    refused(evaluate(*words, "--weights", "mobile.pth", "--runtime", "onnx", plain=True), "--runtime are Inception")
    refused(
        evaluate(*words, "--weights", weights, plain=True), "--weights", "not weights of timm:mobilenetv3_small_050"
    )
    refused(evaluate(*words[:3], "--weights", "mobile.pth", plain=True), "name it with --features")
    score = evaluate(*words, "--weights", "mobile.pth", "--metrics", "is", plain=True)
    refused(score, "the Inception Score is of Inception")


def test_the_same_files_twice_are_said(evaluate, photos, tmp_path):
    shutil.copytree(photos / "real", tmp_path / "mine")
    ran = evaluate("mine", "--data", photos, "--metrics", "fid,ci")
    assert "12 images of mine are in" in ran.out and "to the byte (such as " in ran.out
    assert re.search(r"unbiased +-.*no interval: further below 0 than chance", ran.out)
    shutil.rmtree(tmp_path / "mine")
    shutil.copytree(photos / "fake", tmp_path / "mine")
    for name in ("x", "y"):
        shutil.copy(tmp_path / "mine" / "3.png", tmp_path / "mine" / f"{name}.png")
        (tmp_path / "mine" / f"empty-{name}.png").touch()
    ran = evaluate("mine", "--data", photos, "--metrics", "fid")
    assert (
        "mine: 2 of 14 images are the same as another, to the byte (such as " in ran.out and "too good" not in ran.out
    )


def test_grey_against_colour_is_said(evaluate, photos, tmp_path):
    (tmp_path / "grey").mkdir()
    for file in (photos / "fake").iterdir():
        Image.open(file).convert("L").convert("RGB").save(tmp_path / "grey" / f"{file.stem}.jpg", quality=90)
    done = evaluate(tmp_path / "grey", "--data", photos / "real", "--metrics", "fid")
    assert done.code == 0 and "100 % of the generated images are grey, and 0 % of the real ones" in done.out
    assert "are grey" not in evaluate(photos / "fake", "--data", photos / "real", "--metrics", "fid").out
    assert "are grey" not in evaluate(tmp_path / "grey", "--data", tmp_path / "grey", "--metrics", "fid").out


def test_a_network_with_its_path_length(evaluate, photos, network):
    first = evaluate(network, "--data", photos / "real", "--metrics", "fid,ppl", "--num", 10)
    assert first.code == 0, first.err
    assert "center lanczos 16" in first.out and "about" in first.out and "10 samples, psi 1" in first.out
    (line,) = (line for line in first.out.splitlines() if line.startswith("PPL"))
    assert "FID InceptionV3 features" in line and "not comparable with LPIPS" in line
    second = evaluate(
        network.parent, "--data", photos / "real", "--metrics", "ppl,fid", "--num", 10
    )  # the run's folder
    numbers = [sorted(x for x in done.out.splitlines() if x[:3] in ("FID", "PPL")) for done in (first, second)]
    assert numbers[0] == numbers[1]


def test_latest_is_the_newest_run_s_network(evaluate, photos, network, tmp_path):
    """As the tutorial has it."""
    (tmp_path / "runs" / "00000-mine").mkdir(parents=True)
    shutil.copy(network, tmp_path / "runs" / "00000-mine" / network.name)
    ran = evaluate("latest", "--data", photos, "--metrics", "fid", "--num", 4)
    assert ran.code == 0 and f"runs/00000-mine/{network.name} (16x16" in ran.out
    assert "the folder of a run, or latest)" in evaluate("later", "--data", photos).err


def test_samples_with_their_own_manifest(evaluate, photos, tmp_path):
    """«manifest.csv in it seems to say which are real and fake» was said of what synth.py writes; it stays where a list
    tells reals from fakes."""
    shutil.copytree(photos / "fake", tmp_path / "samples")
    fakes = [f"{i}.png,fake" for i in range(12)]
    for rows, said in ((fakes, False), (["0.png,real", *fakes[1:]], True)):
        (tmp_path / "samples" / "manifest.csv").write_text("\n".join(["path,label", *rows]))
        ran = evaluate("samples", "--data", photos, "--metrics", "fid")
        assert ran.code == 0 and ("seems to say which are real" in ran.out) == said


def test_as_many_reals_as_asked_and_a_zero_is_explained(evaluate, photos, network, tmp_path):
    """--num counts generated images, which is said; --num-real takes the reals that a folder of just these holds."""
    done = evaluate(network, "--data", photos / "real", "--num", 8, "--metrics", "fid,pr")
    assert "12 real images" in done.out and "--num counts the generated ones; --num-real 8 takes fewer" in done.out
    assert "--num-real" not in evaluate(network, "--data", photos / "real", "--num", 12, "--metrics", "fid").out
    fewer = evaluate(network, "--data", photos / "real", "--num", 8, "--num-real", 6, "--metrics", "fid")
    assert "6 real images" in fewer.out and "8 generated vs 6 real" in fewer.out
    names = sorted(path.name for path in (photos / "real").iterdir())
    (tmp_path / "six").mkdir()
    for name in names[::2]:  # every second of twelve
        (tmp_path / "six" / name).write_bytes((photos / "real" / name).read_bytes())
    alone = evaluate(network, "--data", "six", "--num", 8, "--metrics", "fid")
    numbers = [next(x for x in d.out.splitlines() if x.startswith("FID")).split()[1] for d in (fewer, alone)]
    assert numbers[0] == numbers[1]
    refused(evaluate(network, "--data", photos / "real", "--num-real", 13), "--num-real 13", "only 12")
    refused(evaluate(network, "--stats", "x.npz", "--metrics", "fid", "--num-real", 5), "--num-real", "--data SOURCE")

    (tmp_path / "black").mkdir()
    for i in range(12):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / "black" / f"{i}.png")
    far = evaluate("black", "--data", photos / "real", "--metrics", "pr")
    assert far.code == 0 and "note: precision 0: no generated image is as near to a real one" in far.out
    assert "note: recall 0: " in far.out


def test_what_cannot_be_is_one_line(evaluate, photos, network, weights, tmp_path):
    fake, real = photos / "fake", ("--data", photos / "real")
    refused(evaluate(fake), "--metrics fid,kid,pr", "--data SOURCE")
    refused(evaluate(fake, *real, "--metrics", "fid5k"), "'fid5k' is unknown")
    refused(evaluate(tmp_path / "none", *real), "none", "network")
    refused(evaluate(fake, *real, "--metrics", "is"), "Inception Score", "--dims is 64")
    refused(evaluate(fake, *real, "--metrics", "ppl"), "needs a network")
    refused(evaluate(fake, "--data", photos / "fake"), "no real images")
    for word, value in (("--class", 3), ("--trunc", 0.7), ("--noise-mode", "none")):
        refused(evaluate(fake, *real, word, value), f"{word} {value}: says how a network draws", "leave it out")
    refused(evaluate(network, *real, "--num", 1), "--num 1")
    refused(evaluate(network, *real, "--resolution", 64), "16x16")
    words = (*real, "--inception-weights", weights, "--device", "cpu", "--no-cache")
    refused(evaluate(fake, *words, "--dims", 2048, plain=True), "trunk.pth", "no layer Conv2d_3b_1x1")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    refused(evaluate(fake, *real, "--inception-weights", "junk.pth", plain=True), "junk.pth", "not a PyTorch")
    (tmp_path / "one").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "one" / "a.png")
    refused(evaluate("one", *real), "one: 1 image; fid needs 2 or more")
    early = evaluate(fake, *real, "--num", 4, "--metrics", "fid,pr,ci")
    refused(early, "--num 4: 4 images; pr needs 6 or more of each set")
    assert "generated: 4 images, about" not in early.out
    refused(evaluate(fake, *real, "--num-real", 7, "--metrics", "fid,pr,ci"), "7 images; ci needs 8 or more")
    Image.new("RGB", (40, 32)).save(tmp_path / "one" / "b.png")
    refused(evaluate("one", *real, "--metrics", "fid"), "mixed sizes", "a.png", "b.png", "--resolution")
    assert evaluate("one", *real, "--resolution", 16, "--metrics", "fid").code == 0
    Image.new("L", (32, 32)).save(tmp_path / "one" / "b.png")
    refused(evaluate("one", *real, "--metrics", "fid"), "b.png", "grey", "--allow-grey")
    np.savez(tmp_path / "s.npz", **{"mu": np.zeros(3), "sigma": np.eye(3)})
    refused(evaluate(fake, "--stats", "s.npz", "--metrics", "fid"), "3 dimensions", "64")
    refused(evaluate(fake, "--stats", "s.npz"), "kid")
    for word, value in (("--split", "valid"), ("--labels", "l.csv")):
        refused(evaluate(fake, "--stats", "s.npz", "--metrics", "fid", word, value), f"{word} {value}: is of --data")
    (tmp_path / "n.json").touch()
    refused(evaluate(fake, *real, "--json", "n.json"), "n.json", "--force")


def test_weights_are_not_fetched_for_what_is_refused_anyway(evaluate, photos, network, tmp_path, monkeypatch):
    """Nor is a network: what a folder's listing, a number or images' headers tell comes first."""

    def fetch(*_, **__):
        raise AssertionError("fetched")

    monkeypatch.setattr("urllib.request.urlopen", fetch)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    (tmp_path / "one").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "one" / "a.png")
    real, url = ("--data", photos / "real", "--device", "cpu"), "https://nowhere.invalid/network.pkl"
    refused(evaluate("one", *real, "--metrics", "fid", plain=True), "one: 1 image; fid needs 2 or more")
    refused(evaluate(photos / "fake", "--data", "one", "--metrics", "fid", plain=True), "one: 1 image; fid needs 2")
    refused(evaluate(url, "--data", "nowhere", plain=True), "--data: nowhere")
    refused(evaluate(url, *real, "--num", 5, plain=True), "--num 5: 5 images; pr needs 6 or more")
    refused(evaluate(url, *real, "--inception-weights", "gone.pth", plain=True), "gone.pth")
    refused(evaluate(url, *real, "--metrics", "is", "--dims", 64, plain=True), "--dims is 64")
    Image.new("RGB", (40, 32)).save(tmp_path / "one" / "b.png")
    refused(evaluate("one", *real, "--metrics", "fid", plain=True), "mixed sizes")


def test_statistics_of_another_resize_are_refused(evaluate, photos, tmp_path):
    assert evaluate(photos / "fake", "--data", photos / "real", "--save-stats", "s.npz", "--metrics", "fid").code == 0
    refused(evaluate(photos / "fake", "--stats", "s.npz", "--metrics", "fid", "--resize", "clean"), "resize tf1")
    refused(evaluate("s.npz", "--data", photos / "real", "--metrics", "fid", "--resize", "clean"), "resize tf1")


def test_two_files_of_statistics_need_no_weights(evaluate, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    a, b = (stats_of(rng.standard_normal((50, 6)) + shift) for shift in (0, 2))
    np.savez(tmp_path / "a.npz", mu=a.mu, sigma=a.sigma)  # as pytorch-fid writes it
    save_stats(tmp_path / "b.npz", b)
    monkeypatch.setenv("FACES_INCEPTION_WEIGHTS", "nowhere")
    done = evaluate(
        "a.npz", "--stats", "b.npz", "--metrics", "fid", "--json", "n.json", "--report", "r.html", plain=True
    )
    assert done.code == 0, done.err
    assert "unknown number of generated vs 50 real" in done.out and "a.npz does not say the resize mode" in done.out
    (row,) = json.loads((tmp_path / "n.json").read_text())["metrics"]
    root = scipy.linalg.sqrtm(a.sigma @ b.sigma).real
    assert row["value"] == pytest.approx(np.sum((a.mu - b.mu) ** 2) + np.trace(a.sigma + b.sigma - 2 * root), rel=1e-6)


def test_a_path_length_with_its_own_distance_needs_no_inception(evaluate, network, photos, weights, monkeypatch):
    monkeypatch.setenv("FACES_INCEPTION_WEIGHTS", "nowhere")
    words = (network, "--metrics", "ppl", "--num", 4, "--device", "cpu")
    refused(evaluate(*words, "--ppl-distance", "inception", plain=True), "nowhere")
    refused(evaluate(*words, "--ppl-distance", weights, plain=True), "trunk.pth")  # read, and seen to be no VGG


def test_help_imports_nothing_heavy():
    code = "import sys, evaluate; evaluate.main(['generator', '--help'], standalone_mode=False); "
    code += "print([m for m in ('torch', 'sklearn', 'onnxruntime', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(evaluate, photos, network, weights, tmp_path):
    """Under torchrun, of images and of a network."""
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        for i in range(150):
            image = np.random.default_rng([i, name == "real"]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    for target, more in (("fake", ["--metrics", "fid,kid,pr"]), (str(network), ["--metrics", "fid,kid,ppl"])):
        words = [target, "--data", "real", "--num", "140", "--no-cache", *more]
        alone = evaluate(*words, "--json", f"{more[-1]}1.json")
        assert alone.code == 0, alone.err
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        processes = []
        for rank in range(2):
            env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
            env |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, ROOT / "evaluate.py", "generator", *words, "--json", f"{more[-1]}2.json"]
            command += ["--inception-weights", str(weights), "--dims", "64", "--device", "cpu"]
            processes.append(subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL))
            time.sleep(0.1)
        assert [p.wait(timeout=200) for p in processes] == [0, 0]
        one, two = (json.loads((tmp_path / f"{more[-1]}{k}.json").read_text()) for k in (1, 2))
        assert one["metrics"] == two["metrics"] and one["settings"] == two["settings"]
