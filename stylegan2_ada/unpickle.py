"""Read a pickle as data: nothing in the file can run, whatever it holds.

Python's own unpickler imports what a file names and calls it. Here a small stack machine goes through the opcodes
instead. It knows those that make numbers, text, bytes and containers, and a closed table of names. A name outside the
table ends the reading; a name inside it stands for a function of this project that makes a plain record. No module is
imported, no attribute looked up, nothing of the file called, hashed or compared except text and numbers as keys.

What a file can cost is bounded as well: bytes are views into the file and never copied, everything that is made counts
towards a budget, and there is no recursion.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pickletools import opcodes

from common.errors import UserError

MAX_OPCODES = 1_000_000  # of a file with all pickles inside it; a published snapshot has some 50 000
MAX_MARKS = 1000  # containers open at a time
MAX_KEY = 1 << 31
MAX_TEXT = 1 << 24  # bytes of one string; the longest in a published snapshot is a source file of 40 kB


class Refused(UserError):
    """Why a file is not read, as the end of a sentence that begins with its name."""


@dataclass
class Budget:
    """What may still be made: opcodes and items of containers together."""

    left: int = MAX_OPCODES

    def spend(self, items: int) -> None:
        self.left -= items
        if self.left < 0:
            raise Refused("too many objects: no published snapshot has so many, a trap may")


@dataclass(frozen=True, eq=False)
class Name:
    """A name of the closed table where a file mentions it; `make` is ours and turns arguments into a record."""

    full: str
    make: Callable


class Buildable:
    """A record that the opcode BUILD may complete."""

    def build(self, state: object) -> None:
        raise NotImplementedError


def ordered_dict(items: object = ()) -> dict:
    """What `collections.OrderedDict` stands for in a file: pairs whose keys are text."""
    if not isinstance(items, list | tuple) or not all(isinstance(i, list | tuple) and len(i) == 2 for i in items):
        raise Refused("a damaged OrderedDict")
    if not all(isinstance(key, str) for key, _ in items):
        raise Refused("an OrderedDict whose keys are no text")
    return dict(items)


def parse(
    data: memoryview,
    at: int,
    names: Mapping[str, Callable],
    budget: Budget,
    persistent: Callable[[object], object] | None = None,
) -> tuple[object, int]:
    """The value of the pickle that begins at byte `at`, and the position behind it.

    names: `module.name` -> function of the file's arguments that makes a record. budget: shared by all pickles of one
    file. persistent: what to make of a persistent id; None refuses them. Refused for a name or opcode that is not
    admitted, and for whatever is damaged or too large.
    """
    return _Machine(data, at, names, budget, persistent).run()


_DAMAGED = "damaged, or not a pickle"


class _Machine:
    def __init__(self, data, at, names, budget, persistent):
        self.data, self.at, self.names, self.budget, self.persistent = data, at, names, budget, persistent
        self.stack, self.marks, self.memo = [], [], {}

    def run(self) -> tuple[object, int]:
        while True:
            code = self.take(1)[0]
            self.budget.spend(1)
            if code == _STOP:
                return self.pop(), self.at
            step = _STEPS.get(code)
            if step is None:
                opcode = next((op for op in opcodes if op.code == chr(code)), None)
                raise Refused(f"the opcode {opcode.name} is not admitted" if opcode else _DAMAGED)
            step(self)

    # ---- the file -----------------------------------------------------------------------------------------------

    def take(self, count: int) -> memoryview:
        """The next `count` bytes, a view."""
        if count > len(self.data) - self.at:
            raise Refused(f"{_DAMAGED}: it claims {count} bytes where {len(self.data) - self.at} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, count: int) -> str:
        if count > MAX_TEXT:
            raise Refused(f"a text of {count} bytes is too long")
        try:
            return str(self.take(count), "utf-8")
        except UnicodeDecodeError:
            raise Refused(_DAMAGED) from None

    def line(self) -> str:
        end = bytes(self.data[self.at : self.at + 256]).find(b"\n")
        if end < 0:
            raise Refused(_DAMAGED)
        value = self.text(end)
        self.at += 1
        return value

    # ---- the stack ----------------------------------------------------------------------------------------------

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refused(_DAMAGED)
        return self.stack.pop()

    def top(self) -> object:
        value = self.pop()
        self.stack.append(value)
        return value

    def mark(self) -> None:
        if len(self.marks) >= MAX_MARKS:
            raise Refused(f"more than {MAX_MARKS} containers within each other")
        self.marks.append(len(self.stack))

    def since_mark(self) -> list:
        if not self.marks:
            raise Refused(_DAMAGED)
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        self.budget.spend(len(items))
        return items

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    # ---- names and calls ------------------------------------------------------------------------------------------

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused(_DAMAGED)
        full = f"{module}.{name}"
        make = self.names.get(full)
        if make is None:
            raise Refused(_forbidden(full))
        self.push(Name(full, make))

    def call(self) -> None:
        args, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(args, tuple):
            raise Refused("it calls something that is not an admitted name")
        self.budget.spend(sum(len(a) for a in args if isinstance(a, list | tuple | dict)))
        try:
            self.push(function.make(*args))
        except TypeError:  # by now only a wrong number of arguments: every maker checks their types itself
            raise Refused(f"{function.full} is called with arguments it never has in a published snapshot") from None

    def complete(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Buildable):
            target.build(state)
        elif type(target) is not dict or not (state is None or (type(state) is dict and set(state) <= _OF_A_DICT)):
            raise Refused("it sets the state of something that has none")

    def persistent_id(self) -> None:
        if self.persistent is None:
            raise Refused("the opcode BINPERSID is not admitted")
        self.push(self.persistent(self.pop()))

    # ---- containers -----------------------------------------------------------------------------------------------

    def extend(self, items: list) -> None:
        target = self.top()
        if type(target) is not list:
            raise Refused(_DAMAGED)
        target.extend(items)

    def add(self, items: list) -> None:
        target = self.top()
        if type(target) is not set:
            raise Refused(_DAMAGED)
        target.update(_keys(items))

    def set_items(self, items: list) -> None:
        target = self.top()
        if type(target) is not dict or len(items) % 2:
            raise Refused(_DAMAGED)
        target.update(zip(_keys(items[::2]), items[1::2]))

    def put(self, slot: int) -> None:
        self.memo[slot] = self.top()

    def get(self, slot: int) -> None:
        if slot not in self.memo:
            raise Refused(_DAMAGED)
        self.push(self.memo[slot])

    def integer(self, count: int) -> None:
        if count > 16:
            raise Refused(f"an integer of {count} bytes is too long")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def protocol(self) -> None:
        if self.take(1)[0] > 5:
            raise Refused(f"{_DAMAGED}, or of a later Python")


def _keys(items: list) -> list:
    """Keys of a dict, members of a set: only what is hashed in constant time, by code of Python's own."""
    for key in items:
        if type(key) not in (str, int, bool, type(None)):
            raise Refused(f"a key of type {type(key).__name__} is not admitted")
        if type(key) is int and not -MAX_KEY <= key <= MAX_KEY:  # large ones can be chosen so that they collide
            raise Refused("a key that is a very large number is not admitted")
    return items


def _forbidden(full: str) -> str:
    shown = full if len(full) <= 80 else full[:77] + "..."
    if full.startswith(("dnnlib.tflib", "tensorflow.")):
        return (
            f"a pickle of the TensorFlow StyleGAN code (it names {shown}); only PyTorch snapshots can be read: convert"
            " it with legacy.py of stylegan2-ada-pytorch first, then give the .pkl that makes"
        )
    if full.startswith(("training.", "torch.nn.", "torch_utils.")):
        return f"not a StyleGAN2-ADA snapshot: it names {shown}, which those never hold; nothing in the file was run"
    return f"refused: it names {shown}, which is no part of a StyleGAN2-ADA snapshot; nothing in the file was run"


_OF_A_DICT = {"_metadata"}  # what a state dict of PyTorch carries beside its keys: the versions of its modules
_STOP = ord(".")
_STEPS: dict[int, Callable[[_Machine], None]] = {
    ord(code): step
    for code, step in {
        "\x80": _Machine.protocol,
        "\x95": lambda m: m.take(8),  # FRAME: only a hint for buffering
        "(": _Machine.mark,
        "0": lambda m: m.pop(),
        "1": _Machine.since_mark,
        "2": lambda m: m.push(m.top()),
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "J": lambda m: m.push(m.number("<i")),
        "K": lambda m: m.push(m.number("<B")),
        "M": lambda m: m.push(m.number("<H")),
        "\x8a": lambda m: m.integer(m.number("<B")),
        "\x8b": lambda m: m.integer(m.number("<I")),
        "G": lambda m: m.push(m.number(">d")),
        "\x8c": lambda m: m.push(m.text(m.number("<B"))),
        "X": lambda m: m.push(m.text(m.number("<I"))),
        "\x8d": lambda m: m.push(m.text(m.number("<Q"))),
        "C": lambda m: m.push(m.take(m.number("<B"))),
        "B": lambda m: m.push(m.take(m.number("<I"))),
        "\x8e": lambda m: m.push(m.take(m.number("<Q"))),
        "]": lambda m: m.push([]),
        "a": lambda m: m.extend([m.pop()]),
        "e": lambda m: m.extend(m.since_mark()),
        ")": lambda m: m.push(()),
        "\x85": lambda m: m.tuple_of(1),
        "\x86": lambda m: m.tuple_of(2),
        "\x87": lambda m: m.tuple_of(3),
        "t": lambda m: m.push(tuple(m.since_mark())),
        "}": lambda m: m.push({}),
        "s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
        "u": lambda m: m.set_items(m.since_mark()),
        "\x8f": lambda m: m.push(set()),
        "\x90": lambda m: m.add(m.since_mark()),
        "q": lambda m: m.put(m.number("<B")),
        "r": lambda m: m.put(m.number("<I")),
        "\x94": lambda m: m.put(len(m.memo)),
        "h": lambda m: m.get(m.number("<B")),
        "j": lambda m: m.get(m.number("<I")),
        "c": lambda m: m.name(m.line(), m.line()),
        "\x93": lambda m: m.name(*[m.pop(), m.pop()][::-1]),
        "R": _Machine.call,
        "\x81": _Machine.call,  # NEWOBJ
        "b": _Machine.complete,
        "Q": _Machine.persistent_id,
    }.items()
}
