"""`detect.py` on videos as people have them: each case with the verdict that its plain twin has."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import detect
from tests.faces.video_files import write
from tests.program import Program

SHARED = os.environ.get("FACES_SHARED", "")
CASES = Path(SHARED) / "cases" / "video"
YUNET = Path(SHARED) / "weights" / "face_detection_yunet_2023mar.onnx"
pytestmark = pytest.mark.skipif(not SHARED or not CASES.is_dir(), reason="needs FACES_SHARED with cases/video")


def judged(*paths, code: int | None = None) -> list[dict]:
    asked = [*map(str, paths), "--jsonl", "--face-model", str(YUNET), "--offline"]
    result = CliRunner().invoke(Program(detect.main), asked)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert code is None or result.exit_code == code
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    return {Path(row["file"]).name: row for row in judged(*sorted(CASES.iterdir()))}


@pytest.mark.parametrize("name", ["fake_progressive.mp4", "fake_interlaced.mp4", "0_sar169.mp4", "mediarecorder.webm"])
def test_a_fake_is_one_however_it_is_stored(rows, name):
    row = rows[name]
    assert row["verdict"] == "FAKE" and row["probability"] > 0.98
    assert row["video"]["fake_frames"] == row["video"]["frames"] >= 10 and row["video"]["whole"]


def test_interlaced_gives_the_same_score_each_time(rows):
    again = [*judged(CASES / "fake_interlaced.mp4"), *judged(CASES / "fake_interlaced.mp4")]
    assert {row["logit"] for row in again} == {rows["fake_interlaced.mp4"]["logit"]}
    assert abs(rows["fake_interlaced.mp4"]["logit"] - rows["fake_progressive.mp4"]["logit"]) < 0.5


def test_mirrored_is_not_upside_down(rows):
    assert rows["0_hflip.mp4"]["verdict"] == "FAKE" and rows["0_hflip.mp4"]["video"]["fake_frames"] == 10


def test_without_a_duration_there_are_as_many_frames(rows):
    video = rows["mediarecorder.webm"]["video"]
    assert video["frames"] >= 16 and video["seconds"] == pytest.approx(3, abs=0.1)


def test_a_variable_rate_does_not_end_early(rows):
    row = rows["vfrface.mkv"]
    assert row["video"]["whole"] and "ends early" not in row["note"] and not row["video"]["remarks"]
    assert row["video"]["frames_with_face"] == 16


def test_an_animation_is_more_than_its_first_frame(rows):
    row = rows["blackfirst.gif"]
    assert row["status"] == "judged" and row["video"]["frames"] == 16 > row["video"]["frames_with_face"] == 12
    (row,) = judged(CASES.parent / "images" / "anim_black_first.webp")
    assert row["video"]["frames"] == 2, "all of its frames were looked at"


def test_names_that_say_something_else(tmp_path):
    (tmp_path / "clip.jpg").write_bytes((CASES / "fake_progressive.mp4").read_bytes())
    Image.fromarray(np.full((200, 300, 3), 99, np.uint8)).save(tmp_path / "wall.mp4", "PNG")
    cut = (CASES / "fake_progressive.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "text.mp4").write_text("hello")
    rows = {Path(row["file"]).name: row for row in judged(tmp_path, code=1)}
    assert rows["clip.jpg"]["verdict"] == "FAKE" and rows["clip.jpg"]["video"]["frames"] == 10
    assert rows["wall.mp4"]["status"] == "no face" and "video" not in rows["wall.mp4"]
    assert rows["cut.mp4"]["status"] == rows["text.mp4"]["status"] == "unreadable"
    assert "cut short" in rows["cut.mp4"]["error"] and "not a video" in rows["text.mp4"]["error"]
    judged(tmp_path / "text.mp4", code=2)


def test_what_was_looked_at_is_said_where_no_face_was_found(tmp_path):
    """Before: «no face found» of a file of which half was not there."""
    whole = Path(write(tmp_path / "a.mkv", 40)).read_bytes()
    (tmp_path / "a.mkv").write_bytes(whole[: len(whole) // 2])
    (row,) = judged(tmp_path / "a.mkv")
    assert row["status"] == "no face" and row["note"] == f"in {row['video']['frames']} frames; the file ends early"
