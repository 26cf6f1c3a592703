"""Snapshots written for the published program: the recorded ones again to the last attribute, read by Python's own
pickle with stand-ins for that program, and back by this project's reader."""

import dataclasses
import itertools
import pickle
import sys
import types

import pytest
import torch

from stylegan2_ada import pickling
from stylegan2_ada.config import DiscriminatorConfig, GeneratorConfig
from stylegan2_ada.discriminator import Discriminator
from stylegan2_ada.generator import Generator
from stylegan2_ada.interop import read_networks
from stylegan2_ada.networks import NETWORKS, Networks
from stylegan2_ada.official import Module, _names
from stylegan2_ada.published import with_filters
from stylegan2_ada.snapshot import save_snapshot
from stylegan2_ada.storages import StoredTensor
from stylegan2_ada.unpickle import Budget, parse
from tests.stylegan2_ada import snapshots


def parsed(path):
    budget = Budget()
    return parse(memoryview(path.read_bytes()), 0, _names(budget), budget)[0]


def flat(value, path=""):
    """Every name, class, number and tensor of a snapshot with its type, in the order of the file."""
    if isinstance(value, Module):
        yield path, value.class_name
        yield from flat(value.state, path)
    elif isinstance(value, dict):
        yield path, list(value)
        for key, inner in value.items():
            yield from flat(inner, f"{path}/{key}")
    elif isinstance(value, StoredTensor):
        yield path, (value.dtype, value.shape, value.stride, value.offset, value.storage.numel), value.load().tolist()
    else:
        yield path, type(value), value


@pytest.mark.parametrize("name", ["uncond32", "cond64"])
def test_a_recorded_snapshot_is_written_as_it_was(shared_dir, tmp_path, name):
    recorded = shared_dir / "golden" / f"{name}_official_format.pkl"
    networks = read_networks(recorded)
    networks.G = networks.G_ema  # one module, as it is there
    save_snapshot(tmp_path / "a.pkl", networks)
    ours, theirs = parsed(tmp_path / "a.pkl"), parsed(recorded)
    assert list(flat(ours)) == list(flat(theirs)) and ours["G_ema"] is ours["G"]
    again = read_networks(tmp_path / "a.pkl")
    for kind in NETWORKS:
        before, after = getattr(networks, kind), getattr(again, kind)
        assert after.cfg == before.cfg
        assert all(torch.equal(after.state_dict()[k], t) for k, t in before.state_dict().items())


@pytest.fixture
def published_program(monkeypatch):
    """Stand-ins for what the published reader does: it runs a module's source and fills an instance of the class."""

    def reconstruct(meta):
        assert meta["type"] == "class" and meta["version"] == 6
        module = types.ModuleType("imported")
        exec(meta["module_src"], vars(module))
        made = vars(module)[meta["class_name"]]
        instance = made.__new__(made)
        vars(instance).update(meta["state"])
        return instance

    names = (
        "Conv2dLayer Discriminator DiscriminatorBlock DiscriminatorEpilogue FullyConnectedLayer Generator"
        " MappingNetwork MinibatchStdLayer SynthesisBlock SynthesisLayer SynthesisNetwork ToRGBLayer"
    ).split()
    networks = {name: type(name, (torch.nn.Module,), {}) for name in names}
    for module, content in (
        ("torch_utils", {}),
        ("torch_utils.persistence", {"_reconstruct_persistent_obj": reconstruct}),
        ("training", {"__path__": []}),
        ("training.networks", networks),
    ):
        made = types.ModuleType(module)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, module, made)
    return networks


def test_pickle_itself_makes_modules_with_the_published_state(published_program, tmp_path):
    G = snapshots.random_state(Generator(snapshots.small_config(c_dim=2)), 1)
    other = snapshots.random_state(Generator(snapshots.small_config(c_dim=2)), 2)
    D = Discriminator(DiscriminatorConfig(16, c_dim=2, channel_base=128, channel_max=16, mapping_layers=3))
    networks = Networks(G_ema=G, G=other, D=snapshots.random_state(D, 3), meta={"training_set": {"path": "a.zip"}})
    notes = save_snapshot(tmp_path / "a.pkl", networks)
    assert "runs what is in it" in notes[0] and "folder of stylegan2-ada-pytorch" in notes[1] and len(notes) == 2
    with open(tmp_path / "a.pkl", "rb") as file:
        content = pickle.load(file)
    assert list(content) == ["training_set_kwargs", "G", "D", "G_ema", "augment_pipe"]
    assert content["training_set_kwargs"] == {"path": "a.zip"} and content["augment_pipe"] is None
    for kind in NETWORKS:
        module, net = content[kind], getattr(networks, kind)
        assert type(module) is published_program["Discriminator" if kind == "D" else "Generator"]
        state, expected = module.state_dict(), with_filters(net)
        assert state.keys() == expected.keys() and all(torch.equal(state[k], expected[k]) for k in expected)
        assert not module.training and all(
            type(p) is torch.nn.Parameter and not p.requires_grad for p in module.parameters()
        )
        module.to(torch.float64).eval().requires_grad_(True)  # what torch does with modules, it does with these
    assert content["G"]._init_kwargs["synthesis_kwargs"]["channel_max"] == 16


def test_outside_of_that_program_the_reason_is_told(published_program, tmp_path, monkeypatch):
    save_snapshot(tmp_path / "a.pkl", Networks(G_ema=Generator(snapshots.small_config())))
    monkeypatch.delitem(sys.modules, "training.networks")
    with open(tmp_path / "a.pkl", "rb") as file, pytest.raises(ImportError, match="classes of stylegan2-ada-pytorch"):
        pickle.load(file)


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("resolution", [8, 16])
def test_networks_of_every_shape_come_back_equal(tmp_path, resolution, c_dim):
    path, common = tmp_path / "a.pkl", {"c_dim": c_dim, "conv_clamp": 256.0, "num_lowp_res": 1}
    for arch, group, layers, channels in itertools.product(("resnet", "orig"), (0, 4, 1 << 20), (1, 8), (1, 3)):
        common["img_channels"] = channels
        cfg = GeneratorConfig(resolution, 5, w_dim=6, mapping_layers=layers, channel_base=64, channel_max=8, **common)
        G = snapshots.random_state(Generator(cfg))
        cfg = DiscriminatorConfig(
            resolution, channel_base=64, channel_max=8, architecture=arch, mbstd_group_size=group,
            mapping_layers=layers, **common,
        )  # fmt: skip
        D = snapshots.random_state(Discriminator(cfg))
        save_snapshot(path, Networks(G_ema=G, D=D))
        found = read_networks(path)
        # without labels a published discriminator has no mapping network whose layers could be counted
        changed = {} if c_dim else {"mapping_layers": 8}
        for after, net, changes in ((found.G, G, {}), (found.G_ema, G, {}), (found.D, D, changed)):
            assert after.cfg == dataclasses.replace(net.cfg, **changes)
            assert all(torch.equal(after.state_dict()[k], t) for k, t in net.state_dict().items())


def test_a_generator_alone_gets_a_discriminator_that_nobody_takes_for_trained(tmp_path):
    G = snapshots.random_state(Generator(snapshots.small_config(num_lowp_res=2)))
    before = torch.random.get_rng_state()
    notes = save_snapshot(tmp_path / "a.pkl", Networks(G_ema=G))
    assert any("untrained" in note for note in notes) and any("float32" in note for note in notes)
    root = parsed(tmp_path / "a.pkl")
    assert isinstance(root["D"], Module) and root["untrained"] == ["D"]
    assert root["D"].state["_init_kwargs"]["img_resolution"] == 16
    found = read_networks(tmp_path / "a.pkl")
    assert found.D is None and found.G is not None
    assert found.G_ema.cfg == dataclasses.replace(G.cfg, num_lowp_res=0)  # float16 without a clamp would overflow
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match="needs a generator"):
        save_snapshot(tmp_path / "b.pkl", Networks(D=Discriminator(DiscriminatorConfig(8))))
    with pytest.raises(ValueError, match="4x4"):
        save_snapshot(tmp_path / "b.pkl", Networks(G_ema=Generator(snapshots.small_config(resolution=4))))
    assert not (tmp_path / "b.pkl").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_storage_is_what_torch_itself_writes(dtype):
    for shape in ((), (3,), (2, 3, 4), (0, 2)):
        tensor = torch.randn(shape, dtype=torch.float64).to(dtype)
        assert torch.equal(pickle.loads(pickling.dumps(tensor)), tensor)
    turned = torch.arange(6.0).reshape(2, 3).T
    assert torch.equal(pickle.loads(pickling.dumps([turned]))[0], turned)


def test_plain_values_are_those_that_pickle_reads():
    value = {
        "a": [
            1,
            -1,
            0,
            255,
            256,
            -129,
            2**70,
            True,
            False,
            None,
            1.5,
            "ü",
            b"x" * 300,
            (),
            (1,),
            [],
            {},
            {"x": {1: 2}},
        ],
        "b": {"p", "q"},
    }
    assert pickle.loads(pickling.dumps(value)) == value
    call = pickling.ordered_dict()
    one, two = pickle.loads(pickling.dumps([call, call]))
    assert one is two
    with pytest.raises(TypeError, match="object"):
        pickling.dumps(object())
