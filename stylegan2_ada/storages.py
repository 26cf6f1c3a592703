"""Tensors inside pickles of PyTorch: views of the file's bytes, checked before a single number is copied.

A pickled tensor is `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, …)`; its storage is
`torch.storage._load_from_bytes(bytes)` with a whole file of the old `torch.save` inside: three small pickles (magic
number, version, byte order), the storage as a persistent id, the list of keys, then a count and the raw numbers.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import torch

from common.reading import shown

from .unpickle import Budget, Name, Refused, parse

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
DTYPES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
MAX_DIMS = 8


@dataclass(frozen=True, eq=False)
class Storage:
    """`numel` numbers of `dtype`, little endian, as they lie in the file."""

    dtype: torch.dtype
    numel: int
    data: memoryview


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that still lies in the file. It has at most as many elements as its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    def load(self) -> torch.Tensor:
        """A copy on the CPU, wherever the tensor was when it was saved."""
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.dtype)
        last = sum((n - 1) * step for n, step in zip(self.shape, self.stride))
        size = self.dtype.itemsize
        part = bytearray(self.storage.data[self.offset * size : (self.offset + last + 1) * size])
        flat = torch.frombuffer(part, dtype=self.dtype)
        return flat.as_strided(self.shape, self.stride).contiguous()


def _whole(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise Refused(f"a tensor's {what} is {shown(value)}, not a whole number from 0 on")
    return value


def rebuild_tensor(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None) -> StoredTensor:
    """Stands for `torch._utils._rebuild_tensor_v2`; Refused where the tensor reaches beyond its storage."""
    if not isinstance(storage, Storage):
        raise Refused("a tensor whose storage is something else")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or not len(size) == len(stride) <= MAX_DIMS:
        raise Refused(f"a tensor needs up to {MAX_DIMS} sizes and as many strides")
    offset = _whole(offset, "offset")
    size = tuple(_whole(n, "size") for n in size)
    stride = tuple(_whole(n, "stride") for n in stride)
    if not _is_nothing(hooks) or not _is_nothing(metadata):
        raise Refused("a tensor with hooks or metadata")
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride)) + 1 if 0 not in size else offset
    if reach > storage.numel or math.prod(size) > storage.numel:
        raise Refused(
            f"a tensor of size {list(size)} and stride {list(stride)} at {offset} does not fit its storage of"
            f" {storage.numel} numbers"
        )
    return StoredTensor(storage, offset, size, stride)


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, dict | list | tuple) and not value)


def rebuild_parameter(data, requires_grad=True, hooks=None) -> StoredTensor:
    """Stands for `torch._utils._rebuild_parameter`."""
    if not isinstance(data, StoredTensor) or not _is_nothing(hooks):
        raise Refused("a parameter that is no plain tensor")
    return data


def storage_of(pid: object) -> tuple[str, torch.dtype, int]:
    """('storage', class, key, device, number of elements, None or a view) -> key, type and number of elements."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or not isinstance(pid[0], str):
        raise Refused("a persistent id that is no plain torch storage")
    if pid[0] != "storage" or any(view is not None for view in pid[5:]):
        raise Refused("a persistent id that is no plain torch storage")
    _, kind, key, _, numel = pid[:5]  # the device it was on is left out: numbers come to the CPU
    if not isinstance(kind, Name) or kind.full not in DTYPES or not isinstance(key, str):
        raise Refused("a persistent id that is no plain torch storage")
    return key, DTYPES[kind.full], _whole(numel, "number of elements")


class _Storages:
    """The persistent ids of one torch file: storages announced before their numbers come."""

    def __init__(self) -> None:
        self.wanted: dict[str, tuple[torch.dtype, int]] = {}
        self.made: dict[str, Storage] = {}

    def announce(self, pid: object) -> str:
        """As `storage_of` -> its key."""
        key, dtype, numel = storage_of(pid)
        self.wanted[key] = dtype, numel
        return key

    def read(self, data: memoryview, at: int, keys: object) -> None:
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise Refused("a torch storage without its numbers")
        if sorted(keys) != sorted(self.wanted):
            raise Refused("a torch storage without its numbers")
        for key in keys:
            dtype, numel = self.wanted[key]
            left = len(data) - at - 8
            if left < 0 or struct.unpack("<q", data[at : at + 8])[0] != numel or numel * dtype.itemsize > left:
                raise Refused(
                    f"a torch storage claims {numel * dtype.itemsize} bytes where the file has {max(left, 0)}"
                )
            at += 8 + numel * dtype.itemsize
            self.made[key] = Storage(dtype, numel, data[at - numel * dtype.itemsize : at])


def _never_called() -> None:
    """The classes of storages are mentioned in persistent ids; a file that calls one is refused."""
    raise Refused("it calls the class of a torch storage")


_MENTIONED = dict.fromkeys(DTYPES, _never_called)


def load_from_bytes(budget: Budget):
    """Stands for `torch.storage._load_from_bytes`: bytes of the old torch.save with one storage -> `Storage`."""

    def load(data: object) -> Storage:
        if not isinstance(data, memoryview):
            raise Refused("a torch storage that is no bytes")
        storages = _Storages()
        magic, at = parse(data, 0, {}, budget)
        version, at = parse(data, at, {}, budget)
        system, at = parse(data, at, {}, budget)
        if magic != MAGIC or version != VERSION or not isinstance(system, dict):
            raise Refused("a torch storage in a format that published snapshots never use")
        if system.get("little_endian") is not True:
            raise Refused("a torch storage written on a big-endian machine")
        # the names of storage classes are never called, only mentioned
        key, at = parse(data, at, _MENTIONED, budget, storages.announce)
        keys, at = parse(data, at, {}, budget)
        storages.read(data, at, keys)
        if not isinstance(key, str) or key not in storages.made:
            raise Refused("a torch storage without its numbers")
        return storages.made[key]

    return load
