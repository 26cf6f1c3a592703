"""Options of `train_gan.py` about what the images are: shape, colour, mirror images."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adversarial.feed import Feed
from discriminator.detector import Detector
from faces.dataset import DecodedFaces
from faces.degrade import preset
from faces.preprocess import Preprocess
from faces.source import open_source
from stylegan2_ada.files import load_generator

ROOT = Path(__file__).resolve().parents[2]


def oblongs(folder: Path, count: int = 12) -> Path:
    """Photos of 24 x 12 and 6 of 24 x 24, the left half of each dark."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (24 if i % 2 else 18, 24, 3), dtype=np.uint8)
        pixels[:, :12] //= 4
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


def test_grey_oblong_photos_both_mirrors(train, tmp_path):
    data = oblongs(tmp_path / "data")
    done = train("--data", data, "--channels", 1, "--crop", "pad", "--resize-filter", "box", "--mirror", "--mirror-y",
                 "--resolution", 32, "--kimg", 0.004, "--verdict-kimg", 0.004)  # fmt: skip
    assert done.code == 0, done.err
    assert "32 x 32, grey" in done.out
    assert "6 of 12 images are not square: they got bands of grey" in done.out
    assert "12 of 12 images are smaller than 32 pixels and were enlarged" in done.out
    run = tmp_path / "runs" / "00000-data-32-tiny"
    config = json.loads((run / "config.json").read_text())
    expected = {"resolution": 32, "crop": "pad", "resample": "box", "channels": 1}
    assert config["data_facts"]["preprocess"] == expected
    G, _ = load_generator(run / "generator-000000.004.safetensors")
    assert G.cfg.img_channels == 1
    assert Image.open(run / "reals.png").mode == "L"
    again = train("--resume", run, "--channels", 3, small=False)
    assert again.code == 2 and "trained with --channels 1, not 3" in again.err


def test_photos_that_fit_are_told_nothing(train, tmp_path, photos):
    done = train("--data", photos, "--kimg", 0.004, "--verdict-batch", 0)
    assert done.code == 0, done.err
    assert "not square" not in done.out and "enlarged" not in done.out


def test_unknown_shapes_and_colours_are_refused(train, tmp_path, photos):
    for arguments, words in (
        (["--crop", "round"], "--crop round is unknown; choose one of center, none, pad"),
        (["--resize-filter", "nearest"], "--resize-filter nearest is unknown"),
        (["--metric-data", "nowhere", "--metrics", "fid4"], "--metric-data nowhere: no such folder or zip"),
        (["--threads", 99999], "--threads 99999: this machine has"),
        (["--batch", 10**9], "--batch 1000000000 is too large; give at most 65536"),
        (["--channels", 4], "--channels 4: images are trained in 3 channels (colour) or 1 (grey)"),
    ):
        done = train("--data", photos, *arguments)
        assert done.code == 2 and words in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_mirror_images_are_copies_in_a_fixed_order(tmp_path):
    source = open_source(oblongs(tmp_path / "data", 4))
    plain = DecodedFaces.build(source, Preprocess(8)).images
    for x, y in ((True, False), (False, True), (True, True)):
        faces = DecodedFaces.build(source, Preprocess(8), mirror=x, mirror_y=y)
        flips = [plain] + [plain[..., ::-1]] * x
        flips += [f[..., ::-1, :] for f in flips] * y
        assert len(faces) == 4 * len(flips)
        assert np.array_equal(faces.batch(np.arange(len(faces))).numpy(), np.concatenate(flips))
        feed = Feed(faces, preset("none"), 0)
        assert sorted(feed.reals.tolist()) == list(range(len(faces))) and len(feed.fakes) == 0


def test_a_cache_remembers_shapes(tmp_path):
    source = open_source(oblongs(tmp_path / "data", 4))
    for _ in range(2):  # made, then found
        faces = DecodedFaces.build(source, Preprocess(20), cache_dir=tmp_path / "cache")
        assert (faces.enlarged, faces.not_square) == (2, 2)


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--gpus=8", "there is no --gpus here; instead: start as many processes as GPUs with torchrun"),
        ("--fp32=1", "instead: --precision fp32"),
        ("--initstrength", "instead: --resume goes on with the run's own p"),
        ("--mirror=maybe", "--mirror"),
        ("--gama=1", "--gamma"),
    ],
)
def test_options_of_other_programs_are_told_their_name_here(train, photos, argument, words):
    done = train("--data", photos, argument)
    assert done.code == 2 and words in done.err and len(done.err.splitlines()) == 1, done.err


def test_flags_may_be_written_the_published_way(train, photos):
    for argument, mirror in (("--mirror=1", True), ("--mirror=False", False), ("--no-mirror", False)):
        done = train("--data", photos, argument, "--dry-run")
        assert done.code == 0 and json.loads(done.out)["options"]["mirror"] is mirror, done.err


def test_what_is_told_of_other_programs_exists_here():
    spec = importlib.util.spec_from_file_location("train_gan_script", ROOT / "train_gan.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    known = {option for p in script.main.params for option in p.opts}
    for old, new in script.ELSEWHERE.items():
        assert old not in known
        assert {w.rstrip(",") for w in new.split() if w.startswith("--")} <= known | {"--nproc_per_node=N"}, new


def test_a_run_with_classes(train, photos, tmp_path):
    for i, path in enumerate(sorted(photos.iterdir())):
        (tmp_path / "data" / ("young" if i % 3 else "old")).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / ("young" if i % 3 else "old") / path.name).write_bytes(path.read_bytes())
    one = train("--data", photos, "--cond")
    assert one.code == 2 and "lies in no class folder" in one.err
    done = train("--data", "data", "--cond", "--mirror", "--kimg", 0.008, "--verdict-kimg", 0.004)
    assert done.code == 0, done.err
    assert "classes     2: old (7), young (15)" in done.out
    assert done.err == "Next: python synth.py --network runs/00000-data-8-tiny --n 64 --grid --class 0\n"
    run = tmp_path / "runs" / "00000-data-8-tiny"
    G, meta = load_generator(run / "generator-000000.008.safetensors")
    assert G.cfg.c_dim == 2 and meta["classes"] == ["old", "young"]
    assert "adversarial_logit_auc" not in json.loads((run / "verdict.json").read_text())
    Detector.load(run / "detector.safetensors")
    again = train("--resume", run, "--kimg", 0.012, small=False)
    assert again.code == 0, again.err


def test_few_images_and_images_that_count_as_fakes(train, photos, tmp_path):
    done = train("--data", photos, "--kimg", 0.004, "--verdict-batch", 0)
    assert done.code == 0 and "few         22 training images" in done.out, done.err
    assert "--mirror doubles them, and ADA" in done.out
    mirrored = train("--data", photos, "--kimg", 0.004, "--verdict-batch", 0, "--mirror")
    assert "few         22 training images and their mirror images: the" in mirrored.out, mirrored.err
    assert "--mirror" not in mirrored.out.partition("few  ")[2].partition("\n")[0]
    (tmp_path / "fake").symlink_to(photos)
    refused = train("--data", "fake")
    assert refused.code == 2 and "its images count as fakes" in refused.err


def test_what_is_wrong_here_is_told_before_networks_are_fetched(train, photos, tmp_path):
    (tmp_path / "in-the-way").touch()
    begun = ("--resume", "https://nowhere.invalid/network.pkl")
    for said, arguments in (
        ("nowhere: no such folder", ("--data", "nowhere")),
        ("--outdir in-the-way: in-the-way is a file", ("--data", photos, "--outdir", "in-the-way")),
    ):
        done = train(*arguments, *begun)
        assert done.code == 2 and said in done.err and "nowhere.invalid" not in done.err, done.err


def test_what_is_named_for_the_metrics_is_looked_for_before_images_are_decoded(train, photos, tmp_path):
    """That these photos can't be decoded is not yet met."""
    (tmp_path / "cut").mkdir()
    for path in photos.iterdir():
        (tmp_path / "cut" / path.name).write_bytes(path.read_bytes()[:-100])
    for said, arguments in (
        ("--metric-data nowhere", ("--metric-data", "nowhere")),
        ("--inception-weights gone.pth", ("--inception-weights", "gone.pth")),
        ("--fid-weights gone.pth", ("--fid-features", "timm:resnet18", "--fid-weights", "gone.pth")),
    ):
        done = train("--data", "cut", "--metrics", "fid2", *arguments)
        assert done.code == 2 and said in done.err, done.err
