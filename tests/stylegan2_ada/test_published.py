"""State dicts under published names: what is written is what the published classes hold, and it reads back."""

import dataclasses
import json

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2_ada.config import DiscriminatorConfig, GeneratorConfig
from stylegan2_ada.discriminator import Discriminator
from stylegan2_ada.files import load_generator, save_generator
from stylegan2_ada.generator import Generator
from stylegan2_ada.interop import load_any_generator, read_networks
from stylegan2_ada.names import published_shapes, to_published
from stylegan2_ada.networks import NETWORKS, Networks
from stylegan2_ada.published import save_published, with_filters
from tests.stylegan2_ada import snapshots


@pytest.mark.parametrize("name", ["uncond32", "cond64"])
def test_names_and_values_are_the_recorded_ones(golden, shared_dir, tmp_path, name):
    """Every name, the copies of the filter included, so that the published classes load it strictly."""
    recorded = {k: torch.from_numpy(v) for k, v in golden(f"{name}_weights")[1].items()}
    networks = read_networks(shared_dir / "golden" / f"{name}_official_format.pkl")
    for ending in (".pt", ".safetensors"):
        path = tmp_path / f"a{ending}"
        save_published(path, networks)
        state = torch.load(path, weights_only=True) if ending == ".pt" else safetensors.torch.load_file(path)
        assert {k.partition(".")[0] for k in state} == set(NETWORKS)
        for prefix, part in (("G_ema.", "G."), ("G.", "G."), ("D.", "D.")):
            ours = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
            theirs = {k.removeprefix(part): t for k, t in recorded.items() if k.startswith(part)}
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[k], theirs[k].reshape(ours[k].shape)) for k in theirs)
        again = read_networks(path)
        for kind in NETWORKS:
            before, after = getattr(networks, kind), getattr(again, kind)
            assert after.cfg == before.cfg
            assert all(torch.equal(after.state_dict()[k], t) for k, t in before.state_dict().items())


widths = {"channel_base": st.integers(8, 600), "channel_max": st.integers(4, 40)}
generators = st.builds(
    GeneratorConfig,
    st.sampled_from([4, 8, 16, 32]),
    z_dim=st.integers(1, 9),
    w_dim=st.integers(1, 9),
    c_dim=st.sampled_from([0, 1, 4]),
    mapping_layers=st.integers(1, 4),
    img_channels=st.sampled_from([1, 3, 4]),
    **widths,
)
discriminators = st.builds(
    DiscriminatorConfig,
    st.sampled_from([4, 8, 16, 32]),
    c_dim=st.sampled_from([0, 3]),
    img_channels=st.sampled_from([1, 3, 4]),
    architecture=st.sampled_from(["resnet", "orig"]),
    mbstd_group_size=st.sampled_from([0, 4]),
    mapping_layers=st.integers(1, 9),
    **widths,
)


@settings(max_examples=40, deadline=None)
@given(generators | discriminators)
def test_shapes_of_a_configuration_are_those_of_its_network(cfg):
    net = Generator(cfg) if isinstance(cfg, GeneratorConfig) else Discriminator(cfg)
    assert published_shapes(cfg) == {name: tuple(t.shape) for name, t in to_published(net).items()}


@settings(max_examples=15, deadline=None)
@given(generators)
def test_a_bare_generator_is_recognised_by_its_shapes(tmp_path_factory, cfg):
    """As people save it: torch.save(G_ema.state_dict()) of the published code, with no word about its configuration."""
    path = tmp_path_factory.mktemp("bare") / "G_ema.pt"
    G = snapshots.random_state(Generator(cfg))
    torch.save(with_filters(G), path)
    found = read_networks(path).G_ema
    same_shape(found.cfg, cfg)
    assert all(torch.equal(found.state_dict()[k], t) for k, t in G.state_dict().items())


@settings(max_examples=15, deadline=None)
@given(discriminators)
def test_a_bare_discriminator_is_recognised_by_its_shapes(tmp_path_factory, cfg):
    path = tmp_path_factory.mktemp("bare") / "D.pt"
    D = snapshots.random_state(Discriminator(cfg))
    torch.save({"D": with_filters(D)}, path)
    found = read_networks(path).D
    same_shape(found.cfg, cfg)
    assert all(torch.equal(found.state_dict()[k], t) for k, t in D.state_dict().items())


def same_shape(found, cfg):
    """Equal but for what shapes cannot tell: which of the bases that give the same channels, layers without labels."""
    every = [4 << k for k in range(cfg.resolution.bit_length() - 2)]
    assert [found.channels(res) for res in every] == [cfg.channels(res) for res in every]
    changes = {"channel_base": cfg.channel_base, "channel_max": cfg.channel_max}
    if isinstance(cfg, DiscriminatorConfig):
        changes |= {} if cfg.c_dim else {"mapping_layers": cfg.mapping_layers}
        changes |= {} if cfg.resolution > 4 else {"architecture": cfg.architecture}
    assert dataclasses.replace(found, **changes) == cfg


def test_half_precision_files_are_half_as_large(tmp_path):
    G = snapshots.random_state(Generator(snapshots.small_config(resolution=32, channel_base=512, channel_max=64)))
    sizes = {}
    for half in (False, True):
        save_generator(tmp_path / f"g{half}.safetensors", G, {"kimg": 1}, half=half)
        save_published(tmp_path / f"p{half}.pt", Networks(G_ema=G), half=half)
        sizes[half] = [(tmp_path / name).stat().st_size for name in (f"g{half}.safetensors", f"p{half}.pt")]
    assert all(0.45 < small / large < 0.6 for small, large in zip(sizes[True], sizes[False]))
    loaded, meta = load_generator(tmp_path / "gTrue.safetensors")
    assert meta == {"kimg": 1} and all(p.dtype == torch.float32 for p in loaded.parameters())
    other = load_any_generator(tmp_path / "pTrue.pt")[0]
    z = torch.randn(4, G.cfg.z_dim, generator=torch.Generator().manual_seed(0))
    exact = G(z, noise_mode="const")
    for net in (loaded, other):
        assert (net(z, noise_mode="const") - exact).abs().max() < 0.01 * exact.std()
    with torch.no_grad():
        G.mapping.layers[0].weight[0, 0] = 1e6
    for save in (
        lambda: save_generator(tmp_path / "no.safetensors", G, half=True),
        lambda: save_published(tmp_path / "no.pt", Networks(G_ema=G), half=True),
    ):
        with pytest.raises(ValueError, match="float16.*`half`"):
            save()
    assert not list(tmp_path.glob("no*"))


def test_files_that_do_not_fit(tmp_path):
    G = Generator(snapshots.small_config())
    path = tmp_path / "a.safetensors"

    def refused(*words):
        with pytest.raises(ValueError) as e:
            read_networks(path)
        assert str(e.value).startswith(f"{path}: ") and "\n" not in str(e.value)
        assert all(word in str(e.value) for word in words), str(e.value)

    with pytest.raises(ValueError, match="ending"):
        save_published(tmp_path / "a.bin", Networks(G_ema=G))
    state = {f"G_ema.{k}": t.contiguous() for k, t in with_filters(G).items()}
    configs = {"G_ema": G.cfg.to_dict() | {"resolution": 32}}
    header = {"format": "stylegan2-ada-published-names", "config": json.dumps(configs), "meta": "{}"}
    safetensors.torch.save_file(state, path, metadata=header)
    refused("lacks synthesis.b32")
    safetensors.torch.save_file(state, path, metadata=header | {"config": "{"})
    refused("header is damaged")
    safetensors.torch.save_file(state, path, metadata=header | {"config": json.dumps({"G_ema": {"colour": 1}})})
    refused("colour")
    safetensors.torch.save_file({"x": torch.ones(1)}, path)
    refused("safetensors file of another program")
    safetensors.torch.save_file({"x": torch.ones(1)}, path, metadata={"format": "detector"})
    refused("a detector file")
    path.write_bytes(path.read_bytes()[:-1])
    refused("damaged")
    path = tmp_path / "a.pt"
    torch.save({"G_ema.mapping.w_avg": torch.ones(3)}, path)
    refused("no shape this project knows")
    torch.save({"G_ema": {"mapping.w_avg": 3}}, path)
    refused("no state dict")
    torch.save([torch.ones(3)], path)
    refused("without a state dict")
    torch.save({"format": 1, "game": {}}, path)
    refused("training checkpoint", "generator-*.safetensors")
    torch.save({"model": torch.ones(3)}, path)
    refused("no StyleGAN2 network")
    path.write_text("<!DOCTYPE html><html></html>")
    refused("web page")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refused("git lfs pull")
    path.write_text("hello")
    refused("not a network file")
    path = tmp_path
    refused("a folder")
    path = tmp_path / "absent.pkl"
    refused("no such file")


def test_a_file_with_a_discriminator_only_has_no_generator(tmp_path):
    path = tmp_path / "d.pt"
    save_published(path, Networks(D=Discriminator(DiscriminatorConfig(8, channel_base=64, channel_max=16))))
    with pytest.raises(ValueError, match="without a generator"):
        load_any_generator(path)
