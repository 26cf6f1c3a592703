"""`python detect.py`: what people and scripts see of a verdict."""

from __future__ import annotations

import csv
import errno
import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import detect
from common import cli
from discriminator.calibration import Calibration, calibrate
from discriminator.detector import Detector
from discriminator.hybrid import HybridConfig, HybridDiscriminator
from faces.preprocess import Preprocess
from reports import verdicts
from stylegan2_ada.config import DiscriminatorConfig
from tests.program import Program

ROOT = Path(__file__).resolve().parents[2]


def make_detector(verdict: str) -> Detector:
    """A tiny network whose calibration gives every photo the same verdict."""
    torch.manual_seed(0)
    cfg = HybridConfig(DiscriminatorConfig(32, channel_base=128, channel_max=8), artefact_channels=4, verdict_dim=8)
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(-1, 1, 300), rng.normal(1, 1, 300)])
    measured = calibrate(logits, np.repeat([0, 1], 300))
    bias = {"FAKE": 30.0, "REAL": -30.0, "UNSURE": 0.0}[verdict]
    data = measured.to_dict() | {"bias": bias, "temperature": 100.0}
    return Detector(HybridDiscriminator(cfg), Preprocess(32), Calibration.from_dict(data), {})


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with three detectors and a few photos."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(detect, "SHIPPED", ())
    for verdict in ("FAKE", "REAL", "UNSURE"):
        make_detector(verdict).save(tmp_path / f"{verdict}.safetensors")
    (tmp_path / "photos" / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("one.png", "photos/a.jpg", "photos/b.png", "photos/more/c.png"):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def run(*args: str):
    result = CliRunner().invoke(Program(detect.main), args)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_exit_code_tells_the_verdict(place):
    assert run("one.png", "--model", "REAL.safetensors").exit_code == 0
    assert run("one.png", "--model", "UNSURE.safetensors").exit_code == 0
    assert run("one.png", "--model", "UNSURE.safetensors", "--strict").exit_code == 1
    assert run("one.png", "--model", "FAKE.safetensors").exit_code == 1


def test_table_shows_answer_score_threshold_and_false_alarms(place):
    result = run("photos", "one.png", "--model", "FAKE.safetensors", "--fpr", "0.05")
    head, *rows, summary, own, others, alarms, rule = result.stdout.splitlines()
    point = make_detector("FAKE").calibration.at(0.05)
    assert all(row.startswith("looks generated ") for row in rows)
    assert own == "measured: " + (
        f"fakes of the kind it learnt from: {100 * point.tpr:.2g} % found (validation images, on which the threshold"
        f" was set: {round(300 * point.tpr)} of 300)"
    )
    assert others == "measured: fakes of other generators: not measured; expect it to miss many"
    assert alarms.startswith("measured: false alarms: 5 % of real photos called FAKE (") and "15 of 300" in alarms
    files, notes = zip(*(row.split("  (", 1) for row in rows))
    assert [Path(file.split()[-1]).name for file in files] == ["a.jpg", "b.png", "c.png", "one.png"]
    assert all("weak detector: its balanced accuracy on validation images is" in note for note in notes)
    assert result.stderr.startswith("Next: ") and "shipped detector" in result.stderr
    assert f"{point.threshold:.4f}" in rule and ">0.99  " in rows[0]
    begin = "4 look generated, 0 can't be told, 0 without a trace of a GAN, 0 unreadable"
    assert summary.startswith(begin) and "images/s" in summary
    assert "15 of 300 validation reals called FAKE" in rule and "95 % interval" in rule
    assert "file" in head


def test_too_few_validation_reals_are_said(place):
    assert "too few to show 0.5 %" not in run("one.png", "--model", "REAL.safetensors", "--fpr", "0.005").stdout
    rng = np.random.default_rng(0)
    weak = make_detector("REAL")
    scores = np.concatenate([rng.normal(-1, 1, 50), rng.normal(1, 1, 50)])
    weak.recalibrated(calibrate(scores, np.repeat([0, 1], 50))).save(place / "weak.safetensors")
    out = run("one.png", "--model", "weak.safetensors", "--fpr", "0.005").stdout
    assert "too few to show 0.5 %, which takes at least 200" in out


def test_broken_files_are_counted_and_the_rest_goes_on(place):
    (place / "photos" / "broken.jpg").write_bytes((place / "photos" / "a.jpg").read_bytes()[:150])
    (place / "photos" / "text.png").write_text("hello")
    Image.new("RGB", (1, 1)).save(place / "photos" / "dot.png")
    result = run("photos", "nowhere.jpg", "--model", "REAL.safetensors")
    assert result.exit_code == 2
    assert "0 look generated, 0 can't be told, 3 without a trace of a GAN, 4 unreadable" in result.stdout
    *errors, then = result.stderr.splitlines()
    assert then.startswith("Next: ") and len(errors) == 4 and all(line.startswith("error: ") for line in errors)
    assert run("photos", "--model", "FAKE.safetensors").exit_code == 1, "an alarm is not hidden by a broken file"


def test_json_is_one_valid_document_and_nothing_else(place):
    (place / "photos" / "text.png").write_text("hello")
    result = run("photos", "--model", "FAKE.safetensors", "--json")
    document = json.loads(result.stdout)
    assert [Path(r["file"]).name for r in document["results"]] == ["a.jpg", "b.png", "c.png", "text.png"]
    first, broken = document["results"][0], document["results"][3]
    assert first["verdict"] == "FAKE" and 0 <= first["probability"] <= 1
    assert first["threshold"] == document["operating_point"]["threshold"]
    assert "error" in broken and "verdict" not in broken
    assert document["summary"]["fake"] == 3 and document["summary"]["unreadable"] == 1
    assert document["summary"]["exit_code"] == result.exit_code == 1
    assert document["detector"]["sha256"] == Detector.load("FAKE.safetensors").sha256
    assert result.stderr.count("\n") == 1


def test_quiet_leaves_only_the_exit_code(place):
    result = run("photos", "--model", "FAKE.safetensors", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "")


@pytest.mark.parametrize(
    "args, words",
    [
        (["one.png"], "make demo"),
        (["one.png", "--model", "absent.safetensors"], "no such detector file"),
        (["one.png", "--model", "one.png"], "not a detector file"),
        (["one.png", "--model", "photos"], "no detector.safetensors"),
        (["one.png", "--model", "REAL.safetensors", "--fpr", "0.3"], "0.005, 0.01, 0.05"),
        (["one.png", "--model", "REAL.safetensors", "--device", "abacus"], "unknown device"),
        (["one.png", "--model", "REAL.safetensors", "--explain", "no/such/out.png"], "no folder"),
        (
            ["one.png", "--model", "REAL.safetensors", "--face", "whole", "--face-model", "x"],
            "--face-model x: by --face",
        ),
        (
            ["one.png", "--model", "REAL.safetensors", "--face-model", "x"],
            "--face-model x: by --face auto this detector",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(place, args, words):
    result = run(*args)
    assert result.exit_code == 2 and result.stdout == ""
    assert words in result.stderr and result.stderr.count("\n") == 1 and result.stderr.startswith("error: ")


def test_an_empty_folder_is_an_error(place):
    (place / "empty").mkdir()
    result = run("empty", "--model", "REAL.safetensors")
    assert result.exit_code == 2 and "no image files" in result.stderr


def test_no_run_judges_unasked(place, monkeypatch):
    for name, verdict, when in (("00000-a", "FAKE", 1000), ("00001-b", "REAL", 2000)):
        (place / "runs" / name).mkdir(parents=True)
        file = place / "runs" / name / "detector.safetensors"
        make_detector(verdict).save(file)
        os.utime(file, (when, when))
    monkeypatch.setattr(detect, "SHIPPED", (place / "UNSURE.safetensors",))
    shipped = run("one.png")
    assert "UNSURE.safetensors" in shipped.stdout and "0 look generated, 1 can't be told" in shipped.stdout
    latest = run("one.png", "--model", "latest")
    assert latest.exit_code == 0 and "1 without a trace" in latest.stdout
    assert run("one.png", "--model", "runs/00000-a").exit_code == 1


def test_an_explanation_of_one_photo_is_the_named_picture(place):
    assert run("one.png", "--model", "UNSURE.safetensors", "--explain", "out.png").exit_code == 0
    with Image.open(place / "out.png") as panel:
        assert panel.format == "PNG" and panel.width > panel.height


def test_an_explanation_never_replaces_its_photo(place):
    before = (place / "one.png").read_bytes()
    result = run("one.png", "--model", "UNSURE.safetensors", "--explain", str(place / "one.png"))
    assert result.exit_code == 2 and "the photo itself" in result.stderr
    assert (place / "one.png").read_bytes() == before


@pytest.mark.parametrize("words", [["--explain"], ["--ela"], ["--stability", "--curve"]])
def test_a_picture_replaces_no_other_photo(words, place):
    """`--explain a.png b.png` reads as if both were photos: a.png was drawn over."""
    before = (place / "one.png").read_bytes()
    result = run("--model", "UNSURE.safetensors", *words, "one.png", "photos/a.png")
    assert result.exit_code == 2 and "one.png exists and will not be overwritten" in result.stderr
    assert (place / "one.png").read_bytes() == before


def test_explanations_of_several_are_numbered_and_replace_nothing(place):
    args = ["photos", "one.png", "--model", "UNSURE.safetensors", "--explain"]
    assert run(*args, "out.png").exit_code == 0
    assert sorted(p.name for p in place.glob("out*")) == [f"out-000{i}.png" for i in (1, 2, 3, 4)]
    again = run(*args, "out.png")
    assert again.exit_code == 2 and "not be overwritten" in again.stderr
    assert run(*args, "why").exit_code == 0
    assert sorted(p.name for p in (place / "why").iterdir()) == [
        "0001-a.png",
        "0002-b.png",
        "0003-c.png",
        "0004-one.png",
    ]


def test_a_report_lies_beside_its_json_and_csv(place):
    args = ["photos", "one.png", "--model", "FAKE.safetensors", "--json", "--report", "out.html"]
    result = run(*args)
    assert result.exit_code == 1
    page, told = (place / "out.html").read_text(), json.loads((place / "out.json").read_text())
    document = json.loads(result.stdout)
    about = told.pop("report")
    assert told == document and about["command"] == "python detect.py " + " ".join(args)
    assert "4 look generated" in page and page.count("<article>") == 4 and document["detector"]["sha256"] in page
    assert len((place / "out.csv").read_text().splitlines()) == 5
    assert (
        document["results"][0]["headline"] == "looks generated" and document["measured"]["own_fakes_found"]["low"] > 0
    )
    again = run(*args)
    assert again.exit_code == 2 and again.stdout == "" and "will not be overwritten" in again.stderr
    assert (place / "out.html").read_text() == page
    alone = run("one.png", "--model", "UNSURE.safetensors", "--explain", "x.png", "--report", "alone.html")
    assert alone.exit_code == 0 and not (place / "alone.csv").exists()
    assert "occlusion" in (place / "alone.html").read_text() and "some fakes score" in alone.stdout


@pytest.mark.parametrize("way", ["table", "--json", "--jsonl"])
def test_stopped_while_a_picture_is_drawn_answers_and_counts_agree(place, monkeypatch, way):
    """The answer is told before its picture is drawn, and the report that is still written draws no more of them."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("reports.verdict_panels.Painter.add", stop)
    monkeypatch.setattr("discriminator.explaining.attribution.Explainer", lambda *_, **__: pytest.fail("drawn"))
    args = ["one.png", "--model", "FAKE.safetensors", "--explain", "x.png", "--report", "r.html"]
    result = run(*args, *([] if way == "table" else [way]))
    assert result.exit_code == 130
    if way == "table":
        assert "looks generated" in result.stdout.splitlines()[1]
    told = [json.loads(line) for line in result.stdout.splitlines()] if way == "--jsonl" else None
    told = told or json.loads((place / "r.json").read_text())["results"]
    assert [row["file"] for row in told] == ["one.png"] and "looks generated" in (place / "r.html").read_text()


def test_what_is_next_judges_the_same_again(place, monkeypatch):
    monkeypatch.setattr("discriminator.detector_base.DetectorBase.caution", "")
    (place / "-o ne.png").write_bytes((place / "one.png").read_bytes())
    args = ["--model", "UNSURE.safetensors", "--face", "whole", "--fpr", "0.05", "--", "-o ne.png", "one.png"]
    first = run(*args)
    start = "Next: to see what spoke for the answers: python detect.py "
    assert (then := first.stderr.splitlines()[-1]).startswith(start)  # the command ends the line: it is pasted as it is
    then = then.removeprefix(start)
    again = run(*shlex.split(then), "--json")
    assert again.exit_code == 0 and len(list((place / "maps").iterdir())) == 2
    assert json.loads(again.stdout)["operating_point"]["target_fpr"] == 0.05
    nothing = run("nowhere.png", "--model", "UNSURE.safetensors")
    assert nothing.exit_code == 2 and "Next: " not in nothing.stderr, "--face whole does not help an unreadable file"


def test_methods_by_name_go_into_a_folder_of_their_own(place):
    """Black-box methods and a network's own map; what can't be done is told, what is mistyped is refused."""
    pytest.importorskip("captum")
    args = ["one.png", "--model", "UNSURE.safetensors", "--explain"]
    assert run(*args, "patches,gradcam,saliency").exit_code == 0
    assert [p.name for p in (place / "explained").iterdir()] == ["0001-one.png"]
    assert run(*args, "patches").exit_code == 0 and (place / "explained-2").is_dir()
    assert run(*args, "lrp", "--explain-to", "lrp.png").exit_code == 0 and (place / "lrp.png").is_file()
    result = run(*args, "patches,gradcamm")
    assert result.exit_code == 2 and "did you mean gradcam" in result.stderr and result.stderr.count("\n") == 1
    result = run(*args, "a.png", "--explain-to", "b.png")
    assert result.exit_code == 2 and "--explain-to" in result.stderr


def test_as_a_program(place):
    """From another folder, through the interpreter: exit codes, and a crash is never read as «a fake found»."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def program(*args):
        return subprocess.run(
            [sys.executable, str(ROOT / "detect.py"), *args], capture_output=True, text=True, env=env, timeout=120
        )

    found = program("one.png", "--model", "FAKE.safetensors", "--json")
    assert found.returncode == 1 and json.loads(found.stdout)["summary"]["fake"] == 1 and found.stderr == ""
    usage = program("--nonsense")
    assert usage.returncode == 2 and usage.stderr.startswith("error: ") and usage.stderr.count("\n") == 1
    crash = "import discriminator.locate as where, runpy, sys; sys.argv = ['detect.py', 'x']; where.find_detector = 1\n"
    crash += f"runpy.run_path({str(ROOT / 'detect.py')!r}, run_name='__main__')"
    crashed = subprocess.run([sys.executable, "-c", crash], capture_output=True, text=True, env=env, timeout=120)
    assert crashed.returncode == 2 and "Traceback" in crashed.stderr


def test_help_answers_without_loading_torch():
    code = "import sys, detect; sys.exit('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60).returncode == 0
    result = run("--help")
    assert result.exit_code == 0 and "Exit code" in result.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--csv", "t.csv", "--frames-csv", "./t.csv"], "--csv and --frames-csv would both write ./t.csv"),
        (["--frames-csv", "t.csv", "--report", "t.html"], "--frames-csv and --report would both write t.csv"),
        (
            ["--explain", "patches", "--explain-to", "t.png", "--ela", "t.png"],
            "--explain-to and --ela would both write",
        ),
        (["--explain", "t/", "--stability", "--curve", "t"], "--explain-to and --curve would both write t"),
        (["--ela", "t.jpg"], "--ela t.jpg: give a name that ends in .png, or a folder's"),
        (["--stability", "--curve", "t.html"], "--curve t.html: give a name that ends in .png or .svg, or a folder's"),
        (["--csv", "t.csv", "--frames-csv", "there.csv"], "--frames-csv: there.csv exists and will not be overwritten"),
    ],
)
def test_no_target_replaces_another_and_what_is_refused_leaves_nothing(place, words, line):
    (place / "there.csv").write_text("mine")
    before = sorted(place.rglob("*"))
    result = run("photos", "--model", "REAL.safetensors", *words)
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.startswith(f"error: {line}")
    assert sorted(place.rglob("*")) == before and (place / "there.csv").read_text() == "mine"


def test_a_csv_and_a_reports_csv_are_the_same_table(place):
    assert run("photos", "--model", "REAL.safetensors", "--csv", "t.csv", "--report", "t.html").exit_code == 0
    assert len((place / "t.csv").read_text().splitlines()) == 4


def test_no_cell_of_a_csv_is_a_formula(place):
    """A file may be called so; its path stays the same file's, and the JSON has it as it was given."""
    names = ["=1+2.png", "@x.png", "+x.png", "a=b.png"]
    for name in names:
        shutil.copy("one.png", name)
    shutil.copy("one.png", "-x.png")
    result = run(*names, "--model", "REAL.safetensors", "--csv", "t.csv", "--json", "--", "-x.png")
    given = [row["file"] for row in json.loads(result.stdout)["results"]]
    assert given == [*names, "-x.png"]
    with open("t.csv", newline="") as file:
        told = [row["file"] for row in csv.DictReader(file)]
    assert told == ["./=1+2.png", "./@x.png", "./+x.png", "a=b.png", "./-x.png"]
    assert run(*told, "--model", "REAL.safetensors", "--quiet").exit_code == 0


def test_colours_are_left_out_where_nobody_wants_them(monkeypatch):
    """https://no-color.org: NO_COLOR, when present and not empty."""

    @click.command()
    def say():
        click.secho("x", fg="red")

    for value, coloured in (("1", False), ("0", False), ("", True), (None, True)):
        monkeypatch.delenv("NO_COLOR", raising=False)
        if value is not None:
            monkeypatch.setenv("NO_COLOR", value)
        ours, theirs = pty.openpty()
        with os.fdopen(theirs, "w") as terminal:
            monkeypatch.setattr(sys, "stdout", terminal)
            with pytest.raises(SystemExit):
                cli.run(say, [])
            terminal.flush()
            assert (b"\x1b[" in os.read(ours, 100)) == coloured
        os.close(ours)


def test_a_picture_on_stdin_is_no_list_of_paths(place):
    for file in ("photos/a.jpg", "one.png"):
        result = CliRunner().invoke(
            Program(detect.main), ["-", "--model", "REAL.safetensors"], input=(place / file).read_bytes()
        )
        assert result.exit_code == 2
        assert "a picture came on stdin" in result.stderr and result.stderr.count("\n") == 1


def test_what_is_no_file_is_called_by_its_name(place):
    os.symlink("nowhere.png", "dead.png")
    os.symlink("loop.png", "loop.png")
    os.mkfifo("pipe.png")
    lines = run("dead.png", "loop.png", "pipe.png", "https://x.org/a.jpg", "no.png", "--model", "REAL.safetensors")
    assert lines.stderr.splitlines()[:5] == [
        "error: dead.png: a link to nothing (nowhere.png)",
        "error: loop.png: links that go round in a circle",
        "error: pipe.png: is not a file",
        "error: https://x.org/a.jpg: an address, and nothing is fetched; save the photo and name its file",
        "error: no.png: no such file",
    ]


def test_a_manifests_name_stands_once_in_its_errors(place):
    (place / "m.csv").write_text("path,label\none.png,real\n,real\n")
    line = run("m.csv", "--model", "REAL.safetensors").stderr.splitlines()[0]
    assert line.startswith("error: m.csv: row 2: no path in this row")


@pytest.mark.parametrize(
    "words",
    [["--report", "shut/x.html"], ["--explain", "shut/x.png"], ["--explain", "shut/maps/"], ["--ela", "shut/x.png"],
     ["--stability", "--curve", "shut/x.svg"], ["--csv", "shut/x.csv"]],
)  # fmt: skip
def test_a_folder_that_takes_no_files_is_told_before_anything_is_judged(place, monkeypatch, words):
    """The report was written after hours of judging, and then was not."""
    (place / "shut").mkdir()
    access, opened = os.access, open
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "shut" and access(path, mode))

    def refusing(path, *how, **more):
        if str(path).startswith("shut"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *how, **more)

    monkeypatch.setattr(verdicts, "open", refusing, raising=False)
    result = run("one.png", "--model", "REAL.safetensors", *words)
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert "shut" in result.stderr and words[-2] in result.stderr and not list((place / "shut").iterdir())


@pytest.mark.parametrize("form", ["gif", "png", "webp", "avif"])
def test_animations_keep_to_the_seconds_of_decoding(place, form):
    """They took as long as they had frames."""
    frames = [Image.fromarray(np.full((40, 48, 3), 6 * i, np.uint8)) for i in range(40)]
    frames[0].save(f"a.{form}", save_all=True, append_images=frames[1:], duration=100)
    asked = (f"a.{form}", "--model", "REAL.safetensors", "--decode-seconds")
    (row,) = json.loads(run(*asked, "600", "--json").stdout)["results"]
    assert row["video"]["seconds"] == pytest.approx(4) and row["video"]["frames"] == 16
    result = run(*asked, "1e-9")
    assert result.exit_code == 2 and f"a.{form}: no frame could be decoded within 1e-09 s, refused" in result.stderr
    pytest.importorskip("pyarrow")
    run(*asked, "1e-9", "--shard", "0/1", "--out", "parts")
    assert "1 unreadable" in run("merge", "parts").stdout


def test_one_part_alone_waits_for_no_others(place):
    pytest.importorskip("pyarrow")
    for part, line in (("0/1", "Next: python"), ("1/2", "Next: when all 2 parts are there: python")):
        result = run("photos", "--model", "REAL.safetensors", "--shard", part, "--out", f"p{part[2]}")
        assert result.stderr.splitlines()[-1] == f"{line} detect.py merge p{part[2]}"
