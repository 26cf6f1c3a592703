"""`python synth.py` from the outside."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.files import save_generator
from stylegan2_ada.generator import Generator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def synth(home, monkeypatch, capsys):
    """`synth(*arguments)` runs the command in `home`, in this process (an import of torch takes seconds)."""
    spec = importlib.util.spec_from_file_location("synth_script", ROOT / "synth.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(home)

    def call(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            script.run(script.main, [str(a) for a in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=leaving.value.code, stdout=out, stderr=err)

    return call


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with runs/00000-old and runs/00001-new, each with a generator of its own."""
    home = tmp_path_factory.mktemp("home")
    for seed, run in enumerate(["00000-old", "00001-new"]):
        torch.manual_seed(seed)
        G = Generator(GeneratorConfig(16, z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=32))
        (home / "runs" / run).mkdir(parents=True)
        save_generator(home / "runs" / run / "generator-000001.safetensors", G, {"kimg": 1})
    return home


def test_newest_run_grid_and_resume(home, synth):
    first = synth("--n", 5, "--outdir", "out", "--trunc", 0.7, "--batch", 2, "--grid")
    assert first.returncode == 0, first.stderr
    assert "00001-new" in first.stdout and "5 images in" in first.stdout
    assert first.stdout.splitlines()[-1] == "out"
    out = home / "out"
    assert Image.open(out / "grid.png").size == (3 * 16 + 2 * 2, 2 * 16 + 2)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("seed*.png")}
    assert len(before) == 5

    (out / "seed000002.png").unlink()
    again = synth("--seeds", "2-6,40", "--outdir", "out", "--trunc", 0.7, "--batch", 7)
    assert again.returncode == 0, again.stderr
    assert "3 of" not in again.stdout and "2 of 6 images are there already" in again.stdout
    assert len(list(out.glob("seed*.png"))) == 8
    for name, (data, time) in before.items():
        assert (out / name).read_bytes() == data  # the same bytes in another batch and company
        assert name == "seed000002.png" or (out / name).stat().st_mtime_ns == time  # and not written again
    with open(out / "manifest.csv", newline="", encoding="utf-8") as file:
        assert sorted(int(row["seed"]) for row in csv.DictReader(file)) == [0, 1, 2, 3, 4, 5, 6, 40]


def test_a_folder_with_a_newline_in_its_name_is_told_on_one_line(synth):
    done = synth("--network", "runs/00000-old", "--seeds", "1", "--outdir", "a\nb")
    assert done.returncode == 0 and "a\\nb" in done.stdout.splitlines() and "$'a\\x0ab'" in done.stderr


def test_jpeg_default_folder_and_named_network(home, synth):
    done = synth("--network", "runs/00000-old", "--seeds", "7", "--format", "jpg", "--quality", "90")
    assert done.returncode == 0, done.stderr
    folder = home / done.stdout.splitlines()[-1]
    assert folder.parent == home / "samples" and folder.name.startswith("00000-old-")
    assert np.asarray(Image.open(folder / "seed000007.jpg")).shape == (16, 16, 3)


def test_conflicting_manifest_is_refused(synth):
    arguments = ["--n", 1, "--outdir", "conflict"]
    assert synth(*arguments).returncode == 0
    refused = synth(*arguments, "--network", "runs/00000-old")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("error: conflict") and "network_sha256" in refused.stderr
    refused = synth(*arguments, "--trunc", "0.5", "--trunc-cutoff", "2")
    assert refused.returncode == 2 and "its images have --trunc 1.0, asked for is 0.5: " in refused.stderr
    refused = synth(*arguments, "--format", "jpg")
    assert refused.returncode == 2 and "its images have --format png, asked for is jpg: " in refused.stderr


def test_a_class_that_there_is_not_is_told_before_a_folder_is_made(home, synth):
    """It left a manifest without rows; where images were, it advised another folder, which did not help."""
    assert synth("--n", 1, "--outdir", "no-classes").returncode == 0
    for outdir in ("no-classes", "new"):
        refused = synth("--n", 1, "--outdir", outdir, "--class", 1)
        assert refused.returncode == 2 and "this generator knows no classes: leave --class out" in refused.stderr
    assert not (home / "new").exists()


def test_what_is_next_can_be_pasted(synth):
    done = synth("--n", 1, "--outdir", "to measure")
    command = "python evaluate.py generator 'to measure' --data REAL_PHOTOS\n"
    assert done.stderr.endswith(f"Next: to measure them: {command}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "9-1"], "--seeds 9-1"),
        (["--n", "2", "--seeds", "1"], "not both"),
        (["--n", "0"], "--n"),
        (["--network", "nowhere"], "nowhere"),
        (["--network", "runs/00000-old/log.safetensors"], "log.safetensors"),
        (["--class", "1"], "--class 1"),
        (["--device", "toaster"], "toaster"),
        (["--outdir", "file"], "file"),
        (["--class", "all"], "--class all"),
        (["--class", "cat"], "cat"),
        (["--trunc", "0.5", "--trunc-cutoff", "7"], "--trunc-cutoff 7"),
        (["--trunc-cutoff", "2"], "--trunc-cutoff 2: a --trunc of 1 truncates no layer: add --trunc 0.7"),
        (["mix", "--rows", "1", "--cols", "2", "--trunc-cutoff", "2"], "--trunc-cutoff 2: a --trunc of 1"),
        (["video", "--seeds", "1-2", "--trunc-cutoff", "2"], "--trunc-cutoff 2: a --trunc of 1"),
        (["--quality", "80"], "--quality 80: a PNG loses nothing: add --format jpg"),
        (["--trunc", "nan"], "--trunc nan is not a finite number"),
        (["--network", "file"], "file"),
        (["--precision", "fp8"], "fp8"),
        (["--projected-w", "none.npz"], "none.npz"),
        (["--projected-w", "none.npz", "--trunc", "0.7"], "--trunc"),
        (["--n", "3", "mix", "--rows", "1", "--cols", "2"], "--n stands before mix"),
        (["mixx"], "mixx"),
        (["mix", "--rows", "1"], "Missing option '--cols'"),
        (["mix", "--rows", "1-x", "--cols", "2"], "--rows 1-x"),
        (["mix", "--rows", "1", "--cols", "2", "--styles", "0-6"], "layers 0 to 5"),
        (["mix", "--rows", "1", "--cols", "2", "--class", "0"], "--class 0"),
        (["video", "--seeds", "1"], "--seeds"),
        (["video", "--grid", "0x2"], "--grid 0x2"),
        (["video", "--seeds", "1-3", "--grid", "2x2"], "--grid 2x2"),
        (["video", "--out", "a.avi"], "a.avi"),
        (["video", "--space", "w", "--method", "slerp"], "--method slerp"),
        (["sweep", "--truncs", "0,a"], "--truncs 0,a"),
        (["sweep", "--out", "a.jpg"], "a.jpg"),
        (["project", "none.jpg"], "none.jpg"),
        (["project", "file.png", "--perceptual", "vgg61"], "vgg61"),
        (["project", "file.png", "--class", "1"], "--class 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(home, synth, arguments, said):
    (home / "file").write_text("in the way")
    Image.new("RGB", (16, 16)).save(home / "file.png")
    (home / "runs/00000-old/log.safetensors").write_text("not weights")
    done = synth(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and said in done.stderr
    assert not list((home / "samples").glob("*mix*")) and not list((home / "samples").glob("*file*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--n", 2, "--outdir", "file.txt"),
        ("mix", "--rows", 1, "--cols", 2, "--outdir", "file.txt/inner"),
        ("project", "photo.png", "--outdir", "file.txt"),
        ("sweep", "--out", "photo.png"),
        ("video", "--seeds", "1-2", "--out", "clip.gif"),
    ],
)
def test_what_is_in_the_way_is_told_before_a_network_is_fetched(home, synth, arguments, monkeypatch):
    def fetch(*_, **__):
        raise AssertionError("fetched")

    monkeypatch.setattr("urllib.request.urlopen", fetch)
    for name in ("file.txt", "clip.gif"):
        (home / name).write_text("in the way")
    Image.new("RGB", (16, 16)).save(home / "photo.png")
    done = synth(*arguments, "--network", "https://nowhere.invalid/network.pkl")
    assert done.returncode == 2 and str(arguments[-1]).partition("/")[0] in done.stderr, done.stderr


def test_where_nothing_was_trained_yet_a_command_is_told(synth, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in ([], ["--network", "latest"], ["mix", "--rows", 1, "--cols", 2, "--network", tmp_path]):
        done = synth(*arguments)
        assert done.returncode == 2 and "no" in done.stderr and "python train_gan.py --data demo" in done.stderr


def test_latest_is_the_newest_run(synth):
    done = synth("--network", "latest", "--n", 1, "--outdir", "latest")
    assert done.returncode == 0 and "runs/00001-new" in done.stdout


def test_as_a_program(home):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "synth.py"), "--seeds", "3", "--outdir", "program"]
    done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (home / "program" / "seed000003.png").is_file()


def test_help_names_the_options(synth):
    done = synth("--help")
    assert done.returncode == 0
    options = "--network --n --seeds --trunc --outdir --format --quality --grid --batch --device --noise-mode"
    more = " --trunc-cutoff --class --projected-w --precision mix video sweep project"
    for option in (options + more).split():
        assert option in done.stdout
    for command in ("mix", "video", "sweep", "project"):
        done = synth(command, "--help")
        assert done.returncode == 0 and f"python synth.py {command}" in done.stdout and "--network" in done.stdout


def test_truncation_of_some_layers_and_precision(home, synth):
    for i, arguments in enumerate([[], ["--trunc-cutoff", 2], ["--precision", "bf16"]]):
        done = synth("--seeds", 3, "--trunc", 0.5, "--outdir", f"cut{i}", *arguments)
        assert done.returncode == 0, done.stderr
    images = [np.asarray(Image.open(home / f"cut{i}" / "seed000003.png")).astype(int) for i in range(3)]
    assert np.abs(images[0] - images[1]).max() > 3 > np.abs(images[0] - images[2]).mean()
    with open(home / "cut2" / "manifest.csv", newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["precision"] == "bf16"
    assert "precision" in synth("--seeds", 3, "--trunc", 0.5, "--outdir", "cut2").stderr


def test_every_class(home, synth):
    torch.manual_seed(2)
    cfg = GeneratorConfig(8, z_dim=8, w_dim=8, c_dim=2, mapping_layers=1, channel_base=64)
    save_generator(home / "classes.safetensors", Generator(cfg), {"kimg": 1})
    done = synth("--network", "classes.safetensors", "--seeds", "0-2", "--class", "all", "--grid", "--outdir", "every")
    assert done.returncode == 0, done.stderr
    names = {f"class{k:03d}/seed{s:06d}.png" for k in range(2) for s in range(3)}
    assert names <= {p.relative_to(home / "every").as_posix() for p in (home / "every").rglob("*")}
    one = synth("--network", "classes.safetensors", "--seeds", 1, "--class", 1, "--outdir", "one")
    assert one.returncode == 0, one.stderr
    a, b = (home / "every" / f"class{k:03d}" / "seed000001.png" for k in (0, 1))
    assert (home / "one" / "seed000001.png").read_bytes() == b.read_bytes() != a.read_bytes()
    assert Image.open(home / "every" / "grid.png").width > 2 * 64
    assert "classes 0 to 1" in synth("--network", "classes.safetensors", "--n", 1).stderr


def test_mix(home, synth):
    arguments = ["mix", "--rows", "1,2", "--cols", "3-5", "--styles", "fine", "--outdir", "mixed", "--trunc", 0.8]
    done = synth(*arguments)
    assert done.returncode == 0, done.stderr
    assert "layers 3, 4, 5 of 6" in done.stdout and done.stdout.splitlines()[-1] == "mixed"
    with open(home / "mixed" / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 + 3 + 6 and rows[-1]["styles"] == "3 4 5" and rows[-1]["psi"] == "0.8"
    assert all((home / "mixed" / row["file"]).is_file() for row in rows)
    assert synth("--seeds", 2, "--outdir", "plain", "--trunc", 0.8).returncode == 0
    pixels = [np.asarray(Image.open(home / p)) for p in ("mixed/row000002.png", "plain/seed000002.png")]
    np.testing.assert_array_equal(*pixels)
    again = synth(*arguments)
    assert again.returncode == 2 and "--force" in again.stderr
    assert synth(*arguments, "--force").returncode == 0
    # mixtures of other truncation have a place of their own
    own = {synth("mix", "--rows", 1, "--cols", 2, *more).stdout.splitlines()[-1] for more in ((), ("--trunc", 0.8))}
    assert len(own) == 2 and any(name.endswith("-mix-coarse-psi0.8") for name in own), own


def test_video(home, synth):
    arguments = ["video", "--seeds", "1-4", "--frames-per-key", 3, "--grid", "2x1", "--scale", 2]
    done = synth(*arguments, "--out", "walk.mp4", "--loop")
    assert done.returncode == 0, done.stderr
    video, count = cv2.VideoCapture(str(home / "walk.mp4")), 0
    while True:
        ok, frame = video.read()
        if not ok:
            break
        count, shape = count + 1, frame.shape
    assert count == 12 and shape == (32, 64, 3) and "12 frames" in done.stdout
    assert "--force" in synth(*arguments, "--out", "walk.mp4").stderr
    done = synth(*arguments, "--out", "walk.gif", "--method", "slerp", "--fps", 20)
    assert done.returncode == 0, done.stderr
    assert Image.open(home / "walk.gif").n_frames == 10
    done = synth("video", "--seeds", "1,2,1", "--frames-per-key", 2, "--method", "linear", "--out", "back.gif")
    assert done.returncode == 0, done.stderr
    with Image.open(home / "back.gif") as film:  # there and back again: five frames, alike from both ends
        assert film.n_frames == 5
        frames = []
        for i in range(5):
            film.seek(i)
            frames.append(np.asarray(film.convert("RGB")))
    np.testing.assert_array_equal(frames[0], frames[4])
    np.testing.assert_array_equal(frames[1], frames[3])
    assert (frames[0] != frames[2]).any()


def test_sweep(home, synth):
    done = synth("sweep", "--seeds", "1-2", "--truncs", "0,1", "--out", "sweep.png")
    assert done.returncode == 0, done.stderr
    sheet = np.asarray(Image.open(home / "sweep.png")).astype(int)
    mean = [sheet[-66 * k :, -132:-68][:64] for k in (2, 1)]  # psi 0: the same face twice
    assert np.abs(mean[0] - mean[1]).max() <= 1 < np.abs(sheet[-66:-2, -66:-2] - mean[1]).max()
    assert "--force" in synth("sweep", "--out", "sweep.png").stderr


def test_projection_and_its_latents(home, synth):
    assert synth("--seeds", 8, "--outdir", "seen").returncode == 0
    arguments = ["project", "seen/seed000008.png", "--steps", 40, "--perceptual", "pyramid", "--outdir", "found"]
    done = synth(*arguments, "--save-video")
    assert done.returncode == 0, done.stderr
    assert "looking with multi-scale pyramid" in done.stdout and "dB" in done.stdout
    found = home / "found"
    names = {"target.png", "projection.png", "side-by-side.png", "projected_w.npz", "projection.json", "projection.mp4"}
    assert {p.name for p in found.iterdir()} == names
    assert (found / "target.png").read_bytes() == (home / "seen" / "seed000008.png").read_bytes()
    report = json.loads((found / "projection.json").read_text(encoding="utf-8"))
    assert report["history"][-1]["distance"] < report["history"][0]["distance"]
    assert report["network_sha256"] and report["perceptual"].startswith("multi-scale")
    assert "--force" in synth(*arguments).stderr
    again = synth("--projected-w", "found/projected_w.npz")
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == str(Path("found/proj00.png"))
    np.testing.assert_array_equal(*(np.asarray(Image.open(found / n)) for n in ("proj00.png", "projection.png")))
    assert "already" in synth("--projected-w", "found/projected_w.npz").stderr
