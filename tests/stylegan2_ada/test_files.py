"""Generator files: round trip, atomic writing, and what isn't a generator."""

import json
import os

import pytest
import safetensors.torch
import torch

from stylegan2_ada.config import GeneratorConfig
from stylegan2_ada.files import load_generator, save_generator
from stylegan2_ada.generator import Generator
from stylegan2_ada.interop import load_any_generator

CONFIG = GeneratorConfig(
    16, z_dim=8, c_dim=2, w_dim=8, mapping_layers=2, channel_base=256, channel_max=16, num_lowp_res=1
)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    G = Generator(CONFIG)
    G.mapping.w_avg.normal_()
    path = tmp_path / "generator.safetensors"
    save_generator(path, G, {"kimg": 4, "data": "demo"})
    return path, G


def test_round_trip(saved):
    path, G = saved
    state = torch.get_rng_state()
    loaded, meta = load_generator(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert meta == {"kimg": 4, "data": "demo"} and loaded.cfg == CONFIG and not loaded.training
    assert all(not p.requires_grad for p in loaded.parameters())
    z, c = torch.randn(2, 8), torch.randn(2, 2)
    assert torch.equal(loaded(z, c, psi=0.5, noise_mode="const"), G.eval()(z, c, psi=0.5, noise_mode="const"))
    assert os.listdir(path.parent) == [path.name]


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    path, G = saved
    before = path.read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        save_generator(path, G)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def rewrite(path, **changes):
    with safetensors.safe_open(path, framework="pt") as f:
        header = f.metadata()
    tensors = safetensors.torch.load_file(path)
    header = {k: v for k, v in (header | changes).items() if v is not None}
    safetensors.torch.save_file(tensors, path, metadata=header)


def test_files_that_are_not_generators(saved, tmp_path):
    path, _ = saved
    text = tmp_path / "notes.txt"
    text.write_text("not a network")
    empty = tmp_path / "empty.safetensors"
    empty.write_bytes(b"")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, foreign)
    detector = tmp_path / "detector.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, detector, metadata={"format": "detector"})
    cases = [(text, "damaged"), (empty, "damaged"), (cut, "damaged")]
    cases += [(foreign, "of another program"), (detector, "a detector file, not a generator")]
    for wrong, reason in cases:
        with pytest.raises(ValueError, match=reason) as e:
            load_generator(wrong)
        assert str(wrong) in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(FileNotFoundError, match="no such generator file"):
        load_generator(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    "config",
    [
        "{",
        json.dumps({"resolution": 48}),
        json.dumps(CONFIG.to_dict() | {"resolution": 32}),
        json.dumps({"colour": 1}),
        None,
    ],
)
def test_headers_that_do_not_fit_their_weights(saved, config):
    path, _ = saved
    rewrite(path, config=config)
    with pytest.raises(ValueError, match="disagree") as e:
        load_generator(path)
    assert "\n" not in str(e.value)


def test_a_header_whose_length_begins_like_a_pickle(tmp_path):
    """Lengths are multiples of 8: one in 32 has 0x80, the first byte of a pickle, as its lowest byte."""
    G = Generator(CONFIG)
    for n in range(256):
        path = tmp_path / f"{n}.safetensors"
        save_generator(path, G, {"note": "x" * n})
        if path.read_bytes()[:1] == b"\x80":
            break
        path.unlink()
    assert path.exists()
    loaded, meta = load_any_generator(path, "cpu")
    assert meta["note"] == "x" * n and loaded.cfg == CONFIG


def test_a_changed_bit_is_refused_and_older_files_are_read(saved):
    """Of a weight: what is drawn would be another picture, without a word."""
    path, _ = saved
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum is another") as e:
        load_generator(path)
    assert str(path) in str(e.value)
    rewrite(path, content_sha256=None)
    assert load_generator(path)[0].cfg == CONFIG


def test_a_changed_header_is_refused(saved):
    path, _ = saved
    rewrite(path, meta=json.dumps({"kimg": 7}))
    with pytest.raises(ValueError, match="checksum is another"):
        load_generator(path)


def test_weights_of_half_precision_have_their_digest_too(tmp_path):
    torch.manual_seed(0)
    save_generator(tmp_path / "half.safetensors", Generator(CONFIG), half=True)
    assert load_generator(tmp_path / "half.safetensors")[0].cfg == CONFIG
