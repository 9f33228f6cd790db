"""Machine code of the pooling kernels as instructions, from what cuobjdump prints of the built extension."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..static_extension import described, disassembler

REGISTERS = re.compile(r"^ Function (\S+):\n\s+REG:(\d+)", re.MULTILINE)
INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*?)\s*;", re.MULTILINE)
# Where the assembler does not see which memory an address is in, it is global in these kernels.
OF_ANY_MEMORY = {"LD": "LDG", "ST": "STG"}
INSTRUCTION_BYTES = 16
ELF = re.compile(r"^Fatbin elf code:$", re.MULTILINE)
# Sections of the ELF file that a kernel is in, which become banks of constants: where a switch goes, in bank 2, and
# constexpr tables of the sources, in bank 3.
SECTIONS = {2: r"^\.nv\.constant2\.{}\n", 3: r"^\.nv\.constant3\n"}
WORDS = r"((?:0x[0-9a-f]+\s+)+)"


@dataclass(frozen=True)
class Instruction:
    """One instruction, such as ``@!P0 MOV R4, R2``; ``guard`` is the predicate in front, without ``@``."""

    address: int
    guard: str
    name: str
    suffixes: tuple[str, ...]
    operands: tuple[str, ...]

    def __str__(self) -> str:
        guard = f"@{self.guard} " if self.guard else ""
        return f"{guard}{'.'.join((self.name, *self.suffixes))} {', '.join(self.operands)} at {self.address:#x}"


@dataclass(frozen=True)
class CudaKernel:
    """A kernel of a binary for one architecture, by its mangled ``function``.

    ``variant`` says form and precision, as benchmarks.codegen.static_extension does.
    """

    path: Path
    arch: int
    function: str
    name: str
    variant: str
    registers: int

    @cached_property
    def instructions(self) -> list[Instruction]:
        """Its machine code, disassembled when it is asked for."""
        return list(parsed(printed(self.path, self.arch, "--function", self.function, "--dump-sass")))

    @cached_property
    def tables(self) -> dict[int, bytes]:
        """The banks of constants that its file brings along and its code reads."""
        read = {bank for bank in SECTIONS for one in self.instructions if f"c[{bank:#x}]" in "".join(one.operands)}
        if not read:
            return {}
        files = ELF.split(printed(self.path, self.arch, "--dump-elf"))
        own = next(part for part in files if f".text.{self.function}\n" in part)
        found = {}
        for bank in read:
            section = re.search(SECTIONS[bank].format(self.function) + WORDS, own, re.MULTILINE)
            words = section[1].split() if section else []
            found[bank] = b"".join(int(word, 16).to_bytes(4, "little") for word in words)
        return found

    @property
    def code_bytes(self) -> int:
        """All of it, but for what the assembler fills up with behind the last instruction."""
        return INSTRUCTION_BYTES * sum(one.name != "NOP" for one in self.instructions)


def parsed(listing: str) -> Iterator[Instruction]:
    for address, guard, mnemonic, operands in INSTRUCTION.findall(listing):
        name, *suffixes = mnemonic.split(".")
        name = OF_ANY_MEMORY.get(name, name)
        split = tuple(operand.strip() for operand in operands.split(",")) if operands else ()
        yield Instruction(int(address, 16), guard, name, tuple(suffixes), split)


def read(path: Path, arch: int) -> list[CudaKernel]:
    """Find the pooling kernels of a binary for one architecture.

    Raises:
        ValueError: the binary holds no machine code for it.
    """
    found = [
        CudaKernel(path, arch, function, *described(function), int(registers))
        for function, registers in REGISTERS.findall(printed(path, arch, "--dump-resource-usage"))
        if "pool" in described(function)[0]
    ]
    if not found:
        raise ValueError(f"{path} has no pooling kernel for sm_{arch}")
    return sorted(found, key=lambda kernel: (kernel.name, kernel.variant))


def printed(path: Path, arch: int, *what: str) -> str:
    command = [str(disassembler()), "-arch", f"sm_{arch}", *what, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
