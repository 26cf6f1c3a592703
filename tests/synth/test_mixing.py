"""Style mixing against hand-made latents; names of layers at every resolution."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from faces.dataset import to_uint8
from synth.mixing import mix_files, mixtures, named_layers, parse_styles, save_mix
from synth.options import MixOptions, Rendering
from synth.sample import sample

SEEDS = ([1, 30], [7, 9, 2])


def test_names_at_1024_pixels_are_the_resolutions_of_the_paper():
    # layer 0 is 4 pixels, then two layers for each resolution; the last is the final toRGB's
    assert named_layers(18) == {"coarse": [0, 1, 2], "middle": [3, 4, 5, 6], "fine": list(range(7, 18))}


@pytest.mark.parametrize("resolution", [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048])
def test_names_share_out_all_layers_at_every_resolution(resolution, make_generator):
    num_ws = 2 * (resolution.bit_length() - 2)
    if resolution <= 32:
        assert make_generator(resolution).num_ws == num_ws
    names = named_layers(num_ws)
    assert sorted(sum(names.values(), [])) == list(range(num_ws))
    assert list(names) == ["coarse", "middle", "fine"] and sum(names.values(), []) == list(range(num_ws))
    if resolution >= 16:
        assert all(names.values())
    for first in (names["middle"], names["fine"]):
        if first:
            assert first[0] % 2 == 1  # a name begins where a resolution begins


def test_parse_styles():
    assert parse_styles("0-3", 10) == [0, 1, 2, 3]
    assert parse_styles("5, 0,2-3,2", 10) == [0, 2, 3, 5]
    assert parse_styles("coarse", 10) == [0, 1, 2]
    assert parse_styles("fine,0", 8) == [0, 5, 6, 7]
    for bad, said in {
        "0-6": "layers 0 to 5",
        "6": "layers 0 to 5",
        "3-1": "backwards",
        "": "no layer",
        "rough": "no layer",
        "-1": "no layer",
        "1-": "no layer",
        "1,,2": "no layer",
    }.items():
        with pytest.raises(UserError, match=f"`styles`.*{said}"):
            parse_styles(bad, 6)
    with pytest.raises(UserError, match="none so called"):
        parse_styles("fine", 4)


def test_mixtures_are_the_synthesis_of_hand_made_latents(G):
    from synth.latents import ws_from_seeds

    layers = [0, 3]
    counted = []
    mix = mixtures(G, *SEEDS, layers, Rendering(psi=0.8), on_images=counted.append)
    assert counted[-1] == 2 + 3 + 6
    np.testing.assert_array_equal(mix.rows, sample(G, SEEDS[0], Rendering(psi=0.8)))
    np.testing.assert_array_equal(mix.columns, sample(G, SEEDS[1], Rendering(psi=0.8)))
    assert mix.both.shape == (2, 3, 3, 16, 16)
    for i, r in enumerate(SEEDS[0]):
        for j, c in enumerate(SEEDS[1]):
            row, column = ws_from_seeds(G, [r, c], Rendering(psi=0.8))
            ws = torch.stack([column[k] if k in layers else row[k] for k in range(G.num_ws)])
            with torch.inference_mode():
                expected = to_uint8(G.synthesis(ws[None], noise_mode="const"))[0].numpy()
            assert np.abs(mix.both[i, j].astype(int) - expected).max() <= 1


def test_all_layers_give_the_column_and_none_the_row(G):
    everything = mixtures(G, [1], [2], list(range(G.num_ws)))
    np.testing.assert_array_equal(everything.both[0, 0], everything.columns[0])
    np.testing.assert_array_equal(mixtures(G, [1], [2], []).both[0, 0], everything.rows[0])


def test_too_large_a_mix_is_refused():
    with pytest.raises(UserError, match="`rows` and `cols`"):
        MixOptions("0-100", "0-99")


def test_files_of_a_mix(tmp_path, G):
    mix = mixtures(G, *SEEDS, [0])
    grid = save_mix(tmp_path / "a" / "b", *SEEDS, mix, {"psi": 1.0, "class": None})
    with open(grid.parent / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [name for name, *_ in mix_files(*SEEDS)]
    assert sorted(p.name for p in grid.parent.iterdir()) == sorted(
        [r["file"] for r in rows] + ["grid.png", "manifest.csv"]
    )
    line = rows[-1]
    assert (line["file"], line["row_seed"], line["col_seed"]) == ("row000030-col000002.png", "30", "2")
    assert line["class"] == ""
    image = np.asarray(Image.open(grid.parent / line["file"]))
    np.testing.assert_array_equal(image, mix.both[1, 2].transpose(1, 2, 0))
    # the mixtures in their places: 16-pixel images are shown four times as large, right and bottom aligned
    sheet = np.asarray(Image.open(grid)).astype(int)
    cell = sheet[-66:-2, -66:-2]
    np.testing.assert_array_equal(cell[::4, ::4], image)
