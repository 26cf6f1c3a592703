"""What a training looks at before it learns, and the page and TensorBoard that show it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train_detector
from common.cli import run
from discriminator.training.exploration import explore, imbalance, say_imbalance
from discriminator.training.feed import ImageGroup, LabelledFeed
from discriminator.training.recipe import Recipe
from discriminator.training.selection import Validation
from faces.degrade import preset

SIDE = 16


def feed(balance: str = "sampling", reals: int = 30, fakes: int = 10) -> tuple[LabelledFeed, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 200, (reals + fakes, 3, SIDE, SIDE), np.uint8)
    images[reals:] += 50
    groups = [
        ImageGroup("real", images, np.arange(reals), 0),
        ImageGroup("fakes", images, np.arange(reals, reals + fakes), 1),
    ]
    return LabelledFeed(groups, preset("light"), Recipe(batch=8, balance=balance)), images


def test_pixels_are_counted_as_pillow_and_numpy_do():
    shown, images = feed()
    validation = Validation.of(images[25:35], np.array([0] * 5 + [1] * 5), preset("light"))
    found = explore(shown, validation, preset("light"), 0, {"real": 7, "fake": 3})
    assert found.counts == {
        "train": {"real": 30, "fake": 10}, "validation": {"real": 5, "fake": 5}, "test": {"real": 7, "fake": 3}
    }  # fmt: skip
    assert [part.name for part in found.parts] == ["train real", "train fake", "validation real", "validation fake"]
    fakes = images[30:]
    part = found.parts[1]
    assert part.mean == pytest.approx(fakes.mean((0, 2, 3))) and part.sd == pytest.approx(fakes.std((0, 2, 3)))
    for k in range(3):
        assert part.histograms[1 + k].tolist() == np.histogram(fakes[:, k], 64, (0, 256))[0].tolist()
    luma = [np.asarray(Image.fromarray(one.transpose(1, 2, 0)).convert("L")) for one in fakes]
    assert part.brightness == pytest.approx([one.mean() for one in luma], abs=0.6)
    assert part.histograms[0].sum() == fakes[:, 0].size
    assert found.samples["real"].shape == (24, 72, 72, 3) and found.samples["fake"].shape[0] == 10
    assert found.degraded.shape[:2] == (4, 5) and found.shown.shape[:2] == (2, 8)
    assert (found.degraded[:, 0] != found.degraded[:, 1]).any()


@pytest.mark.parametrize(
    ("balance", "shown", "weights"),
    [("sampling", 0.5, (1, 1)), ("weights", 0.25, (2 / 3, 2)), ("none", 0.25, (1, 1))],
)
def test_what_was_done_about_imbalance_is_said(balance, shown, weights):
    found = imbalance(feed(balance)[0], balance)
    assert found["counts"] == {"real": 30, "fake": 10} and found["shown"]["fake"] == pytest.approx(shown)
    assert tuple(found["weights"].values()) == pytest.approx(weights)
    words = say_imbalance(found)
    assert "30 real (75.0 %), 10 fake (25.0 %)" in words
    assert {"sampling": "half of each batch", "weights": "a fake image 2", "none": "none"}[balance] in words


def test_a_training_has_a_page_and_pictures_in_tensorboard(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for i in range(32):
        pixels = rng.integers(0, 200, (32, 32, 3)).astype(np.uint8) + 40 * (i % 2)
        path = Path("set", ("train", "test")[i % 8 > 5], ("real", "fake")[i % 2], f"{i:02d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    argv = (
        "--data set --branches artefact --epochs 2 --batch 8 --warmup 2 --threads 1 --workers 1 --cache none --device"
        " cpu --degradation light --out run --allow-leaks --balance weights"
    )
    with pytest.raises(SystemExit) as leaving:
        run(train_detector.main, argv.split())
    assert not leaving.value.code, capsys.readouterr().err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for title in (
        "In short",
        "Training",
        "Validation",
        "Scores",
        "Classes",
        "Samples",
        "Pixels",
        "What the degradations",
    ):
        assert f"<h2>{title}" in page, title
    assert "class weights" in page and "Test images are counted by their names only" in page
    pictures = re.findall(r'src="data:image/(png|jpeg)', page)
    dark = page.count('media="(prefers-color-scheme: dark)" srcset=')
    assert pictures.count("jpeg") == 4 and dark == pictures.count("png") == 9
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["imbalance"]["method"] == "weights"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    tags = set(board.Tags()["images"])
    names = ("classes", "levels", "brightness", "samples-real", "samples-fake", "degradations", "first-batch")
    assert {f"Data/{name}" for name in names} <= tags
    assert {f"Validation/{name}" for name in ("history", "roc", "scores", "confusion-clean")} <= tags
    assert "Validation/probability clean fake" in board.Tags()["histograms"]
