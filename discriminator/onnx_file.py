"""Is an .onnx file a network and nothing else? Looked at before ONNX Runtime gets it, without the package onnx.

An ONNX graph is a program: it can loop for ever, name other files as its weights, and make a value of any size out of
two numbers. So a detector's may use the operators of convolutional networks and no others, must bring its weights
along, and has at most so many nodes. Field numbers are those of onnx.proto; the wire format is Protocol Buffers'.
"""

from __future__ import annotations

from collections.abc import Iterator

from common.errors import UserError

# Nothing here has a body of its own (If, Loop, Scan), draws at random, or knows sequences and text.
OPERATORS = frozenset(
    "Abs Add ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv ConvTranspose"
    " DepthToSpace Div Dropout Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm"
    " GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity"
    " InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization"
    " MatMul Max MaxPool Mean Min Mish Mod Mul Neg Not And Or OneHot PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2"
    " ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round"
    " ScatterElements ScatterND Selu Shape Sigmoid Sign Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt"
    " Squeeze Sub Sum Tanh Tile TopK Transpose Unsqueeze Where Xor".split()
)
DOMAINS = ("", "ai.onnx")
MAX_NODES = 20_000  # the largest network known here has some 2000
MAX_TENSORS = 20_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto
_GRAPH, _METADATA, _FUNCTIONS = 7, 14, 25
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15
_OP_TYPE, _ATTRIBUTE, _DOMAIN = 4, 5, 7
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS, _SPARSE_TENSOR, _SPARSE_TENSORS = 5, 6, 10, 11, 22, 23
_EXTERNAL, _LOCATION = 13, 14


def check_network(data: bytes) -> None:
    """UserError, without the file's name, where an .onnx file's bytes are no plain network."""
    graphs = [value for number, value in _fields(memoryview(data)) if number == _GRAPH]
    if len(graphs) != 1 or not isinstance(graphs[0], memoryview):
        raise UserError("not an ONNX file, or damaged; export it again")
    if any(number == _FUNCTIONS for number, _ in _fields(memoryview(data))):
        raise UserError("its network defines functions of its own, which no detector here has; export it again")
    nodes = tensors = 0
    for number, value in _fields(graphs[0]):
        if number in (_NODE, _INITIALIZER) and not isinstance(value, memoryview):
            raise UserError("not an ONNX file, or damaged; export it again")
        if number == _NODE:
            nodes += 1
            _check_node(value)  # type: ignore[arg-type]
        elif number == _INITIALIZER:
            tensors += 1
            _check_tensor(value)  # type: ignore[arg-type]
        elif number == _SPARSE:
            raise UserError("its network has sparse weights, which no detector here has; export it again")
        if nodes > MAX_NODES or tensors > MAX_TENSORS:
            raise UserError(f"its network has more than {MAX_NODES} nodes or weights; export it again")


def content_of(data: bytes) -> Iterator[bytes | memoryview]:
    """All of an .onnx file's bytes but the metadata, in which a detector is described, for a digest."""
    for number, value in _fields(memoryview(data)):
        if number != _METADATA:
            yield f"{number} {value if isinstance(value, int) else len(value)} ".encode()
            if not isinstance(value, int):
                yield value


def operators_of(data: bytes) -> set[str]:
    """The operators that an .onnx file's network uses."""
    found = set()
    for number, graph in _fields(memoryview(data)):
        if number == _GRAPH and isinstance(graph, memoryview):
            found |= {_kind(node)[0] for kind, node in _fields(graph) if kind == _NODE and isinstance(node, memoryview)}
    return found


def _check_node(node: memoryview) -> None:
    kind, domain = _kind(node)
    if domain not in DOMAINS or kind not in OPERATORS:
        full = f"{domain}.{kind}" if domain not in DOMAINS else kind
        raise UserError(f"its network uses the operator {full[:60]}, which no detector here has; export it again")
    for number, attribute in _fields(node):
        if number != _ATTRIBUTE or not isinstance(attribute, memoryview):
            continue
        for inner, value in _fields(attribute):
            if inner in (_SUBGRAPH, _SUBGRAPHS, _SPARSE_TENSOR, _SPARSE_TENSORS):
                raise UserError(f"its network's {kind} has a network inside; export it again")
            if inner in (_TENSOR, _TENSORS) and isinstance(value, memoryview):
                _check_tensor(value)


def _check_tensor(tensor: memoryview) -> None:
    for number, value in _fields(tensor):
        if number == _EXTERNAL or (number == _LOCATION and value):
            raise UserError("its network's weights lie in another file, which is never read; export it as one file")


def _kind(node: memoryview) -> tuple[str, str]:
    kind = domain = ""
    for number, value in _fields(node):
        if number == _OP_TYPE and isinstance(value, memoryview):
            kind = str(bytes(value[:100]), "utf-8", "replace")
        elif number == _DOMAIN and isinstance(value, memoryview):
            domain = str(bytes(value[:100]), "utf-8", "replace")
    return kind, domain


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(number, content) of a message's fields, texts and messages as views of it. UserError where it is broken."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise UserError("not an ONNX file, or damaged; export it again")
        if length > end - at:
            raise UserError("not an ONNX file, or cut short; export it again")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise UserError("not an ONNX file, or damaged; export it again")
