"""What `inspect` counts and averages, against numpy and PIL on a few images."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from common.errors import UserError
from faces.audit.survey import counted, survey_source
from faces.prepare_options import Inspection
from faces.procedural.portrait import render_face
from faces.source import open_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    for i in range(8):
        file = root / ("train", "test")[i % 4 == 3] / ("real", "fake")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(render_face(i, 128))
        image.filter(ImageFilter.GaussianBlur(2)).save(file) if i % 2 else image.save(file)
    Image.fromarray(render_face(0, 128)).save(root / "train" / "real" / "copy.png")
    Image.fromarray(render_face(2, 128)[:, ::-1]).save(root / "train" / "real" / "mirror.jpg", quality=80)
    (root / "train" / "fake" / "broken.png").write_bytes((root / "train" / "fake" / "1.png").read_bytes()[:300])
    return root


def test_counts_duplicates_and_averages(folder):
    survey = survey_source(open_source(folder), workers=1)
    assert survey.splits() == {"train": {"real": 6, "fake": 3}, "test": {"real": 0, "fake": 2}}
    assert survey.table("format") == {"PNG": {"real": 5, "fake": 4}, "JPEG": {"real": 1, "fake": 0}}
    assert survey.table("quality")["80"] == {"real": 1, "fake": 0}
    assert [name for name, _ in survey.bad] == ["train/fake/broken.png"]
    assert [sorted(group) for group in survey.exact] == [["train/real/0.png", "train/real/copy.png"]]
    assert [sorted(group) for group in survey.near] == [["train/real/2.png", "train/real/mirror.jpg"]]
    assert [pair[2].shape for pair in survey.near_pictures] == [(96, 96, 3)] * 2
    real, fake = survey.groups
    assert (real.name, real.count, real.looked_at, fake.name, fake.count, fake.looked_at) == (
        "real",
        6,
        6,
        "fake",
        5,
        4,
    )
    images = [np.asarray(Image.open(p).convert("RGB")) for p in sorted((folder / "train" / "real").iterdir())]
    assert real.mean_image == pytest.approx(np.mean(images, axis=0), abs=1e-3)  # 128 x 128 already
    assert real.histograms[0] == pytest.approx(np.histogram(np.stack(images)[..., 0], 64, (0, 256))[0])
    luma = [np.asarray(Image.fromarray(im).convert("L")).mean() for im in images]
    assert sorted(real.brightness) == pytest.approx(sorted(luma), abs=0.6)
    assert fake.sharpness.max() < real.sharpness.min()
    assert (fake.spectrum.mean(0) - real.spectrum.mean(0))[30:].max() < -1  # blurred
    assert len(real.samples) == 6 and survey.to_dict()["classes"]["fake"]["mean_colour"] is not None


def test_the_limit_is_told(folder):
    survey = survey_source(open_source(folder), limit=4)
    assert [group.looked_at for group in survey.groups] == [2, 2]
    assert "4 of 10" in survey.notes[-1]


def test_counted_puts_the_commonest_first():
    table = counted([("b", "fake"), ("a", "real"), ("b", "real")])
    assert list(table.items()) == [("b", {"real": 1, "fake": 1}), ("a", {"real": 1, "fake": 0})]


@pytest.mark.parametrize("more", [{"out": "page.html"}, {"force": True}])
def test_json_on_stdout_writes_no_page(more):
    with pytest.raises(UserError, match="writes no file"):
        Inspection(as_json=True, **more)
