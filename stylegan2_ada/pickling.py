"""Write pickles that name classes this project does not have: numbers, text, bytes, containers and calls of names.

The counterpart of `unpickle`: no class is imported, nothing of Python's pickling machinery is asked. A tensor is
written as `torch._utils._rebuild_tensor_v2` of a storage, which is a whole file of the old `torch.save` (`storages`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import torch

_STORAGES = {torch.float32: "FloatStorage", torch.float64: "DoubleStorage", torch.float16: "HalfStorage"}


@dataclass(frozen=True, eq=False)
class Call:
    """`module.name(*args)`, done by whoever reads the file. One that occurs twice is written, and made, once."""

    module: str
    name: str
    args: tuple = ()


@dataclass(frozen=True)
class _Global:
    """A name that is only mentioned."""

    module: str
    name: str


@dataclass
class _Writer:
    out: list[bytes] = field(default_factory=list)
    made: dict[int, int] = field(default_factory=dict)  # id of a call -> its place in the reader's memo
    kept: list[object] = field(default_factory=list)  # so that no id is used twice

    def put(self, value: object) -> None:
        match value:
            case None:
                self.out.append(b"N")
            case bool():
                self.out.append(b"\x88" if value else b"\x89")
            case int():
                size = value.bit_length() // 8 + 1
                small = 0 <= value < 256
                body = (
                    b"K" + bytes([value])
                    if small
                    else b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
                )
                self.out.append(body)
            case float():
                self.out.append(b"G" + struct.pack(">d", value))
            case str():
                text = value.encode()
                self.out += [b"X", struct.pack("<I", len(text)), text]
            case bytes():
                self.out += [b"B", struct.pack("<I", len(value)), value]
            case tuple():
                self.several(b"(", value, b"t")
            case list():
                self.several(b"](", value, b"e")
            case set():
                self.several(b"\x8f(", sorted(value), b"\x90")
            case dict():
                self.several(b"}(", [part for pair in value.items() for part in pair], b"u")
            case _Global():
                self.out.append(f"c{value.module}\n{value.name}\n".encode())
            case Call():
                self.call(value)
            case torch.Tensor():
                self.call(_tensor(value))
            case _:
                raise TypeError(f"{type(value).__name__} cannot be written")

    def several(self, begin: bytes, items: list | tuple, end: bytes) -> None:
        self.out.append(begin)
        for item in items:
            self.put(item)
        self.out.append(end)

    def call(self, call: Call) -> None:
        if (place := self.made.get(id(call))) is not None:
            self.out.append(b"j" + struct.pack("<I", place))
            return
        self.put(_Global(call.module, call.name))
        self.put(call.args)
        place = self.made[id(call)] = len(self.made)
        self.kept.append(call)
        self.out.append(b"Rr" + struct.pack("<I", place))


def dumps(value: object) -> bytes:
    """`value` as a pickle of protocol 4. TypeError for what is none of Python's plain types, a tensor or a `Call`."""
    writer = _Writer()
    writer.put(value)
    return b"\x80\x04" + b"".join(writer.out) + b"."


def parameter(tensor: torch.Tensor) -> Call:
    """A tensor that a module holds as a parameter, without gradient."""
    return Call("torch._utils", "_rebuild_parameter", (_tensor(tensor), False, ordered_dict()))


def ordered_dict() -> Call:
    """An empty one."""
    return Call("collections", "OrderedDict")


def _tensor(tensor: torch.Tensor) -> Call:
    tensor = tensor.detach().cpu().contiguous()
    storage = Call("torch.storage", "_load_from_bytes", (_storage(tensor),))
    shape, stride = tuple(tensor.shape), tuple(tensor.stride())
    return Call("torch._utils", "_rebuild_tensor_v2", (storage, 0, shape, stride, False, ordered_dict()))


def _storage(tensor: torch.Tensor) -> bytes:
    """What `torch.save` wrote of a storage before PyTorch 1.6, and every PyTorch still reads: magic number, version,
    byte order, the storage by a persistent id, its key, then the count and the numbers, little endian."""
    key, count = "0", tensor.numel()
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    heads = [_old(0x1950A86A20F9469CFC6C), _old(1001), _old(system)]
    kind = _Global("torch", _STORAGES[tensor.dtype])
    announced = _old(("storage", kind, key, "cpu", count, None)).removesuffix(b".") + b"Q."
    numbers = tensor.numpy()
    body = numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).tobytes()
    return b"".join([*heads, announced, _old([key]), struct.pack("<q", count), body])


def _old(value: object) -> bytes:
    writer = _Writer()
    writer.put(value)
    return b"\x80\x02" + b"".join(writer.out) + b"."
