"""Whether a kernel for compute capability 10.x reads the result of a matrix product before it has waited for it.

There products run on their own: ``tcgen05.mma`` begins one that sums into tensor memory, and a barrier says when that
sum may be read. Triton up to 3.7.1 leaves out such a wait where two products of a loop follow one another in one
accumulator (triton-lang/triton#10821). Its last IR before machine code, TTGIR, names both accumulator and barrier, so
the walk below follows every product in flight through loops and branches to a wait or to an access without one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

# Where in the sources something is from; it may stand anywhere.
LOCATION = re.compile(r"\s*loc\((?:[^()]|\([^()]*\))*\)")
VALUE = re.compile(r"%[\w.]+(?:#\d+)?")
RESULT = re.compile(r"^(%[\w.]+)(?::(\d+))? = |^(%[\w.]+(?:, %[\w.]+)*) = ")
# Loops are walked this often: what a trip leaves in flight is seen by the next, and by the one after it.
TRIPS = 3

# A product in flight: every name that its accumulator and its barriers go by at this point.
Product = frozenset[str]


@dataclass
class Operation:
    """A line of IR, and the blocks inside it."""

    line: str
    blocks: list[list[Operation]] = field(default_factory=list)

    @property
    def results(self) -> list[str]:
        found = RESULT.match(self.line)
        if found is None:
            return []
        if found[2] is not None:
            return [f"{found[1]}#{index}" for index in range(int(found[2]))]
        return (found[1] or found[3]).split(", ")

    @property
    def operands(self) -> list[str]:
        """Values that it uses, without types and attributes."""
        return VALUE.findall(re.split(r" : |\{", RESULT.sub("", self.line))[0])


def unwaited(ttgir: str) -> list[str]:
    """List accesses to the accumulator of a product that may still be in flight, each by its line; none if all is well.

    Raises:
        ValueError: it has no module with a function, so it is no TTGIR.
    """
    functions = [operation for operation in _module(ttgir).blocks[0] if operation.blocks]
    if not functions:
        raise ValueError("no function in what should be TTGIR")
    walk = _Walk()
    for function in functions:
        walk.block(function.blocks[0], [])
    return list(walk.found)


def _module(text: str) -> Operation:
    """Give the lines of a text as a tree, below a line of no meaning."""
    whole = Operation("", [[]])
    stack = [whole]
    for raw in text.splitlines():
        line = LOCATION.sub("", raw).strip()
        if line.startswith("}"):
            if "else {" in line:
                stack[-1].blocks.append([])
            else:
                stack.pop()
        elif line:
            operation = Operation(line, [[]] if line.endswith("{") else [])
            stack[-1].blocks[-1].append(operation)
            if operation.blocks:
                stack.append(operation)
    modules = [operation for operation in whole.blocks[0] if operation.line.startswith("module")]
    if len(modules) != 1:
        raise ValueError(f"{len(modules)} modules in what should be TTGIR, expected one")
    return modules[0]


class _Walk:
    """A walk through the code in the order in which it runs, which notes in ``found`` what is wrong."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}
        self._conditions: set[str] = set()

    def block(self, block: Sequence[Operation], flying: list[Product]) -> list[Product]:
        """Give the products in flight after a block, oldest first, which ``flying`` were before it."""
        for operation in block:
            name, operands = operation.line, operation.operands
            if "scf.for" in name:
                flying = self._loop(operation, flying)
            elif operation.blocks:
                flying = self._branches(operation, flying)
            elif "ttng.tc_gen5_mma" in name:
                flying = [*flying, frozenset([operands[2], *re.findall(r"(%[\w.#]+)\[", name)])]
                self._conditions.add(operands[4])
            elif "ttng.tc_gen5_commit" in name:
                flying = [product | {operands[0]} for product in flying]
            elif "ttng.wait_barrier" in name:
                # Products end in the order in which they began.
                ended = next((index for index, product in enumerate(flying) if operands[0] in product), -1)
                flying = flying[ended + 1 :]
            elif "ttng.tmem_load" in name or "ttng.tmem_store" in name:
                memory = operands[0] if "tmem_load" in name else operands[1]
                if any(memory in product for product in flying):
                    self.found[name.split(" : ")[0]] = None
            elif re.search(r"ttg\.memdesc_\w+|ttng\.tmem_subslice", name):
                flying = [product | set(operation.results) if operands[0] in product else product for product in flying]
        return flying

    def _loop(self, operation: Operation, flying: list[Product]) -> list[Product]:
        pairs = re.findall(r"(%[\w.]+) = (%[\w.]+(?:#\d+)?)", operation.line.partition("iter_args(")[2])
        arguments = [argument for argument, _ in pairs]
        (body,) = operation.blocks
        flying = _renamed(flying, [(start, argument) for argument, start in pairs], set())
        inside = {*arguments, *(name for one in body for name in one.results)}
        for trip in range(TRIPS):
            names = operation.results if trip == TRIPS - 1 else arguments
            flying = _renamed(self.block(body, flying), list(zip(_yielded(body), names, strict=True)), inside)
        return flying

    def _branches(self, operation: Operation, flying: list[Product]) -> list[Product]:
        """After any branch, by the names that its results have outside.

        Of a loop that may have no trip Triton runs the first product, and after the loop the last wait, under one
        condition: where that does not hold, there is no product to wait for.
        """
        ends = []
        for block in operation.blocks:
            inside = {name for one in block for name in one.results}
            pairs = list(zip(_yielded(block), operation.results, strict=False))
            ends.append(_renamed(self.block(block, flying), pairs, inside))
        if len(ends) == 1 and operation.line.startswith("scf.if") and operation.operands[0] not in self._conditions:
            ends.append(flying)
        return list(dict.fromkeys(product for end in ends for product in end))


def _yielded(block: Sequence[Operation]) -> list[str]:
    return block[-1].operands if block and block[-1].line.startswith("scf.yield") else []


def _renamed(flying: list[Product], pairs: list[tuple[str, str]], gone: set[str]) -> list[Product]:
    """Names in ``gone`` mean nothing any more; the first of a pair lives on as the second."""
    return [(product - gone) | {after for before, after in pairs if before in product} for product in flying]
