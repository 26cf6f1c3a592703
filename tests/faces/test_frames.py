"""Crops of videos: which frames, whose label, and that no video is in two splits."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from faces.footage import open_footage
from faces.frames import JOURNAL, MANIFEST, make_frames
from faces.prepare_options import Framing, Normalisation
from faces.source import open_source
from tests.faces import video_files

PLAIN = Normalisation(resolution=32, format="png")  # without alignment every frame is cut in the middle


def write(path: Path, frames: int = 25, seed: int = 0, side: int = 48) -> None:
    """Frame i is a flat grey of 20 + 9 i, so a crop tells which frame it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (side, side))
    if not out.isOpened():
        pytest.skip("this OpenCV writes no MJPG")
    for i in range(frames):
        out.write(np.full((side, side, 3), (20 + 9 * i) % 256, np.uint8))
    out.release()


def rows(dest: Path) -> list[dict[str, str]]:
    with open(dest / MANIFEST, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def dealt(root: Path, **how) -> dict[str, str]:
    footage = open_footage(Framing(str(root), "out", **how), 0)
    return {
        os.path.relpath(path, root).replace(os.sep, "/"): split for path, split in zip(footage.paths, footage.splits)
    }


def test_every_nth_frame_of_every_video(tmp_path):
    for name in ("real/a.avi", "real/b.avi", "fake/a.avi", "fake/test.avi"):
        write(tmp_path / "videos" / name)
    framed = make_frames(Framing(str(tmp_path / "videos"), str(tmp_path / "out"), every=10), PLAIN, None)
    table = rows(tmp_path / "out")
    assert len(table) == 12 and sum(framed.crops.values()) == 12 and sum(framed.videos.values()) == 4
    for row in table:
        pixels = np.asarray(Image.open(tmp_path / "out" / row["path"]))
        assert pixels.shape == (32, 32, 3) and abs(int(np.median(pixels)) - (20 + 9 * int(row["frame"]))) <= 4
        assert float(row["seconds"]) == pytest.approx(int(row["frame"]) / 10)
        assert (
            row["label"] == str(int("/fake/" in row["path"]))
            and f"/{('real', 'fake')[int(row['label'])]}/" in row["video"]
        )
    assert {int(row["frame"]) for row in table} == {0, 10, 20}
    by_folder, by_list = open_source(tmp_path / "out"), open_source(tmp_path / "out" / MANIFEST)
    assert sorted(map(tuple, by_folder.items)) == sorted(map(tuple, by_list.items))  # a video's name tells nothing


def test_a_long_video_gives_no_more_than_asked_and_from_all_of_it(tmp_path):
    write(tmp_path / "videos/real/long.avi", frames=100, side=32)
    make_frames(Framing(str(tmp_path / "videos"), str(tmp_path / "out"), every=2, most=5), PLAIN, None)
    assert [int(row["frame"]) for row in rows(tmp_path / "out")] == [0, 20, 40, 60, 80]


def test_no_video_is_in_two_splits(tmp_path):
    """A property over many videos: one split each, all splits met, in about the shares asked for."""
    root = touch(tmp_path, *(f"{label}/{i}.mp4" for label in ("real", "fake") for i in range(60)))
    splits = dealt(root)
    assert len(splits) == 120
    for label in ("real", "fake"):
        own = [split for path, split in splits.items() if path.startswith(label)]
        assert [own.count(s) for s in ("train", "valid", "test")] == [48, 6, 6]
    assert dealt(root) == splits


def test_a_swap_and_its_original_stay_together(tmp_path):
    pairs = [(f"{i:03d}", f"{i + 1:03d}") for i in range(0, 40, 2)]
    names = [f"original/{x}.mp4" for pair in pairs for x in pair]
    names += [f"{m}/{a}_{b}.mp4" for m in ("Deepfakes", "FaceSwap") for p in pairs for a, b in (p, p[::-1])]
    splits = dealt(touch(tmp_path, *names), ratios="60/20/20")
    assert {s: list(splits.values()).count(s) for s in ("train", "valid", "test")} == {
        "train": 72,
        "valid": 24,
        "test": 24,
    }
    for a, b in pairs:
        assert len({split for path, split in splits.items() if a in path or b in path}) == 1


def test_prefixed_pairs_are_known_too(tmp_path):
    root = touch(
        tmp_path, *(f"real_{i:03d}.mp4" for i in range(8)), *(f"fake_{i:03d}_{i + 4:03d}.mp4" for i in range(4))
    )
    footage = open_footage(Framing(str(root), "out"), 0)
    assert footage.labels.sum() == 4 and len(set(footage.groups.tolist())) == 4


def test_one_person_is_in_one_split(tmp_path):
    names = [f"{label}/id{p}_{k}.mp4" for p in range(10) for k in range(3) for label in ("real", "fake")]
    splits = dealt(touch(tmp_path, *names), identity=r"(id\d+)_", ratios="50/25/25")
    for p in range(10):
        assert len({split for path, split in splits.items() if f"id{p}_" in path}) == 1
    assert set(splits.values()) == {"train", "valid", "test"}


def test_metadata_of_dfdc_labels_videos(tmp_path):
    entries = {}
    for i in range(10):
        entries[f"r{i}.mp4"] = {"label": "REAL", "split": "train"}
        entries[f"f{i}.mp4"] = {"label": "FAKE", "split": "train", "original": f"r{i}.mp4"}
    root = touch(tmp_path, *(f"part_0/{name}" for name in entries), "part_0/stranger.mp4")
    (root / "part_0/metadata.json").write_text(json.dumps(entries))
    footage = open_footage(Framing(str(root), "out", ratios="50/30/20"), 0)
    labels = {Path(path).name: int(label) for path, label in zip(footage.paths, footage.labels)}
    assert labels == {name: int(name[0] == "f") for name in entries}
    assert "1 video that no metadata.json names" in footage.notes[0]
    splits = {Path(path).stem: split for path, split in zip(footage.paths, footage.splits)}
    assert all(splits[f"f{i}"] == splits[f"r{i}"] for i in range(10)) and len(set(splits.values())) == 3


def test_splits_of_the_videos_are_kept(tmp_path):
    root = touch(
        tmp_path,
        *(f"{s}/{label}/{s}{i}.mp4" for s in ("train", "test") for label in ("real", "fake") for i in range(3)),
    )
    assert all(path.startswith(split) for path, split in dealt(root).items())


def test_videos_without_a_known_label_are_asked_about(tmp_path):
    root = touch(tmp_path, "kitchen/a.mp4", "garden/b.mp4")
    with pytest.raises(UserError, match="garden and kitchen; say `labels`"):
        dealt(root)
    assert len(dealt(root, labels="real=kitchen,fake=garden")) == 2
    (tmp_path / "list.txt").write_text("kitchen/a.mp4 real\ngarden/b.mp4 fake\n")
    footage = open_footage(Framing(str(tmp_path / "list.txt"), "out"), 0)
    assert footage.labels.tolist() == [0, 1] and footage.paths[0] == os.path.join(str(tmp_path), "kitchen/a.mp4")


def test_bad_videos_are_named_and_hold_nobody_up(tmp_path):
    write(tmp_path / "videos/real/a.avi")
    (tmp_path / "videos/fake").mkdir()
    (tmp_path / "videos/fake/broken.mp4").write_bytes(b"not a video")
    framed = make_frames(Framing(str(tmp_path / "videos"), str(tmp_path / "out")), PLAIN, None)
    assert any("no real videos in valid" in note for note in framed.notes)
    assert any("all videos are real" in note for note in framed.notes)
    assert [Path(name).name for name, _ in framed.skipped] == ["broken.mp4"] and sum(framed.videos.values()) == 1
    for spec, told in (
        ("videos/fake", "the only video gives no face: "),
        ("nowhere", "no such folder"),
        ("out", "no videos"),
    ):
        with pytest.raises(UserError, match=told):
            make_frames(Framing(str(tmp_path / spec), str(tmp_path / "new")), PLAIN, None)


def test_an_interrupted_call_makes_what_is_missing(tmp_path):
    for name in ("real/a.avi", "fake/b.avi"):
        write(tmp_path / "videos" / name)
    asked = Framing(str(tmp_path / "videos"), str(tmp_path / "out"))
    make_frames(asked, PLAIN, None)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "out").rglob("*.png")}
    lost, kept = sorted(before, key=lambda p: "real" in str(p))[0], sorted(before, key=lambda p: "real" in str(p))[-1]
    lost.unlink()
    with open(tmp_path / "out" / JOURNAL, "a") as journal:
        journal.write('{"path": "half')
    make_frames(asked, PLAIN, None)
    assert {p: p.read_bytes() for p in before} == {p: data for p, (data, _) in before.items()}
    assert kept.stat().st_mtime_ns == before[kept][1]
    with pytest.raises(UserError, match="was begun with every 10, not 5"):
        make_frames(Framing(str(tmp_path / "videos"), str(tmp_path / "out"), every=5), PLAIN, None)
    write(tmp_path / "videos/real/new.avi")
    with pytest.raises(UserError, match="begun with other videos"):
        make_frames(asked, PLAIN, None)
    with pytest.raises(UserError, match="not a folder that frames made"):
        make_frames(Framing(str(tmp_path / "videos"), str(tmp_path)), PLAIN, None)


@pytest.mark.parametrize("form", ["gif", "png", "webp", "avif"])
def test_animations_are_videos_and_pictures_are_not(tmp_path, form):
    (tmp_path / "videos/real").mkdir(parents=True)
    stills = [Image.new("RGB", (48, 48), (20 + 9 * i,) * 3) for i in range(12)]
    stills[0].save(tmp_path / f"videos/real/a.{form}", save_all=True, append_images=stills[1:], duration=100)
    stills[0].save(tmp_path / "videos/real/poster.png")
    framed = make_frames(Framing(str(tmp_path / "videos"), str(tmp_path / "out"), every=5), PLAIN, None)
    assert [int(row["frame"]) for row in rows(tmp_path / "out")] == [0, 5, 10] and sum(framed.videos.values()) == 1


def test_a_video_without_a_face_says_what_of_it_was_not_looked_at(tmp_path):
    class Blind:
        name = "blind"

        def find(self, image):
            return []

    (tmp_path / "videos/fake").mkdir(parents=True)
    path = Path(video_files.write(tmp_path / "videos/fake/b.mkv", 40))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    recipe = Normalisation(resolution=32, format="png", align="ffhq")
    asked = Framing(str(tmp_path / "videos"), str(tmp_path / "out"), every=2)
    with pytest.raises(UserError, match=r"b\.mkv: no usable face in \d+ frames; the file ends early"):
        make_frames(asked, recipe, Blind())
