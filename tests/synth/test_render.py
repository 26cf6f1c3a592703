"""Latents to pixels: precision, blocks, noise maps of their own."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from synth.latents import ws_from_seeds
from synth.options import Rendering
from synth.render import in_precision, render_ws, with_noise
from synth.sample import sample


def images_of(G, ws, **options):
    return np.concatenate(list(render_ws(G, ws, **options)))


def test_rendered_latents_are_the_samples_of_their_seeds(G):
    whole = images_of(G, ws_from_seeds(G, range(8)))
    np.testing.assert_array_equal(whole, sample(G, range(8)))
    for n in (1, 3, 11):  # not a whole number of blocks
        some = images_of(G, ws_from_seeds(G, range(n)))
        assert len(some) == n
        np.testing.assert_array_equal(some[: min(n, 8)], whole[:n])
    assert not list(render_ws(G, []))


def test_only_a_block_of_latents_is_taken_at_a_time(G):
    taken = []

    def latents():
        for i, ws in enumerate(ws_from_seeds(G, range(40))):
            taken.append(i)
            yield ws

    blocks = render_ws(G, latents())
    assert not taken
    assert len(next(blocks)) == len(taken) == 8


def test_bf16_shares_the_weights_and_leaves_the_generator_alone(G):
    state = {name: t.clone() for name, t in G.state_dict().items()}
    low = in_precision(G, "bf16")
    assert low.cfg.num_lowp_res == 4 and G.cfg.num_lowp_res == 0 and low is not G
    assert [p.data_ptr() for p in low.parameters()] == [p.data_ptr() for p in G.parameters()]
    seen = []
    low.synthesis.blocks[-1].conv1.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    a, b = images_of(G, ws_from_seeds(G, range(8))), images_of(low, ws_from_seeds(G, range(8)))
    assert seen == [torch.bfloat16]
    difference = a.astype(int) - b
    assert 0 < np.abs(difference).max() and np.sqrt(np.square(difference).mean()) < 3
    np.testing.assert_array_equal(sample(G, range(8), Rendering(precision="bf16")), b)
    assert all(torch.equal(t, state[name]) for name, t in G.state_dict().items())


def test_fp32_is_fp32_however_the_generator_was_trained(make_generator):
    full, low = make_generator(), make_generator(num_lowp_res=2, conv_clamp=256.0)
    low.load_state_dict(full.state_dict())
    assert in_precision(full, "fp32") is full
    np.testing.assert_array_equal(sample(low, range(3)), sample(full, range(3)))
    low.lowp_dtype = torch.float16
    assert in_precision(low, "bf16").lowp_dtype == torch.bfloat16 and low.lowp_dtype == torch.float16


def test_seeds_keep_their_pixels_in_bf16_too(G):
    whole = sample(G, range(20), Rendering(precision="bf16"))
    np.testing.assert_array_equal(sample(G, [19, 2], Rendering(precision="bf16"), batch=1), whole[[19, 2]])


def test_precision_names(G):
    assert in_precision(G, "auto").cfg.num_lowp_res in (0, 4)
    with pytest.raises(UserError, match="`precision` fp8"):
        in_precision(G, "fp8")


def test_noise_maps_are_replaced_and_take_gradients(G):
    names = [name for name, _ in G.named_buffers() if name.endswith("noise_const")]
    before = dict(G.named_buffers())[names[-1]].clone()
    noise = torch.randn(16, 16, requires_grad=True)
    twin = with_noise(G, {names[-1]: noise})
    ws = ws_from_seeds(G, [0])
    image = twin.synthesis(ws.clone(), noise_mode="const")
    image.square().sum().backward()
    assert noise.grad.abs().sum() > 0 and all(p.grad is None for p in twin.parameters())
    assert torch.equal(dict(G.named_buffers())[names[-1]], before)
    G_of_noise = G.synthesis(ws.clone(), noise_mode="const")
    assert not torch.allclose(image, G_of_noise)
    same = with_noise(G, {names[-1]: before}).synthesis(ws.clone(), noise_mode="const")
    assert torch.equal(same, G_of_noise)
