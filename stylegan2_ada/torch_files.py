"""Files of torch.save, read as data: the pickle inside by `unpickle`, the tensors as views of the file.

`torch.load(weights_only=True)` runs nothing of a file either, but trusts its sizes and its shape: a tensor with a
stride of 0 may claim a terabyte, a key nested 900 000 levels deep ends the process, a packed member unpacks to what it
likes. Here all of it is counted first. Both formats are known: the zip archive, and the older row of pickles.
"""

from __future__ import annotations

import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import torch

from common.reading import ZIP_TROUBLE

from .storages import DTYPES, MAGIC, VERSION, Storage, StoredTensor, rebuild_tensor, storage_of
from .unpickle import Budget, Buildable, Refused, ordered_dict, parse

MAX_PICKLE = 64 << 20  # bytes of the pickle in a zip archive; that of a large training has some 2 MB
OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch.save before 1.6
_LOCAL_HEADER = 30  # bytes before a zip member's name


def read_torch(path: str | os.PathLike, *, mapped: bool = False) -> Any:
    """What torch.save put into a file: dicts, lists, tuples, numbers, texts and CPU tensors.

    mapped: the tensors stay in the file until they are looked at, and must not outlive it. OSError where it can't be
    read, Refused where it is something else, is damaged (torch.load looks at no checksum, here they are), or holds more
    than that."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise Refused("an empty file")
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        try:
            if bytes(whole[:4]) == b"PK\x03\x04":
                return _read_zip(file, whole, mapped)
            if bytes(whole[: len(OLD)]) == OLD:
                return _read_old(whole, mapped)
        except (RecursionError, MemoryError):
            raise Refused("damaged, or too large") from None
    raise Refused("not a file of torch.save")


def is_torch(path: str | os.PathLike) -> bool:
    """Whether a file begins as those of torch.save do."""
    with open(path, "rb") as file:
        return file.read(len(OLD)).startswith((b"PK\x03\x04", OLD))


# ---- what the pickles may name --------------------------------------------------------------------------------------


class _Namespace(Buildable):
    """Stands for `argparse.Namespace`: the command line in training checkpoints of others. What was in it is no
    matter."""

    def build(self, state: object) -> None:
        pass


class _Names(dict):
    """The closed table; what is outside it is told in the words of torch files."""

    def get(self, full, otherwise=None):
        if full not in self:
            raise Refused(
                "it holds more than tensors and could only be read by running it, which is never done (it names"
                f" {full[:80]})"
            )
        return self[full]


def _never_called(*args: object) -> object:
    raise Refused("it calls a name that torch files only mention")


def _pairs(items: object = ()) -> dict:
    return dict(items) if isinstance(items, dict) else ordered_dict(items)


def _set(items: object = ()) -> set:
    if not isinstance(items, list | tuple) or not all(type(item) in (str, int) for item in items):
        raise Refused("a set of something else than names")
    return set(items)


def _bytes(text: object = "", encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused("bytes in a form that torch files never have")
    return text.encode("latin-1", "replace")


def _size(sides: object = ()) -> tuple:
    if not isinstance(sides, list | tuple) or not all(type(side) is int for side in sides):
        raise Refused("a size of something else than numbers")
    return tuple(sides)


def _names(rebuild: Callable[[StoredTensor], torch.Tensor]) -> _Names:
    def tensor(*args: object) -> torch.Tensor:
        return rebuild(rebuild_tensor(*args))

    def parameter(data: object, requires_grad: object = True, hooks: object = None) -> torch.Tensor:
        if not isinstance(data, torch.Tensor) or not (hooks is None or hooks == {}):
            raise Refused("a parameter that is no plain tensor")
        return data

    return _Names(
        {
            **dict.fromkeys(DTYPES, _never_called),
            **{f"torch.{name}": _never_called for name in _MENTIONED},
            "torch._utils._rebuild_tensor": tensor,
            "torch._utils._rebuild_tensor_v2": tensor,
            "torch._utils._rebuild_parameter": parameter,
            "torch.Size": _size,
            "torch.device": lambda *words: str(words[0])[:20] if words and isinstance(words[0], str) else "cpu",
            "collections.OrderedDict": _pairs,
            "collections.Counter": _pairs,
            "builtins.set": _set,
            "__builtin__.set": _set,
            "_codecs.encode": _bytes,
            "argparse.Namespace": _Namespace,
        }
    )


_MENTIONED = "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128".split()


class _Tensors:
    """Makes tensors of stored ones: a storage's numbers are read once, and never more than the file has."""

    def __init__(self, room: int, mapped: bool) -> None:
        self.room, self.mapped = room, mapped
        self.flat: dict[int, tuple[Storage, torch.Tensor]] = {}  # by identity; the storage is kept alive beside

    def __call__(self, stored: StoredTensor) -> torch.Tensor:
        if 0 in stored.shape:
            return torch.empty(stored.shape, dtype=stored.dtype)
        _, flat = self.flat.get(id(stored.storage)) or self._read(stored.storage)
        return flat.as_strided(stored.shape, stored.stride, stored.offset)

    def _read(self, storage: Storage) -> tuple[Storage, torch.Tensor]:
        self.room -= len(storage.data)
        if self.room < 0:
            raise Refused("its tensors are larger than the file")
        data = storage.data if self.mapped else bytearray(storage.data)
        pair = storage, torch.frombuffer(data, dtype=storage.dtype)
        self.flat[id(storage)] = pair
        return pair


# ---- zip archives ---------------------------------------------------------------------------------------------------


def _read_zip(file, whole: memoryview, mapped: bool) -> object:
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
    except ZIP_TROUBLE as error:
        raise Refused(f"a damaged torch file ({' '.join(str(error).split())[:100]}); copy it again") from None
    roots = (name.removesuffix("data.pkl") for name in members if f"/{name}".endswith("/data.pkl"))
    root = next(roots, None)
    if root is None:
        raise Refused("a zip archive, but not of torch.save")
    order = members.get(f"{root}byteorder")
    if order is not None and bytes(_member(whole, order)) != b"little":
        raise Refused("a torch file written on a big-endian machine")
    data = _member(whole, members[f"{root}data.pkl"])
    if len(data) > MAX_PICKLE:
        raise Refused(f"a torch file whose pickle has {len(data) >> 20} MiB")
    made: dict[str, Storage] = {}

    def storage(pid: object) -> Storage:
        key, dtype, numel = storage_of(pid)
        if key not in made:
            info = members.get(f"{root}data/{key}")
            if info is None:
                raise Refused("a damaged torch file (a storage without its numbers); copy it again")
            numbers = _member(whole, info)
            if info.CRC and zlib.crc32(numbers) != info.CRC:  # 0: torch was told to write none
                raise Refused(f"a damaged torch file (data/{key} is not what was written: its checksum is another)")
            if len(numbers) < numel * dtype.itemsize:
                claimed = numel * dtype.itemsize
                raise Refused(f"a torch storage claims {claimed} bytes where the file has {len(numbers)}")
            made[key] = Storage(dtype, numel, numbers[: numel * dtype.itemsize])
        if (made[key].dtype, made[key].numel) != (dtype, numel):
            raise Refused("a torch storage that is claimed to be two")
        return made[key]

    value, _ = parse(data, 0, _names(_Tensors(len(whole), mapped)), Budget(), storage)
    return value


def _member(whole: memoryview, info: zipfile.ZipInfo) -> memoryview:
    """A member's bytes in the file. Refused where it is packed, which torch never does."""
    start = info.header_offset
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise Refused("a torch file with packed members, as torch never writes them")
    head = bytes(whole[start : start + _LOCAL_HEADER])
    if len(head) < _LOCAL_HEADER or head[:4] != b"PK\x03\x04":
        raise Refused("a damaged torch file; copy it again")
    name, extra = struct.unpack("<HH", head[26:30])
    start += _LOCAL_HEADER + name + extra
    if start + info.file_size > len(whole):
        raise Refused("a damaged torch file (cut short); copy it again")
    return whole[start : start + info.file_size]


# ---- before torch 1.6 -----------------------------------------------------------------------------------------------


def _read_old(whole: memoryview, mapped: bool) -> object:
    """The content refers to storages whose numbers come behind it: it is parsed to find these, and once more."""
    budget = Budget()
    magic, at = parse(whole, 0, {}, budget)
    version, at = parse(whole, at, {}, budget)
    system, content = parse(whole, at, {}, budget)
    if magic != MAGIC or version != VERSION or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("a torch file in a format, or of a machine, that is not read here")
    wanted: dict[str, tuple[torch.dtype, int]] = {}
    made: dict[str, Storage] = {}
    nothing = memoryview(b"")

    def announced(pid: object) -> Storage:
        key, dtype, numel = storage_of(pid)
        if wanted.setdefault(key, (dtype, numel)) != (dtype, numel):
            raise Refused("a torch storage that is claimed to be two")
        return Storage(dtype, numel, nothing)

    _, at = parse(whole, content, _names(lambda stored: torch.empty(0)), budget, announced)
    keys, at = parse(whole, at, {}, budget)
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or sorted(keys) != sorted(wanted):
        raise Refused("a torch storage without its numbers")
    for key in keys:
        dtype, numel = wanted[key]
        count, at = bytes(whole[at : at + 8]), at + 8
        if count != struct.pack("<q", numel) or numel * dtype.itemsize > len(whole) - at:
            raise Refused(f"a torch storage claims {numel * dtype.itemsize} bytes where the file has {len(whole) - at}")
        made[key] = Storage(dtype, numel, whole[at : at + numel * dtype.itemsize])
        at += numel * dtype.itemsize
    made_of: Callable[[object], Storage] = lambda pid: made[storage_of(pid)[0]]  # noqa: E731
    value, _ = parse(whole, content, _names(_Tensors(len(whole), mapped)), budget, made_of)
    return value
