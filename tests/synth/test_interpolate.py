"""Paths through latent space against scipy, and walks against hand-made latents."""

import numpy as np
import pytest
import torch
from scipy.interpolate import make_interp_spline
from scipy.spatial import geometric_slerp

from common.errors import UserError
from faces.dataset import to_uint8
from synth.interpolate import path_through, slerp, walk
from synth.latents import z_from_seed
from synth.options import Rendering, Walk

T = np.linspace(0, 1, 7)


@pytest.mark.parametrize("dim", [2, 3, 40])
def test_slerp_is_scipys_on_the_unit_sphere(dim):
    rng = np.random.default_rng(dim)
    for _ in range(5):
        a, b = rng.standard_normal((2, dim))
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
        np.testing.assert_allclose(slerp(a, b, T), geometric_slerp(a, b, T), atol=1e-12)
        points = slerp(3 * a, 5 * b, T)  # the length goes straight from 3 to 5
        np.testing.assert_allclose(np.linalg.norm(points, axis=1), 3 + 2 * T, atol=1e-12)
        np.testing.assert_allclose(points / (3 + 2 * T)[:, None], geometric_slerp(a, b, T), atol=1e-12)


def test_slerp_of_nearly_equal_and_undefined_directions():
    a = np.array([1.0, 0, 0])
    near = np.array([np.cos(1e-6), np.sin(1e-6), 0])
    np.testing.assert_allclose(slerp(a, near, T)[:, 1], np.sin(T * 1e-6), rtol=1e-9)
    for b in (a, 2 * a, -a, 0 * a):
        np.testing.assert_allclose(slerp(a, b, T), (1 - T[:, None]) * a + T[:, None] * b)


@pytest.mark.parametrize("loop", [False, True])
def test_cubic_is_the_natural_or_periodic_spline(loop):
    keys = np.random.default_rng(0).standard_normal((5, 3))
    knots = np.concatenate([keys, keys[:1]]) if loop else keys
    expected = make_interp_spline(np.arange(len(knots)), knots, k=3, bc_type="periodic" if loop else "natural")
    times = np.linspace(0, len(knots) - 1, 50)[:-1]
    np.testing.assert_allclose(path_through(keys, "cubic", loop)(times), expected(times), atol=1e-12)


@pytest.mark.parametrize("method", ["linear", "slerp", "cubic"])
@pytest.mark.parametrize("loop", [False, True])
def test_paths_go_through_their_keys_and_loops_close(method, loop):
    keys = np.random.default_rng(1).standard_normal((4, 6))
    path = path_through(keys, method, loop)
    np.testing.assert_allclose(path(np.arange(4.0)), keys, atol=1e-12)
    if loop:
        np.testing.assert_allclose(path(np.array([4.0, 5.5])), path(np.array([0.0, 1.5])), atol=1e-12)
    small = 1e-7
    jumps = path(np.array([1 - small, 2 + small, 3 - small])) - keys[1:]
    assert np.abs(jumps).max() < 1e-5  # no jump at a key


def test_linear_in_between():
    keys = np.array([[0.0, 0], [2, 4], [0, 0]])
    np.testing.assert_allclose(path_through(keys, "linear", False)(np.array([0.25, 1.5])), [[0.5, 1], [1, 2]])


def test_two_keys_are_enough_and_one_is_not():
    keys = np.eye(2)
    for method in ("linear", "slerp", "cubic"):
        assert path_through(keys, method, True)(np.array([0.5])).shape == (1, 2)
    with pytest.raises(UserError, match="at least two seeds"):
        path_through(keys[:1], "linear", False)
    with pytest.raises(ValueError, match="method"):
        path_through(keys, "bezier", False)


def rendered(G, ws):
    with torch.inference_mode():
        return to_uint8(G.synthesis(ws, noise_mode="const")).permute(0, 2, 3, 1).numpy().astype(int)


def mapped(G, seed):
    z = torch.from_numpy(z_from_seed(seed, G.cfg.z_dim)).float()[None]
    return G.mapping(z)[0, 0]


def test_frames_of_a_walk_in_w(G):
    way = Walk(4, method="linear")
    frames = list(walk(G, [3, 9, 5], way, Rendering(psi=0.5, cutoff=2)))
    assert len(frames) == way.frames(3) == 9
    a, b = mapped(G, 3), mapped(G, 9)
    w = a + (b - a) * 0.25
    ws = w.repeat(G.num_ws, 1)
    ws[:2] = G.mapping.w_avg + 0.5 * (w - G.mapping.w_avg)
    assert np.abs(frames[1].astype(int) - rendered(G, ws[None])[0]).max() <= 1
    last = mapped(G, 5).repeat(G.num_ws, 1)
    last[:2] = G.mapping.w_avg + 0.5 * (last[0] - G.mapping.w_avg)
    assert np.abs(frames[-1].astype(int) - rendered(G, last[None])[0]).max() <= 1


def test_frames_of_a_walk_in_z(G):
    frames = list(walk(G, [3, 9], Walk(3, "z", "slerp", loop=True), Rendering(psi=0.7)))
    assert len(frames) == 6
    z = slerp(z_from_seed(3, 32), z_from_seed(9, 32), np.array([2 / 3]))
    ws = G.mapping(torch.from_numpy(z).float(), psi=0.7)
    assert np.abs(frames[2].astype(int) - rendered(G, ws)[0]).max() <= 1


def test_cells_of_a_grid_start_at_different_seeds(G):
    seeds = [1, 2, 3, 4, 5, 6, 7, 8]
    alone = list(walk(G, seeds, Walk(2, loop=True)))
    grid = list(walk(G, seeds, Walk(2, loop=True, grid="2x2")))
    assert len(grid) == len(alone) == 16 and grid[0].shape == (32, 32, 3)
    for t in (0, 5, 13):
        for cell, (y, x) in enumerate([(0, 0), (0, 16), (16, 0), (16, 16)]):
            expected = alone[(t + 4 * cell) % 16].astype(int)  # two seeds further on, two frames each
            assert np.abs(grid[t][y : y + 16, x : x + 16] - expected).max() <= 1


def test_what_a_walk_refuses(G, make_generator):
    with pytest.raises(UserError, match="`method` slerp.*`space` z"):
        Walk(space="w", method="slerp")
    for wrong in ({"method": "bezier"}, {"space": "y"}, {"grid": "2"}, {"frames_per_key": 0}):
        with pytest.raises(UserError, match=f"`{next(iter(wrong))}`"):
            Walk(**wrong)
    with pytest.raises(UserError, match="`grid` 2x2"):
        walk(G, [1, 2, 3], Walk(grid="2x2"))
    with pytest.raises(UserError, match="at least two"):
        walk(G, [1], Walk())
    with pytest.raises(UserError, match="`class_index`"):
        walk(make_generator(c_dim=2), [1, 2], Walk())
    with pytest.raises(UserError, match="noise"):
        walk(G, [1, 2], Walk(), Rendering(noise_mode="random"))
