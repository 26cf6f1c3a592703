"""A bank of twins: decoders of every kind, the middle of a window, gates, resuming, what is held back."""

from __future__ import annotations

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from faces.patches import Patches
from faces.preprocess import Preprocess
from faces.source import open_source
from faces.twin_bank import TwinBank
from synth.network import Watch
from synth.options import TwinOptions
from synth.twin_decoders import KINDS, DecoderShape, TwinDecoder
from synth.twin_training import BANDS, Length, Rings, Twins, teach
from synth.twins import complaints, make_bank, measure
from training.data import open_splits

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """24 smooth pictures of 120 px with some noise, and one that is too small."""
    folder, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    folder.mkdir()
    for i in range(24):
        image = cv2.resize(rng.uniform(30, 220, (6, 6, 3)), (120, 128), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        if i == 3:
            Image.fromarray(image).save(folder / "03.png")
        else:
            Image.fromarray(image).save(folder / f"{i:02d}.jpg", quality=80)
    Image.new("RGB", (60, 60)).save(folder / "small.png")
    return folder


def bank(photos, outdir, told=None, **more) -> TwinBank:
    asked = TwinOptions(data=str(photos), outdir=str(outdir), side=48, per_decoder=70, workers=1, threads=1,
                        device="cpu", **{"steps": 2, "decoders": 2, **more})  # fmt: skip
    lines = [] if told is None else told
    make_bank(asked, Watch(lines.append, lambda *_: None, lambda *_: None))
    return TwinBank.open(outdir)


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
@pytest.mark.parametrize("depth", [1, 3])
def test_every_kind_is_of_any_size_and_learns(kind, depth):
    torch.manual_seed(0)
    net = TwinDecoder(DecoderShape(kind, depth, 16, 5, True))
    assert net(torch.zeros(2, 3, 40, 40)).shape == (2, 3, 40, 40)
    out = net(torch.rand(2, 3, 64, 64) - 0.5)
    assert out.shape == (2, 3, 64, 64) and out.dtype == torch.float32
    out.square().mean().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not silent


def test_decoders_follow_from_their_seed_and_differ():
    shapes = [DecoderShape.drawn(0, k) for k in range(40)]
    assert shapes == [DecoderShape.drawn(0, k) for k in range(40)]
    assert {s.kind for s in shapes[:6]} == set(KINDS) and {s.depth for s in shapes} == {1, 2, 3}
    assert len({s.width for s in shapes}) > 8 and DecoderShape.drawn(1, 0) != shapes[0]


@pytest.mark.slow
def test_a_decoder_that_learns_is_as_sharp_as_the_photos(photos):
    patches = Patches.build(open_source(photos), Preprocess(64), workers=1)
    twins = Twins(patches, np.arange(patches.count), [(None, "")] * patches.count, CPU)
    shape = DecoderShape("bilinear", 1, 16, 8, True)
    places = twins.places((1, 2), 24, 64)
    windows = twins.cut(places, 64)
    missing = []
    for steps in (1, 40):
        decoder = teach(shape, twins, (0, 1), Length(1, steps), lambda *_: None).decoder
        made = twins.of(decoder, windows, 8, 0).astype(float)
        noise = [
            np.abs(np.diff(np.diff(images, n=2, axis=3), n=2, axis=2)).mean()
            for images in (made, windows[:, :, 8:-8, 8:-8].astype(float))
        ]
        missing.append(abs(1 - noise[0] / noise[1]))
    assert missing[0] > 0.3 and missing[1] < 0.6 * missing[0]
    same = [teach(shape, twins, (0, 1), Length(1, 3), lambda *_: None).decoder.state_dict() for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(same[0].values(), same[1].values(), strict=True))


def test_rings_are_log_power_of_frequencies():
    side, f = 48, 12
    wave = np.cos(2 * np.pi * f / side * np.arange(side))[None, None, None] * np.ones((1, 3, side, 1)) * 0.5
    found = Rings(side)(torch.from_numpy(wave.astype(np.float32)))[0].numpy()
    assert found.argmax() == int(f / side / 0.5**0.5 * BANDS)


def test_the_middle_of_a_window_is_kept(photos, tmp_path):
    made = bank(photos, tmp_path / "bank")
    source = open_source(photos)
    paths = [item.path for item in source.items]
    for one in made.decoders:
        pixels = made.pixels(one)
        assert (
            pixels.shape == (70, 2, 48, 48, 3)
            and one.pairs == 70
            and set(one.gates) == {"sharpness", "spectrum", "colour"}
        )
        for k in (0, 33, 69):
            pair = made.pairs[one.number][k]
            photo = source.image(paths.index(pair.photo))
            assert np.array_equal(photo[pair.top : pair.top + 48, pair.left : pair.left + 48], pixels[k, 0])
            assert pair.quality == (None if pair.photo.endswith("png") else 80)
            assert pair.bytes == (photos / pair.photo).stat().st_size


def test_validation_photos_stay_out(photos, tmp_path):
    made = bank(photos, tmp_path / "bank")
    used = {pair.photo for pairs in made.pairs.values() for pair in pairs}
    splits = open_splits(str(photos), None, subset=None, seed=0)
    assert used <= {item.path for item in splits.train.items} and len(used) > 15
    assert not used & {item.path for item in splits.valid.items}
    free = bank(photos, tmp_path / "free", decoders=1, validation_free=True)
    assert {pair.photo for pair in free.pairs[0]} & {item.path for item in splits.valid.items}


def test_some_of_a_trainings_photos_and_all_photos_are_not_one_thing():
    with pytest.raises(UserError, match="`validation_free` takes all photos"):
        TwinOptions(data="photos", outdir="bank", validation_free=True, subset=9)


def test_it_goes_on_where_it_was_and_to_the_same_bits(photos, tmp_path):
    bank(photos, tmp_path / "whole")
    bank(photos, tmp_path / "parts", decoders=1)
    before = (tmp_path / "parts" / "decoder-00.npy").stat().st_mtime_ns
    (tmp_path / "parts" / "decoder-01.npy").write_bytes(b"half of it")  # without its .json
    lines: list[str] = []
    bank(photos, tmp_path / "parts", lines)
    assert "1 of 2 decoders are there already" in lines and any("left out" in line for line in lines)
    assert (tmp_path / "parts" / "decoder-00.npy").stat().st_mtime_ns == before
    for file in ("decoder-00.npy", "decoder-01.npy", "decoder-01.json", "manifest.csv", "bank.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file
    rows = list(csv.DictReader((tmp_path / "whole" / "manifest.csv").open()))
    assert len(rows) == 140 and rows[70]["pair"] == "01-00000" and rows[70]["kind"] == "shuffle"
    assert Image.open(tmp_path / "whole" / "sheet.png").size[0] > 500


def test_photos_that_are_too_small_claim_no_folder(photos, tmp_path):
    """The next attempt, with others, was refused as another bank's."""
    small = tmp_path / "small"
    small.mkdir()
    for i in range(3):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(small / f"{i}.png")
    with pytest.raises(UserError, match="none of the 3 photos"):
        bank(small, tmp_path / "bank", validation_free=True)
    assert not (tmp_path / "bank").exists()
    assert len(bank(photos, tmp_path / "bank", decoders=1).decoders) == 1


def test_another_bank_is_refused(photos, tmp_path):
    bank(photos, tmp_path / "bank", decoders=1)
    with pytest.raises(UserError, match="this bank has seed 0, asked is 1"):
        bank(photos, tmp_path / "bank", seed=1)
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    (other / "00.jpg").unlink()
    with pytest.raises(UserError, match="photos"):
        bank(other, tmp_path / "bank")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match="holds something else"):
        bank(photos, tmp_path / "full")


def test_damaged_banks_are_told(photos, tmp_path):
    made = bank(photos, tmp_path / "bank")
    path = tmp_path / "bank" / "decoder-00.npy"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="decoder-00.npy"):
        made.pixels(made.decoders[0])
    manifest = tmp_path / "bank" / "manifest.csv"
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:100]))
    with pytest.raises(UserError, match="lists 29 pairs of decoder-01, which has 70"):
        TwinBank.open(tmp_path / "bank")
    record = tmp_path / "bank" / "decoder-00.json"
    record.write_text(json.dumps({"number": 0}))
    with pytest.raises(UserError, match="decoder-00.json"):
        TwinBank.open(tmp_path / "bank")
    with pytest.raises(UserError, match="no bank of twins"):
        TwinBank.open(photos)


def test_gates_find_what_blur_alone_tells():
    """Twins that are photos with other noise of the same strength pass; blurred ones and framed ones show."""
    rng = np.random.default_rng(0)
    smooth = np.stack([cv2.resize(rng.uniform(60, 190, (4, 4, 3)), (48, 48), interpolation=cv2.INTER_CUBIC)
                       for _ in range(240)]).transpose(0, 3, 1, 2)  # fmt: skip
    photos, twins = (np.clip(smooth + rng.normal(0, 5, smooth.shape), 0, 255).astype(np.uint8) for _ in range(2))
    groups = np.arange(240) // 6
    measured, gates = measure(photos, twins, groups)
    assert not complaints(measured, gates) and 0.97 < measured["sharpness"] < 1.03 and 0.9 < measured["border"] < 1.1
    soft = np.stack([cv2.GaussianBlur(im.transpose(1, 2, 0), (0, 0), 0.6).transpose(2, 0, 1) for im in twins])
    measured, gates = measure(photos, soft, groups)
    assert measured["sharpness"] < 0.9 and gates["sharpness"]["auc"] > 0.9
    assert len(complaints(measured, gates)) == 3
    framed = twins.copy()
    framed[:, :, :2] = 128
    assert measure(photos, framed, groups)[0]["border"] > 1.5


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
def test_a_twin_begins_as_the_photo_made_smaller_and_larger(kind):
    """Before anything is learnt, areas have the photo's colours: against numpy's means."""
    torch.manual_seed(0)
    photo = torch.rand(1, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3) * 2 - 1
    twin = TwinDecoder(DecoderShape(kind, 2, 16, 12, False))(photo).detach().numpy()[0]
    means = [image.reshape(3, 8, 8, 8, 8).mean((2, 4)) for image in (twin, photo.numpy()[0])]
    assert np.corrcoef(means[0].ravel(), means[1].ravel())[0, 1] > 0.95
