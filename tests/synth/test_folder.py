"""What the commands ask of the library: options in, files out, and what there is to tell by callbacks only."""

import re

import pytest
from PIL import Image

from common.errors import UserError
from stylegan2_ada.files import save_generator
from synth.film import walk_to_video
from synth.folder import sample_to_folder
from synth.network import Watch
from synth.options import FromNetwork, ImageFile, MixOptions, Rendering, SeedOptions, SweepOptions, Walk, WalkVideo
from synth.sweep import sweep_sheet


@pytest.fixture
def source(tmp_path, G):
    save_generator(tmp_path / "net.safetensors", G, {"kimg": 1})
    return FromNetwork(str(tmp_path / "net.safetensors"), "cpu")


def test_what_is_told_goes_through_the_callbacks(source, tmp_path, capsys):
    lines, counts = [], []
    watch = Watch(lines.append, lambda *count: counts.append(count))
    asked = SeedOptions(n=9, outdir=str(tmp_path / "out"), grid=True, batch=4)
    made = sample_to_folder(source, asked, ImageFile("jpg", 80), Rendering(psi=0.5), watch)
    assert made == [tmp_path / "out" / "grid.png", tmp_path / "out"]
    assert counts[-1] == (9, 9) and "16x16" in lines[0] and re.fullmatch(r"9 images in .*", lines[1])
    assert Image.open(tmp_path / "out" / "seed000008.jpg").format == "JPEG"
    (sheet,) = sweep_sheet(source, SweepOptions("1,2", "0,1", str(tmp_path / "sweep.png")), Rendering())
    assert sheet.is_file()
    assert capsys.readouterr() == ("", "")


def test_a_walk_tells_each_frame_of_how_many(source, tmp_path, capsys):
    counts = []
    watch = Watch(lambda line: None, lambda *count: counts.append(count))
    asked = WalkVideo(seeds="1-3", out=str(tmp_path / "walk.gif"), fps=10)
    walk_to_video(source, asked, Walk(frames_per_key=4), Rendering(), watch)
    assert counts == [(done, 9) for done in range(1, 10)] and capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SeedOptions(n=0), "`n` 0"),
        (lambda: SeedOptions(n=1, seeds="1"), "give `n` or `seeds`"),
        (lambda: SeedOptions(class_index="cat"), "`class_index` cat"),
        (lambda: MixOptions("1-x", "2"), "`rows` 1-x"),
        (lambda: WalkVideo(fps=float("nan")), "`fps` nan"),
        (lambda: SweepOptions(truncs="0,nan"), "`truncs` 0,nan"),
        (lambda: SweepOptions(out="a.jpg"), "call it a.png"),
        (lambda: Rendering(psi=3), "`psi` 3"),
        (lambda: Rendering(precision="fp16"), "`precision` fp16"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_network_is_looked_for(make, said):
    with pytest.raises(UserError, match=said):
        make()
