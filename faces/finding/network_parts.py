"""A part of an ONNX network as a network of its own, without the package onnx.

The wire format is Protocol Buffers', field numbers are those of onnx.proto. For files that are known, byte by byte:
nothing here checks what it reads (`discriminator.onnx_file` does that, of files that anybody may have made).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# ModelProto's graph; GraphProto, NodeProto, TensorProto; a value's name and type, TypeProto's tensor, its numbers' type
_GRAPH = 7
_NODE, _NAME, _INITIALIZER, _INPUT, _OUTPUT = 1, 2, 5, 11, 12
_TAKES, _MAKES = 1, 2
_TENSOR_NAME = 8
_VALUE_NAME, _VALUE_TYPE, _TENSOR, _ELEMENTS, _SHAPE, _DIMENSION, _SIZE, _SIZE_NAME = 1, 2, 1, 1, 2, 1, 1, 2
_VARINT, _BYTES = 0, 2
_FLOAT = 1


def part_of(model: bytes, given: str, channels: int, made: Sequence[str]) -> bytes:
    """The part of the network in an ONNX file's bytes that makes the values `made` of the value `given`, float32
    [1, channels, h, w] of any height and width."""
    rest, graph = [], b""
    for number, content in _fields(model):
        if number == _GRAPH:
            graph = content if isinstance(content, bytes) else b""
        else:
            rest.append(_field(number, content))
    fields = list(_fields(graph))
    needed, kept = set(made), []
    for number, node in reversed(fields):  # nodes stand in the order in which they can be computed
        if number == _NODE and isinstance(node, bytes) and needed & set(_texts(node, _MAKES)):
            kept.append(_field(_NODE, node))
            needed |= set(_texts(node, _TAKES)) - {given}
    kept.reverse()
    for number, tensor in fields:
        if number == _INITIALIZER and isinstance(tensor, bytes) and needed & set(_texts(tensor, _TENSOR_NAME)):
            kept.append(_field(_INITIALIZER, tensor))
    sizes = (_field(_SIZE, 1), _field(_SIZE, channels), _field(_SIZE_NAME, b"h"), _field(_SIZE_NAME, b"w"))
    kept.append(_field(_NAME, b"part"))
    kept.append(_field(_INPUT, _value(given, _field(_SHAPE, b"".join(_field(_DIMENSION, size) for size in sizes)))))
    kept += [_field(_OUTPUT, _value(name)) for name in made]
    return b"".join([*rest, _field(_GRAPH, b"".join(kept))])


def _value(name: str, shape: bytes = b"") -> bytes:
    """What ONNX says of an input or output of float32 numbers."""
    tensor = _field(_ELEMENTS, _FLOAT) + shape
    return _field(_VALUE_NAME, name.encode()) + _field(_VALUE_TYPE, _field(_TENSOR, tensor))


def _texts(message: bytes, field: int) -> list[str]:
    return [str(content, "utf-8") for number, content in _fields(message) if number == field and content]  # type: ignore[arg-type]


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, content) of a message's fields."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        value, at = _varint(message, at)
        if key & 7 == _BYTES:
            yield key >> 3, message[at : at + value]
            at += value
        elif key & 7 == _VARINT:
            yield key >> 3, value
        else:
            raise ValueError("a field of another kind")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:
            return value, at


def _field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return _number(number << 3 | _VARINT) + _number(content)
    return _number(number << 3 | _BYTES) + _number(len(content)) + content


def _number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
