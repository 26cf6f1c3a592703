"""Planted leaks are caught by their gate, and nothing is found where nothing was planted. Faces are procedural."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faces.audit.crossval import Auc
from faces.audit.gates import ALIGN, EVEN, SPLIT, Gate, judge
from faces.audit.leak_gates import LeakFound, cheap_gates, header_warning, run_gates
from faces.audit.repairs import Made, with_repairs
from faces.filters import jpeg, resize
from faces.finding.align import FaceFinder
from faces.finding.face import Face
from faces.normalise import normalise
from faces.prepare_options import GateOptions, Normalisation
from faces.procedural.portrait import render_face
from faces.source import open_source

COUNT = 200


@pytest.fixture(scope="module")
def faces():
    return [render_face(seed, 128) for seed in range(COUNT)]


def png(image):
    return encoded(image, "PNG")


def encoded(image, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


def build(root: Path, images, encode, *, split=None):
    """Every second image is called fake; `encode(image, label)` gives a file's bytes."""
    for i, image in enumerate(images):
        label = i % 2
        data = encode(image, label)
        ending = "png" if data.startswith(b"\x89PNG") else "jpg"
        file = root / (split(i) if split else "") / ("real", "fake")[label] / f"{i:04d}.{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return open_source(root)


def gate(result, name):
    return next(each for each in result.gates if each.name == name)


def only(result, *names):
    assert [each.name for each in result.failed] == list(names), [(g.name, g.verdict, g.detail) for g in result.gates]


def test_png_against_jpeg(faces, tmp_path):
    source = build(tmp_path, faces[:60], lambda im, y: png(im) if y else encoded(im, "JPEG", quality=95))
    result = cheap_gates(source, spec="my faces/")
    only(result, "metadata")
    found = gate(result, "metadata")
    assert found.auc.auc == 1 and found.detail == "format JPEG: 100 % of the reals, 0 % of the fakes"
    assert found.repair == "python prepare_data.py normalise 'my faces/' 'my faces_even'"
    with pytest.raises(LeakFound, match="metadata") as caught:
        result.check()
    assert "\n" not in str(caught.value) and caught.value.result is result
    assert "metadata (AUC 1.00, format JPEG: 100 % of the reals, 0 % of the fakes)" in header_warning(source)
    assert header_warning(source.select(label=0)) == "" == header_warning(source.select([]))


def test_quality_75_against_95(faces, tmp_path):
    source = build(tmp_path, faces[:60], lambda im, y: encoded(im, "JPEG", quality=75 if y else 95))
    only(cheap_gates(source), "metadata")


def test_quality_75_against_95_hidden_in_png(faces, tmp_path):
    result = run_gates(build(tmp_path, faces[:100], lambda im, y: png(jpeg(im, 75 if y else 95))))
    assert gate(result, "blockiness").verdict == "fail" and gate(result, "metadata").passed


def test_256_against_255_pixels(faces, tmp_path):
    source = build(tmp_path, faces[:60], lambda im, y: png(resize(im, 256 - y, 256 - y, "bicubic")))
    result = cheap_gates(source)
    only(result, "metadata", "size")
    assert "255x255: 0 % of the reals, 100 % of the fakes" in gate(result, "size").detail


def test_lanczos_against_bilinear(faces, tmp_path):
    kernels = ("lanczos", "bilinear")
    result = run_gates(build(tmp_path, faces[:100], lambda im, y: png(resize(im, 64, 64, kernels[y]))))
    assert gate(result, "spectrum").verdict == "fail"
    assert gate(result, "size").passed and gate(result, "colour").verdict != "fail"


def test_one_class_brighter(faces, tmp_path):
    def brighter(image, label):
        return png(np.clip(image.astype(int) + 30 * label, 0, 255).astype(np.uint8))

    found = gate(run_gates(build(tmp_path, faces[:160], brighter)), "colour")
    assert found.verdict == "fail" and "mean R G B" in found.detail and not found.repair


def test_one_class_shifted(faces, tmp_path):
    """Faces 12 pixels higher: a thumbnail shows it, and so do landmarks where there is a model to find them."""
    result = run_gates(build(tmp_path, faces[:120], lambda im, y: png(np.roll(im, -12 * y, 0))))
    assert gate(result, "layout").verdict == "fail"
    assert gate(result, "landmarks").verdict == "skipped"


def test_landmarks(shared_dir, tmp_path):
    finder = FaceFinder.open(shared_dir / "weights" / "face_detection_yunet_2023mar.onnx")
    photos = open_source(shared_dir / "data" / "foreign_real_utkface", max_items=80)
    images = [photos.image(i) for i in range(len(photos))]

    def higher(image, label):
        return png(np.roll(image, -10 * label, 0))

    result = run_gates(build(tmp_path, images, higher), finder=finder)
    assert gate(result, "landmarks").verdict == "fail", gate(result, "landmarks")
    assert "yunet" in gate(result, "landmarks").detail
    assert (
        gate(
            run_gates(build(tmp_path / "b", images[:4], higher), finder=FaceFinder(None, "it was asked for")),
            "landmarks",
        ).auc
        is None
    )


def in_splits(i):
    return "train" if i < 40 else "test"


def test_a_copy_across_splits(faces, tmp_path):
    build(tmp_path, faces[:60], lambda im, y: png(im), split=in_splits)
    copied = tmp_path / "test" / "real" / "copy.png"
    copied.write_bytes((tmp_path / "train" / "real" / "0004.png").read_bytes())
    result = cheap_gates(open_source(tmp_path), spec="faces.zip")
    only(result, "copies across splits")
    found = gate(result, "copies across splits")
    assert found.count == 1 and sorted(found.examples[0]) == ["test/real/copy.png", "train/real/0004.png"]
    assert found.repair.endswith("split faces.zip --group-by near-duplicate --out faces.csv")


def test_a_mirrored_near_duplicate_across_splits(faces, tmp_path):
    build(tmp_path, faces[:60], lambda im, y: png(im), split=in_splits)
    mirrored = jpeg(np.ascontiguousarray(faces[4][:, ::-1]), 60)
    (tmp_path / "test" / "real" / "mirrored.jpg").write_bytes(encoded(mirrored, "JPEG", quality=70))
    result = run_gates(open_source(tmp_path), GateOptions(limit=4))
    assert gate(result, "copies across splits").passed
    found = gate(result, "near duplicates across splits")
    assert found.count == 1 and sorted(found.examples[0]) == ["test/real/mirrored.jpg", "train/real/0004.png"]


def test_one_image_with_both_labels_and_sets_that_overlap(faces, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    build(first, faces[:40], lambda im, y: png(im))
    build(second, faces[100:140], lambda im, y: png(im))
    (first / "fake" / "liar.png").write_bytes((first / "real" / "0000.png").read_bytes())
    apart = run_gates(open_source(first), GateOptions(limit=4), against=[open_source(second)])
    assert gate(apart, "one image, both labels").count == 1 and gate(apart, "overlap with b").passed
    (second / "real" / "seen.png").write_bytes((first / "real" / "0002.png").read_bytes())
    (second / "real" / "resaved.jpg").write_bytes(encoded(faces[7], "JPEG", quality=50))
    found = gate(run_gates(open_source(first), GateOptions(limit=4), against=[open_source(second)]), "overlap with b")
    assert found.count == 2 and found.detail == "1 copy and 1 near duplicate"


def test_nothing_planted_nothing_found(faces, tmp_path):
    result = run_gates(build(tmp_path, faces, lambda im, y: encoded(im, "JPEG", quality=85)))
    only(result)
    assert gate(result, "metadata").auc.constant and gate(result, "size").passed
    control = gate(result, "control").auc
    assert control.low < 0.5 < control.high
    assert result.looked_at == COUNT and not result.bad
    assert result.check() is result


@pytest.mark.slow
def test_nothing_planted_passes_with_enough_images(tmp_path):
    images = (render_face(seed, 64) for seed in range(1200))
    result = run_gates(build(tmp_path, images, lambda im, y: encoded(im, "JPEG", quality=85)))
    assert {each.verdict for each in result.gates} <= {"pass", "skipped"}, [(g.name, g.auc) for g in result.gates]


def test_the_limit_draws_evenly_and_says_so(faces, tmp_path):
    build(tmp_path, faces[:80], lambda im, y: png(im))
    for file in sorted((tmp_path / "fake").iterdir())[10:]:
        file.unlink()
    result = cheap_gates(open_source(tmp_path))
    assert (result.real, result.fake, result.looked_at) == (40, 10, 50)
    few = run_gates(open_source(tmp_path), GateOptions(quick=True, limit=24))
    assert few.looked_at == 24 and any("24 of 50" in note for note in few.notes)


def test_one_class_and_broken_files(faces, tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.png").write_bytes(png(faces[i]))
    (folder / "broken.jpg").write_bytes(encoded(faces[5], "JPEG")[:700])
    result = run_gates(open_source(folder))
    assert not result.failed and gate(result, "spectrum").verdict == "skipped"
    assert [name for name, _ in result.bad] == ["broken.jpg"]


def test_a_class_with_folders_of_its_own_is_told(faces, tmp_path):
    for i in range(8):
        file = tmp_path / ("ffhq/real", "stylegan/fake")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(faces[i]))
    (note,) = cheap_gates(open_source(tmp_path)).notes
    assert "real: ffhq; fake: stylegan" in note


@pytest.mark.parametrize(
    ("auc", "low", "high", "beats", "verdict"),
    [
        (0.50, 0.47, 0.53, False, "pass"),
        (0.549, 0.52, 0.58, True, "pass"),
        (0.551, 0.52, 0.58, True, "fail"),
        (0.56, 0.48, 0.64, False, "unclear"),
        (0.52, 0.42, 0.62, False, "unclear"),
        (0.30, 0.20, 0.40, False, "pass"),
        (float("nan"), float("nan"), float("nan"), False, "unclear"),
    ],
)
def test_the_rule(auc, low, high, beats, verdict):
    assert judge(Auc(auc, low, high, 100, 100, beats_chance=beats)) == verdict


# ---- what repairs it, and what is left after that --------------------------------------------------------------------


def normalised(folder, call=None, **how):
    """Six faces, the fakes smaller and PNG, taken through normalise into `folder`."""
    for i in range(12):
        file = folder.parent / "my" / ("real", "fake")[i % 2] / f"{i}.{('jpg', 'png')[i % 2]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render_face(i, (120, 60)[i % 2])).save(file)
    call = {"source": str(folder.parent / "my"), "labels": "real=a b,fake=c"} if call is None else call
    normalise(open_source(folder.parent / "my"), folder, Normalisation(64, **how), AllOfIt(), call=call)
    return open_source(folder)


class AllOfIt:
    """Finds a face that fills the picture."""

    name = "of this test"

    def find(self, image):
        return [Face((0, 0, image.shape[1], image.shape[0]), None, 1.0)]


def failed(**kinds):
    """Gates that fail, by name, with the kinds of their repairs."""
    return [Gate(name.replace("_", " "), "fail", "", "pixels", "it means", kind) for name, kind in kinds.items()]


def repaired(gates, spec, source=None, **call):
    made = None if source is None else Made.of(source)
    return {gate.name: gate.repair or gate.meaning for gate in with_repairs(gates, spec, made, call)}


ALL = {"metadata": EVEN, "spectrum": EVEN, "landmarks": ALIGN, "colour": "", "copies_across_splits": SPLIT}


def test_one_command_repairs_the_files_and_the_splits_are_of_what_it_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = repaired(failed(**ALL), "my faces.zip")
    even = "python prepare_data.py normalise 'my faces.zip' 'my faces_even' --align ffhq"
    assert {told[name] for name in ("metadata", "spectrum", "landmarks")} == {even} and told["colour"] == "it means"
    splits = "python prepare_data.py split 'my faces_even' --group-by near-duplicate --out 'my faces_even.csv'"
    assert told["copies across splits"] == splits
    assert repaired(failed(size=EVEN), "faces/")["size"] == "python prepare_data.py normalise faces/ faces_even"
    (tmp_path / "faces_even").mkdir()  # what is there already is no place for another recipe
    assert repaired(failed(size=EVEN), "faces/")["size"].endswith(" faces/ faces_even2")
    assert repaired(failed(copies_across_splits=SPLIT), "a.csv")["copies across splits"].endswith("--out a_split.csv")


def test_a_repair_keeps_what_the_source_was_named_with(tmp_path, monkeypatch):
    """Without the labels the command would refuse the source, without --split it would take more than was looked at."""
    monkeypatch.chdir(tmp_path)
    call = {"labels": "real=a b,fake=c", "split": "train", "data_root": "my sets"}
    told = repaired(failed(**ALL), "rvf10k", **call)
    more = "--labels 'real=a b,fake=c' --split train --data-root 'my sets'"
    assert told["metadata"] == f"python prepare_data.py normalise rvf10k rvf10k_even {more} --align ffhq"
    assert "--labels" not in told["copies across splits"], "what normalise writes has its labels in its folders' names"
    alone = repaired(failed(copies_across_splits=SPLIT), "rvf10k", **call)["copies across splits"]
    assert "split rvf10k --labels 'real=a b,fake=c' --data-root 'my sets' --group-by" in alone


def test_of_a_normalised_folder_what_is_left_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = normalised(tmp_path / "my_even", quality=(80, 90))
    told = repaired(failed(**ALL), "my_even", source)
    again = "python prepare_data.py normalise my my_even2 --resolution 64 --quality 80-90 --labels 'real=a b,fake=c'"
    assert told["spectrum"] == told["landmarks"] == f"{again} --align ffhq"
    assert told["metadata"].startswith("it means. normalise wrote all files alike")
    # aligned: only the classes' sizes are left to be made even
    aligned = normalised(tmp_path / "my_even2", align="ffhq")
    told = repaired(failed(**ALL), "my_even2", aligned)
    assert "my my_even3 --resolution 64 --align ffhq" in told["spectrum"] and "--through 88" in told["spectrum"]
    assert told["landmarks"].startswith("it means. Normalising has been done")
    # and after that nothing
    last = normalised(tmp_path / "my_even3", align="ffhq", through=56)
    told = repaired(failed(**ALL), "my_even3", last)
    assert told["spectrum"].startswith("it means. Normalising has been done")
    assert told["copies across splits"].endswith("split my_even3 --group-by near-duplicate --out my_even3.csv")


def test_what_was_done_is_known_through_a_manifest_and_of_older_records(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    normalised(tmp_path / "my_even", call={})
    by_manifest = open_source(tmp_path / "my_even" / "manifest.csv")
    assert Made.of(by_manifest).describe() == "made by normalise: 64x64 pixels, JPEG of quality 75-95, not aligned"
    assert (
        "normalise ORIGINAL ORIGINAL_even --resolution 64 --align ffhq"
        in repaired(failed(layout=ALIGN), "my_even", by_manifest)["layout"]
    )
    result = run_gates(by_manifest, GateOptions(quick=True))
    assert result.notes[0].startswith("made by normalise")
    assert Made.of(open_source(tmp_path / "my")) is None
    (tmp_path / "my_even" / "normalise.json").write_text("[]")
    assert Made.of(by_manifest) is None
