"""Recipe files: which options they set, who wins, what is refused, and that a run remembers its own."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
from PIL import Image

import discriminator.folds.run  # noqa: F401 - it takes `train` by name: imported later it would keep the stand-in
import discriminator.training.run
import train_detector
from common.cli import explain
from common.errors import UserError
from common.options import flags_of
from discriminator.models import NetworkOptions, new_network
from discriminator.training import recipe_file
from discriminator.training.feed import ImageGroup, LabelledFeed
from discriminator.training.recipe import Recipe
from faces import filters
from faces.degrade import preset

NAMES = recipe_file.names()


@pytest.fixture
def asked(monkeypatch):
    """`asked(*arguments)`: the Options and the Recipe that a command line comes to, nothing trained."""

    def ask(*arguments: str):
        seen = {}
        monkeypatch.setattr(
            discriminator.training.run, "train", lambda options, recipe, *rest, **more: seen.update(o=options, r=recipe)
        )
        monkeypatch.setattr(train_detector, "_unseen", lambda folder: "")  # of a run's folder, and there is none
        train_detector.main.main(["--data", "x", "--device", "cpu", *arguments], standalone_mode=False)
        return seen["o"], seen["r"]

    return ask


def refused(ask, *arguments) -> str:
    with pytest.raises(Exception) as error:
        ask(*arguments)
    line = explain(error.value, flags_of(train_detector.main))
    assert line is not None and "\n" not in line
    return line


def test_the_projects_before_this_one_have_a_recipe_each():
    assert {
        "custom-cnn", "blur-noise-cnn", "small-cnn", "capsnet", "densenet121", "densenet-clahe", "vggface16", "vgg16",
        "hybrid", "xception-two-phase", "resnet50-yonsei", "efficientnet-b0", "efficientnet-b2", "efficientnet-b4",
    } <= set(NAMES)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_one_that_can_be_trained(name, asked):
    about = tomllib.loads((recipe_file.FOLDER / f"{name}.toml").read_text())["about"]
    options, recipe = asked("--recipe", name, "--backbone-weights", "w.pth")
    assert about and options.recipe_file["name"] == name and options.recipe_file["about"] == about
    for key, value in options.recipe_file["options"].items():
        got = getattr(recipe, key.replace("-", "_"), getattr(options, key.replace("-", "_"), None))
        assert list(got) == value if isinstance(got, tuple) else got == value, key
    if options.model in ("hybrid", "custom_cnn", "blur_noise_cnn", "capsnet"):  # the others take seconds to make
        shape = NetworkOptions(size=options.size, reconstruct=options.reconstruct)
        new_network(options.model, options.resolution or 64, options=shape)


def test_xception_in_two_phases(asked):
    o, r = asked("--recipe", "xception-two-phase")
    assert (o.model, o.pretrained, o.head, o.dropout) == ("xception", True, "seeds", 0.3)
    assert (r.epochs, r.frozen_epochs, r.head_lr, r.lr) == (50, 20, 1e-3, 1e-5)
    assert r.schedule == "plateau" and r.patience > 0 and r.patch == 0


def test_clahe_shear_rotation_and_flips(asked):
    _, r = asked("--recipe", "densenet-clahe")
    assert r.augment == ("clahe", "shear", "rotate") and r.mirror


def test_the_command_line_wins_wherever_it_stands(asked):
    before, _ = asked("--model", "squeezenet1_1", "--recipe", "xception-two-phase", "--no-pretrained")
    after, recipe = asked("--recipe", "xception-two-phase", "--model", "squeezenet1_1", "--epochs", "3", "--lr", "0.1")
    assert before.model == after.model == "squeezenet1_1" and not before.pretrained and after.pretrained
    assert recipe.epochs == 3 and recipe.lr == 0.1 and recipe.schedule == "plateau"


def test_a_frozen_phase_needs_weights(asked, capsys):
    _, r = asked("--recipe", "xception-two-phase", "--no-pretrained")
    assert r.frozen_epochs == 0 and r.lr == 1e-3
    assert "no frozen phase" in capsys.readouterr().err
    _, r = asked("--recipe", "xception-two-phase", "--no-pretrained", "--frozen-epochs", "2", "--lr", "1e-5")
    assert r.frozen_epochs == 2 and r.lr == 1e-5


def test_short_trials_shorten_the_frozen_phase(asked):
    _, r = asked("--recipe", "xception-two-phase", "--epochs", "5")
    assert r.epochs == 5 and r.frozen_epochs == 2  # 20 of 50


def test_a_file_of_ones_own(asked, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[options]\nmodel = "custom_cnn"\nbatch = 8\naugment = "clahe,rotate:0.2"\nmirror = false\n')
    o, r = asked("--recipe", str(file))
    assert (o.model, r.batch, r.augment, r.mirror) == ("custom_cnn", 8, ("clahe", "rotate:0.2"), False)
    assert o.recipe_file["name"] == "mine"
    file.write_text("[options]\ncrop = 24\n")  # as it was called once
    assert asked("--recipe", str(file))[1].random_crop == 24
    file.write_text('[options]\nextra-fakes = ["a:0.25", "b"]\nbranches = ["artefact"]\n')
    o, _ = asked("--recipe", str(file))
    assert o.extra_fakes == (("a", 0.25), ("b", 0.0)) and o.branches == ("artefact",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[options]\nepoch = 3\n", "did you mean epochs?"),
        ("[options]\nfrozen_epochs = 3\n", "did you mean frozen-epochs?"),
        ("[options]\nzzz = 3\n", "the help of train_detector.py"),
        ("[options]\nresume = 'x'\n", "resume is for the command line alone"),
        ("[options]\nrecipe = 'x'\n", "recipe is for the command line alone"),
        ("epochs = 3\n", "below a line [options]"),
        ("about = 'x'\n", "has no options"),
        ("", "has no options"),
        ("[options\n", "is not TOML"),
        ("[options]\nepochs = 'thirty'\n", "epochs"),
        ("[options]\nepochs = true\n", "epochs"),
        ("[options]\nbatch = 3.5\n", "batch"),
        ("[options]\nmirror = 1\n", "mirror takes true or false"),
        ("[options]\nschedule = 'sometimes'\n", "schedule"),
        ("[options]\nmodel = ['a', 'b']\n", "model"),
        ("[options]\nepochs = 2020-01-01\n", "epochs"),
        ("[options]\naugment = ['sparkle']\n", "--augment sparkle"),
        ("[options]\naugment = ['clahe:2']\n", "--augment clahe:2"),
        ("[options]\nhead = 'seeds'\nmodel = 3\n", ""),
    ],
)
def test_what_is_no_recipe_is_told_in_a_line(text, said, asked, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    if said:
        line = refused(asked, "--recipe", str(file))
        assert said in line and ("mine.toml" in line or "--augment" in line)


def test_the_choices_offered_are_those_there_are():
    from discriminator import network_options as choices
    from discriminator.artefact import RESIDUALS
    from discriminator.models import HYBRID_SIZES

    assert set(choices.RESIDUALS) == set(RESIDUALS) and set(choices.SIZES) == set(HYBRID_SIZES)


def test_recipes_that_are_not_there(asked, tmp_path):
    assert "did you mean xception-two-phase?" in refused(asked, "--recipe", "xception-two-fase")
    assert "capsnet" in refused(asked, "--recipe", "zzz")
    assert "can't be read" in refused(asked, "--recipe", str(tmp_path / "no.toml"))
    assert "can't be read" in refused(asked, "--recipe", str(tmp_path))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    assert "is not TOML" in refused(asked, "--recipe", str(tmp_path / "bytes.toml"))


def test_a_run_remembers_its_recipe(tmp_path):
    rng = np.random.default_rng(0)
    for split, label in ((s, k) for s in ("train", "valid") for k in ("real", "fake")):
        folder = tmp_path / "faces" / split / label
        folder.mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    arguments = ["--data", str(tmp_path / "faces"), "--recipe", "custom-cnn", "--resolution", "32", "--epochs", "1"]
    arguments += ["--batch", "4", "--cache", "none", "--allow-leaks", "--device", "cpu", "--threads", "1"]
    arguments += ["--quiet", "--no-report"]
    run = tmp_path / "run"
    train_detector.main.main([*arguments, "--augment", "clahe,shear", "--out", str(run)], standalone_mode=False)
    config = json.loads((run / "config.json").read_text())
    kept = config["options"]["recipe_file"]
    assert kept["name"] == "custom-cnn" and kept["options"]["epochs"] == 30  # the file's
    assert config["recipe"]["epochs"] == 1 and config["recipe"]["augment"] == ["clahe", "shear"]  # what counted
    assert config["architecture"]["model"] == "custom_cnn"
    train_detector.main.main(["--resume", str(run), "--device", "cpu", "--quiet", "--no-report"], standalone_mode=False)
    with pytest.raises(Exception, match="--recipe with --resume"):
        train_detector.main.main(["--resume", str(run), "--recipe", "capsnet"], standalone_mode=False)


# ---- augmentations -------------------------------------------------------------------------------------------------


def feed(**changes) -> LabelledFeed:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 3, 40, 40), dtype=np.uint8)
    groups = [ImageGroup("real", images, np.arange(6), 0), ImageGroup("fake", images, np.arange(6, 12), 1)]
    return LabelledFeed(groups, preset("none"), Recipe(batch=8, mirror=False, **changes))


def test_augmentations_touch_both_classes_and_both_views_alike():
    plain, augmented = feed().batch(0), feed(augment=("rotate:1",)).batch(0)
    assert np.array_equal(augmented.clean, augmented.degraded)
    changed = (plain.clean != augmented.clean).flatten(1).any(1)
    assert changed.all() and set(augmented.labels.tolist()) == {0.0, 1.0}


def test_augmentations_are_the_same_for_a_seed_and_others_for_another():
    chain = ("clahe", "shear", "rotate")
    a, b = feed(augment=chain), feed(augment=chain)
    batches = list(b.run(3, 5, workers=2))
    assert all(np.array_equal(a.batch(3 + i).clean, batches[i].clean) for i in range(2))
    assert not np.array_equal(a.batch(3).clean, feed(augment=chain, seed=1).batch(3).clean)


def test_each_augmentation_befalls_its_share():
    plain, augmented = feed(), feed(augment=("cutout:0.25",))
    pairs = [(plain.batch(s).clean, augmented.batch(s).clean) for s in range(100)]
    share = np.mean([(x != y).flatten(1).any(1).numpy() for x, y in pairs])
    assert abs(share - 0.25) < 0.06  # 4 standard errors of 800 draws
    assert feed(augment=("clahe",)).augmentation.steps[0].probability == 0.5


def test_without_augmentations_nothing_has_changed():
    """The draws for mirror, crop and degradation are what they were, so an older run's images are shown again."""
    a, b = (feed(random_crop=24, augment=names).batch(5) for names in ((), ("brightness:1",)))
    plain = Recipe(batch=8, mirror=False, random_crop=24)
    assert plain.augmentation.steps == () and a.clean.shape == b.clean.shape
    # the same square is cut: brightness moves no pixel, so bright places stay where they are
    order = [np.corrcoef(x.numpy().ravel(), y.numpy().ravel())[0, 1] for x, y in zip(a.clean, b.clean, strict=True)]
    assert min(order) > 0.9


def test_clahe_is_opencvs_on_lightness():
    image = np.random.default_rng(0).integers(0, 200, (3, 40, 40), dtype=np.uint8)
    step = Recipe(augment=("clahe:1",)).augmentation
    got = step.apply(np.ascontiguousarray(image.transpose(1, 2, 0)), np.random.default_rng(3))
    rng = np.random.default_rng(3)
    clip, tiles = 1.0 + 2.0 * rng.random(), int(2 + 7 * rng.random())
    assert np.array_equal(got, filters.clahe(np.ascontiguousarray(image.transpose(1, 2, 0)), clip, tiles))


@pytest.mark.parametrize("words", [("sparkle",), ("hflip",), ("clahe:0",), ("clahe:x",), ("clahe:",), ("",)])
def test_unknown_augmentations_are_told_in_a_line(words):
    with pytest.raises(UserError, match="`augment`"):
        Recipe(augment=words)
    assert Recipe.from_dict(json.loads(json.dumps(Recipe().to_dict()))) == Recipe()


# ---- phases --------------------------------------------------------------------------------------------------------


def test_patience_ends_the_frozen_phase_and_the_second_keeps_its_length(monkeypatch):
    from tests.discriminator import test_training as other

    recipe = Recipe(
        epochs=6, frozen_epochs=4, batch=8, patience=1, schedule="plateau", plateau_patience=1, consistency=0.0
    )
    report = other.Quiet()
    fit = other.fit(recipe, model="squeezenet1_1", report=report)
    assert (fit.steps, fit.frozen, fit.feed.len_epoch) == (24, 16, 4)
    monkeypatch.setattr("discriminator.training.fit.figures", lambda *_: {"auc": 0.5})  # never better than at first
    assert fit.run()
    thawed = [line for line in report.lines if line.startswith("thawed")]
    assert len(thawed) == 1 and fit.frozen == 8  # best at step 4, one validation without gain at step 8
    assert fit.over and fit.steps == 16 and fit.step == 12  # the second phase has 8 steps, and its own patience
