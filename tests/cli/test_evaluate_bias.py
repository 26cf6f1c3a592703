"""`python evaluate.py detector --bias` of detectors that go by JPEG quality alone, and by the picture alone."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy import fft, stats

import evaluate
from discriminator.calibration import calibrate
from discriminator.detector_base import DetectorBase, Raw
from discriminator.engine import Engine
from faces import filters
from faces import source as sources
from faces.degrade import resaves
from faces.preprocess import Preprocess
from faces.scan import K1
from faces.stores import FolderStore
from tests.program import Program

SIDE = 32
STEPS = ((K1 * (200 - 2 * 96) + 50) // 100).reshape(8, 8)  # the luminance table of JPEG 96
JPEGS = ("jpeg-96-420", "jpeg-96-444")
KERNELS = tuple(name for name in resaves() if name not in JPEGS)


def saved_at_96(photo: np.ndarray) -> bool:
    """Whether the large coefficients of the 8 x 8 blocks lie on multiples of JPEG 96's steps."""
    luma = photo.astype(float) @ [0.299, 0.587, 0.114] - 128
    blocks = luma.reshape(SIDE // 8, 8, SIDE // 8, 8).transpose(0, 2, 1, 3)
    found = fft.dctn(blocks, axes=(2, 3), norm="ortho") / STEPS
    counts = (np.abs(found) > 0.75) & (STEPS >= 6)
    return bool(np.abs(found - np.rint(found))[counts].mean() < 0.12) if counts.sum() > 8 else False


def brighter_left(photo: np.ndarray) -> bool:
    return bool(photo[:, : SIDE // 2].mean() > photo[:, SIDE // 2 :].mean())


class StandIn(DetectorBase):
    """FAKE of what `sees` says yes to."""

    meta: dict = {}
    device = torch.device("cpu")
    preprocess = Preprocess(SIDE)
    calibration = calibrate(np.repeat([-4.0, 4.0], 400), np.repeat([0, 1], 400))

    def __init__(self, sees):
        self.sees, self.sha256 = sees, sees.__name__.ljust(64, "0")

    def raw(self, pixels):
        photos = np.rint((pixels + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
        return Raw(np.array([4.0 if self.sees(photo) else -4.0 for photo in photos]), None)


def write(folder, count: int, at_96: int, bright: int) -> None:
    """`count` noisy pictures, the first `at_96` as JPEG 96, the others as PNG; `bright` are brighter on the left."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(count)
    for i in range(count):
        photo = rng.normal(128, 25, (SIDE, SIDE))
        photo[:, : SIDE // 2] += 20 if i < bright else -20
        image = Image.fromarray(np.repeat(filters.to_uint8(photo)[..., None], 3, axis=2))
        image.save(folder / f"{i:03d}.jpg", quality=96) if i < at_96 else image.save(folder / f"{i:03d}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("bias")
    write(root / "ours/fake", 40, at_96=30, bright=30)
    write(root / "ours/real", 160, at_96=4, bright=2)
    write(root / "theirs/real", 150, at_96=0, bright=0)
    return root


def audited(monkeypatch, tmp_path, sees, *words):
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "stand-in"
    file.write_text(sees.__name__)
    monkeypatch.setattr("evaluation.detector_on_images.find_detector", lambda target, parameter: file)
    engine = Engine(StandIn(sees), "onnx", file, file)
    monkeypatch.setattr("evaluation.detector_on_images.open_engine", lambda found, device: engine)
    words = ["detector", "stand-in", *words, "--threshold", "0.5", "--json", tmp_path / "o.json"]
    done = CliRunner().invoke(Program(evaluate.main), [*map(str, words)])
    assert done.exit_code == 0, done.output + repr(done.exception)  # a measurement, whatever it finds
    return done.output, json.loads((tmp_path / "o.json").read_text())["bias"]


def test_a_detector_of_jpeg_quality_fails(monkeypatch, tmp_path, data):
    words = ("--data", data / "ours", "--data", data / "theirs", "--report", tmp_path / "o.html")
    out, found = audited(monkeypatch, tmp_path, saved_at_96, *words, "--bias")
    assert found["verdict"] == "FAIL"
    rows = {(m["saved"], m["how"], m["source"]): m for m in found["moves"]}
    assert len(rows) == 7 * (1 + 3)  # fakes of ours; reals of all, ours, theirs
    # saved at 96 all are called FAKE, resized none; before it were the files saved so
    cases = {
        ("fake", "ours"): (30, 40),
        ("real", "ours"): (4, 160),
        ("real", "theirs"): (0, 150),
        ("real", "all"): (4, 310),
    }
    for (saved, source), (before, n) in cases.items():
        for how in resaves():
            row, after = rows[saved, how, source], n if how in JPEGS else 0
            assert (row["before"]["value"], row["after"]["value"]) == pytest.approx((before / n, after / n)), (
                saved,
                how,
            )
            assert row["change"]["value"] == pytest.approx((after - before) / n) and row["change"]["n"] == n
            exact = stats.binomtest(before, n).proportion_ci(0.95, "exact")
            assert (row["before"]["low"], row["before"]["high"]) == pytest.approx((exact.low, exact.high))
            changed = abs(after - before)  # all in one direction
            assert row["p"] == pytest.approx(stats.binomtest(0, changed).pvalue if changed else 1.0)
    assert {rows["fake", how, "ours"]["verdict"] for how in resaves()} == {"FAIL"}
    assert {rows["real", how, "theirs"]["verdict"] for how in JPEGS} == {"FAIL"}
    assert {rows["real", how, "theirs"]["verdict"] for how in KERNELS} == {"PASS"}
    assert {rows["real", how, "ours"]["verdict"] for how in KERNELS} == {"UNCLEAR"}  # 4 of 160 fewer

    alarms = {row["source"]: row for row in found["false_alarms"]}
    assert set(alarms) == {"ours", "theirs"} and alarms["ours"]["value"] == 4 / 160
    exact = stats.binomtest(0, 150).proportion_ci(0.95, "exact")
    assert (alarms["theirs"]["low"], alarms["theirs"]["high"]) == pytest.approx((exact.low, exact.high))
    tiers = {row["name"]: row for row in found["tiers"]}
    assert {name: (t["n_real"], t["n_fake"]) for name, t in tiers.items()} == {
        "as saved": (4, 30),
        "unknown": (306, 10),
    }
    assert tiers["as saved"]["fpr"]["value"] == 1.0 and tiers["as saved"]["verdict"] == "FAIL"
    said = out.splitlines()
    first = next(i for i, line in enumerate(said) if line.startswith("bias: FAIL: "))
    assert first < next(i for i, line in enumerate(said) if line.startswith("threshold: "))
    # of the fakes 7 fail, of the reals jpeg twice for all, ours, theirs; resized all's pass or can't be told
    counts = [sum(m["verdict"] == word for m in rows.values()) for word in ("PASS", "FAIL", "UNCLEAR")]
    assert counts[1] == 7 + 6 and said[first].endswith(
        f"{counts[0]} of 28 rates stay within 3 points, {counts[1]} do not, {counts[2]} can't be told"
    )
    page = (tmp_path / "o.html").read_text()
    assert "Bias: one class alone saved again" in page and "resize-0.9-lanczos" in page and "+97.5 points" in page


def test_a_detector_blind_to_files_passes(monkeypatch, tmp_path, data):
    out, found = audited(
        monkeypatch, tmp_path, brighter_left, "--bias", "--data", data / "theirs", "--data", data / "ours/real"
    )
    assert found["verdict"] == "PASS" and "bias: PASS: one class alone saved again, 21 of 21 rates" in out
    assert {m["change"]["value"] for m in found["moves"]} == {0.0} and {m["saved"] for m in found["moves"]} == {"real"}
    assert "whether one threshold holds 1 % on «web» is not known: no photo here is a JPEG 60 to 89" in out


def test_too_few_images_are_called_unclear(monkeypatch, tmp_path, data):
    out, found = audited(monkeypatch, tmp_path, brighter_left, "--bias", "--data", data / "ours/fake", "--limit", 20)
    assert found["verdict"] == "UNCLEAR" and {m["verdict"] for m in found["moves"]} == {"UNCLEAR"}
    assert len(found["moves"]) == 7 and "7 can't be told" in out and found["false_alarms"] == []


def test_it_needs_images(tmp_path):
    (tmp_path / "s.csv").write_text("path,label,score\na,0,0.1\n")
    done = CliRunner().invoke(
        Program(evaluate.main), ["detector", str(tmp_path / "s.csv"), "--threshold", "0.5", "--bias"]
    )
    assert done.exit_code == 2 and "leave --bias out" in done.stderr


@pytest.mark.parametrize("words", [(), ("--bias",)])
def test_files_of_one_size_are_read_and_decoded_once(monkeypatch, tmp_path, words):
    """Of both labels; they were read again to see whether some are the same, and for the audit read twice more."""
    for label in ("real", "fake"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(6):
            rng = np.random.default_rng([i, label == "fake" and i > 0])
            image = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
            image.save(tmp_path / "set" / label / f"{i}.bmp")  # one size, and the first of both the same
    read, decoded, old = Counter(), Counter(), (FolderStore.read, sources.decode)

    def reads(store, path):
        read[path] += 1
        return old[0](store, path)

    def decodes(data, name, **how):
        decoded[name] += 1
        return old[1](data, name, **how)

    monkeypatch.setattr(FolderStore, "read", reads)
    monkeypatch.setattr(sources, "decode", decodes)
    out, _ = audited(monkeypatch, tmp_path, brighter_left, "--data", tmp_path / "set", *words)
    assert "an image is there as real and as fake" in out
    assert set(read.values()) == set(decoded.values()) == {1} and len(read) == len(decoded) == 12
