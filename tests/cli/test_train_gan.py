"""`python train_gan.py` from the outside: bad input, and what a run tells and leaves."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def files_under(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def refused(result, *words: str) -> str:
    """The one line of an error, after checking that it is one, with exit code 2."""
    lines = result.err.splitlines()
    assert result.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), result.err
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- bad input ----------------------------------------------------------------------------------------------------


def make_bad(folder: Path, kind: str) -> None:
    folder.mkdir()
    for i in range(4):
        path = folder / f"{i}.jpg"
        if kind == "text":
            path.write_text("hello")
        elif kind == "pixel":
            Image.new("RGB", (1, 1)).save(path)
        elif kind == "truncated":
            Image.effect_noise((64, 64), 50).save(path)
            path.write_bytes(path.read_bytes()[:-900])


@pytest.mark.parametrize(
    "kind, words",
    [("empty", "no images"), ("text", "not an image"), ("pixel", "too small"), ("truncated", "truncated")],
)
def test_a_folder_without_a_usable_image(train, tmp_path, kind, words):
    make_bad(tmp_path / "bad", kind)
    refused(train("--data", "bad"), "bad", words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--data", "nowhere"], "nowhere: no such folder or zip"),
        (["--resolution", 48], "--resolution 48 is not a power of two"),
        (["--resolution", 4], "--resolution 4"),
        (["--batch", 3], "use --batch 4 or --mbstd-group 1"),
        (["--batch", 3, "--mbstd-group", 4], "use --batch 4 or --mbstd-group 1"),
        (["--batch", 8, "--batch-gpu", 2, "--mbstd-group", 4], "use --mbstd-group 2"),
        (["--batch", 8, "--batch-gpu", 3], "--batch-gpu 3 does not divide"),
        (["--batch", 0], "--batch 0"),
        (["--subset", 0], "--subset 0"),
        (["--kimg", 0], "--kimg 0"),
        (["--kimg", 0.0009], "--kimg 0.0009 is too small; give at least 0.001"),  # less than an image: no step
        (["--kimg", "nan"], "--kimg nan"),
        (["--tick", -1], "--tick -1"),
        (["--lr", 0], "--lr 0"),
        (["--seed", -1], "--seed -1"),
        (["--aug", "fixed"], "--aug fixed needs"),
        (["--p", 0.2], "--p goes with --aug fixed"),
        (["--p-max", 2], "--p-max 2"),
        (["--degradation", "acid"], "--degradation acid is unknown"),
        (["--metrics", "is50k"], "is50k"),
        (["--metrics", "fid8,pr4"], "--metrics pr4: 4 images; pr needs 6 or more of each set"),
        (["--precision", "fp16"], "--precision fp16"),
        (["--generator-verdict-weight", 1, "--verdict-batch", 0], "--verdict-batch 0"),
        (["--device", "cuda:77"], "--device cuda:77"),
        (["--cfg", "large"], "large"),
        (["--inception-weights", "no.pth", "--metrics", "fid1k"], "no.pth"),
        (["--aug", "noaug", "--target", 0.6], "--target 0.6: is of ADA, and --aug is noaug"),
        (["--aug", "fixed", "--p", 0.2, "--p-max", 0.5], "--p-max 0.5"),
        (["--aug", "noaug", "--augpipe", "bgc"], "--augpipe bgc"),
        (["--verdict-batch", 0, "--replay-capacity", 9], "--replay-capacity 9"),
        (["--verdict-batch", 0, "--degradation", "hard"], "--degradation hard"),
        (["--verdict-batch", 0, "--verdict-kimg", 3], "--verdict-kimg 3"),
        *(
            ([option, "1e306"], f"{option} 1e306 is too large; give at most 1e+09")
            for option in ("--kimg", "--verdict-kimg", "--tick", "--keep-every")
        ),
        (["--trunk-grad-scale", 2], "--trunk-grad-scale 2 is too large; give at most 1"),
        (["--verdict-batch", "nan"], "--verdict-batch 'nan' is not a whole number; give one"),
        (["--fid-dims", 64], "--fid-dims 64: is of FID, which --metrics none does not measure"),
        (
            ["--metrics", "fid8", "--fid-features", "timm:x", "--fid-weights", "x.pth", "--inception-weights", "y.pth"],
            "--inception-weights y.pth",
        ),
    ],
)
def test_options_no_run_can_have(train, tmp_path, photos, arguments, words):
    data = [] if "--data" in arguments else ["--data", photos]
    refused(train(*data, *arguments), words)
    assert not (tmp_path / "runs").exists()


def test_no_data_at_all(train):
    refused(train(small=False), "--data SOURCE", "--resume latest")


def test_fid_asked_for_without_weights_is_refused_before_anything_is_written(train, tmp_path, photos):
    """Every way to the network goes through a proxy that is not there."""
    nowhere = {"TORCH_HOME": str(tmp_path / "hub"), "https_proxy": "http://127.0.0.1:9"}
    refused(train("--data", photos, "--metrics", "fid1k", **nowhere), "Inception weights", "--inception-weights")
    assert not (tmp_path / "runs").exists()


def test_auto_metrics_without_weights_say_so_and_train(train, tmp_path, photos):
    done = train("--data", photos, "--metrics", "auto", "--verdict-batch", 0, TORCH_HOME=str(tmp_path / "hub"))
    assert done.code == 0, done.err
    assert done.out.count("FID is not measured") == 1
    told = [line for line in done.out.splitlines() if line.startswith("verdict")]
    assert told == ["verdict     the head does not learn (--verdict-batch 0): this run makes no detector"]


def test_a_named_set_that_is_absent(train, tmp_path):
    line = refused(
        train(
            "--data", "rvf10k", "--data-root", "sets", KAGGLEHUB_CACHE=str(tmp_path), https_proxy="http://127.0.0.1:9"
        )
    )
    assert "kaggle.com/datasets/" in line and "unpack it into sets/rvf10k" in line
    refused(train("--data", "rvf10k", "--data-root", "sets", "--dry-run", KAGGLEHUB_CACHE=str(tmp_path)), "rvf10k")
    assert not (tmp_path / "runs").exists()


# ---- output folders -----------------------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, options: str):
    folder.mkdir(exist_ok=True)
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root to mount a small disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_too_small_for_a_run(train, tmp_path, photos):
    with mounted(tmp_path / "disk", "size=300k") as disk:
        refused(train("--data", photos, "--outdir", disk / "deep" / "runs"), "--outdir", "MB free")
        assert not list(disk.iterdir())


def test_a_disk_that_is_full_already(train, tmp_path, photos):
    with mounted(tmp_path / "disk", "size=16k") as disk:
        (disk / "big").write_bytes(bytes(16384))
        refused(train("--data", photos, "--outdir", disk), "--outdir")
        assert [p.name for p in disk.iterdir()] == ["big"]


def test_a_disk_that_fills_up_during_the_run(train, start, tmp_path, photos):
    """The last checkpoint survives, and with room again the run goes on from it to the same end."""
    options = ["--data", photos, "--outdir", tmp_path / "disk" / "runs", "--snap", 1, "--checkpoint-minutes", 0.0001]
    with mounted(tmp_path / "disk", "size=20m") as disk:
        run = disk / "runs" / "00000-photos-8-tiny"
        job = start(*options, "--kimg", 4)
        while not list(run.glob("checkpoint-*.pt")) and not Path(f"{job.out}.err").stat().st_size:
            time.sleep(0.005)
        filler = open(disk / "filler", "wb", buffering=0)
        try:
            while filler.write(bytes(65536)):
                pass
        except OSError:
            pass
        filler.close()
        refused(job.wait(), str(disk), "--resume")
        kept = sorted(run.glob("checkpoint-*.pt"))
        assert kept and not list(run.glob(".*.tmp"))
        (disk / "filler").unlink()
        again = train("--resume", run, "--kimg", 0.004, small=False)
        assert again.code == 0, again.err
        assert kept[-1].name in again.out.splitlines()[0]


def test_a_read_only_disk(train, tmp_path, photos):
    with mounted(tmp_path / "disk", "size=1m,ro") as disk:
        refused(train("--data", photos, "--outdir", disk / "runs"), "--outdir", "read-only")


def test_outdir_is_a_file(train, tmp_path, photos):
    (tmp_path / "file").write_text("mine")
    refused(train("--data", photos, "--outdir", "file/runs"), "--outdir", "is a file")
    assert (tmp_path / "file").read_text() == "mine"


# ---- images of every kind -----------------------------------------------------------------------------------------


def test_bad_files_are_counted_and_named_and_every_kind_of_photo_is_taken(train, tmp_path, photos):
    data = tmp_path / "mixed"
    shutil.copytree(photos, data)
    rgb = Image.open(photos / "000.png").convert("RGB")
    noise = Image.effect_noise((64, 64), 50)
    noise.save(data / "cut.jpg")
    (data / "cut.jpg").write_bytes((data / "cut.jpg").read_bytes()[:-900])
    (data / "text.jpg").write_text("hello")
    Image.new("RGB", (1, 1)).save(data / "dot.png")
    rgb.convert("CMYK").save(data / "cmyk.jpg")
    rgb.convert("L").save(data / "grey.png")
    rgb.convert("RGBA").save(data / "alpha.png")
    Image.fromarray(np.arange(24 * 24, dtype=np.uint16).reshape(24, 24) * 100).save(data / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(data / "turned.jpg", exif=exif)
    done = train("--data", data, "--kimg", 0.004, "--verdict-batch", 0)
    assert done.code == 0, done.err
    left_out = [line for line in done.out.splitlines() if line.startswith("left out")]
    assert len(left_out) == 3
    assert all(any(name in line for line in left_out) for name in ("cut.jpg", "text.jpg", "dot.png"))
    converted = next(line for line in done.out.splitlines() if line.startswith("converted"))
    assert all(kind in converted for kind in ("1 CMYK", "1 grey", "1 RGBA", "1 16-bit grey")), converted
    facts = json.loads((tmp_path / "runs" / "00000-mixed-8-tiny" / "config.json").read_text())["data_facts"]
    assert facts["num_skipped"] == 3 and facts["counts"]["train"]["real"] + facts["counts"]["valid"]["real"] == 29


def test_images_outside_the_label_folders_are_told(train, tmp_path, photos):
    data = tmp_path / "labelled"
    for name in ("real", "fake"):
        shutil.copytree(photos, data / name)
    shutil.copy(photos / "000.png", data / "stray.png")
    done = train("--data", data, "--kimg", 0.004, "--verdict-kimg", 0.004)
    assert done.code == 0, done.err
    assert "1 image outside the real and fake folders, left out" in done.out


def test_the_resolution_of_the_data_does_not_follow_one_odd_image():
    from common.errors import BadImage
    from training.data import native_resolution

    class Source:
        name = "set"
        sides = (1, 500, 300, 280, 300)

        def __len__(self):
            return len(self.sides)

        def decoded(self, i, min_side):
            if self.sides[i] < min_side:
                raise BadImage(str(i), "too small")
            pixels = np.zeros((self.sides[i], 600, 3), np.uint8)
            return type("Decoded", (), {"pixels": pixels})

    assert native_resolution(Source()) == 256


# ---- what a run tells ---------------------------------------------------------------------------------------------


def test_dry_run_prints_json_and_writes_nothing(train, tmp_path, photos):
    before = files_under(tmp_path)
    done = train("--data", photos, "--dry-run")
    assert done.code == 0, done.err
    resolved = json.loads(done.out)
    assert resolved["batch"] == 4 and resolved["resolution"] == 8 and resolved["resume"] is None
    assert resolved["images"] == {"train": 22, "valid": 2}
    assert [f for f in files_under(tmp_path) if not f.startswith("output-")] == before


def test_what_a_run_writes_and_prints(train, tmp_path, photos):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = train("--data", photos, "--image-snap", 1)
    assert done.code == 0 and done.err.startswith("Next: python synth.py") and done.err.count("\n") == 1, done.err
    run = tmp_path / "runs" / "00000-photos-8-tiny"
    assert (run / "log.txt").read_text() == done.out
    names = files_under(run)
    for name in ("config.json", "stats.jsonl", "metrics.jsonl", "reals.png", "fakes-000000.024.png", "scores.npz",
                 "generator-000000.024.safetensors", "detector.safetensors", "verdict.json"):  # fmt: skip
        assert name in names, name
    assert not [n for n in names if n.startswith(".")] and not (tmp_path / "runs" / ".cache").exists()

    stats = rows(run / "stats.jsonl")
    assert [r["kimg"] for r in stats if "tick" in r] == [0.008, 0.016, 0.024]
    assert [r["verdict_step"] for r in stats if "verdict_step" in r] == [1, 2, 3, 4, 5, 6]
    for name in ("Loss/G/loss", "Loss/D/loss", "Loss/verdict", "Gradients/G", "Gradients/D"):
        assert all(np.isfinite(r[name]["mean"]) for r in stats if "tick" in r), name
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    tags = board.Tags()
    assert set(tags["images"]) == {"Images/reals", "Images/fakes"}
    assert {"Loss/G/loss", "Progress/augment", "Timing/sec_per_kimg", "VerdictPhase/Loss/verdict"} <= set(
        tags["scalars"]
    )
    assert [e.step for e in board.Scalars("Loss/G/loss")] == [8, 16, 24]
    assert np.allclose([e.value for e in board.Scalars("Loss/G/loss")], [r["Loss/G/loss"]["mean"] for r in stats[:3]])


def test_a_live_line_on_a_terminal(tmp_path, photos):
    """Through `script`, which pretends to be a terminal of 80 columns."""
    from training.telemetry import Telemetry

    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from training.telemetry import Telemetry\n"
        "t = Telemetry(True); t.line_at -= 1; t.progress('kimg ' + 'x' * 200); t.say('a line'); t.line_at -= 1\n"
        "t.progress('again'); t.close()\n"
    )
    assert not Telemetry(True).live or os.isatty(2)
    if not shutil.which("script"):
        pytest.skip("needs the program `script`")
    (tmp_path / "live.py").write_text(code)
    shown = subprocess.run(
        ["script", "-qec", f"stty cols 80; {sys.executable} {tmp_path / 'live.py'} {ROOT}", "/dev/null"],
        capture_output=True, stdin=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "80"},
    ).stdout.decode()  # fmt: skip
    live, after = shown.split("a line")
    assert live == "\r\x1b[Kkimg " + "x" * 74 + "\r\x1b[K"
    assert after.endswith("\r\x1b[Kagain\r\x1b[K")


def test_a_reader_that_goes_away_does_not_end_the_training(tmp_path, monkeypatch):
    from training.telemetry import Telemetry

    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr("sys.stdout", os.fdopen(write, "w"))
    told = Telemetry(True)
    told.run = tmp_path
    told.say("one")
    told.say("two")
    assert (tmp_path / "log.txt").read_text() == "one\ntwo\n"


@pytest.mark.parametrize("name", ["train_gan", "train_detector"])
def test_help_names_every_option_once_under_a_heading(name, capsys):
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with pytest.raises(SystemExit):
        script.run(script.main, ["--help"])
    text = capsys.readouterr().out
    for param in script.main.params:
        option = max(param.opts, key=len)
        assert sum(line.split()[0].strip(",") == option or f", {option}" in line.split("  ")[1]
                   for line in text.splitlines() if line.startswith("  -")) == 1, option  # fmt: skip
    assert all(f"{title}:" in text for title in script.SECTIONS)
    assert "\n    python train_gan.py --resume latest\n" in text or name != "train_gan"
    assert max(map(len, text.splitlines())) <= 120


def test_a_run_ends_in_a_page_without_a_lonely_figure(train, tmp_path, photos):
    """Two real photos are left for the figures: none of them stands there without its interval."""
    done = train("--data", photos, "--report")
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "00000-photos-8-tiny"
    assert f"Next: open {run.relative_to(tmp_path)}/report.html in a browser; python synth.py" in done.err
    page = (run / "report.html").read_text()
    for said in re.findall(r"AUC (.*?),|balanced accuracy (.*?),", done.out):
        assert re.match(r"[\d.]+( %)? \([\d.]+ to [\d.]+\)", said[0] or said[1]), said
    assert "of only 2 real and" in done.out and re.search(r"\d\.\d{3} \(0\.\d\d to [01]\.\d\d\)", page)
