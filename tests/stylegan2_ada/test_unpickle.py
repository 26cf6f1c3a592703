"""Malicious and damaged pickles: refused in one line that names the file and what it wanted, and nothing has run."""

import os
import pickle
import pickletools
import random
import resource
import struct
import sys
import time

import pytest
import torch

from stylegan2_ada.config import DiscriminatorConfig
from stylegan2_ada.discriminator import Discriminator
from stylegan2_ada.generator import Generator
from stylegan2_ada.interop import read_networks
from stylegan2_ada.unpickle import MAX_OPCODES, Budget, parse
from tests.stylegan2_ada import snapshots


class Calls:
    """Pickles as a call of `function(*args)`, the way of every attack."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture
def sentinel(tmp_path):
    """A file that must not come into being."""
    path = tmp_path / "sentinel"
    yield path
    assert not path.exists(), "something in the file was run"


@pytest.fixture(scope="module")
def good():
    return snapshots.generator(Generator(snapshots.small_config()))


def refused(path, *words, seconds=10.0):
    began = time.monotonic()
    with pytest.raises(ValueError) as e:
        read_networks(path)
    line = str(e.value)
    assert line.startswith(f"{path}: ") and "\n" not in line and len(line) < 500, line
    assert all(word in line for word in words), line
    assert time.monotonic() - began < seconds


def attacks(sentinel):
    touch = f"open({str(sentinel)!r}, 'w')"
    return {
        "os.system": (Calls(os.system, f"touch {sentinel}"), "posix.system" if os.name == "posix" else "nt.system"),
        "eval": (Calls(eval, touch), "builtins.eval"),
        "exec": (Calls(exec, touch), "builtins.exec"),
        "getattr": (Calls(getattr, "x", "join"), "builtins.getattr"),
        "open": (Calls(open, str(sentinel), "w"), "io.open"),
        "import": (Calls(__import__, "os"), "builtins.__import__"),
        "torch.load": (Calls(torch.load, str(sentinel)), "torch.serialization.load"),
        "pickle.loads": (Calls(pickle.loads, pickle.dumps(Calls(eval, touch))), "_pickle.loads"),
        "nested reduce": (Calls(Calls, Calls(eval, touch)), "Calls"),
        "bytearray": (Calls(bytearray, 1 << 62), "builtins.bytearray"),
    }


@pytest.mark.parametrize("attack", list(attacks("")))
@pytest.mark.parametrize("where", ["root", "key", "argument", "tensor"])
def test_a_call_of_anything_is_refused(tmp_path, sentinel, good, attack, where):
    bad, name = attacks(sentinel)[attack]
    content = {"G_ema": good}
    if where == "root":
        content = bad
    elif where == "key":
        content = {"augment_pipe": bad, "G_ema": good}
    elif where == "argument":
        content["training_set_kwargs"] = {"path": [({"deep": bad},)]}
    else:
        content["D"] = snapshots.Recorded("Discriminator", _parameters={"weight": bad})
    path = tmp_path / "bad.pkl"
    path.write_bytes(snapshots.dumps(content, 4))
    refused(path, name, "nothing in the file was run" if "torch.nn" not in name else "torch")


# ---- pickles written by hand: what no pickler makes ------------------------------------------------------------------

PROTO = b"\x80\x04"


def text(s):
    return b"\x8c" + bytes([len(s)]) + s.encode()


def glob(module, name):
    return text(module) + text(name) + b"\x93"


def storage(numbers=4, claimed=None, kind=b"FloatStorage", payload=None, pid=None, module=b"torch"):
    """The bytes of one storage as the old torch.save writes them, with whatever wrong."""
    out = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\r\x00\x00\x00little_endian\x88s."
    count = struct.pack("<i", numbers if claimed is None else claimed)
    pid = pid or (
        b"(X\x07\x00\x00\x00storagec"
        + module
        + b"\n"
        + kind
        + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ"
        + count
        + b"Nt"
    )
    out += b"\x80\x02" + pid + b"Q." + b"\x80\x02]X\x01\x00\x00\x000a."
    return out + struct.pack("<q", numbers) + (b"\0" * 4 * numbers if payload is None else payload)


def loaded(data):
    return glob("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(data)) + data + b"\x85R"


def tensor(data=None, offset=0, size=(2, 2), stride=(2, 1)):
    parts = [b"J" + struct.pack("<i", n) for n in (offset, *size, *stride)]
    one, dims = parts[0], len(size)
    sizes = b"(" + b"".join(parts[1 : 1 + dims]) + b"t" + b"(" + b"".join(parts[1 + dims :]) + b"t"
    return (
        glob("torch._utils", "_rebuild_tensor_v2") + b"(" + loaded(storage() if data is None else data) + one + sizes
        + b"\x89" + glob("collections", "OrderedDict") + b")Rt" + b"R"
    )  # fmt: skip


def with_tensor(body):
    return PROTO + b"}" + text("G_ema") + body + b"s."


def test_the_hand_written_tensor_is_one(tmp_path):
    """So that what follows is refused for its fault and not for a slip of this test."""
    path = tmp_path / "a.pkl"
    path.write_bytes(with_tensor(tensor()))
    refused(path, "neither G_ema nor G nor D")
    assert pickle.loads(PROTO + tensor() + b".").shape == (2, 2)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (tensor(size=(3, 2)), ["does not fit its storage of 4"]),
        (tensor(size=(2, 2), stride=(3, 1)), ["does not fit"]),
        (tensor(offset=1), ["does not fit"]),
        (tensor(offset=-1), ["offset"]),
        (tensor(stride=(-1, 1)), ["stride"]),
        (tensor(size=(2**31 - 1, 2**31 - 1), stride=(0, 0)), ["does not fit"]),  # four numbers made to be 2^62
        (tensor(size=(2, -2)), ["size"]),
        (tensor(size=(1,) * 9, stride=(1,) * 9), ["8 sizes"]),
        (tensor(storage(claimed=2**31 - 1)), ["claims", "bytes where the file has 16"]),
        (tensor(storage(numbers=2**40, claimed=4, payload=b"")), ["claims 16 bytes"]),
        (tensor(storage(payload=b"\0" * 12)), ["claims 16 bytes where the file has 12"]),
        (tensor(storage(kind=b"QuantizedStorage")), ["torch.QuantizedStorage"]),
        (tensor(storage(module=b"os", kind=b"system")), ["os.system", "nothing in the file was run"]),
        (tensor(storage(pid=b"cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R")), ["builtins.eval"]),
        (tensor(storage(pid=b"ctorch\nFloatStorage\n)R")), ["calls the class of a torch storage"]),
        (tensor(storage(pid=b"X\x01\x00\x00\x00x")), ["persistent id"]),
        (tensor(b"\x80\x02N.\x80\x02N.\x80\x02N."), ["torch storage"]),
        (glob("torch._utils", "_rebuild_tensor_v2") + b")R", ["arguments it never has"]),
        (glob("torch._utils", "_rebuild_parameter") + b"N\x85R", ["no plain tensor"]),
        (glob("torch.storage", "_load_from_bytes") + text("path") + b"\x85R", ["no bytes"]),
    ],
)
def test_tensors_that_are_traps(tmp_path, body, words):
    path = tmp_path / "bad.pkl"
    path.write_bytes(with_tensor(body))
    refused(path, *words)


EASY = glob("dnnlib.util", "EasyDict")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x80\x04" + text("a\n").replace(b"\n", b"\n") + b"\x82\x01.", ["EXT1"]),
        (b"\x80\x02(cos\nsystem\no.", ["os.system"]),
        (b"\x80\x02(ios\nsystem\n.", ["INST"]),
        (b"\x80\x02]P0\n.", ["PERSID"]),
        (b"\x80\x04NQ.", ["BINPERSID"]),
        (b"\x80\x04" + glob("collections", "OrderedDict.fromkeys") + b".", ["collections.OrderedDict.fromkeys"]),
        (b"\x80\x04" + glob("dnnlib.util", "EasyDict.__init__") + b".", ["EasyDict.__init__"]),
        (b"\x80\x04" + glob("torch_utils.persistence", "_src_to_module") + b".", ["_src_to_module"]),
        (b"\x80\x04" + EASY + b")\x81" + b"}" + text("__class__") + EASY + b"sb.", ["sets the state"]),
        (b"\x80\x04" + EASY + b"}" + text("make") + b"Nsb.", ["sets the state"]),  # BUILD on a name itself
        (b"\x80\x04" + EASY + b")R)R.", ["not an admitted name"]),
        (b"\x80\x04" + text("os") + b")R.", ["not an admitted name"]),
        (b"\x80\x04" + text("os") + b"N\x93.", ["damaged"]),
        (b"\x80\x04\x8b" + struct.pack("<I", 2**31) + b"\x7f" * 100, ["integer of 2147483648 bytes"]),
        (b"\x80\x04\x8a\xff" + b"\x7f" * 255 + b".", ["integer of 255 bytes"]),
        (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"abc.", ["text of"]),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.", ["claims 4611686018427387904 bytes"]),
        (b"\x80\x04B\xff\xff\xff\xffabc.", ["claims 4294967295 bytes"]),
        (b"\x80\x04Nr\xff\xff\xff\xff.", ["neither G_ema"]),  # a memo of four billion places in Python's own unpickler
        (b"\x80\x04" + b"(" * 2000 + b".", ["1000 containers"]),
        (b"\x80\x04})Ns.", ["key of type tuple"]),
        (b"\x80\x04}]Ns.", ["key of type list"]),
        (b"\x80\x04\x8f(\x8f\x90.", ["key of type set"]),
        (b"\x80\x04}K\x01s.", ["damaged"]),
        (b"\x80\x04h\x05.", ["damaged"]),
        (b"\x80\x04.", ["damaged"]),
        (b"\x80\x04e.", ["damaged"]),
        (b"\x80\x04N(0.", ["damaged"]),
        (b"\x80\x04Nb.", ["damaged"]),
        (b"\x80\x04", ["damaged"]),
        (b"\x80\xff.", ["later Python"]),
        (b"\x80\x04\xff.", ["damaged"]),
        (b"\x80\x04\x8c\x02\xff\xfe.", ["damaged"]),
        (b"\x80\x04cnever ends", ["damaged"]),
    ],
)
def test_opcodes_that_are_traps(tmp_path, data, words):
    path = tmp_path / "bad.pkl"
    path.write_bytes(data)
    refused(path, *words)


def memory() -> int:
    """Peak resident memory in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


BOMBS = {
    # x = (x, x) thirty thousand times: 2^30000 leaves for whoever walks along, hashes or prints it
    "doubled tuples": PROTO + b")" + b"2\x86" * 30000 + b".",
    "nested tuples": PROTO + b")" + b"\x85" * 500_000 + b".",
    "nested lists": PROTO + b"]" + b"]\x94h\x00a" * 1000 + b".",
    "a list within itself": PROTO + b"]\x94h\x00ah\x00.",
    "many objects": PROTO + b"N" * (MAX_OPCODES + 1) + b".",
    # a list of 60 000 pairs, made into a dictionary again and again by four bytes each
    "many copies": PROTO + b"](" + (text("k") + b"N\x86") * 60000 + b"e\x94"
    + glob("collections", "OrderedDict") + b"\x94" + b"h\x01h\x00\x85R" * 5000 + b".",
    # one storage of many opcodes, read again and again
    "many storages": PROTO + b"B" + struct.pack("<I", 10_003) + b"\x80\x02" + b"N" * 10_000 + b"." + b"\x94"
    + glob("torch.storage", "_load_from_bytes") + b"\x94" + b"h\x01h\x00\x85R" * 5000 + b".",
}  # fmt: skip


@pytest.mark.parametrize("bomb", list(BOMBS))
def test_bombs_cost_neither_memory_nor_time(tmp_path, bomb):
    path = tmp_path / "bomb.pkl"
    path.write_bytes(BOMBS[bomb])
    before = memory()
    refused(path, seconds=20.0)
    assert memory() - before < 400 << 20


def test_a_sparse_file_costs_nothing(tmp_path):
    path = tmp_path / "sparse.pkl"
    with path.open("wb") as f:
        f.write(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 36))
        try:
            f.truncate((1 << 36) + 11)
        except OSError:
            pytest.skip("the file system makes no files with holes")
    before = memory()
    refused(path, "damaged")
    assert memory() - before < 100 << 20


def test_a_module_within_itself(tmp_path):
    head = glob("torch_utils.persistence", "_reconstruct_persistent_obj") + b"}(" + text("type") + text("class")
    state = text("state") + b"}" + text("_modules") + b"}\x94s"
    module = head + text("class_name") + text("Generator") + state + b"u\x85R\x94"
    path = tmp_path / "loop.pkl"
    path.write_bytes(PROTO + b"}" + text("G_ema") + module + b"h\x00" + text("again") + b"h\x01s0s.")
    refused(path, "levels deep")


def test_damage_anywhere_is_one_line(tmp_path, shared_dir):
    """Bytes of the recorded snapshot changed, cut and doubled at random: a network or one line, never another error."""
    whole = (shared_dir / "golden" / "uncond32_official_format.pkl").read_bytes()
    marks = [at for _, _, at in pickletools.genops(whole)]  # most bytes are weights: aim at the opcodes
    path, rng, refusals = tmp_path / "damaged.pkl", random.Random(0), 0
    for _ in range(150):
        data, at = bytearray(whole), rng.choice(marks) + rng.randrange(3)
        kind = rng.randrange(4)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + rng.randrange(1, 40)]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randrange(1, 40)]
        else:
            data[at] = rng.randrange(256)
        path.write_bytes(data)
        try:
            read_networks(path)
        except ValueError as e:
            refusals += 1
            assert str(e).startswith(f"{path}: ") and "\n" not in str(e)
    assert refusals > 75


def test_reading_agrees_with_the_unpickler_of_python(good):
    """Plain values of every kind the machine knows, through all protocols."""
    values = [None, True, False, 0, 255, 65535, -1, 2**31 - 1, -(2**31), 2**40, -(2**63), 1.5, float("inf"), "", "ünï",
              "x" * 300, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1], [1, "a", None], {}, {"a": [1, {"b": ()}]},
              {1: "x", None: 2}]  # fmt: skip
    values.append(values[:])  # shared objects
    for protocol in (2, 3, 4, 5):
        for value in values:
            data = pickle.dumps(value, protocol)
            parsed, end = parse(memoryview(data), 0, {}, Budget())
            assert parsed == value and type(parsed) is type(value) and end == len(data)
    data = pickle.dumps((b"", b"abc", b"x" * 300), 4)
    assert [bytes(b) for b in parse(memoryview(data), 0, {}, Budget())[0]] == [b"", b"abc", b"x" * 300]
    data = pickle.dumps({"a", "b"}, 4)
    assert parse(memoryview(data), 0, {}, Budget())[0] == {"a", "b"}


def test_a_configuration_that_claims_a_terabyte_allocates_nothing(tmp_path):
    D = Discriminator(DiscriminatorConfig(8, channel_base=64, channel_max=16))
    recorded = snapshots.discriminator(D, channel_base=1 << 24, channel_max=1 << 16)
    path = tmp_path / "huge.pkl"
    path.write_bytes(snapshots.dumps({"D": recorded}))
    before = memory()
    refused(path, "shape")
    assert memory() - before < 100 << 20
