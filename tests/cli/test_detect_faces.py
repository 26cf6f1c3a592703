"""`detect.py` on faces, streams, videos and tables: every way in and every way out."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import detect
from discriminator.calibration import Calibration
from discriminator.detector import Detector
from discriminator.files import judge_files
from discriminator.judge import Judge
from discriminator.verdict import Threshold
from discriminator.video import trimmed_mean
from faces.preprocess import Preprocess
from faces.procedural.portrait import render_face
from tests.discriminator.conftest import make_calibration, make_net
from tests.program import Program
from tests.scenes import scene

ROOT = Path(__file__).resolve().parents[2]
CALM = {"FACES_FACE_MODEL": "", "FACES_PROGRESS": "0"}


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Two detectors of one network, one for aligned faces; photos with one face, two, none; a portrait; a video."""
    folder = tmp_path_factory.mktemp("material")
    net, calibration = make_net(), make_calibration()
    Detector(net, Preprocess(32), calibration, {"face": "ffhq"}).save(folder / "aligned.safetensors")
    Detector(net, Preprocess(32), calibration, {}).save(folder / "whole.safetensors")
    accusing = Calibration.from_dict(calibration.to_dict() | {"bias": 30.0, "temperature": 100.0})
    Detector(net, Preprocess(32), accusing, {"face": "ffhq"}).save(folder / "accuses.safetensors")
    (folder / "photos").mkdir()
    two = scene((2, 40, 60, 180), (3, 400, 80, 280))
    Image.fromarray(two).save(folder / "photos" / "b-two.png")
    Image.fromarray(scene((5, 250, 50, 300))).save(folder / "photos" / "a-one.png")
    Image.fromarray(render_face(3, 128)).save(folder / "photos" / "c-portrait.png")
    Image.fromarray(np.full((200, 300, 3), 99, np.uint8)).save(folder / "photos" / "d-wall.png")
    out = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 4.0, (320, 240))
    for i in range(20):
        face = [(3, 60 + 2 * i, 20, 180)] if i not in (4, 8) else []
        out.write(scene(*face, size=(240, 320))[..., ::-1].copy())
    out.release()
    return folder


@pytest.fixture
def place(material, tmp_path, monkeypatch):
    shutil.copytree(material, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    monkeypatch.setattr(detect, "SHIPPED", ())
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FACES_FACE_MODEL", raising=False)
    return tmp_path / "w"


def run(*args: str, stdin: bytes | None = None):
    result = CliRunner().invoke(
        Program(detect.main), [*args, "--offline"] if args[0] != "export" else args, input=stdin
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_verdict_for_each_face_and_none_for_a_wall(place):
    result = run("photos", "--model", "aligned.safetensors", "--jsonl")
    assert result.exit_code in (0, 1)
    rows = lines(result.stdout)
    assert [(Path(r["file"]).name, r["status"]) for r in rows] == [
        ("a-one.png", "judged"),
        ("b-two.png", "judged"),
        ("b-two.png", "judged"),
        ("c-portrait.png", "judged"),
        ("d-wall.png", "no face"),
    ]
    assert [(r["face"]["index"], r["face"]["of"], r["face"]["seen_as"]) for r in rows[:4]] == [
        (1, 1, "box"),
        (1, 2, "box"),
        (2, 2, "box"),
        (1, 1, "crop"),
    ]
    assert rows[1]["face"]["box"][0] > 400 > rows[2]["face"]["box"][2], "the biggest first"
    assert "verdict" not in rows[4] and "probability" not in rows[4] and "error" not in rows[4]
    assert "1 without a face" in result.stderr and "faces found by haar (the face detector YuNet" in result.stderr
    # the portrait is judged as it is: the same score as without a face step
    (whole,) = lines(run("photos/c-portrait.png", "--model", "whole.safetensors", "--jsonl").stdout)
    assert whole["logit"] == pytest.approx(rows[3]["logit"], abs=1e-6) and "face" not in whole


def test_the_detector_says_whether_faces_are_looked_for_and_the_user_decides(place):
    wall = ("photos/d-wall.png", "--jsonl", "--model")
    assert lines(run(*wall, "whole.safetensors").stdout)[0]["status"] == "judged"
    assert lines(run(*wall, "aligned.safetensors", "--face", "whole").stdout)[0]["status"] == "judged"
    assert run(*wall, "aligned.safetensors").exit_code == 0
    required = run(*wall, "whole.safetensors", "--face", "required")
    assert lines(required.stdout)[0]["status"] == "no face" and required.exit_code == 2
    shown = run("photos/d-wall.png", "--model", "aligned.safetensors").stdout
    assert shown.splitlines()[1].startswith("no face found ") and "d-wall.png" in shown


def test_an_alarm_outweighs_a_missing_face(place):
    assert run("photos", "--model", "accuses.safetensors", "--face", "required").exit_code == 1


def test_the_table_shows_where_each_face_is(place):
    _, photo, *rows = run("photos/b-two.png", "--model", "accuses.safetensors").stdout.splitlines()
    assert photo.startswith("2 of 2 faces look generated ") and photo.endswith("  photos/b-two.png")
    assert all(row.startswith("  looks generated ") and "cut out by its box only" in row for row in rows[:2])
    assert rows[2].endswith("0 without a face (each face counted; 1 file)")
    assert {re.search(r"face (\d) at \d+,\d+ \(\d+x\d+\)", row)[1] for row in rows[:2]} == {"1", "2"}


def test_json_tells_the_same_as_the_lines_and_more(place):
    document = json.loads(run("photos", "--model", "aligned.safetensors", "--json").stdout)
    rows = lines(run("photos", "--model", "aligned.safetensors", "--jsonl").stdout)
    for a, b in zip(document["results"], rows, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
    assert document["runtime"] == "torch" and document["faces"]["finder"] == "haar" and document["faces"]["fallback"]
    summary = document["summary"]
    assert (summary["no_face"], summary["files"], summary["interrupted"]) == (1, 4, False)
    assert summary["real"] + summary["fake"] + summary["unsure"] == 4
    assert set(summary["stage_seconds"]) == {"read", "face", "network"} and summary["stage_seconds"]["face"] > 0


def test_csv_has_a_line_for_each_face_and_replaces_nothing(place):
    name = 'photos/odd, "name"\n.png'
    shutil.copy("photos/c-portrait.png", name)
    result = run("photos", "--model", "aligned.safetensors", "--csv", "out.csv")
    assert result.stdout.startswith("answer "), "the table is shown as well"
    with open("out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [r["status"] for r in rows] == ["judged"] * 4 + ["no face", "judged"] and rows[5]["file"] == name
    assert rows[2]["face"] == "2" and float(rows[1]["x0"]) > 400 and rows[4]["verdict"] == ""
    again = run("photos", "--model", "aligned.safetensors", "--csv", "out.csv")
    assert again.exit_code == 2 and "will not be overwritten" in again.stderr
    piped = run("photos", "missing.png", "--model", "aligned.safetensors", "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(piped.stdout)))
    assert len(rows) == 7 and rows[6]["error"] == "no such file" and rows[6]["status"] == "unreadable"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
def test_paths_come_from_stdin(place, end):
    names = [b"photos/c-portrait.png", b"photos", b"none.png"]
    result = run("-", "--model", "whole.safetensors", "--jsonl", stdin=end.join(names) + end)
    assert [Path(r["file"]).name[0] for r in lines(result.stdout)] == ["c", "a", "b", "c", "d", "n"]
    assert run("-", "photos", "--model", "whole.safetensors", stdin=b"").exit_code == 2


def test_patterns_are_sorted_and_names_come_first(place):
    shutil.copy("photos/c-portrait.png", "a[1].png")
    (place / "photos" / "notes.txt").write_text("no photo")

    def names(*args: str) -> list[str]:
        out = run(*args, "--model", "whole.safetensors", "--jsonl").stdout
        return [Path(row["file"]).name for row in lines(out)]

    assert names("photos/[bc]*.png") == ["b-two.png", "c-portrait.png"]
    assert names("a[1].png") == ["a[1].png"], "a file's own name is no pattern"
    assert names("**/*.png") == ["a[1].png", "a-one.png", "b-two.png", "c-portrait.png", "d-wall.png"]
    assert names("photos/*") == ["a-one.png", "b-two.png", "c-portrait.png", "d-wall.png"]
    missing = run("photos/*.tiff", "--model", "whole.safetensors")
    assert missing.exit_code == 2 and "no image is called like this" in missing.stderr


def test_a_threshold_of_ones_own_claims_no_false_alarm_rate(place):
    rows = lines(run("photos", "--model", "whole.safetensors", "--jsonl").stdout)
    middle = float(np.median([r["probability"] for r in rows]))
    result = run("photos", "--model", "whole.safetensors", "--jsonl", "--threshold", str(middle))
    for before, now in zip(rows, lines(result.stdout), strict=True):
        assert now["probability"] == before["probability"] and now["threshold"] == middle
        assert now["false_alarm_rate"] is None
        assert (now["verdict"] == "FAKE") == (now["probability"] >= middle)
    assert "was given: its false alarms were not measured" in result.stderr
    assert "not measured" in run("photos", "--model", "whole.safetensors", "--threshold", "0.5").stdout
    for args, word in (
        (("--threshold", "1.5"), "from 0 to 1"),
        (("--threshold", "0.5", "--fpr", "0.01"), "one of them"),
    ):
        wrong = run("photos", "--model", "whole.safetensors", *args)
        assert wrong.exit_code == 2 and word in wrong.stderr and wrong.stderr.count("\n") == 1


def test_what_is_known_of_an_own_threshold():
    calibration = make_calibration()
    low, mid, high = sorted(calibration.points, key=lambda p: p.threshold)
    between = Threshold.of(calibration, threshold=(mid.threshold + high.threshold) / 2)
    assert between.between == (high.fpr, mid.fpr) and between.fpr is None
    lowest, highest = (Threshold.of(calibration, threshold=x) for x in (0.0, 1.0))
    assert lowest.between[1] == 1 and highest.between[0] == 0
    assert lowest.point.unsure_low == 0, "nothing is UNSURE above the threshold"


def test_a_video_is_judged_by_its_frames(place):
    result = run(
        "clip.avi", "--model", "aligned.safetensors", "--jsonl", "--every", "0.5", "--frames-csv", "frames.csv"
    )
    (row,) = lines(result.stdout)
    with open("frames.csv", newline="") as file:
        frames = list(csv.DictReader(file))
    assert [int(f["frame"]) for f in frames] == list(range(0, 20, 2))
    seen = [f for f in frames if f["used"] == "1"]
    assert [f["frame"] for f in frames if f["verdict"] == "NO FACE"] == ["4", "8"]
    assert (row["video"]["frames"], row["video"]["frames_with_face"]) == (10, len(seen)) == (10, 8)
    logits = sorted(float(f["logit"]) for f in seen)
    assert row["logit"] == pytest.approx(np.mean(logits[1:-1]), abs=1e-5)  # a fifth of 8 frames is one at each end
    assert row["probability"] == pytest.approx(float(make_calibration().probability(np.array(row["logit"]))), abs=1e-6)
    assert "8 of 10 frames" in row["note"] and "measured on photos" in row["note"]


def test_too_few_frames_are_unsure_and_none_is_no_face(place):
    (row,) = lines(run("clip.avi", "--model", "accuses.safetensors", "--jsonl", "--every", "2").stdout)
    assert row["verdict"] == "UNSURE" and "at least 5 frames" in row["note"] and row["video"]["fake_frames"] == 2
    (row,) = lines(run("clip.avi", "--model", "accuses.safetensors", "--jsonl").stdout)
    assert row["verdict"] == "FAKE" and row["video"]["frames"] >= 16, "a short video is sampled more often by itself"
    (place / "broken.mp4").write_bytes(b"\0" * 5000)
    broken = run(".", "--model", "accuses.safetensors", "--jsonl", "--every", "2")
    rows = {Path(r["file"]).name: r["status"] for r in lines(broken.stdout)}
    assert rows["broken.mp4"] == "unreadable" and rows["clip.avi"] == "judged", "folders are searched for videos, too"


def test_trimmed_means():
    assert trimmed_mean(np.array([3.0])) == 3 and trimmed_mean(np.array([1.0, 2.0, 9.0, 4.0])) == 4
    assert trimmed_mean(np.array([-1000.0, 1, 2, 3, 1000])) == 2
    assert trimmed_mean(np.arange(10.0)) == 4.5


@pytest.mark.parametrize("branches", [("spatial", "artefact"), ("spatial",)])
def test_explanations_show_every_face_and_need_no_patch_map(place, branches):
    net = make_net(branches=branches)
    Detector(net, Preprocess(32), make_calibration(), {"face": "ffhq"}).save("d.safetensors")
    assert run("photos/b-two.png", "--model", "d.safetensors", "--explain", "out.png").exit_code in (0, 1)
    with Image.open("out.png") as picture:
        two, pixels = picture.size, np.asarray(picture)
    assert run("photos/a-one.png", "--model", "d.safetensors", "--explain", "one.png").exit_code in (0, 1)
    with Image.open("one.png") as picture:
        assert two[1] == 2 * picture.height
    # photo and Grad-CAM, and between them the patch map where there is one
    # the photo, the same with the first map laid back, Grad-CAM, and the patch map where there is one
    assert two[0] == (3 + (len(branches) == 2)) * (336 + 16) + 16
    assert pixels.std() > 10
    assert run("photos", "clip.avi", "--model", "d.safetensors", "--every", "1", "--explain", "why").exit_code in (0, 1)
    assert len(list((place / "why").iterdir())) == 4, "there is nothing to show of a wall"


def test_scores_do_not_depend_on_batch_workers_or_runtime_options(place):
    detector = Detector.load("whole.safetensors")
    files = sorted(str(p) for p in (place / "photos").iterdir())
    alone = [j.verdict.logit for j in judge_files(Judge(detector, batch=1), files, workers=1)]
    for batch, workers in ((2, 3), (32, 2)):
        some = list(judge_files(Judge(detector, batch=batch), files, workers=workers))
        assert [j.file for j in some] == files
        np.testing.assert_allclose([j.verdict.logit for j in some], alone, atol=1e-5)


def test_one_way_out_at_a_time(place):
    for args in (("--json", "--jsonl"), ("--jsonl", "--csv", "-")):
        result = run("photos", "--model", "whole.safetensors", *args)
        assert result.exit_code == 2 and "one of them" in result.stderr and result.stdout == ""


def test_a_file_called_export_can_be_judged(place):
    shutil.copy("photos/c-portrait.png", "export")
    assert run("./export", "--model", "whole.safetensors").exit_code in (0, 1)
    result = run("export")
    assert result.exit_code == 2 and "./export" in result.stderr
    (place / "export").unlink()
    assert "no detector yet" in run("export").stderr
    assert "onnx" in run("export", "--help").stdout


def test_ctrl_c_keeps_what_was_printed(place):
    """A stream that never ends: the lines judged so far are there, then it says so and exits 130."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "detect.py"), "-", "--model", "whole.safetensors", "--jsonl", "--csv", "kept.csv"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    )
    process.stdin.write(b"photos/a-one.png\nphotos/c-portrait.png\n")
    process.stdin.flush()
    first = [json.loads(process.stdout.readline()) for _ in range(2)]  # a batch that is not full is judged all the same
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and out == b"" and err.decode().splitlines()[-1] == "interrupted"
    assert [row["status"] for row in first] == ["judged"] * 2
    with open("kept.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2


def test_names_that_are_not_utf8_go_out_as_they_came_in(place):
    name = os.fsdecode(b"photos/\xff\xfe.png")
    try:
        shutil.copy("photos/c-portrait.png", name)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    piped = run("-", "--model", "whole.safetensors", "--csv", "-", stdin=os.fsencode(name))
    assert piped.stdout_bytes.splitlines()[1].startswith(b"photos/\xff\xfe.png,judged,")
    (row,) = lines(run(name, "--model", "whole.safetensors", "--jsonl").stdout)
    assert os.fsencode(row["file"]) == b"photos/\xff\xfe.png"


def test_no_paths_on_stdin_is_nothing_done(place):
    result = run("-", "--model", "whole.safetensors", stdin=b"\n")
    assert result.exit_code == 2 and "no paths came on stdin" in result.stderr


def test_the_shipped_detector_serves_where_there_is_no_other(tmp_path, monkeypatch):
    """And its ONNX file is of the same network."""
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(photo)
    documents = []
    for runtime in ("torch", "onnx"):
        result = run(str(photo), "--face", "whole", "--json", "--runtime", runtime)
        documents.append(json.loads(result.stdout))
    first, second = (d["results"][0]["probability"] for d in documents)
    assert abs(first - second) < 1e-4
    assert documents[0]["detector"]["sha256"] in (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")
