"""Faithfulness where the answer is known: a detector that looks at one corner only."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

from common.outputs import plain
from discriminator.detector import Detector
from discriminator.network import Network, Shape, VerdictOut
from faces.preprocess import Preprocess
from tests.discriminator.conftest import make_calibration

pytest.importorskip("captum")
from discriminator.explaining.attribution import Effort, Explainer  # noqa: E402
from evaluation.explaining import GRID, Curves, Mean, rank_correlation, ranked, shuffled  # noqa: E402
from reports.explaining import _with_interval  # noqa: E402

SIDE = 32


class Shaped(Shape):
    resolution, img_channels = SIDE, 3

    def to_dict(self) -> dict:
        return {"model": "corner"}


class Corner(Network):
    """Says FAKE for roughness in the upper left quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.cfg = Shaped()
        self.layer = nn.Conv2d(3, 1, (1, 2), bias=False)
        self.layer.weight.data[:] = 0
        self.layer.weight.data[0, 1, 0] = nn.Parameter(self.layer.weight.new_tensor([1.0, -1.0]))

    def verdict(self, img):
        rough = self.layer(img).relu()[:, 0, : SIDE // 2, : SIDE // 2]
        return VerdictOut(20 * rough.mean((1, 2)) - 2, None)


@pytest.fixture(scope="module")
def own() -> Explainer:
    return Explainer(Detector(Corner(), Preprocess(SIDE), make_calibration()), Effort(squares=8, steps=4))


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def test_the_true_order_beats_a_random_one_and_the_wrong_one_is_beaten(own):
    curves = Curves(own, noise(), 8)
    assert curves.fake
    true = np.zeros((GRID, GRID))
    true[: GRID // 2, : GRID // 2] = 1
    rng = np.random.default_rng(0)
    spread = {}
    for name, values in (("true", true), ("wrong", -true), ("random", np.zeros((GRID, GRID)))):
        deletion, insertion = curves.areas(ranked(values, rng))
        assert 0 <= deletion <= 1 and 0 <= insertion <= 1
        spread[name] = insertion - deletion
    assert spread["true"] > spread["random"] + 0.2 and spread["wrong"] < spread["random"] - 0.2


def test_methods_find_the_corner(own):
    for method in ("occlusion", "integrated-gradients", "lrp"):
        values = np.abs(own(noise(), method).values)
        quarter = values.shape[0] // 2
        assert values[:quarter, :quarter].sum() > 0.95 * values.sum(), method


def test_ranks_are_scipys_and_ties_fall_by_lot():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 5, (16, 16)), rng.integers(0, 5, (16, 16))
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel())[0])
    assert rank_correlation(a, np.ones((16, 16))) == 0
    orders = {tuple(ranked(np.zeros((4, 4)), np.random.default_rng(i))) for i in range(5)}
    assert len(orders) == 5 and all(sorted(order) == list(range(16)) for order in orders)
    values = rng.random((4, 4))
    assert (ranked(values, rng) == np.argsort(-values.ravel())).all()


def test_shuffled_weights_are_the_same_numbers_elsewhere(own):
    from tests.discriminator.conftest import make_net

    detector = Detector(make_net(), Preprocess(SIDE), make_calibration())
    before = {name: value.clone() for name, value in detector.net.state_dict().items()}
    for share, changed in ((0.0, 1), (1.0, len(before) // 2)):
        after = shuffled(detector, share, 0).net.state_dict()
        moved = [name for name in before if not (before[name] == after[name]).all()]
        assert len(moved) >= changed and any("verdict_head" in name for name in moved)
        for name in moved:
            np.testing.assert_array_equal(np.sort(before[name].ravel()), np.sort(after[name].ravel()))
    assert all((before[name] == value).all() for name, value in detector.net.state_dict().items())


def test_an_interval_is_a_bootstraps():
    found = Mean.of(np.repeat([0.0, 1.0], 200), 2000, 0)
    assert found.value == 0.5 and found.n == 400
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.004) and found.above() and not found.above(0.5)
    assert Mean.of([], 10, 0).n == 0
    one = Mean.of([0.13], 100, 0)  # «+0.130 [+0.130, +0.130]» was said of one image
    assert (one.value, one.n) == (0.13, 1) and np.isnan([one.low, one.high]).all() and not one.above()
    assert _with_interval(plain(vars(one))) == "+0.130"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with photos, two kinds of noise, and a detector."""
    from tests.discriminator.conftest import make_net

    monkeypatch.chdir(tmp_path)
    for kind, label in (("real", 0), ("fake", 1)):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(noise(10 * label + i)).save(tmp_path / "photos" / kind / f"{i}.png")
    Detector(make_net(), Preprocess(SIDE), make_calibration(), {}).save(tmp_path / "d.safetensors")
    return tmp_path


def test_the_command(place):
    """On two kinds of noise: files, table, and that a second start takes up what was done."""
    from click.testing import CliRunner

    import evaluate

    args = ["explain", "d.safetensors", "--data", "photos", "--out", "out", "--methods", "patches,gradcam,lrp",
            "--points", "3", "--checked", "1"]  # fmt: skip
    done = CliRunner().invoke(evaluate.main, args)
    assert done.exit_code == 0, done.output
    told = json.loads((place / "out" / "explain.json").read_text())
    assert [m["method"] for m in told["methods"]] == ["patches", "gradcam", "lrp", "random"]
    assert len(told["images"]) == 4 and told["methods"][0]["like"]["all layers"]["n"] == 1
    assert {p.name for p in (place / "out").iterdir()} >= {"explain.md", "sheet.png", "explain-light.png"}
    assert "| random |" in done.output and "exported twin" not in done.output
    assert told["favoured"] == "" and "favoured" not in done.output and "Next:" not in done.output
    assert "4 images: too few to favour a method by; give at least 20" in done.output
    again = CliRunner().invoke(evaluate.main, args)
    assert again.exit_code != 0
    for name in ("explain.json", "explain.md"):
        (place / "out" / name).unlink()
    again = CliRunner().invoke(evaluate.main, args)
    assert again.exit_code == 0 and "4 images were explained before" in again.output
    assert json.loads((place / "out" / "explain.json").read_text())["methods"] == told["methods"]


def test_stopped_by_hand_the_same_again_goes_on(place, monkeypatch):
    from click.testing import CliRunner

    import evaluate
    import evaluation.explaining as explaining

    def run(out, *more, after=None):
        """`after`: images until Ctrl-C."""
        one, done = explaining._Work.one, []

        def until(self, label, seen):
            if len(done) == after:
                raise KeyboardInterrupt
            done.append(label)
            one(self, label, seen)

        words = ["explain", "d.safetensors", "--data", "photos", "--out", out, "--methods", "patches", "--points", "2"]
        with monkeypatch.context() as patched:
            patched.setattr(explaining._Work, "one", until)
            result = CliRunner().invoke(evaluate.main, [*words, "--checked", "0", *more])
        return result, len(done)

    assert run("whole")[0].exit_code == 0
    assert "Aborted!" in run("none", after=0)[0].output and not (place / "none").exists()
    result, _ = run("out", after=2)
    told = json.loads((place / "out" / "explain.json").read_text())
    assert result.exit_code == 0 and told["stopped"] and told["notes"][-1] == "stopped after 2 of 4 images"
    other = run("out", "--points", "3")[0]
    assert "`out` out: holds the explain.json of a stopped run of other options" in str(other.exception)
    result, done = run("out")
    assert (result.exit_code, done) == (0, 2)
    told = json.loads((place / "out" / "explain.json").read_text())
    assert not told["stopped"] and len(told["images"]) == 4
    # of the first fake, done before; below a map stand its seconds
    whole, again = (np.asarray(Image.open(place / name / "sheet.png"))[:440] for name in ("whole", "out"))
    assert np.array_equal(whole, again)
    assert "holds a explain.json already" in str(run("out")[0].exception)
