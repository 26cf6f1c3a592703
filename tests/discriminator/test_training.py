"""Learning: what is shown, that it learns, that a resumed run is the same run, and what is kept."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from common.errors import UserError
from discriminator.models import NetworkOptions, new_network
from discriminator.training.feed import ImageGroup, LabelledFeed, shares
from discriminator.training.finish import calibrated
from discriminator.training.fit import Fit
from discriminator.training.recipe import Recipe
from discriminator.training.selection import Validation, figures, scores
from faces.degrade import preset
from faces.preprocess import Preprocess
from training.checkpoint import checkpoints, load, save

SIDE = 32
NONE = preset("none")


class Quiet:
    """A report that keeps what it is told."""

    def __init__(self):
        self.rows, self.metrics, self.lines = [], [], []
        self.tick, self.metric, self.say = self.rows.append, self.metrics.append, self.lines.append

    def progress(self, text, *, at_once=False):
        pass


def pictures(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth noise; every second one was drawn at half its size and enlarged, as a generator might."""
    rng = np.random.default_rng(seed)
    images = np.empty((n, 3, SIDE, SIDE), np.uint8)
    labels = np.arange(n) % 2
    for i, fake in enumerate(labels):
        picture = rng.integers(60, 196, (3, SIDE, SIDE)).astype(np.uint8)
        images[i] = np.repeat(np.repeat(picture[:, ::2, ::2], 2, 1), 2, 2) if fake else picture
    return images, labels


def groups(n: int = 32, seed: int = 0) -> list[ImageGroup]:
    images, labels = pictures(n, seed)
    return [
        ImageGroup("real", images, np.flatnonzero(labels == 0), 0),
        ImageGroup("fake", images, np.flatnonzero(labels == 1), 1),
    ]


def fit(recipe: Recipe, model: str = "hybrid", n: int = 32, degradation=NONE, report=None, **options) -> Fit:
    asked = {name: options.pop(name) for name in ("branches", "dropout") if name in options}
    if model == "hybrid":
        asked = {"branches": ("artefact",), **asked}  # the cheaper one
    net = new_network(model, SIDE, options=NetworkOptions(**asked))
    validation = Validation.of(*pictures(24, 99), degradation)
    feed = LabelledFeed(groups(n), degradation, recipe)
    return Fit(net, feed, validation, recipe, report or Quiet(), **{"workers": 0, **options})


# ---- the feed ------------------------------------------------------------------------------------------------------


def test_batches_do_not_depend_on_threads_nor_on_where_one_begins():
    feed = LabelledFeed(groups(), preset("train"), Recipe(batch=6, random_crop=24))
    alone = [feed.batch(step) for step in range(9)]
    for workers in (0, 1, 3):
        for a, b in zip(alone[4:], feed.run(4, 9, workers=workers), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert alone[0].clean.shape == alone[0].degraded.shape == (6, 3, 24, 24)
    assert not torch.equal(alone[0].clean, alone[0].degraded)


def test_processes_share_a_batch():
    feed = LabelledFeed(groups(), preset("train"), Recipe(batch=6))
    whole = feed.batch(3)
    for rank in (0, 1, 2):
        part = feed.batch(3, rank, 3)
        assert torch.equal(part.degraded, whole.degraded[rank::3]) and torch.equal(part.labels, whole.labels[rank::3])
        assert 0 < part.labels.sum() < 2  # both classes


def test_the_clean_view_is_the_image_mirrored_and_cut():
    images, _ = pictures(32)
    recipe = Recipe(batch=8, random_crop=20)
    batch = LabelledFeed(groups(), preset("none"), recipe).batch(0)
    assert torch.equal(batch.clean, batch.degraded)
    for view in batch.clean.numpy():
        cuts = np.lib.stride_tricks.sliding_window_view(np.concatenate([images, images[..., ::-1]]), (20, 20), (2, 3))
        assert (cuts == view[None, :, None, None]).all((1, 4, 5)).any()


def test_every_image_once_an_epoch():
    marked = np.zeros((20, 3, 16, 16), np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None, None]
    sets = [ImageGroup("real", marked, np.arange(12), 0), ImageGroup("fake", marked, np.arange(12, 20), 1)]
    feed = LabelledFeed(sets, NONE, Recipe(batch=5, balance="none", consistency=0))
    assert feed.len_epoch == 4
    seen = torch.cat([feed.batch(step).degraded[:, 0, 0, 0] for step in range(4)])
    assert sorted(seen.tolist()) == list(range(20))


@pytest.mark.parametrize("balance", ["sampling", "weights", "none"])
def test_doses_are_kept_exactly_in_the_long_run(balance):
    images = np.zeros((200, 3, 16, 16), np.uint8)

    def group(name, n, label, dose=0.0):
        return ImageGroup(name, images, np.arange(n), label, dose)

    sets = [group("real", 100, 0), group("set", 60, 1), group("own", 30, 1, 0.25), group("old", 7, 1, 0.1)]
    share = shares(sets, balance)
    real = 0.5 if balance == "sampling" else 100 / 197
    np.testing.assert_allclose(share, [real, *(np.array([0.65, 0.25, 0.1]) * (1 - real))])
    feed = LabelledFeed(sets, NONE, Recipe(batch=7, balance=balance))
    counts = np.array([[n for _, n in feed.composition(step)] for step in range(1000)])
    assert (counts.sum(1) == 7).all()
    np.testing.assert_allclose(counts.sum(0) / 7000, share, atol=3e-4)
    firsts = np.array([[first for first, _ in feed.composition(step)] for step in range(1000)])
    assert np.array_equal(firsts[1:], np.cumsum(counts, 0)[:-1])  # no position twice, none left out


def test_undosed_fakes_count_by_their_number_and_dosed_alone_fill_all():
    images = np.zeros((40, 3, 16, 16), np.uint8)
    real, a, b = (
        ImageGroup(n, images, np.arange(k), label) for n, k, label in (("r", 10, 0), ("a", 30, 1), ("b", 10, 1))
    )
    np.testing.assert_allclose(shares([real, a, b], "sampling"), [0.5, 0.375, 0.125])
    a.dose, b.dose = 0.2, 0.2
    np.testing.assert_allclose(shares([real, a, b], "sampling"), [0.5, 0.25, 0.25])


@pytest.mark.parametrize("doses", [(0.7, 0.7), (1.0, 0.0)])
def test_doses_that_leave_no_room_are_refused(doses):
    images = np.zeros((4, 3, 16, 16), np.uint8)
    sets = [
        ImageGroup("r", images, np.arange(4), 0),
        *(ImageGroup("f", images, np.arange(4), 1, dose) for dose in doses),
    ]
    with pytest.raises(UserError, match="dose"):
        shares(sets, "sampling")


def test_a_class_that_lacks_is_told():
    images = np.zeros((4, 3, 16, 16), np.uint8)
    for label, word in ((0, "fake"), (1, "real")):
        with pytest.raises(UserError, match=f"no {word} images"):
            shares([ImageGroup("x", images, np.arange(4), label)], "sampling")


# ---- selection -----------------------------------------------------------------------------------------------------


def test_validation_is_the_same_whenever_asked_and_clean_is_clean():
    images, labels = pictures(9)
    validation = Validation.of(images, labels, preset("train"))
    for i in range(9):
        assert np.array_equal(validation.view(0, i), images[i])
        assert np.array_equal(validation.view(1, i), validation.view(1, i))
    changed = [not np.array_equal(validation.view(1, i), images[i]) for i in range(9)]
    assert changed[1] and changed[2]  # web and hard change everything
    net = new_network("hybrid", SIDE).eval()
    alone, threads = scores(net, validation, workers=1), scores(net, validation, workers=3)
    assert alone.shape == (2, 9) and np.array_equal(alone, threads)


def test_the_deciding_auc_is_over_all_views_at_one_threshold():
    validation = Validation(np.zeros((4, 3, 8, 8), np.uint8), np.array([0, 1, 0, 1]), (("clean", ()), ("degraded", ())))
    logits = np.array([[0.0, 1.0, 0.0, 1.0], [2.0, 3.0, 2.0, 3.0]])  # each view is perfect, but they lie apart
    found = figures(validation, logits)
    assert found["auc_clean"] == found["auc_degraded"] == 1
    assert found["auc"] == roc_auc_score(np.tile(validation.labels, 2), logits.ravel()) == 0.75
    assert found["balanced_accuracy_degraded"] == 0.5


# ---- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["hybrid", "squeezenet1_1"])
def test_it_learns_a_few_pictures_by_heart(model):
    recipe = Recipe(epochs=30, batch=8, lr=2e-3, warmup=5, ema=0.9, validate_every=30, mirror=False, consistency=0)
    report = Quiet()
    whole = {"branches": ("spatial", "artefact")} if model == "hybrid" else {"dropout": 0.0}
    job = fit(recipe, model, n=8, report=report, **whole)
    assert job.run()
    assert report.rows[-1]["Loss/verdict"] < 0.1 < 0.6 < report.rows[0]["Loss/verdict"]
    assert report.rows[-1]["Train/accuracy"] == 1


def test_both_views_are_learnt_and_the_loss_falls():
    report = Quiet()
    job = fit(
        Recipe(epochs=8, batch=8, lr=3e-3, warmup=3, validate_every=8), n=32, degradation=preset("light"), report=report
    )
    job.run()
    losses = [row["Loss/total"] for row in report.rows]
    assert losses[-1] < 0.8 * losses[0]
    assert all(math.isfinite(value) for row in report.rows for value in row.values())
    assert report.metrics[-1]["auc"] > 0.7


@pytest.mark.parametrize(("model", "schedule"), [("hybrid", "plateau"), ("timm:mobilenetv3_small_050", "cosine")])
def test_a_resumed_run_is_the_same_run_bit_for_bit(model, schedule, tmp_path):
    recipe = Recipe(
        epochs=3, batch=8, warmup=3, random_crop=0, schedule=schedule, plateau_patience=1, frozen_epochs=0.75
    )
    train = preset("train")
    both = {"branches": ("spatial", "artefact")}
    whole = fit(recipe, model, degradation=train, **both)
    whole.run()

    folder = tmp_path
    stopped = fit(recipe, model, degradation=train, folder=folder, workers=1, **both)
    stopped.stop = lambda: stopped.step == 7
    assert not stopped.run()
    again = fit(recipe, model, degradation=train, folder=folder, workers=2, **both)
    torch.nn.init.normal_(next(iter(again.net.parameters())))
    path, state = checkpoints(folder)[-1], load(folder, "detector")
    assert path.name == "checkpoint-000007.pt"
    again.load_state_dict(state)
    assert again.run() and again.step == whole.step == 12
    for mine, theirs in ((whole.net, again.net), (whole.ema, again.ema)):
        for (name, a), (_, b) in zip(mine.state_dict().items(), theirs.state_dict().items(), strict=True):
            assert torch.equal(a, b), name
    assert whole.best["auc"] == again.best["auc"] and whole.best["step"] == again.best["step"]
    for a, b in zip(whole.best["state"].values(), again.best["state"].values(), strict=True):
        assert torch.equal(a, b)
    assert len(checkpoints(folder)) == 2
    finished = fit(recipe, model, degradation=train, folder=folder, **both)
    finished.load_state_dict(load(folder, "detector"))
    assert finished.run() and finished.step == 12  # nothing is left to do


def test_frozen_layers_stay_as_they_came_then_move():
    job = fit(Recipe(epochs=2, frozen_epochs=1, batch=8, warmup=1), "timm:mobilenetv3_small_050")
    before = copy.deepcopy(job.net.body.state_dict())
    head = job.net.head.weight.clone()
    job.stop = lambda: job.step == 4
    job.run()
    assert job.frozen == 4
    for name, value in job.net.body.state_dict().items():
        assert torch.equal(value, before[name]), name  # batch statistics too
    assert not torch.equal(job.net.head.weight, head)
    job.stop = lambda: False
    job.run()
    moved = [not torch.equal(value, before[name]) for name, value in job.net.body.state_dict().items()]
    assert sum(moved) > 0.9 * len(moved)


def test_rates_over_the_phases():
    recipe = Recipe(epochs=10, frozen_epochs=2, batch=8, lr=1e-3, head_lr=4e-3, warmup=2)
    job = fit(recipe, "squeezenet1_1")
    rates = []
    for step in range(job.steps + 1):
        job.step = step
        rates.append(job.rate())
    assert job.frozen == 8 and job.steps == 40
    assert rates[:8] == [2e-3, *[4e-3] * 7]
    assert rates[8] == 0.5e-3 and max(rates[9:]) < 1e-3
    assert rates[24] == pytest.approx(0.5e-3) and rates[40] == pytest.approx(0)  # half a cosine
    assert fit(recipe, "hybrid").frozen == 0  # nothing of it was borrowed


def test_plateau_and_patience():
    job = fit(
        Recipe(epochs=50, batch=16, schedule="plateau", plateau_patience=2, plateau_factor=0.5, patience=5, lr=1e-9)
    )
    job.best = {"auc": 2.0, "step": 0, "state": {}}  # nothing is better
    job.run()
    assert job.step == 5 * 2 and job.factor == 0.25 and job.best["step"] == 0


def test_the_best_state_is_kept_not_the_last():
    job = fit(Recipe(epochs=3, batch=8, lr=2e-3, warmup=1))
    job.run()
    found = scores(job.best_network(), job.validation)
    assert figures(job.validation, found)["auc"] == job.best["auc"] == max(m["auc"] for m in job.report.metrics)


def test_hopeless_numbers_end_the_training_in_a_line():
    job = fit(Recipe(epochs=50, batch=2))
    with torch.no_grad():
        job.net.verdict_head.out.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="lower `lr`"):
        job.run()


def test_a_crop_that_the_network_cannot_take_is_told():
    with pytest.raises(UserError, match="`random_crop` 16"):
        fit(Recipe(random_crop=16), branches=("spatial", "artefact"))
    with pytest.raises(UserError, match="`random_crop` 64"):
        fit(Recipe(random_crop=64))
    fit(Recipe(random_crop=24), "squeezenet1_1")


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("lr", 0), ("lr", math.nan), ("ema", 1), ("batch", 1), ("balance", "x"), ("frozen_epochs", 31)],
)
def test_recipes_out_of_range_name_the_option(name, value):
    with pytest.raises(UserError, match=f"`{name}` "):
        Recipe(**{name: value})
    with pytest.raises(UserError, match="newer"):
        Recipe.from_dict({"surprise": 1})
    assert Recipe.from_dict(Recipe(batch=7).to_dict()) == Recipe(batch=7)
    assert Recipe.from_dict({"crop": 24}) == Recipe(random_crop=24)  # as it was called once


# ---- the end -------------------------------------------------------------------------------------------------------


def test_the_detector_is_calibrated_on_the_held_out_images():
    job = fit(Recipe(epochs=5, batch=8, lr=3e-3, warmup=3, validate_every=5), degradation=preset("light"))
    job.run()
    end = calibrated(job.best_network(), job.validation, Preprocess(SIDE), {"a": 1})
    detector, found = end.detector, end.figures
    calibration = detector.calibration
    assert calibration.n_real == calibration.n_fake == 12 and calibration.default_fpr == 0.05
    assert found["auc"] == pytest.approx(job.best["auc"])
    # The photo's way through the detector gives the score that the threshold was set on.
    images = list(job.validation.images.transpose(0, 2, 3, 1))
    verdicts = detector.predict(images)
    logits = scores(job.best_network(), job.validation)
    np.testing.assert_allclose([v.logit for v in verdicts], logits[0], atol=1e-5)
    real = job.validation.labels == 0
    called = calibration.probability(logits[:, real]) >= calibration.at().threshold
    assert called.sum() == calibration.at().false_alarms <= 0.05 * 24
    assert found["false_alarms_clean"] == called[0].mean() and found["false_alarms_degraded"] == called[1].mean()
    assert detector.meta["a"] == 1 and detector.meta["validation_images"] == {"real": 12, "fake": 12}


def test_a_state_that_cannot_be_kept_says_what_is_left(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    save(run, 5, {"a": 1}, "detector")
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", lambda *a, **k: (_ for _ in ()).throw(full))
        with pytest.raises(UserError, match=r"No space left.*earlier checkpoint-000005\.pt with `resume` \S+run"):
            save(run, 9, {"a": 2}, "detector")
    assert [p.name for p in checkpoints(run)] == ["checkpoint-000005.pt"]
    with pytest.raises(UserError, match="folder was removed while it ran: start again"):
        save(tmp_path / "gone", 9, {"a": 2}, "detector")
