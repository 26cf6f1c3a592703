"""Sampling: latents by seed, and the same pixels whatever the batch or the company."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from faces.dataset import to_uint8
from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.generator import Generator
from synth.latents import block_size, z_from_seed
from synth.options import MAX_SEED, Rendering, parse_seeds
from synth.sample import sample, sample_batches


def tiny(resolution=16, **kwargs):
    torch.manual_seed(0)
    cfg = GeneratorConfig(resolution, z_dim=32, w_dim=32, mapping_layers=2, channel_base=512, channel_max=64, **kwargs)
    G = Generator(cfg).eval().requires_grad_(False)
    for name, parameter in G.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.3)
    return G


@pytest.fixture(scope="module")
def G():
    return tiny()


def test_latents_are_those_of_numpys_frozen_generator():
    # the first normals of MT19937 seeded with 0 and 1, as in countless publications
    np.testing.assert_allclose(z_from_seed(0, 3), [1.764052345967664, 0.4001572083672233, 0.9787379841057392])
    np.testing.assert_allclose(z_from_seed(1, 2), [1.6243453636632417, -0.6117564136500754])
    assert z_from_seed(MAX_SEED, 4).shape == (4,)


@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
def test_pixels_do_not_depend_on_batch_order_or_company(G, noise_mode):
    how = Rendering(noise_mode=noise_mode)
    whole = sample(G, range(21), how, batch=21)
    for batch in (1, 5, 64):
        np.testing.assert_array_equal(sample(G, range(21), how, batch=batch), whole)
    alone = sample(G, [13], how)
    np.testing.assert_array_equal(alone[0], whole[13])
    some = [20, 3, 7, 3, 0]
    np.testing.assert_array_equal(sample(G, some, how, batch=2), whole[some])


def test_images_are_those_of_the_generator(G):
    seeds = [3, 11]
    z = torch.tensor(np.stack([z_from_seed(s, 32) for s in seeds]), dtype=torch.float32)
    expected = (G(z, psi=0.5, noise_mode="const").clamp(-1, 1) + 1) * 127.5
    got = sample(G, seeds, Rendering(psi=0.5))
    assert got.dtype == np.uint8 and got.shape == (2, 3, 16, 16)
    assert np.abs(got - expected.numpy()).max() < 0.501  # rounded to the nearest


def test_noise_modes_differ_and_psi_zero_is_one_face(G):
    const, random, none = (sample(G, range(4), Rendering(noise_mode=m)) for m in ("const", "random", "none"))
    assert (const != none).any() and (random != const).any()
    mean = sample(G, range(8), Rendering(psi=0.0))
    assert (np.abs(mean.astype(int) - mean[:1]) <= 1).all()


def test_low_precision_configuration_is_sampled_in_float32():
    full, low = tiny(), tiny(num_lowp_res=2)
    low.load_state_dict(full.state_dict())
    np.testing.assert_array_equal(sample(low, range(3)), sample(full, range(3)))


def test_callers_random_state_is_left_alone(G):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sample(G, range(3), Rendering(noise_mode="random"))
    assert torch.equal(torch.rand(3), expected)


def test_batches_come_in_portions(G):
    portions = list(sample_batches(G, range(40), batch=16))
    assert [len(names) for names, _ in portions] == [16, 16, 8]
    assert [s for names, _ in portions for s in names] == list(range(40))
    assert sample(G, []).shape == (0, 3, 16, 16)


def test_extreme_seeds(G):
    assert sample(G, [MAX_SEED, MAX_SEED - 1]).shape[0] == 2
    for seed in (-1, MAX_SEED + 1):
        with pytest.raises(UserError, match="seeds are from 0"):
            sample(G, [seed])


def test_classes(G):
    conditional = tiny(c_dim=3)
    a, b = (sample(conditional, [0], Rendering(class_index=k)) for k in (0, 2))
    assert (a != b).any()
    for wrong in (None, 3):
        with pytest.raises(UserError, match="classes 0 to 2"):
            sample(conditional, [0], Rendering(class_index=wrong))
    with pytest.raises(UserError, match="no classes"):
        sample(G, [0], Rendering(class_index=0))
    with pytest.raises(UserError, match="`batch`"):
        sample(G, [0], batch=0)


def test_block_size_shrinks_with_resolution():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [block_size(r, cpu) for r in (64, 128, 256, 1024)] == [8, 8, 2, 1]
    assert [block_size(r, cuda) for r in (64, 256, 1024)] == [64, 32, 2]


def test_to_uint8_rounds_and_clips():
    x = torch.tensor([-3.0, -1.0, -1 + 0.6 / 127.5, 0.0, 1.0, 9.0])
    assert to_uint8(x).tolist() == [0, 0, 1, 128, 255, 255]


def test_parse_seeds():
    assert parse_seeds("0-3,200") == [0, 1, 2, 3, 200]
    assert parse_seeds(" 5, 5 ,4-5") == [5, 4] and parse_seeds(" 5, 5 ,4-5", doubles=True) == [5, 5, 4, 5]
    for bad in ("", "a", "1-", "-1", "3-1", "1,,2", "1.5", "0-99999999", str(MAX_SEED + 1)):
        with pytest.raises(UserError, match="`seeds`"):
            parse_seeds(bad)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("noise_mode", ["const", "random"])
def test_pixels_on_a_gpu(noise_mode):
    G = tiny(64)
    on_cpu = sample(G, range(20))
    G = G.cuda()
    how = Rendering(noise_mode=noise_mode)
    whole = sample(G, range(150), how)
    np.testing.assert_array_equal(sample(G, [149, 7], how, batch=1), whole[[149, 7]])
    if noise_mode == "const":  # sums in another order, and TF32 convolutions: a few grey levels at most
        assert np.abs(whole[:20].astype(int) - on_cpu).max() <= 3
