"""What detectors say of the same images: an image is decoded once for all of them."""

from __future__ import annotations

import zipfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from discriminator.crop_watch import _finder
from discriminator.detector import Detector
from evaluation.ensemble_scores import score_parts
from evaluation.listener import Listener
from evaluation.options import EnsembleOptions
from evaluation.scoring import Scorer, not_cut_out, open_labelled, score_all
from faces import source
from faces.degrade import preset
from faces.preprocess import Preprocess
from tests.discriminator.conftest import make_calibration, make_net


def detector(crop: str, name: str, bias: float) -> Detector:
    made = Detector(make_net(), Preprocess(32, crop), make_calibration())
    made.net.load_state_dict({key: value + bias for key, value in made.net.state_dict().items()})
    made.sha256 = name
    return made


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    for label in ("real", "fake"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(12):
            rng = np.random.default_rng([i, label == "fake"])
            picture = Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))
            picture.save(tmp_path / "set" / label / f"{i}.png")
    (tmp_path / "set" / "real" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return EnsembleOptions(models=("a", "b"), data=(str(tmp_path / "set"),), out="c.safetensors", split="all", batch=5)


def test_an_image_is_decoded_once_for_all_members(asked, tmp_path, monkeypatch):
    """It was decoded once for each. Scores are those of each alone, to the bit; what is known is not asked again."""
    members = [detector("center", "a", 0.0), detector("pad", "b", 0.01), detector("none", "c", -0.01)]
    parts, decoded, decode = open_labelled(asked), Counter(), source.decode

    def counted(data, name, **how):
        decoded[name] += 1
        return decode(data, name, **how)

    monkeypatch.setattr(source, "decode", counted)
    alone = [Scorer(member, asked).score(parts[0], preset("web")).score for member in members[:1]]
    decoded.clear()
    scorers = [Scorer(member, asked) for member in members]
    told = score_all(scorers, parts[0], preset("web"))
    assert set(decoded.values()) == {1} and len(decoded) == 25
    assert all(len(scorer.skipped) == 1 for scorer in scorers)
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "other"))
    alone += [Scorer(member, asked).score(parts[0], preset("web")).score for member in members[1:]]
    for one, judged in zip(alone, told, strict=True):
        np.testing.assert_array_equal(judged.score, one)
    assert len({judged.score[0] for judged in told}) == 3
    decoded.clear()
    rows = score_parts(members, parts, asked, Listener(), degraded=True, what="validation")
    assert set(decoded.values()) == {2} and rows.z.shape == (2, 24, 3)  # clean, and once degraded
    decoded.clear()
    again = score_parts(members[::-1], parts, asked, Listener(), degraded=True, what="validation")
    assert not decoded and np.array_equal(again.z, rows.z[:, :, ::-1])


def test_an_image_of_an_earlier_source_is_known_however_it_is_named(asked, tmp_path):
    """A manifest's `./a.png` was another image than the folder's a.png, and an archive's member than the archive's."""
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(tmp_path / "set" / "real" / "1.png", "real/1.png")
        archive.write(tmp_path / "set" / "fake" / "1.png", "fake/1.png")
    rows = ("./set/real/1.png,real", "set/fake/../fake/2.png,fake", "./z.zip/real/1.png,real", "more.png,fake")
    (tmp_path / "m.csv").write_text("\n".join(("path,label", *rows)))
    (tmp_path / "more.png").write_bytes((tmp_path / "set" / "fake" / "3.png").read_bytes())
    data = tuple(str(tmp_path / name) for name in ("set", "z.zip", "m.csv"))
    first, packed, listed = open_labelled(replace(asked, data=data))
    assert (len(first), len(packed), len(listed)) == (25, 2, 1) and listed.source.items[0].path == "more.png"
    with pytest.raises(UserError, match="m.csv: all of its images belong to an earlier"):
        (tmp_path / "m.csv").write_text("\n".join(("path,label", *rows[:3])))
        open_labelled(replace(asked, data=data))


def test_samples_are_not_taken_for_reals(asked, tmp_path):
    """--label real, said of photos beside them, made 49 of the generator's own images false alarms."""
    made = tmp_path / "samples" / "run"
    made.mkdir(parents=True)
    for i in (1, 2):
        (made / f"seed{i}.png").write_bytes((tmp_path / "set" / "fake" / f"{i}.png").read_bytes())
    rows = ["file,seed,psi,network_sha256,format,class", *(f"seed{i}.png,{i},1.0,{'a' * 64},png," for i in (1, 2))]
    (made / "manifest.csv").write_text("\n".join((*rows, "")))
    for folder, name in ((made, "manifest.csv"), (made.parent, "run/manifest.csv")):
        with pytest.raises(UserError, match=f"{name} in it is of synth.py: its images are fakes, not real"):
            open_labelled(replace(asked, data=(str(folder),), label="real"))
        (fakes,) = open_labelled(replace(asked, data=(str(folder),), label="fake"))
        assert fakes.labels.tolist() == [1, 1]
    (listed,) = open_labelled(replace(asked, data=(str(made / "manifest.csv"),), label="real"))
    assert listed.labels.tolist() == [1, 1], "the manifest itself says so"
    (made / "manifest.csv").write_text("path,label\nseed1.png,7\n")  # of what labels, nobody knows
    assert open_labelled(replace(asked, data=(str(made),), label="real"))[0].labels.tolist() == [0, 0]


def test_pictures_that_are_no_aligned_crops_are_said(asked):
    """Photos on pages were judged whole, fakes that detect.py finds were missed, and nothing said why."""
    parts, made = open_labelled(asked), detector("center", "a", 0.0)
    assert not_cut_out(parts, made) == [], "it does not know aligned faces"
    made.meta = {"face": "ffhq"}
    (line,) = not_cut_out(parts, made)
    looked = 8
    assert f"of {looked} pictures looked at, {looked} are no aligned crops of a face" in line
    assert "(a photo of 56x40 pixels is not square)" in line


@pytest.mark.bundled
def test_aligned_crops_are_not_spoken_of(asked, shared_dir):
    _finder.cache_clear()  # others may have asked without YuNet's file
    photos = shared_dir / "data" / "flickr140k" / "real_vs_fake" / "real-vs-fake" / "test"
    made = detector("center", "a", 0.0)
    made.meta = {"face": "ffhq"}
    assert not_cut_out(open_labelled(replace(asked, data=(str(photos),), limit=12)), made) == []


def test_a_moved_set_s_images_are_named_where_they_lie_now(asked, tmp_path):
    first = Scorer(detector("center", "a", 0.0), asked)
    first.score(open_labelled(asked)[0], preset("none"))
    (tmp_path / "there").mkdir()
    (tmp_path / "set").rename(tmp_path / "there" / "set")
    part = open_labelled(replace(asked, data=(str(tmp_path / "there" / "set"),)))[0]
    again = Scorer(detector("center", "a", 0.0), asked)
    assert again.known(part, preset("none")) is not None
    again.score(part, preset("none"))
    (name,), (where,) = first.skipped, again.skipped
    assert where == name.replace(str(tmp_path), str(tmp_path / "there")) and first.skipped[name] == again.skipped[where]
