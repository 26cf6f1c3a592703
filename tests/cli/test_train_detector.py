"""`train_detector.py` as a user runs it, on folders of a few small pictures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import train_detector
from common.cli import run
from discriminator.detector import Detector
from discriminator.origins import lessons_of
from faces.degrade import preset
from training.checkpoint import checkpoints

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--epochs",
    2,
    "--batch",
    8,
    "--warmup",
    2,
    "--threads",
    1,
    "--workers",
    1,
    "--cache",
    "none",
    "--device",
    "cpu",
    "--no-report",
]


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """24 real and 24 fake pictures of 32 px, one a half-size one enlarged; no encoder tells them apart."""
    folder = tmp_path_factory.mktemp("data") / "faces"
    write(folder, 48)
    return folder


def write(folder: Path, count: int, seed: int = 0, side: int = 32, kind: str = "png", only: str = "") -> None:
    rng = np.random.default_rng(seed)
    for i in range(count):
        label = only or ("real", "fake")[i % 2]
        pixels = rng.integers(60, 196, (side, side, 3)).astype(np.uint8)
        if label == "fake":
            pixels = np.repeat(np.repeat(pixels[::2, ::2], 2, 0), 2, 1)
        target = folder if only else folder / label
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target / f"{i:03d}.{kind}")


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """`command(*arguments)` -> code, out, err; `small=False` without the options of a tiny run."""
    monkeypatch.chdir(tmp_path)
    for name in ("FACES_DATA_ROOT", "FACES_DEBUG", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))

    def call(*arguments, small: bool = True) -> SimpleNamespace:
        argv = [str(a) for a in [*(SMALL if small else []), *arguments]]
        if "--resume" in argv:  # of a run that drew nothing either
            argv.append("--no-report")
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            run(train_detector.main, argv)
        code = leaving.value.code
        captured = capsys.readouterr()
        return SimpleNamespace(code=code or 0, out=captured.out, err=captured.err)

    return call


def refused(result, *words: str) -> None:
    assert result.code == 2, result.out
    assert result.err.startswith("error: ") and result.err.count("\n") == 1, result.err
    for word in words:
        assert word in result.err, result.err


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_training_from_folder_to_detector(command, faces, tmp_path):
    result = command("--data", faces, "--out", "run")
    assert result.code == 0, result.err
    folder = tmp_path / "run"
    detector = Detector.load(folder / "detector.safetensors")
    assert detector.preprocess.resolution == 32 and detector.meta["trained_on"] == "faces"
    assert detector.meta["model"] == "hybrid" and detector.meta["recipe"]["batch"] == 8
    assert isinstance(detector.meta["seconds"], int) and detector.meta["seconds"] >= 0
    assert detector.meta["train_images"] == {"real": 22, "set's fakes": 22} and detector.meta["version"]
    assert detector.calibration.n_real == 2 and {p.target_fpr for p in detector.calibration.points} == {
        0.005,
        0.01,
        0.05,
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["degradation"]["name"] == "train" and config["architecture"] == detector.net.cfg.to_dict()
    stats, metrics = rows(folder / "stats.jsonl"), rows(folder / "metrics.jsonl")
    assert [row["step"] for row in stats] == [6, 12] and stats[-1]["nimg"] == 96
    assert [row["step"] for row in metrics] == [6, 12, 12] and metrics[-1]["final"]
    assert list((folder / "tensorboard").glob("events*"))
    for word in ("operations  ", "half of each batch is real", "images/s", "best", "calibrated", "unsure"):
        assert word in result.out
    assert result.out == (folder / "log.txt").read_text()
    refused(command("--data", faces, "--out", "run"), "--out run", "--resume run")


def test_ablations_and_backbones_by_option(command, faces, tmp_path):
    result = command("--data", faces, "--branches", "artefact", "--residual", "neighbour", "--crop=16", "--out", "a")
    assert result.code == 0, result.err
    assert "note: --crop is now called --random-crop\n" in result.err
    recipe = json.loads((tmp_path / "a" / "config.json").read_text())["recipe"]
    assert recipe["random_crop"] == 16 and "crop" not in recipe
    cfg = Detector.load(tmp_path / "a" / "detector.safetensors").net.cfg
    assert cfg.branches == ("artefact",) and cfg.residual == "neighbour"
    chain = preset("web").to_dict()
    (tmp_path / "chain.json").write_text(json.dumps(chain))
    weights = tmp_path / "w.pth"
    import torch
    import torchvision

    torch.save(torchvision.models.squeezenet1_1().state_dict(), weights)
    result = command("--data", faces, "--model", "squeezenet1_1", "--backbone-weights", weights, "--stride1", 1,
                     "--degradation", "chain.json", "--consistency", 0, "--balance", "weights",
                     "--face", "whole")  # fmt: skip
    assert result.code == 0, result.err
    (made,) = (tmp_path / "runs").iterdir()
    assert made.name == "00000-detector-faces-32-squeezenet1_1"
    detector = Detector.load(made / "detector.safetensors")
    assert detector.net.cfg.stride1 == 1 and detector.meta["weights_from"] == "w.pth"
    assert detector.meta["degradation"] == chain and detector.meta["face"] == "whole"
    assert not detector.trained_on_aligned_faces
    assert "with frozen layers" in result.out and "each class weighs half" in result.out


def test_reals_alone_with_fakes_of_ones_own(command, tmp_path):
    write(tmp_path / "photos", 24, seed=1, only="real")
    write(tmp_path / "samples", 20, seed=2, only="fake")
    refused(command("--data", "photos"), "no fakes", "--extra-fakes")
    result = command("--data", "photos", "--extra-fakes", "samples:0.5", "--out", "run")
    assert result.code == 0, result.err
    meta = Detector.load(tmp_path / "run" / "detector.safetensors").meta
    assert meta["train_images"] == {"real": 22, "samples": 18} and meta["shown"] == {"real": 0.5, "samples": 0.5}
    assert meta["validation_images"] == {"real": 2, "fake": 2}
    write(tmp_path / "jpegs", 40, seed=3, only="fake", kind="jpg")
    write(tmp_path / "photos", 60, seed=4, only="real")
    refused(command("--data", "photos", "--extra-fakes", "jpegs"), "files alone", "JPEG", "normalise")
    write(tmp_path / "thumbs", 4, seed=3, side=16, only="fake")
    refused(command("--data", "photos", "--extra-fakes", "thumbs"), "smaller than the 32 px", "--allow-leaks")


def test_images_that_are_given_twice_are_refused(command, tmp_path):
    """A folder was taught as real and as fake, and validation images as training ones, without a word."""
    write(tmp_path / "set", 20, seed=1)
    for option, folder, words in (
        ("--extra-fakes", "set/real", ("10 of its 10 images are given as real, too, like ", "set/real/")),
        ("--extra-reals", "set/fake", ("10 of its 10 images are given as fake, too, like ",)),
        ("--extra-fakes", "./set/fake", ("1 of its 10 images is of --data, which holds it out to judge by",)),
    ):
        refused(command("--data", "set", option, folder), f"{option} {folder}: ", *words, "--allow-leaks")
    write(tmp_path / "more", 1, seed=2, only="fake")
    words = ("--data", "set", "--extra-reals", "more", "--extra-fakes", "./more")
    refused(command(*words), "1 of its 1 image is given as real, too")
    result = command("--data", "set", "--extra-fakes", "set/real", "--allow-leaks", "--out", "run")
    assert result.code == 0 and "leaks are allowed: 10 of its 10 images are given as real" in result.out


def test_files_that_give_the_class_away_are_refused(command, tmp_path):
    write(tmp_path / "leak", 80)
    for path in (tmp_path / "leak" / "real").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    refused(command("--data", "leak", "--out", "run"), "metadata", "--allow-leaks", "normalise")
    assert not (tmp_path / "run").exists()
    result = command("--data", "leak", "--out", "run", "--allow-leaks", "--epochs", 1, "--subset", 8)
    assert result.code == 0, result.err
    assert "note        leaks are allowed: " in result.out
    assert "metadata" in Detector.load(tmp_path / "run" / "detector.safetensors").meta["gates"]["failed"]


def test_replay_of_older_fakes(command, faces, tmp_path):
    import torch

    from training.checkpoint import save

    gan = tmp_path / "gan"
    gan.mkdir()
    images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8)
    save(gan, 1, {"game": {"replay": {"images": images}}}, "gan")
    result = command("--data", faces, "--replay", "gan:0.3", "--out", "run", "--epochs", 1)
    assert result.code == 0, result.err
    meta = Detector.load(tmp_path / "run" / "detector.safetensors").meta
    assert meta["shown"] == {"real": 0.5, "set's fakes": 0.35, "gan": 0.15} and meta["train_images"]["gan"] == 10
    refused(command("--data", faces, "--replay", "gan", "--resolution", 64), "--resolution 32")
    refused(command("--data", faces, "--replay", "nowhere"), "nowhere")


def test_what_taught_the_weights_it_began_from_is_told(faces, command, tmp_path):
    """Its answers on that set prove nothing either; also when it began from a checkpoint, or was stopped between."""
    write(tmp_path / "other", 24, seed=9)
    first = command("--data", faces, "--out", "first", "--seed", 4)
    assert first.code == 0, first.err
    (known,) = lessons_of(Detector.load(tmp_path / "first" / "detector.safetensors").meta)
    assert known.seed == 4
    shutil.copytree(tmp_path / "first", tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "detector.safetensors").unlink()
    for spec in ("first", "checkpoints"):
        out = tmp_path / f"of {spec}"
        result = command("--data", tmp_path / "other", "--from", spec, "--out", out, "--checkpoint-minutes", 0)
        assert result.code == 0, result.err
        found = lessons_of(Detector.load(out / "detector.safetensors").meta)
        assert known in found and len(found) == 2
        (out / "detector.safetensors").unlink()
        assert command("--resume", out, small=False).code == 0
        assert lessons_of(Detector.load(out / "detector.safetensors").meta) == found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--data"]),
        (["--data", "nowhere"], ["nowhere"]),
        (["--data", "F", "--model", "resnet"], ["--model resnet", "timm:NAME"]),
        (["--data", "F", "--resolution", 48], ["--model hybrid", "48"]),
        (["--data", "F", "--branches", "deep"], ["spatial"]),
        (["--data", "F", "--lr", -1], ["--lr"]),
        (["--data", "F", "--random-crop", 16], ["--random-crop 16"]),
        (["--data", "F", "--degradation", "acid"], ["acid", "train"]),
        (["--data", "F", "--degradation", "absent.json"], ["absent.json"]),
        (["--data", "F", "--pretrained"], ["--pretrained"]),
        (["--data", "F", "--extra-fakes", "F:1.5"], ["dose"]),
        (["--data", "F", "--extra-fakes", "absent:0.5"], ["absent"]),
        (["--data", "F", "--model", "squeezenet1_1", "--backbone-weights", "absent.pth"], ["absent.pth"]),
        (["--resume", "nowhere"], ["nowhere"]),
        (["--resume", "F"], ["config.json"]),
        (["--resume", "latest"], ["runs"]),
        (["--resume", "latest", "--lr", 1], ["--lr"]),
        (["--resume", "latest", "--patches", 64], ["--patches with --resume"]),
        (["--resume", "latest", "--from", "F"], ["--from with --resume"]),
        (["--data", "F", "--device", "tpu"], ["tpu"]),
        (["calibrate", "absent", "--reals", "F", "--out", "x.safetensors"], ["absent"]),
        (["calibrate", "F", "--reals", "F", "--out", "x.pth"], [".safetensors"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command, faces, arguments, words, tmp_path):
    arguments = [str(faces) + a[1:] if str(a) == "F" or str(a).startswith("F:") else a for a in arguments]
    small = "--data" in arguments
    refused(command(*arguments, small=small), *words)
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_saves_and_resume_ends_as_if_nothing_had_happened(faces, tmp_path, command):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "FACES_CACHE": str(tmp_path / "cache")}
    argv = [sys.executable, str(ROOT / "train_detector.py"), "--data", str(faces), "--out", "run", *map(str, SMALL)]
    argv[argv.index("--epochs") + 1] = "400"
    with subprocess.Popen(
        argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        log = tmp_path / "run" / "log.txt"
        until = time.monotonic() + 120
        while not (log.is_file() and "\nvalidation" in log.read_text()):
            assert job.poll() is None and time.monotonic() < until, job.stderr.read()
            time.sleep(0.05)
        job.send_signal(signal.SIGINT)
        out, err = job.communicate(timeout=60)
    assert job.returncode == 130, err
    assert "saved; go on with --resume run" in out and "Traceback" not in err
    folder = tmp_path / "run"
    assert list(folder.glob("checkpoint-*.pt")) and not (folder / "detector.safetensors").exists()

    config = json.loads((folder / "config.json").read_text())
    stopped_at = max(int(p.stem.split("-")[1]) for p in folder.glob("checkpoint-*.pt"))
    config["recipe"]["epochs"] = (stopped_at + 3) / 6  # the test needn't wait for all 400
    config["recipe"]["schedule"] = "plateau"
    (folder / "config.json").write_text(json.dumps(config))
    result = command("--resume", "run", "--threads", 1, "--workers", 1, "--device", "cpu", small=False)
    assert result.code == 0, result.err
    assert f"resuming    run at step {stopped_at} of {stopped_at + 3}" in result.out
    steps = [row["step"] for row in rows(folder / "stats.jsonl")]
    assert steps == sorted(set(steps)) and steps[-1] == stopped_at + 3
    Detector.load(folder / "detector.safetensors")
    write(faces, 50)  # two more
    refused(command("--resume", "run", small=False), "is not what it was")
    for path in (faces / "real" / "048.png", faces / "fake" / "049.png"):
        path.unlink()


def test_thresholds_on_ones_own_photos(command, faces, tmp_path):
    assert command("--data", faces, "--out", "run", "--epochs", 1).code == 0
    write(tmp_path / "mine", 120, seed=5, only="real")
    write(tmp_path / "theirs", 30, seed=6, only="fake")
    (tmp_path / "mine" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    idle = ("--face", "whole", "--face-model", "haar")
    refused(command("calibrate", "run", "--reals", "mine", "--out", "own.safetensors", *idle, small=False), *idle)
    result = command("calibrate", "run", "--reals", "mine", "--out", "own.safetensors", small=False)
    assert result.code == 0, result.err
    assert "120 of 121 photos judged (1 unreadable left out)" in result.out and "broken.png" in result.out
    assert "nothing about 0.5 %: that takes at least 200 real photos" in result.out
    old, new = (Detector.load(tmp_path / f) for f in ("run/detector.safetensors", "own.safetensors"))
    assert (new.calibration.temperature, new.calibration.bias) == (old.calibration.temperature, old.calibration.bias)
    assert new.calibration.n_real == 120 and new.calibration.n_fake == 0
    assert new.meta["own_photos"] == {"reals": "mine", "n_real": 120, "recalibrated_from": old.sha256}
    photos = [np.asarray(Image.open(p)) for p in sorted((tmp_path / "mine").glob("[0-9]*.png"))]
    scores = np.array([v.probability for v in new.predict(photos, batch=8)])
    for fpr, allowed in ((0.005, 0), (0.01, 1), (0.05, 6)):
        assert (scores >= new.calibration.at(fpr).threshold).sum() == allowed
        assert new.calibration.at(fpr).unsure_low <= new.calibration.at(fpr).threshold

    argv = ["--reals", "mine", "--fakes", "theirs", "--out", "both.safetensors"]
    result = command("calibrate", "own.safetensors", *argv, small=False)
    assert result.code == 0, result.err
    both = Detector.load(tmp_path / "both.safetensors")
    assert both.calibration.n_fake == 30 and both.calibration.at().tpr is not None
    again = command("calibrate", "run", "--reals", "mine", "--out", "own.safetensors", small=False)
    refused(again, "exists already")
    (tmp_path / "empty").mkdir()
    refused(command("calibrate", "run", "--reals", "empty", "--out", "x.safetensors", small=False), "empty")


def test_help_answers_at_once():
    code = "import sys, train_detector\ntry: train_detector.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for option in train_detector.main.params:
        assert max(option.opts, key=len) in done.stdout
    assert "calibrate" in done.stdout


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(faces, tmp_path, command):
    """Without dropout and degradation: the mean of two half batches' gradients is the whole batch's."""
    import torch

    options = ["--data", str(faces), *map(str, SMALL), "--degradation", "none", "--precision", "fp32", "--no-mirror"]
    assert command(*options, "--out", "one", small=False).code == 0
    env = {**os.environ, "OMP_NUM_THREADS": "1", "FACES_CACHE": str(tmp_path / "cache")}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    argv = [*launcher, str(ROOT / "train_detector.py"), *options, "--out", "two"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("detector    two/") == 1
    one, two = (torch.load(tmp_path / name / "checkpoint-000012.pt", weights_only=True) for name in ("one", "two"))
    for name, value in one["net"].items():
        torch.testing.assert_close(value, two["net"][name], atol=1e-4, rtol=1e-3, msg=name)


def test_a_probe_from_features_to_its_detector_and_on_again(command, faces, tmp_path):
    import timm
    import torch

    name = "mobilenetv3_small_050"
    refused = command("--data", faces, "--model", f"levels:timm:{name}")
    assert refused.code == 2 and "--backbone-weights, --pretrained or --from" in refused.err
    torch.manual_seed(0)
    torch.save(timm.create_model(name, pretrained=False).state_dict(), tmp_path / "body.pth")
    weights = ("--backbone-weights", tmp_path / "body.pth")
    done = command("--data", faces, "--model", f"levels:timm:{name}", *weights, "--draws", 1, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "848 features of" in done.out and "logistic regression, l2 3" in done.out and "validation AUC" in done.out
    detector = Detector.load(tmp_path / "run" / "detector.safetensors")
    assert detector.meta["recipe"]["draws"] == 1 and detector.meta["weights_from"] == "body.pth"
    (tmp_path / "body.pth").unlink()  # a run that goes on does not need it
    again = command("--resume", tmp_path / "run", "--no-report", small=False)
    assert again.code == 0, again.err
    same = Detector.load(tmp_path / "run" / "detector.safetensors").net.state_dict()
    assert all(torch.equal(same[name], value) for name, value in detector.net.state_dict().items())


def test_next_measures_on_the_test_split(command, tmp_path):
    for split, count in (("train", 24), ("valid", 8), ("test", 4)):
        write(tmp_path / "my faces" / split, count, seed=count)
    done = command("--data", "my faces", "--no-report", "--allow-leaks")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs").iterdir()
    line = f"Next: python evaluate.py detector runs/{folder.name} --data 'my faces' --report judged.html\n"
    assert done.err.endswith(line), done.err


def test_next_without_a_test_split(command, faces):
    done = command("--data", faces, "--no-report")
    assert done.code == 0 and "--data PHOTOS_IT_NEVER_SAW --report judged.html" in done.err, done.err


def test_faces_that_were_cut_out_want_a_word(command, tmp_path):
    write(tmp_path / "even", 48)
    recipe = {"resolution": 32, "align": "ffhq", "quality": [75, 95]}
    (tmp_path / "even" / "normalise.json").write_text(json.dumps(recipe))
    words = ("--data", "even", "--no-report")
    done = command(*words)
    assert done.code == 0 and "whole pictures: --face ffhq makes it cut faces out as these were" in done.out + done.err
    done = command(*words, "--face", "ffhq")
    assert done.code == 0 and "whole pictures" not in done.out + done.err, done.err


def test_the_checkpoint_that_is_named_is_gone_on_with(command, faces, tmp_path):
    """It was the newest one, whichever was asked for."""
    assert command("--data", faces, "--out", "run", "--checkpoint-minutes", 0).code == 0
    older, newest = checkpoints(tmp_path / "run")
    wanted = Detector.load(tmp_path / "run" / "detector.safetensors").net.state_dict()
    ran = command("--resume", older, "--threads", 1, "--workers", 1, "--device", "cpu", small=False)
    assert ran.code == 0 and f"run at step {int(older.stem[-6:])} of" in ran.out
    again = Detector.load(tmp_path / "run" / "detector.safetensors").net.state_dict()
    assert all(wanted[name].equal(again[name]) for name in wanted)
    other = command("--data", faces, "--out", "other", "--model", "capsnet")
    assert other.code == 0
    shutil.copy(checkpoints(tmp_path / "other")[-1], newest)
    refused(command("--resume", newest, small=False), "run: the checkpoint is of another network", "Missing key")


def test_what_the_square_changes_is_said(command, tmp_path):
    write(tmp_path / "odd", 24, side=32)
    for name in ("real/000.png", "fake/001.png", "fake/003.png"):
        path = tmp_path / "odd" / name
        Image.open(path).resize((64, 40)).save(path)
    ran = command("--data", "odd", "--resolution", 32, "--allow-leaks")
    assert "3 of 24 images are not square: only the middle" in ran.out and "enlarged" not in ran.out
    ran = command("--data", "odd", "--resolution", 64, "--square", "none", "--allow-leaks")
    assert "24 of 24 images are smaller than 64 pixels and were enlarged" in ran.out and "squeezed" in ran.out
