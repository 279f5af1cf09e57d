"""Reads a pickle as data, with an interpreter that only builds containers and arrays.

Python's own unpickler imports and calls whatever the file names. This one supports only
the few instructions that state dicts need, looks names up in a table that the caller
gives, and calls nothing but the `Call`s in this table. Of the objects in the file, it
hashes, compares and prints only strings and integers.
"""

from __future__ import annotations

import pickletools
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keras_resnet.errors import WeightsError

_MAX_INSTRUCTIONS = 1_000_000  # a ResNet-200 with its optimizer has 300,000
_MAX_NESTING = 64  # of marks, which open tuples, lists and dictionaries

_FACTOR = 4  # bytes of values per byte of the file; real files need three
_SPARE = 2**26  # further bytes; a ResNet-200 with its optimizer takes 30 MB
_ENTRY = 100  # bytes of a dictionary entry

_LITERALS = re.compile(
    "BININT[12]?|LONG1|BINFLOAT|(SHORT_)?BINUNICODE|BINUNICODE8|"
    "(SHORT_)?BINBYTES|BINBYTES8|BYTEARRAY8|(SHORT_)?BINSTRING"
)


@dataclass(frozen=True)
class Call:
    """A function of this package that a pickle may call by a name."""

    function: Callable[..., Any]


class Built:
    """An object whose state a pickle sets after creating it."""

    nbytes = 0  # the size of its content

    def build(self, state: Any) -> None:
        """Sets the state."""
        raise NotImplementedError


def load(
    stream: Any,
    names: Mapping[tuple[str, str], Any],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Returns the value of a pickle of protocol 2 to 5.

    Args:
        stream: a Stream that ends with the pickle.
        names: {(module, name): value or Call}, the names that the pickle may use in
            addition to collections.OrderedDict, for which a dict is created.
        persistent: a function from a persistent id to its value; None allows no ids.

    Returns:
        None, bool, int, float, str, bytes, bytearray, tuple, list, dict with str or int
        keys, a value in `names`, or what a Call returns.

    Raises:
        WeightsError: for any other instruction, name, key or size, and for values that
            take more memory than the size of the stream justifies.
        ValueError: if the stream is not a pickle.
    """
    budget = _SPARE + _FACTOR * stream.left
    machine = _Machine({**_NAMES, **names}, persistent, budget)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count > _MAX_INSTRUCTIONS:
            raise WeightsError(f"the pickle has over {_MAX_INSTRUCTIONS} instructions")
        if _LITERALS.fullmatch(opcode.name):
            machine.make(argument)
        elif opcode.name in _INSTRUCTIONS:
            _INSTRUCTIONS[opcode.name](machine, argument)
        else:
            raise WeightsError(f"the pickle uses {opcode.name}, unlike any state dict")
    if stream.left or len(machine.stack) != 1 or machine.marks:
        raise WeightsError(f"the pickle does not end properly at byte {stream.tell()}")
    return machine.pop()


class _Machine:
    """The state of the interpreter: the stack, the marks in it, and the memo."""

    def __init__(
        self,
        names: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None,
        budget: int,
    ) -> None:
        self.names, self.persistent = names, persistent
        self.budget = budget  # bytes that may still be allocated
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def make(self, value: Any) -> None:
        """Pushes a new value on the stack, and counts its memory."""
        self.spend(sys.getsizeof(value))
        self.stack.append(value)

    def spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            raise WeightsError("the pickle takes more memory than its size justifies")

    def pop(self) -> Any:
        return self.pops(1)[0]

    def pops(self, count: int) -> list[Any]:
        """Pops `count` values, the oldest first, all of them above the last mark."""
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
            raise WeightsError("the pickle takes from an empty stack")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def mark(self) -> None:
        if len(self.marks) >= _MAX_NESTING:
            raise WeightsError(f"the pickle nests deeper than {_MAX_NESTING}")
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise WeightsError("the pickle closes what it did not open")
        values = self.pops(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return values

    def remember(self, key: int) -> None:
        if not self.stack:
            raise WeightsError("the pickle stores from an empty stack")
        self.spend(_ENTRY)
        self.memo[key] = self.stack[-1]

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise WeightsError(f"the pickle recalls {key}, which it did not store")
        self.stack.append(self.memo[key])

    def look_up(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise WeightsError("the pickle looks up a name that is not a string")
        if "." in name or (module, name) not in self.names:
            raise WeightsError(
                f"the pickle asks for {name[:80]!r} of {module[:80]!r}, which is no "
                "part of a tensor: it may be a whole model or an attack, and is not run"
            )
        self.stack.append(self.names[module, name])

    def call(self) -> None:
        function, arguments = self.pops(2)
        if not isinstance(function, Call) or not isinstance(arguments, tuple):
            raise WeightsError(f"the pickle calls a {type(function).__name__}")
        self.make(function.function(*arguments))

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, Built):
            target.build(state)
            self.spend(target.nbytes)
        elif not isinstance(target, dict):  # torch sets a dict's _metadata
            raise WeightsError(
                f"the pickle sets the state of a {type(target).__name__}"
            )
        self.stack.append(target)

    def identify(self) -> None:
        if self.persistent is None:
            raise WeightsError("the pickle refers to an object outside the file")
        self.stack.append(self.persistent(self.pop()))

    def append(self, values: list[Any]) -> None:
        target = self.pop()
        if not isinstance(target, list):
            raise WeightsError(f"the pickle appends to a {type(target).__name__}")
        self.spend(sys.getsizeof(values))
        target.extend(values)
        self.stack.append(target)

    def set_items(self, values: list[Any]) -> None:
        target = self.pop()
        if not isinstance(target, dict) or len(values) % 2:
            raise WeightsError(f"the pickle sets items of a {type(target).__name__}")
        self.spend(_ENTRY * len(values) // 2)
        for key, value in zip(values[::2], values[1::2]):
            # larger integers could be chosen to collide, which makes dicts very slow
            if type(key) is not str and not (type(key) is int and 0 <= key < 2**31):
                raise WeightsError("the pickle has a key that is not a string or index")
            if key in target:
                raise WeightsError(f"the pickle holds {key!r} twice")
            target[key] = value
        self.stack.append(target)


def _ordered_dict() -> dict[Any, Any]:
    """An empty dict; `dict` itself would accept arguments in the pickle."""
    return {}


_NAMES = {("collections", "OrderedDict"): Call(_ordered_dict)}
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, version: None,
    "FRAME": lambda machine, size: None,
    "STOP": lambda machine, _: None,
    "MARK": lambda machine, _: machine.mark(),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_DICT": lambda machine, _: machine.make({}),
    "EMPTY_LIST": lambda machine, _: machine.make([]),
    "EMPTY_TUPLE": lambda machine, _: machine.make(()),
    "TUPLE1": lambda machine, _: machine.make(tuple(machine.pops(1))),
    "TUPLE2": lambda machine, _: machine.make(tuple(machine.pops(2))),
    "TUPLE3": lambda machine, _: machine.make(tuple(machine.pops(3))),
    "TUPLE": lambda machine, _: machine.make(tuple(machine.since_mark())),
    "APPEND": lambda machine, _: machine.append(machine.pops(1)),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pops(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "BINPUT": lambda machine, key: machine.remember(key),
    "LONG_BINPUT": lambda machine, key: machine.remember(key),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "BINGET": lambda machine, key: machine.recall(key),
    "LONG_BINGET": lambda machine, key: machine.recall(key),
    "GLOBAL": lambda machine, names: machine.look_up(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.look_up(*machine.pops(2)),
    "BINPERSID": lambda machine, _: machine.identify(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}
