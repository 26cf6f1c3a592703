"""Latents in files: what was saved is rendered again bit for bit; what is no such file is refused."""

import json
import math
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from faces.dataset import to_uint8
from synth.latents import ws_from_seeds
from synth.options import ProjectionSettings
from synth.perceptual import pyramid
from synth.projection import noise_maps, project
from synth.render import render_ws, with_noise
from synth.saved import PROJECTION_FILES, load_latents, psnr, save_latents, save_projection


def test_latents_and_noise_come_back(tmp_path, G):
    ws = ws_from_seeds(G, [1, 2])
    noises = {name: torch.randn_like(t) for name, t in noise_maps(G).items()}
    save_latents(tmp_path / "a.npz", ws, noises)
    found, found_noises = load_latents(tmp_path / "a.npz", G)
    assert torch.equal(found, ws) and found_noises.keys() == noises.keys()
    assert all(torch.equal(found_noises[name], noises[name]) for name in noises)


@pytest.mark.parametrize("shape", [(1, 6, 32), (6, 32), (1, 1, 32), (3, 6, 32)])
def test_files_of_other_programs(tmp_path, G, shape):
    w = np.random.default_rng(0).standard_normal(shape)
    np.savez(tmp_path / "projected_w.npz", w=w, other=np.array([1]))
    ws, noises = load_latents(tmp_path / "projected_w.npz", G)
    assert ws.shape == (shape[0] if len(shape) == 3 else 1, 6, 32) and ws.dtype == torch.float32 and not noises
    np.testing.assert_allclose(ws[0, -1], w.reshape(-1, 32)[-1 if shape[-2] == 1 else 5], rtol=1e-6)


def test_files_that_are_refused(tmp_path, G, make_generator, monkeypatch):
    path = tmp_path / "a.npz"

    def refused(said):
        with pytest.raises(UserError, match=f"`projected_w`.*{said}"):
            load_latents(path, G)

    refused("no such file")
    path.write_bytes(b"not a zip")
    refused("can't be read")
    np.savez(path, x=np.zeros(3))
    refused("no array w")
    np.savez(path, w=np.array([object()]))
    refused("can't be read")  # a pickle inside
    for w in (
        np.zeros((1, 6, 31)),
        np.zeros((1, 5, 32)),
        np.zeros((0, 6, 32)),
        np.zeros((1, 6, 32), int),
        np.zeros(32),
    ):
        np.savez(path, w=w)
        refused("give the `network`")
    np.savez(path, w=np.full((1, 6, 32), np.nan))
    refused("not numbers")
    larger = make_generator(32)
    save_latents(path, ws_from_seeds(G, [0]), noise_maps(larger))
    refused("noise maps are another generator's")
    monkeypatch.setattr("synth.saved._MAX_BYTES", 1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", bytes(2 << 20))  # a bomb: 2 MB of zeros in 2 kB
    refused("more than 1 MiB")
    path.write_bytes(pickle.dumps({"w": 1}))
    refused("can't be read")


def test_the_files_of_a_projection(tmp_path, G):
    target = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    settings = ProjectionSettings(steps=12, w_samples=10)
    result = project(G, torch.from_numpy(target).float() / 127.5 - 1, pyramid(), settings)
    found = next(render_ws(with_noise(G, result.noises), [result.ws]))[0]
    likeness = save_projection(tmp_path, target, found, result, settings, {"photo": "a.jpg"})
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(PROJECTION_FILES)
    report = json.loads((tmp_path / "projection.json").read_text(encoding="utf-8"))
    assert report["photo"] == "a.jpg" and report["settings"]["steps"] == 12
    assert report["psnr"] == pytest.approx(likeness, abs=1e-3) and report["steps_per_second"] > 0
    assert [h["step"] for h in report["history"]] == [0, 10, 11]
    ws, noises = load_latents(tmp_path / "projected_w.npz", G)
    again = next(render_ws(with_noise(G, noises), ws))[0]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "projection.png")), again.transpose(1, 2, 0))
    assert np.asarray(Image.open(tmp_path / "side-by-side.png")).shape == (16, 32, 3)


def test_psnr_in_closed_form():
    a = np.full((3, 4, 4), 100, np.uint8)
    assert psnr(a, a) == math.inf
    assert psnr(a, a + np.uint8(16)) == pytest.approx(20 * math.log10(255 / 16))
    assert to_uint8(torch.zeros(1)).item() == 128
