"""The feature network as an ONNX model for ONNX Runtime, written without the `onnx` package.

An ONNX file is a protobuf message; the few fields a network of convolutions needs are a page of code, so that people
who only want the faster runtime need not install the exporter. Field numbers are those of onnx.proto (ONNX IR 8,
operator set 13); `tests/metrics/test_onnx_graph.py` lets the `onnx` package check the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from metrics.network import Block, Chain, Convolution, Fork, MaxPoolBlock, Reduction

_OPSET, _IR_VERSION, _FLOAT = 13, 8, 1


def onnx_model(net: nn.Sequential) -> bytes:
    """A serialised ONNX model of `InceptionFeatures.net`, spatial mean included: input `x` float32 [N, 3, H, W] in
    [-1, 1], output `features` float32 [N, dims]; N, H and W are free."""
    graph = _Graph()
    x = "x"
    for layer in net:
        x = graph.module(layer, x)
    x = graph.node("GlobalAveragePool", [x])
    graph.node("Flatten", [x], output="features", axis=1)
    body = b"".join(graph.nodes) + _text(2, "inception") + b"".join(graph.weights)
    body += _bytes(11, _value_info("x", ["N", 3, "H", "W"])) + _bytes(12, _value_info("features", ["N", "D"]))
    opset = _text(1, "") + _int(2, _OPSET)
    return _int(1, _IR_VERSION) + _text(2, "ganface") + _bytes(7, body) + _bytes(8, opset)


class _Graph:
    """Nodes and weights in the order they were added; every method gives the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.weights: list[bytes] = []
        self._names = 0

    def node(self, op: str, inputs: Sequence[str], output: str | None = None, **attributes: int | list[int]) -> str:
        self._names += 1
        output = output or f"t{self._names}"
        message = b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, op)
        message += b"".join(_bytes(5, _attribute(name, value)) for name, value in attributes.items())
        self.nodes.append(_bytes(1, message))
        return output

    def module(self, layer: nn.Module, x: str) -> str:
        """Any layer of the feature network. Joint 1x1 convolutions are written as separate ones: ONNX Runtime keeps
        tensors in blocks of channels, and cutting one apart would cost more than the second reading of the input."""
        if isinstance(layer, Chain):
            for conv in layer.convs:
                x = self.node("Relu", [self.conv(conv, x)])
            return x
        if isinstance(layer, nn.MaxPool2d):
            return self.max_pool(x, 2)
        if isinstance(layer, Fork):
            x = x if layer.chain is None else self.module(layer.chain, x)
            return self.join([self.node("Relu", [self.conv(conv, x)]) for conv in (layer.row, layer.column)])
        if isinstance(layer, Reduction):
            return self.join([*(self.module(branch, x) for branch in layer.branches), self.max_pool(x, 2)])
        if isinstance(layer, Block | MaxPoolBlock):
            return self.block(layer, x)
        raise TypeError(f"no ONNX form of {type(layer).__name__}")

    def block(self, block: Block | MaxPoolBlock, x: str) -> str:
        ends = np.cumsum(block.widths)
        parts = [slice(int(end - width), int(end)) for end, width in zip(ends, block.widths, strict=True)]
        outputs = [self.node("Relu", [self.conv(block.heads, x, parts[0])])]
        for tail, part in zip(block.tails, parts[1:], strict=False):
            outputs.append(self.module(tail, self.node("Relu", [self.conv(block.heads, x, part)])))
        if isinstance(block, MaxPoolBlock):
            pooled = self.conv(block.pool, self.max_pool(x, 1, padding=1))
        else:
            mean = self.node("AveragePool", [x], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=0)
            pooled = self.conv(block.heads, mean, parts[-1])
        return self.join([*outputs, self.node("Relu", [pooled])])

    def join(self, parts: list[str]) -> str:
        return self.node("Concat", parts, axis=1)

    def max_pool(self, x: str, stride: int, padding: int = 0) -> str:
        return self.node("MaxPool", [x], kernel_shape=[3, 3], strides=[stride] * 2, pads=[padding] * 4)

    def conv(self, conv: Convolution, x: str, part: slice = slice(None)) -> str:
        kernel, bias = conv.weight.detach()[part], conv.bias.detach()[part]
        inputs = [x, self.weight(kernel.cpu().numpy()), self.weight(bias.cpu().numpy())]
        pads = [*conv.padding, *conv.padding]
        return self.node("Conv", inputs, kernel_shape=list(conv.kernel_size), strides=list(conv.stride), pads=pads)

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        message = b"".join(_int(1, side) for side in array.shape) + _int(2, _FLOAT) + _text(8, name)
        message += _bytes(9, np.ascontiguousarray(array, "<f4").tobytes())
        self.weights.append(_bytes(5, message))
        return name


def _attribute(name: str, value: int | list[int]) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _int(3, value) + _int(20, 2)
    return _text(1, name) + b"".join(_int(8, v) for v in value) + _int(20, 7)


def _value_info(name: str, shape: Sequence[int | str]) -> bytes:
    sides = b"".join(_bytes(1, _text(2, side) if isinstance(side, str) else _int(1, side)) for side in shape)
    return _text(1, name) + _bytes(2, _bytes(1, _int(1, _FLOAT) + _bytes(2, sides)))


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())
