"""What a compiled program does on one device, read off its HLO: products and collectives.

XLA's `cost_analysis` counts a loop's body once. Here each body counts as often as the compiler
knows it to run.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
# Name, shape (or a tuple of shapes), operation, and the rest: operands and attributes.
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\((?:[^()]|\([^()]*\))*\)|\S+) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_BRANCH = re.compile(r"(?:true|false)_computation=%?([\w.\-]+)")
# Of these the number of operations isn't in the text.
_OPAQUE = re.compile(r'custom_call_target="[^"]*(?:matmul|gemm|conv)[^"]*"', re.IGNORECASE)
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: its result's name and shape, operation, operands, attributes."""

    name: str
    shape: str
    operation: str
    rest: str


class Hlo:
    """A compiled program's text.

    Args:
      text: `compiled.as_text()`.
    """

    def __init__(self, text: str) -> None:
        self._computations: dict[str, list[Instruction]] = {}
        self._entry = ""
        own: list[Instruction] = []
        for line in text.splitlines():
            if head := _HEAD.match(line):
                own = self._computations.setdefault(head[1], [])
                if line.startswith("ENTRY"):
                    self._entry = head[1]
            elif found := _LINE.match(line):
                own.append(Instruction(*found.groups()))

    def flops(self) -> int:
        """Operations of its matrix products, two for each multiply-add.

        Raises:
          ValueError: a loop whose number of turns the compiler doesn't know, a convolution, or a
            product that is a library's.
        """
        return self._sum(self._entry, _dot_flops)

    def collective_bytes(self) -> dict[str, int]:
        """Bytes of what each kind of collective leaves on a device.

        Raises:
          ValueError: a loop whose number of turns the compiler doesn't know.
        """

        def size(kind: str) -> Callable[[Instruction, Mapping[str, str]], int]:
            # What starts has no result yet; what is done has.
            kinds = (kind, f"{kind}-done")
            return lambda line, _: _bytes(line.shape) if line.operation in kinds else 0

        return {kind: self._sum(self._entry, size(kind)) for kind in COLLECTIVES}

    def _sum(self, name: str, count: Callable[[Instruction, Mapping[str, str]], int]) -> int:
        lines = self._computations[name]
        shapes = {line.name: line.shape for line in lines}
        total = 0
        for line in lines:
            total += count(line, shapes)
            names = _BRANCH.findall(line.rest)
            if branches := _BRANCHES.search(line.rest):
                names = [each.strip().lstrip("%") for each in branches[1].split(",")]
            total += max((self._sum(each, count) for each in names), default=0)
            inner = sum(self._sum(each, count) for each in _CALLED.findall(line.rest))
            total += inner * (_turns(line) if inner and line.operation == "while" else 1)
        return total


def _turns(line: Instruction) -> int:
    found = _TURNS.search(line.rest)
    if found is None:
        raise ValueError(f"the compiler doesn't know how often the loop {line.name!r} turns")
    return int(found[1])


def _dot_flops(line: Instruction, shapes: Mapping[str, str]) -> int:
    if line.operation == "convolution" or _OPAQUE.search(line.rest):
        raise ValueError(f"the operations of {line.name!r} can't be counted; only products are")
    contracted = _CONTRACTED.search(line.rest)
    if line.operation != "dot" or contracted is None:
        return 0
    left = line.rest.split(",")[0].split()[-1].lstrip("%").rstrip(")")
    sizes = _dims(shapes[left])
    depth = math.prod(sizes[int(axis)] for axis in contracted[1].split(",") if axis)
    return 2 * math.prod(_dims(line.shape)) * depth


def _dims(shape: str) -> list[int]:
    found = _SHAPE.search(shape)
    return [int(size) for size in found[2].split(",") if size] if found else []


def _bytes(shape: str) -> int:
    total = 0
    for kind, dims in _SHAPE.findall(shape):
        width = re.search(r"\d+", kind)
        bits = 8 if kind == "pred" or width is None else int(width[0])
        total += bits * math.prod(int(size) for size in dims.split(",") if size) // 8
    return total
