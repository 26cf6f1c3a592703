"""Published training snapshots: the recorded ones bit for bit, and the variants that versions and options make."""

import dataclasses

import numpy as np
import pytest
import torch

from stylegan2_ada.config import DiscriminatorConfig
from stylegan2_ada.discriminator import Discriminator
from stylegan2_ada.generator import Generator
from stylegan2_ada.interop import read_networks
from stylegan2_ada.names import load_published
from tests.stylegan2_ada import snapshots

TOLERANCE = 2e-6  # relative, in float64: the rounding of the recorded float32 numbers


@pytest.fixture(scope="module")
def recorded(golden, shared_dir):
    """`recorded(name)` -> (networks read from the snapshot, recorded weights, inputs and outputs in float64)."""

    def load(name):
        networks = read_networks(shared_dir / "golden" / f"{name}_official_format.pkl")
        io = {k: torch.from_numpy(v).double() for k, v in golden(f"{name}_io")[1].items()}
        return networks, golden(f"{name}_weights")[1], io, golden(name)[0]

    return load


@pytest.mark.parametrize("name", ["uncond32", "cond64"])
def test_recorded_snapshot_is_the_recorded_network(recorded, name):
    networks, weights, io, config = recorded(name)
    group = config.pop("mbstd_group_size")
    assert networks.kind == "stylegan2-ada-pytorch snapshot" and networks.D.cfg.mbstd_group_size == group
    for net, prefix in ((networks.G, "G."), (networks.G_ema, "G."), (networks.D, "D.")):
        assert not net.training and all(not p.requires_grad for p in net.parameters())
        expected = config | ({"mapping_layers": 8} if prefix == "D." else {})  # the recorded number is the generator's
        assert all(value == expected[key] for key, value in net.cfg.to_dict().items() if key in expected)
        expected = type(net)(net.cfg)
        load_published(expected, weights, prefix)
        for key, value in expected.state_dict().items():
            assert torch.equal(net.state_dict()[key], value), key
    with torch.no_grad():
        G, D = networks.G_ema.double(), networks.D.double()
        c = io["c"] if "c" in io else None
        for mode in ("const", "none"):
            check(G(io["z"], c, noise_mode=mode), io[f"img_{mode}"])
        check(D(io["D_img"], io.get("D_c")), io["D_logits"])


def check(value, expected):
    assert (value - expected).abs().max() / expected.abs().max() < TOLERANCE


def write(path, protocol=3, **content):
    path.write_bytes(snapshots.dumps(content, protocol))
    return path


@pytest.fixture(scope="module")
def nets():
    G = snapshots.random_state(Generator(snapshots.small_config(num_lowp_res=2, conv_clamp=256)), 1)
    D = Discriminator(DiscriminatorConfig(16, channel_base=128, channel_max=16, mbstd_group_size=8))
    return G, snapshots.random_state(D, 2)


def same(a, b):
    assert a.cfg == b.cfg
    for name, value in b.state_dict().items():
        assert torch.equal(a.state_dict()[name], value), name


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_every_pickle_protocol_and_what_else_the_file_says(tmp_path, nets, protocol):
    pipe = snapshots.module(
        "AugmentPipe", {"p": torch.tensor(0.25), "Hz_geom": torch.ones(12)}, {"xflip": 1}, ("p", "Hz_geom")
    )
    data = snapshots.EasyDict(class_name="training.dataset.ImageFolderDataset", path="faces.zip", xflip=True, none=None)
    content = {"G": snapshots.generator(nets[0]), "D": snapshots.discriminator(nets[1]), "augment_pipe": pipe}
    path = write(tmp_path / "a.pkl", protocol, **content, G_ema=content["G"], training_set_kwargs=data)
    networks = read_networks(path)
    same(networks.G, nets[0])
    same(networks.G_ema, nets[0])
    same(networks.D, nets[1])
    assert networks.meta["training_set"] == dict(data)
    assert networks.meta["augment_p"] == 0.25 and networks.meta["augment"] == {"xflip": 1}
    only = read_networks(path, ("G_ema",))
    assert only.G is None and only.D is None and only.G_ema is not None


def test_a_single_network_and_a_snapshot_without_average(tmp_path, nets):
    path = tmp_path / "g.pkl"
    path.write_bytes(snapshots.dumps(snapshots.generator(nets[0])))
    same(read_networks(path).G_ema, nets[0])
    path.write_bytes(snapshots.dumps(snapshots.discriminator(nets[1])))
    networks = read_networks(path)
    assert networks.G_ema is None
    same(networks.D, nets[1])
    networks = read_networks(write(path, G=snapshots.generator(nets[0])), ("G_ema",))
    same(networks.G_ema, nets[0])
    assert "no averaged generator" in networks.notes[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_become_float32(tmp_path, nets, dtype):
    recorded = snapshots.module(
        "Generator",
        {k: t.to(dtype) for k, t in snapshots.published(nets[0]).items()},
        snapshots.generator(nets[0]).state["_init_kwargs"],
    )
    G = read_networks(write(tmp_path / "a.pkl", G_ema=recorded)).G_ema
    for name, value in nets[0].state_dict().items():
        assert G.state_dict()[name].dtype == torch.float32
        assert torch.equal(G.state_dict()[name], value.to(dtype).float()), name


def test_tensors_saved_on_a_gpu_come_to_the_cpu(tmp_path, nets):
    data = snapshots.dumps({"G_ema": snapshots.generator(nets[0])})
    # the device is text inside the bytes of each storage: `X\x03\x00\x00\x00cpu` -> `cud`, of the same length
    assert data.count(b"X\x03\x00\x00\x00cpu") > 20
    path = tmp_path / "a.pkl"
    path.write_bytes(data.replace(b"X\x03\x00\x00\x00cpu", b"X\x03\x00\x00\x00cud"))
    G = read_networks(path).G_ema
    same(G, nets[0])
    assert all(t.device.type == "cpu" for t in G.state_dict().values())


def test_tensors_that_are_not_contiguous_or_share_a_storage(tmp_path, nets):
    tensors = snapshots.published(nets[0])
    name = "synthesis.b8.conv0.weight"
    tensors[name] = tensors[name].to(memory_format=torch.channels_last)
    both = torch.cat([tensors["synthesis.b4.conv1.bias"], tensors["synthesis.b8.conv1.bias"]])
    tensors["synthesis.b4.conv1.bias"], tensors["synthesis.b8.conv1.bias"] = both[:16], both[16:]
    recorded = snapshots.module("Generator", tensors, snapshots.generator(nets[0]).state["_init_kwargs"])
    same(read_networks(write(tmp_path / "a.pkl", G_ema=recorded)).G_ema, nets[0])


def test_positional_arguments_and_versions_with_other_defaults(tmp_path, nets):
    """The option of float16 is sometimes left to a default that differs between versions: blocks say what was meant."""
    recorded = snapshots.generator(nets[0])
    kwargs = recorded.state["_init_kwargs"]
    names = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
    recorded.state["_init_args"] = tuple(kwargs.pop(name) for name in names)
    del kwargs["synthesis_kwargs"]["num_fp16_res"], kwargs["synthesis_kwargs"]["conv_clamp"]
    kwargs["synthesis_kwargs"]["fused_modconv_default"] = "inference_only"
    for res, block in recorded.state["_modules"]["synthesis"].state["_modules"].items():
        block.state["use_fp16"] = res in ("b8", "b16")
        block.state["_modules"]["conv1"].state["conv_clamp"] = 256
    same(read_networks(write(tmp_path / "a.pkl", G_ema=recorded)).G_ema, nets[0])


def test_discriminators_of_other_shapes(tmp_path):
    for seed, changes in enumerate([{"architecture": "orig"}, {"c_dim": 3}, {"img_channels": 1, "conv_clamp": 256}]):
        cfg = DiscriminatorConfig(8, channel_base=64, channel_max=16, **changes)
        D = snapshots.random_state(Discriminator(cfg), seed)
        same(read_networks(write(tmp_path / f"{seed}.pkl", D=snapshots.discriminator(D))).D, D)
    D = Discriminator(dataclasses.replace(cfg, mbstd_group_size=0))
    recorded = snapshots.discriminator(D, epilogue_kwargs={"mbstd_num_channels": 0})
    assert read_networks(write(tmp_path / "off.pkl", D=recorded)).D.cfg.mbstd_group_size == 0


def test_discriminators_that_were_converted_from_tensorflow(tmp_path):
    """They record options of a mapping network they don't have, and no size of the minibatch-std group."""
    cfg = DiscriminatorConfig(8, channel_base=64, channel_max=16)
    D = snapshots.random_state(Discriminator(cfg))
    recorded = snapshots.discriminator(
        D,
        cmap_dim=None,
        block_kwargs={"activation": "lrelu", "resample_filter": [1, 3, 3, 1], "freeze_layers": 0},
        mapping_kwargs={"num_layers": 0, "embed_features": None, "activation": "lrelu", "lr_multiplier": 0.1},
        epilogue_kwargs={"mbstd_group_size": None, "mbstd_num_channels": 1, "activation": "lrelu"},
    )
    found = read_networks(write(tmp_path / "a.pkl", D=recorded)).D
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = Discriminator(dataclasses.replace(cfg, mbstd_group_size=6))
    whole.load_state_dict(D.state_dict())
    assert torch.equal(found(x), whole(x))  # one group of all images


def test_layers_frozen_by_freeze_d_are_buffers(tmp_path, nets):
    buffers = ("resample_filter", "weight", "bias")
    init = snapshots.discriminator(nets[1]).state["_init_kwargs"]
    init["block_kwargs"] = {"freeze_layers": 4}
    recorded = snapshots.module("Discriminator", snapshots.published(nets[1]), init, buffers)
    same(read_networks(write(tmp_path / "a.pkl", D=recorded)).D, nets[1])


def refused(path, *words):
    with pytest.raises(ValueError) as e:
        read_networks(path)
    line = str(e.value)
    assert str(path) in line and "\n" not in line and all(word in line for word in words), line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"synthesis_kwargs": {"architecture": "orig"}}, ["architecture = 'orig'"]),
        ({"synthesis_kwargs": {"resample_filter": [1, 2, 1]}}, ["resample_filter"]),
        ({"synthesis_kwargs": {"conv_clamp": "much"}}, ["conv_clamp = 'much'"]),
        ({"synthesis_kwargs": {"channel_base": 10**12}}, ["channel_base"]),
        ({"synthesis_kwargs": {"channel_max": 2**16, "channel_base": 2**24}}, ["shape"]),
        ({"mapping_kwargs": {"num_layers": 10**9}}, ["num_layers"]),
        ({"mapping_kwargs": {"num_layers": 4}}, ["lacks mapping.fc3.weight"]),
        ({"mapping_kwargs": {"activation": "relu"}}, ["activation = 'relu'"]),
        ({"mapping_kwargs": {"attention": True}}, ["attention"]),
        ({"img_resolution": 24}, ["power of two", "24"]),
        ({"img_resolution": 32}, ["lacks synthesis.b32"]),
        ({"img_channels": 2}, ["img_channels"]),
        ({"z_dim": "many"}, ["z_dim = 'many'"]),
        ({"z_dim": True}, ["z_dim = True"]),
        ({"z_dim": 13}, ["mapping.fc0.weight", "[10, 12]", "[10, 13]"]),
        ({"magnification": 2}, ["magnification"]),
    ],
)
def test_networks_this_project_does_not_have(tmp_path, nets, options, words):
    refused(write(tmp_path / "a.pkl", G_ema=snapshots.generator(nets[0], **options)), *words)


def test_files_of_other_programs(tmp_path, nets):
    tensors = snapshots.published(nets[0])
    path = tmp_path / "a.pkl"
    integers = {k: t.long() if k == "mapping.w_avg" else t for k, t in tensors.items()}
    init = snapshots.generator(nets[0]).state["_init_kwargs"]
    refused(write(path, G_ema=snapshots.module("Generator", integers, init)), "mapping.w_avg in int64")
    refused(write(path, G_ema=snapshots.module("Generator", tensors | {"x.y": torch.ones(3)}, init)), "unknown x.y")
    other = tensors | {"synthesis.b8.resample_filter": torch.ones(4, 4) / 16}
    refused(write(path, G_ema=snapshots.module("Generator", other, init)), "[1, 3, 3, 1]")
    refused(write(path, G_ema=snapshots.module("Encoder", tensors, init)), "class 'Encoder'")
    third = snapshots.module("Generator", tensors | {"synthesis.input.freqs": torch.ones(3)}, init)
    refused(write(path, G_ema=third), "StyleGAN3", "its configuration stylegan2")
    refused(write(path, G_ema=3), "neither G_ema nor G nor D")
    refused(write(path, G_ema=snapshots.generator(nets[0]), D=7), "its D is no module")
    refused(write(path, G_ema=snapshots.Recorded("Generator", _parameters=[])), "form that published snapshots")
    path.write_bytes(snapshots.dumps([1, 2]))
    refused(path, "neither G_ema nor G nor D")
    path.write_bytes(b"")
    refused(path, "not a network file")
    # what a pickle of the TensorFlow code begins with, and one that holds a class of another library
    path.write_bytes(b"\x80\x03cdnnlib.tflib.network\nNetwork\nq\x00)\x81q\x01.")
    refused(path, "TensorFlow", "legacy.py")
    path.write_bytes(b"\x80\x03ctorch.nn.modules.container\nSequential\nq\x00)\x81q\x01.")
    refused(path, "torch.nn.modules.container.Sequential")


def test_numpy_numbers_of_other_types(tmp_path, nets):
    for value in (np.float32(0.5), np.int64(3), np.bool_(True)):
        recorded = snapshots.generator(nets[0])
        recorded.state["gain"] = value
        same(read_networks(write(tmp_path / "a.pkl", G_ema=recorded)).G_ema, nets[0])
    recorded.state["gain"] = np.array([1, 2])
    refused(write(tmp_path / "a.pkl", G_ema=recorded), "numpy", "_reconstruct")
