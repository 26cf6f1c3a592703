"""The reader of torch.save's files against torch.load, both formats; and files that are more than their bytes."""

import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from common.memory import at_most
from stylegan2_ada.torch_files import read_torch
from stylegan2_ada.unpickle import Refused
from tests import bad_files


def sound() -> dict:
    torch.manual_seed(0)
    shared = torch.randn(6, 4)
    layer = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(torch.randn(5, 4)).sum().backward()
    optimiser.step()
    return {
        "format": 1, "state": layer.state_dict(), "optimiser": optimiser.state_dict(), "view": shared[1:4, ::2],
        "turned": shared.t(), "same": [shared, shared], "none": torch.zeros(0, 3), "one": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.ones(2)), "kinds": [torch.arange(3, dtype=kind) for kind in
        (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.float64, torch.float16, torch.bfloat16)],
        "flags": torch.tensor([True, False]), "plain": (1, -2.5, None, "text", [True], {3: "x"}, 2**70),
        "order": OrderedDict(a=1), "size": torch.Size([2, 3]),
    }  # fmt: skip


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
def test_as_torch_reads_it(tmp_path, zipped, mapped):
    path = tmp_path / "a.pt"
    torch.save(sound(), path, _use_new_zipfile_serialization=zipped)
    theirs, ours = torch.load(path, weights_only=True), read_torch(path, mapped=mapped)
    assert same(theirs, ours) and isinstance(ours["parameter"], torch.Tensor)
    ours["view"][0, 0] = 5  # a tensor of one's own, which the file does not follow
    assert same(read_torch(path), theirs)


@pytest.mark.parametrize(
    "name", [name for name in bad_files.FILES if name.endswith(".pt") and not name.startswith(("other", "list"))]
)
def test_what_is_refused(tmp_path, name):
    with at_most(200 << 20), pytest.raises(Refused) as caught:
        read_torch(bad_files.write(tmp_path, name))
    assert "\n" not in str(caught.value)


def test_members_that_are_the_same_bytes_over_and_over(tmp_path):
    """A zip's directory may name one member's bytes many times; what is read is never more than the file has."""
    path = tmp_path / "a.pt"
    torch.save({"big": torch.zeros(100_000), **{f"k{i}": torch.zeros(100_000)[:1].clone() for i in range(9)}}, path)
    with zipfile.ZipFile(path) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    members = [
        (name, data.replace(b"K\x01", b"J\xa0\x86\x01\x00") if name.endswith("data.pkl") else data)
        for name, data in members
    ]
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members:
            new.writestr(name, data)
        infos = [info for info in new.infolist() if "/data/" in info.filename]
        for info in infos[1:]:
            info.header_offset, info.CRC = infos[0].header_offset, infos[0].CRC
            info.file_size = info.compress_size = infos[0].file_size
    with pytest.raises(Refused):
        read_torch(path)


def test_a_storage_that_is_said_to_be_two(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    root = next(name for name in members if name.endswith("data.pkl"))
    members[root] = members[root].replace(b"FloatStorage", b"LongStorage\n".ljust(12)[:12])
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)
    with pytest.raises(Refused):
        read_torch(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_cuts_and_flips(tmp_path, zipped):
    path, out = tmp_path / "a.pt", io.BytesIO()
    torch.save({"a": torch.arange(9), "b": [1, "x"]}, out, _use_new_zipfile_serialization=zipped)
    data, rng = out.getvalue(), np.random.default_rng(1)
    for number in range(300):
        broken = bytearray(data if number % 3 else data[: rng.integers(1, len(data))])
        for _ in range(1 + number % 2):
            broken[rng.integers(len(broken))] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(broken))
        try:
            read_torch(path)
        except Refused as error:
            assert "\n" not in str(error)


def test_a_plain_pickle_is_none(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(Refused, match="not a file of torch.save"):
        read_torch(tmp_path / "a.pt")


@pytest.mark.parametrize("mapped", [True, False])
def test_numbers_that_are_not_what_was_written_are_refused(tmp_path, mapped):
    """As zipfile, and not torch.load, finds: one bit of a tensor."""
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(500).tobytes() + np.float32(501).tobytes())] ^= 1
    path.write_bytes(data)
    assert zipfile.ZipFile(path).testzip() == "a/data/0" and torch.load(path)["a"][500] != 500
    with pytest.raises(Refused, match="data/0 is not what was written"):
        read_torch(path, mapped=mapped)


def test_files_without_checksums_are_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save({"a": torch.arange(5)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_torch(tmp_path / "a.pt")["a"].tolist() == [0, 1, 2, 3, 4]
