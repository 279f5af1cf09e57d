"""A pickle read as data, by a machine that can only build containers and arrays.

Python's own unpickler imports and calls what the file names. This one knows the few
instructions that state dicts are written with, looks names up in the table that it is
given, and calls nothing but the `Call`s in it. Of what the file built, it hashes,
compares and prints strings and integers alone.
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

_FACTOR = 4  # bytes of values for each byte of a file; honest files need three
_SPARE = 2**26  # bytes beside that; a ResNet-200 with its optimizer takes 30 MB
_ENTRY = 100  # bytes of an entry of a dictionary

_LITERALS = re.compile(
    "BININT[12]?|LONG1|BINFLOAT|(SHORT_)?BINUNICODE|BINUNICODE8|"
    "(SHORT_)?BINBYTES|BINBYTES8|BYTEARRAY8|(SHORT_)?BINSTRING"
)


@dataclass(frozen=True)
class Call:
    """What a pickle may call by a name: one of our functions."""

    function: Callable[..., Any]


class Built:
    """An object whose state a pickle sets after making it."""

    nbytes = 0  # of what it holds

    def build(self, state: Any) -> None:
        """Sets the state."""
        raise NotImplementedError


def load(
    stream: Any,
    names: Mapping[tuple[str, str], Any],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The value that a pickle of protocol 2 to 5 describes.

    Args:
        stream: a Stream, which must end with the pickle.
        names: {(module, name): value or Call}, all that the pickle may refer to
            besides collections.OrderedDict, which is a dict here.
        persistent: persistent id -> value; None to allow no such id.

    Returns:
        None, bool, int, float, str, bytes, bytearray, tuple, list, dict with keys that
        are str or int, and what `names` holds and its Calls return.

    Raises:
        WeightsError: for any other instruction, name, key or size, and for values that
            take more memory than the stream's size bears out.
        ValueError: for anything but a pickle.
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
            raise WeightsError(f"the pickle uses {opcode.name}, as no state dict does")
    if stream.left or len(machine.stack) != 1 or machine.marks:
        raise WeightsError(f"the pickle does not end where it says, {stream.tell()}")
    return machine.pop()


class _Machine:
    """The stack, the marks in it, and the memo of a pickle."""

    def __init__(
        self,
        names: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None,
        budget: int,
    ) -> None:
        self.names, self.persistent = names, persistent
        self.budget = budget  # bytes that may still be taken
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def make(self, value: Any) -> None:
        """Puts a new value on the stack, and counts the memory that it takes."""
        self.spend(sys.getsizeof(value))
        self.stack.append(value)

    def spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            raise WeightsError("the pickle unfolds into more than its size bears out")

    def pop(self) -> Any:
        return self.pops(1)[0]

    def pops(self, count: int) -> list[Any]:
        """The topmost `count` values, oldest first, of those above the last mark."""
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
                f"the pickle asks for {name[:80]!r} of {module[:80]!r}: that is more "
                "than tensors, maybe a whole model or an attack, and is not run"
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
        elif not isinstance(target, dict):  # a dict's is torch's _metadata: versions
            raise WeightsError(
                f"the pickle sets the state of a {type(target).__name__}"
            )
        self.stack.append(target)

    def identify(self) -> None:
        if self.persistent is None:
            raise WeightsError("the pickle refers to a thing outside of it")
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
            # no larger integer: those can be made to collide, and a dict to hang
            if type(key) is not str and not (type(key) is int and 0 <= key < 2**31):
                raise WeightsError("the pickle has a key that is no string or index")
            if key in target:
                raise WeightsError(f"the pickle holds {key!r} twice")
            target[key] = value
        self.stack.append(target)


def _ordered_dict() -> dict[Any, Any]:
    """An empty one: `dict` itself would take, and follow, arguments of the pickle."""
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
