"""Checkpoints in rosinality's layout against a reference that computes under that layout's own names.

The reference is written from the papers' equations (StyleGAN2: Karras et al. 2020, section 2.2 and appendix B;
Progressive GAN: Karras et al. 2018, sections 3 and 4.1) with dense linear algebra on small pictures: modulated weights
are formed per image, upsampling inserts zeros, every blur is written as a sum over its taps. It shares no code with the
networks it checks. What it takes for granted is what the names mean; no file of that program was at hand.
"""

import argparse
import math

import pytest
import torch

from stylegan2_ada.discriminator import Discriminator
from stylegan2_ada.generator import Generator
from stylegan2_ada.interop import read_networks
from tests.stylegan2_ada import snapshots

SIZE, STYLE, LAYERS = 16, 6, 3
CHANNELS = {4: 10, 8: 10, 16: 5}
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8


def random_generator(rng):
    def r(*shape):
        return torch.randn(*shape, generator=rng)

    state = {"input.input": r(1, CHANNELS[4], 4, 4)}
    for i in range(LAYERS):
        state |= {f"style.{i + 1}.weight": r(STYLE, STYLE) / 0.01, f"style.{i + 1}.bias": r(STYLE)}

    def modulated(name, c_in, c_out, kernel):
        state[f"{name}.conv.weight"] = r(1, c_out, c_in, kernel, kernel)
        state[f"{name}.conv.modulation.weight"] = r(c_in, STYLE)
        state[f"{name}.conv.modulation.bias"] = 1 + 0.3 * r(c_in)

    def styled(name, c_in, c_out, up):
        modulated(name, c_in, c_out, 3)
        state[f"{name}.noise.weight"] = 0.3 * r(1)
        state[f"{name}.activate.bias"] = 0.3 * r(c_out)
        if up:
            state[f"{name}.conv.blur.kernel"] = (torch.outer(TAPS, TAPS) * 4).float()

    def to_rgb(name, c, up):
        modulated(name, c, 3, 1)
        state[f"{name}.bias"] = r(1, 3, 1, 1)
        if up:
            state[f"{name}.upsample.kernel"] = (torch.outer(TAPS, TAPS) * 4).float()

    styled("conv1", CHANNELS[4], CHANNELS[4], False)
    to_rgb("to_rgb1", CHANNELS[4], False)
    state["noises.noise_0"] = r(1, 1, 4, 4)
    for k, res in enumerate([8, 16]):
        styled(f"convs.{2 * k}", CHANNELS[res // 2], CHANNELS[res], True)
        styled(f"convs.{2 * k + 1}", CHANNELS[res], CHANNELS[res], False)
        to_rgb(f"to_rgbs.{k}", CHANNELS[res], True)
        state |= {f"noises.noise_{2 * k + 1}": r(1, 1, res, res), f"noises.noise_{2 * k + 2}": r(1, 1, res, res)}
    return state


def random_discriminator(rng):
    def r(*shape):
        return torch.randn(*shape, generator=rng)

    blur = torch.outer(TAPS, TAPS).float()
    state = {"convs.0.0.weight": r(CHANNELS[16], 3, 1, 1), "convs.0.1.bias": r(CHANNELS[16])}
    for k, res in enumerate([16, 8]):
        c, c_out, name = CHANNELS[res], CHANNELS[res // 2], f"convs.{k + 1}"
        state |= {f"{name}.conv1.0.weight": r(c, c, 3, 3), f"{name}.conv1.1.bias": r(c)}
        state |= {f"{name}.conv2.1.weight": r(c_out, c, 3, 3), f"{name}.conv2.2.bias": r(c_out)}
        state |= {f"{name}.skip.1.weight": r(c_out, c, 1, 1)}
        state |= {f"{name}.conv2.0.kernel": blur, f"{name}.skip.0.kernel": blur}
    c = CHANNELS[4]
    state |= {"final_conv.0.weight": r(c, c + 1, 3, 3), "final_conv.1.bias": r(c)}
    state |= {"final_linear.0.weight": r(c, c * 16), "final_linear.0.bias": r(c)}
    return state | {"final_linear.1.weight": r(1, c), "final_linear.1.bias": r(1)}


# ---- the reference, in float64 --------------------------------------------------------------------------------------


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def correlate(x, weight):
    """3x3 or 1x1 correlation with zeros around, tap by tap: y[o, p] = sum over taps t of w[o, i, t] x[i, p + t]."""
    k, (height, width) = weight.shape[-1], x.shape[-2:]
    padded = torch.zeros(*x.shape[:2], height + k - 1, width + k - 1, dtype=x.dtype)
    padded[..., k // 2 : k // 2 + height, k // 2 : k // 2 + width] = x
    y = 0
    for i in range(k):
        for j in range(k):
            y = y + torch.einsum("noc,nchw->nohw", weight[..., i, j], padded[..., i : i + height, j : j + width])
    return y


def blur(x, gain, before, after):
    """Filter with [1, 3, 3, 1] both ways after zeros before and after; the result is 3 shorter than that."""
    height, width = x.shape[-2] + before + after, x.shape[-1] + before + after
    padded = torch.zeros(*x.shape[:2], height, width, dtype=x.dtype)
    padded[..., before : before + x.shape[-2], before : before + x.shape[-1]] = x
    y = 0
    for i in range(4):
        for j in range(4):
            y = y + gain * TAPS[i] * TAPS[j] * padded[..., i : height - 3 + i, j : width - 3 + j]
    return y


def zeros_between(x):
    y = torch.zeros(*x.shape[:2], 2 * x.shape[-2], 2 * x.shape[-1], dtype=x.dtype)
    y[..., ::2, ::2] = x
    return y


def modulate(state, name, w, demodulate):
    """Weights [N, O, I, k, k] of each image: scaled by 1/sqrt(fan-in), by its style, then to unit norm."""
    affine = state[f"{name}.modulation.weight"] / math.sqrt(STYLE)
    style = w @ affine.T + state[f"{name}.modulation.bias"]
    weight = state[f"{name}.weight"][0]
    weight = weight / math.sqrt(weight[0].numel()) * style[:, None, :, None, None]
    if demodulate:
        weight = weight / (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    return weight


def styled(state, name, x, w, noise, up):
    weight = modulate(state, f"{name}.conv", w, True)
    if up:
        # x2: zeros between the pixels, the convolution proper (kernel turned round) over them, then the blur of gain 4.
        # The zero-inserted image has its first pixel at 0; the convolution reaches one pixel out on every side.
        wide = torch.zeros(*x.shape[:2], 2 * x.shape[-2] + 1, 2 * x.shape[-1] + 1, dtype=x.dtype)
        wide[..., 1::2, 1::2] = x  # shifted by one, so that `correlate` gives the 2H + 1 results
        grown = correlate(wide, weight.flip(3, 4))
        x = blur(grown, 4, 1, 1)
    else:
        x = correlate(x, weight)
    x = x + state[f"{name}.noise.weight"] * state[f"noises.noise_{noise}"]
    return lrelu(x + state[f"{name}.activate.bias"][:, None, None])


def to_rgb(state, name, x, w):
    return correlate(x, modulate(state, f"{name}.conv", w, False)) + state[f"{name}.bias"]


def reference_w(state, z):
    w = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for i in range(1, LAYERS + 1):
        w = lrelu(w @ (state[f"style.{i}.weight"] * 0.01 / math.sqrt(STYLE)).T + 0.01 * state[f"style.{i}.bias"])
    return w


def reference_image(state, w):
    x = state["input.input"].expand(len(w), -1, -1, -1)
    x = styled(state, "conv1", x, w, 0, False)
    image = to_rgb(state, "to_rgb1", x, w)
    for k in range(2):
        x = styled(state, f"convs.{2 * k}", x, w, 2 * k + 1, True)
        x = styled(state, f"convs.{2 * k + 1}", x, w, 2 * k + 2, False)
        image = blur(zeros_between(image), 4, 2, 1) + to_rgb(state, f"to_rgbs.{k}", x, w)
    return image


def plain(state, name, x):
    weight = state[name]
    return correlate(x, (weight / math.sqrt(weight[0].numel())).expand(len(x), -1, -1, -1, -1))


def reference_logits(state, x):
    x = lrelu(plain(state, "convs.0.0.weight", x) + state["convs.0.1.bias"][:, None, None])
    for name in ("convs.1", "convs.2"):
        y = lrelu(plain(state, f"{name}.conv1.0.weight", x) + state[f"{name}.conv1.1.bias"][:, None, None])
        # a blurred picture of H + 1 pixels, every second result of the 3x3 convolution without padding
        y = plain(state, f"{name}.conv2.1.weight", blur(y, 1, 2, 2))[..., 1:-1:2, 1:-1:2]
        y = lrelu(y + state[f"{name}.conv2.2.bias"][:, None, None])
        x = (y + plain(state, f"{name}.skip.1.weight", blur(x, 1, 1, 1)[..., ::2, ::2])) / math.sqrt(2)
    deviation = (x.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()  # one group of all four images
    x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], dim=1)
    x = lrelu(plain(state, "final_conv.0.weight", x) + state["final_conv.1.bias"][:, None, None]).flatten(1)
    for i in range(2):
        weight = state[f"final_linear.{i}.weight"]
        x = x @ (weight / math.sqrt(weight.shape[1])).T + state[f"final_linear.{i}.bias"]
        x = lrelu(x) if i == 0 else x
    return x


# ---- tests ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states():
    rng = torch.Generator().manual_seed(0)
    return {"g_ema": random_generator(rng), "g": random_generator(rng), "d": random_discriminator(rng)}


@pytest.fixture
def checkpoint(tmp_path, states):
    path = tmp_path / "000100.pt"
    torch.save(states | {"latent_avg": torch.arange(STYLE) / 10}, path)
    return path


def double(state):
    return {name: t.double() for name, t in state.items()}


def test_images_and_logits_are_those_of_the_layout(checkpoint, states):
    networks = read_networks(checkpoint)
    assert networks.kind == "rosinality checkpoint" and not networks.notes
    assert networks.G_ema.cfg.to_dict() == Generator(networks.G.cfg).cfg.to_dict()
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(4, STYLE, generator=rng, dtype=torch.float64)
    for key, G in (("g_ema", networks.G_ema.double()), ("g", networks.G.double())):
        state = double(states[key])
        assert torch.equal(G.mapping.w_avg.float(), torch.arange(STYLE) / 10)
        w = reference_w(state, z)
        torch.testing.assert_close(G.mapping(z)[:, 0], w, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(G(z, noise_mode="const"), reference_image(state, w), rtol=1e-6, atol=1e-6)
        average = G.mapping.w_avg
        truncated = reference_image(state, average + 0.5 * (w - average))
        torch.testing.assert_close(G(z, psi=0.5, noise_mode="const"), truncated, rtol=1e-6, atol=1e-6)
    images = torch.randn(4, 3, SIZE, SIZE, generator=rng, dtype=torch.float64)
    logits = networks.D.double()(images)
    torch.testing.assert_close(logits, reference_logits(double(states["d"]), images), rtol=1e-9, atol=1e-9)


def test_a_bare_state_dict_and_the_old_file_format(tmp_path, states):
    for name, key in (("G_ema", "g_ema"), ("D", "d")):
        path = tmp_path / f"{key}.pt"
        torch.save(states[key], path, _use_new_zipfile_serialization=False)
        networks = read_networks(path)
        assert getattr(networks, name) is not None
    assert networks.G_ema is None and isinstance(networks.D, Discriminator)


def test_a_training_checkpoint_with_its_command_line_and_no_average(tmp_path, states):
    path = tmp_path / "a.pt"
    torch.save(
        states | {"args": argparse.Namespace(size=16, path="x"), "g_optim": {"state": {}}, "ada_aug_p": 0.1}, path
    )
    networks = read_networks(path, ("G_ema",))
    assert "latent_avg" in networks.notes[0]
    z = torch.randn(40_000, STYLE, generator=torch.Generator().manual_seed(9))
    w = reference_w(double(states["g_ema"]), z.double())
    assert ((networks.G_ema.mapping.w_avg - w.mean(dim=0)).abs() < 5 * w.std(dim=0) / 100).all()


def test_the_widths_of_the_known_networks(tmp_path):
    """channel multipliers 2 and 1 at 64 pixels are the channel bases 32768 and 16384."""
    for base in (32768, 16384):
        cfg = snapshots.small_config(resolution=64, z_dim=8, w_dim=8, channel_base=base, channel_max=512)
        names, tensors = {"conv0": 0, "conv1": 1}, snapshots.published(Generator(cfg))
        state = {"input.input": tensors["synthesis.b4.const"][None]}
        for i in range(3):
            state |= {f"style.{i + 1}.{leaf}": tensors[f"mapping.fc{i}.{leaf}"] for leaf in ("weight", "bias")}
        for k, res in enumerate([4, 8, 16, 32, 64]):
            for part in ("conv1",) if k == 0 else ("conv0", "conv1"):
                theirs = "conv1" if k == 0 else f"convs.{2 * (k - 1) + names[part]}"
                ours = f"synthesis.b{res}.{part}"
                state[f"{theirs}.conv.weight"] = tensors[f"{ours}.weight"][None]
                state[f"{theirs}.activate.bias"] = tensors[f"{ours}.bias"]
                state[f"{theirs}.noise.weight"] = tensors[f"{ours}.noise_strength"].reshape(1)
                state[f"noises.noise_{0 if k == 0 else 2 * k - 1 + names[part]}"] = tensors[f"{ours}.noise_const"]
                for leaf in ("weight", "bias"):
                    state[f"{theirs}.conv.modulation.{leaf}"] = tensors[f"{ours}.affine.{leaf}"]
            rgb, ours = "to_rgb1" if k == 0 else f"to_rgbs.{k - 1}", f"synthesis.b{res}.torgb"
            state[f"{rgb}.conv.weight"], state[f"{rgb}.bias"] = tensors[f"{ours}.weight"][None], tensors[f"{ours}.bias"]
            for leaf in ("weight", "bias"):
                state[f"{rgb}.conv.modulation.{leaf}"] = tensors[f"{ours}.affine.{leaf}"]
        path = tmp_path / f"{base}.pt"
        torch.save({"g_ema": state, "latent_avg": tensors["mapping.w_avg"]}, path)
        found = read_networks(path).G_ema.cfg
        assert [found.channels(res) for res in (4, 8, 16, 32, 64)] == [cfg.channels(res) for res in (4, 8, 16, 32, 64)]
        assert found.channel_max == 512 and (base == 16384) == (found.channel_base == 16384)


def changed(states, key, **changes):
    state = {k: v for k, v in (states[key] | changes).items() if v is not None}
    return states | {key: state}


@pytest.mark.parametrize(
    ("key", "name", "value", "words"),
    [
        ("g_ema", "conv1.conv.weight", None, ["lacks conv1.conv.weight"]),
        ("g_ema", "style.2.weight", torch.zeros(6, 7), ["mapping.fc1.weight"]),
        ("g_ema", "attention.weight", torch.zeros(3), ["unknown attention.weight"]),
        ("g_ema", "convs.0.conv.blur.kernel", torch.ones(3, 3), ["blur", "[1, 3, 3, 1]"]),
        ("g_ema", "conv1.conv.weight", torch.zeros(10, 10, 3, 3), ["[1, O, I, k, k]"]),
        ("g_ema", "convs.2.activate.bias", torch.zeros(7), ["shape"]),
        ("g_ema", "to_rgbs.1.bias", None, ["unknown"]),
        ("d", "final_conv.0.weight", None, ["lacks final_conv.0.weight"]),
        ("d", "convs.1.conv1.0.weight", torch.zeros(4, 5, 3, 3), ["b16.conv0", "shape"]),
        ("d", "convs.9.weight", torch.zeros(9), ["unknown convs.9.weight"]),
    ],
)
def test_changed_layouts_are_refused(tmp_path, states, key, name, value, words):
    path = tmp_path / "a.pt"
    torch.save(changed(states, key, **{name: value}), path)
    with pytest.raises(ValueError) as e:
        read_networks(path)
    assert str(e.value).startswith(f"{path}: its {'d' if key == 'd' else 'G_ema'} ") and "\n" not in str(e.value)
    assert all(word in str(e.value) for word in words), str(e.value)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_files_that_would_run_something(tmp_path, states):
    sentinel = tmp_path / "sentinel"
    for zipped in (True, False):
        path = tmp_path / "bad.pt"
        torch.save(states | {"args": Trap(str(sentinel))}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError) as e:
            read_networks(path)
        assert str(e.value).startswith(f"{path}: ") and "\n" not in str(e.value) and "open" in str(e.value)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match="a.pt|bad.pt") as e:
            read_networks(path)
        assert "\n" not in str(e.value)
    assert not sentinel.exists()
