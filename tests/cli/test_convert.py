"""`python -m stylegan2_ada.convert` as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from stylegan2_ada import convert
from stylegan2_ada.files import load_generator, save_generator
from stylegan2_ada.generator import Generator
from stylegan2_ada.interop import read_networks
from tests.stylegan2_ada import snapshots

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`run(*arguments)`: the command in `tmp_path`, in this process (an import of torch takes seconds)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))

    def call(*arguments):
        capsys.readouterr()
        code = convert.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call


@pytest.fixture
def pkl(tmp_path):
    G = snapshots.random_state(Generator(snapshots.small_config()))
    path = tmp_path / "network-snapshot-000200.pkl"
    data = {"G": snapshots.generator(G), "G_ema": snapshots.generator(G), "training_set_kwargs": {"path": "faces.zip"}}
    path.write_bytes(snapshots.dumps(data))
    return path, G


def same(path, G):
    found = read_networks(path).G_ema
    assert found.cfg == G.cfg
    assert all(torch.equal(found.state_dict()[k], t) for k, t in G.state_dict().items())


def test_there_and_back(run, pkl, tmp_path):
    path, G = pkl
    done = run(path, "a.safetensors")
    assert done.code == 0 and not done.err
    assert "stylegan2-ada-pytorch snapshot: G_ema 16x16" in done.out and "a.safetensors (generator, " in done.out
    found, meta = load_generator(tmp_path / "a.safetensors")
    assert meta == {"training_set": {"path": "faces.zip"}, "source": path.name,
                    "source_kind": "stylegan2-ada-pytorch snapshot"}  # fmt: skip
    same(tmp_path / "a.safetensors", G)
    for source, target, options in [
        ("a.safetensors", "b.pt", []),
        ("b.pt", "c.safetensors", ["--to", "published"]),
        ("c.safetensors", "d.safetensors", []),
    ]:
        done = run(source, target, *options)
        assert done.code == 0, done.err
        same(tmp_path / target, G)
    state = torch.load(tmp_path / "b.pt", weights_only=True)
    assert all(name.startswith("G_ema.") for name in state) and "G_ema.synthesis.b16.conv0.affine.bias" in state
    done = run(path, "all.pt")
    assert done.code == 0 and {name.partition(".")[0] for name in torch.load("all.pt")} == {"G", "G_ema"}


def test_a_snapshot_for_the_published_program(run, pkl, tmp_path):
    path, G = pkl
    assert run(path, "own.safetensors").code == 0
    done = run("own.safetensors", "back.pkl")
    assert done.code == 0 and "back.pkl (snapshot, " in done.out
    assert "note: whoever reads a .pkl runs what is in it" in done.out and "untrained" in done.out
    same(tmp_path / "back.pkl", G)
    done = run("back.pkl", "again.safetensors")
    assert done.code == 0
    same(tmp_path / "again.safetensors", G)


def test_half_and_overwriting(run, pkl, tmp_path):
    path, G = pkl
    assert run(path, "a.safetensors").code == 0
    whole = (tmp_path / "a.safetensors").stat().st_size
    refused(run(path, "a.safetensors", "--half"), "a.safetensors: exists already", "--overwrite")
    assert (tmp_path / "a.safetensors").stat().st_size == whole
    assert run(path, "a.safetensors", "--half", "--overwrite").code == 0
    assert (tmp_path / "a.safetensors").stat().st_size < 0.65 * whole
    assert load_generator(tmp_path / "a.safetensors")[0].mapping.w_avg.dtype == torch.float32


def test_onnx(run, tmp_path):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    G = snapshots.random_state(Generator(snapshots.small_config(resolution=8, mapping_layers=1)))
    save_generator(tmp_path / "own.safetensors", G)
    done = run("own.safetensors", "a.onnx", "--batch", 1, "--noise", "none")
    assert done.code == 0 and not done.err, done.err
    assert "a.onnx (onnx, " in done.out
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    z = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
    found = session.run(["image"], {"z": z.numpy(), "psi": np.array([0.5], np.float32)})[0]
    expected = G(z, psi=0.5, noise_mode="none")
    assert np.abs(found - expected.numpy()).max() < 1e-5 * expected.abs().max()


def test_a_url(run, pkl, tmp_path):
    done = run(pkl[0].as_uri(), "a.safetensors")
    assert done.code == 0, done.err
    same(tmp_path / "a.safetensors", pkl[1])
    refused(run(pkl[0].as_uri() + "#sha256=" + "0" * 64, "b.safetensors"), "SHA-256", "as pinned")


def refused(result, *words):
    assert result.code == 2 and result.err.startswith("error: ") and result.err.count("\n") == 1, result.err
    assert not result.out and all(word in result.err for word in words), result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["SRC, DEST", "--help"]),
        (["{pkl}"], ["DEST"]),
        (["{pkl}", "a.bin"], ["a.bin", ".safetensors, .pt, .pkl or .onnx"]),
        (["{pkl}", "a.pt", "--to", "generator"], ["a.pt", ".safetensors file"]),
        (["{pkl}", "a.pt", "--onnx"], ["a.pt", ".onnx file"]),
        (["{pkl}", "a.onnx", "--half"], ["--half"]),
        (["{pkl}", "a.pkl", "--half"], ["--half", "float32"]),
        (["{pkl}", "a.onnx", "--batch", "0"], ["--batch 0"]),
        (["{pkl}", "a.pt", "--batch", "1"], ["--batch 1", "--to onnx"]),
        (["{pkl}", "a.pt", "--batch", "x"], ["--batch"]),
        (["{pkl}", "a.pt", "--noise", "none"], ["--noise none", "--to onnx"]),
        (["{pkl}", "a.pt", "--colour"], ["--colour"]),
        (["{pkl}", "nowhere/a.pt"], ["nowhere", "no such folder"]),
        (["{pkl}", "folder.pt"], ["folder.pt", "a folder"]),
        (["{pkl}", "{pkl}", "--to", "published", "--overwrite"], ["change the ending"]),
        (["own.pt", "own.pt", "--overwrite"], ["SRC and DEST are one file"]),
        (["absent.pkl", "a.pt"], ["absent.pkl", "no such file"]),
        (["folder.pt", "a.pt"], ["folder.pt", "a folder"]),
        (["photo.jpg", "a.pt"], ["photo.jpg", "not a network file"]),
        (
            ["bad.pkl", "a.pt"],
            ["bad.pkl", "posix.system" if os.name == "posix" else "nt.system", "nothing in the file"],
        ),
        (["ftp://a.b/c.pkl", "a.pt"], ["ftp://a.b/c.pkl", "https://"]),
    ],
)
def test_what_a_user_can_mend(run, pkl, tmp_path, arguments, words):
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 no network")
    torch.save({}, tmp_path / "own.pt")

    class Bad:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'sentinel'}",)

    (tmp_path / "bad.pkl").write_bytes(snapshots.dumps({"G_ema": Bad()}))
    before = sorted(p.name for p in tmp_path.iterdir())
    refused(run(*[a.replace("{pkl}", pkl[0].name) for a in arguments]), *words)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_as_a_program(pkl, tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stylegan2_ada.convert"]
    shown = subprocess.run([*command, "--help"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
    assert shown.returncode == 0 and not shown.stderr
    for word in ("SRC", "DEST", "--half", "--onnx", "--to", "published", "rosinality"):
        assert word in shown.stdout
    done = subprocess.run(
        [*command, pkl[0], "no.bin"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2 and done.stderr.startswith("error: no.bin") and done.stderr.count("\n") == 1
