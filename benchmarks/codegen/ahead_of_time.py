"""Compiling kernels ahead of time, each in a process of its own, and reading the figures off what came out."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import namedtuple
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any

from triton import knobs
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.compiler.compiler import make_backend
from triton.runtime.cache import triton_key

from .gate import Figures
from .sass import counted
from .stub_driver import StubDriver, stubbed
from .triton_kernels import TritonKernel
from .waits import unwaited


class Compilation:
    """A process that compiles one kernel: passes of Triton's compiler may end the process they fail in."""

    def __init__(self, kernel: TritonKernel, index: int) -> None:
        self.index = index
        # Where the compiler prints, whole pages of MLIR if a pass fails.
        self._output: IO[str] = tempfile.NamedTemporaryFile(mode="r", errors="replace")  # noqa: SIM115
        self.receiver, sender = multiprocessing.Pipe(duplex=False)
        # Forked, a process has Triton and the kernels already.
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=report, args=(sender, self._output.name, kernel))
        self._process.start()
        sender.close()

    def figures(self) -> Figures:
        """Give what it sent, or how it ended."""
        try:
            found = self.receiver.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            ending = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
            found = Figures(failure=f"the compiler ended with {ending}")
        self._process.join()
        if found.failure:
            printed = re.search(r"error: (.*)|(Assertion .*failed.*)", self._output.read())
            if printed:
                found = Figures(failure=f"{found.failure} ({(printed[1] or printed[2]).strip()})")
        self._output.close()
        self.receiver.close()
        return found


def compile_all(kernels: Sequence[TritonKernel], jobs: int) -> Iterator[Figures]:
    """Give the figures of each kernel, in order, from up to ``jobs`` processes at a time."""
    for kernel in kernels:
        importlib.import_module(kernel.module)
    triton_key()  # hashes all of Triton, once, for the processes to come
    started = 0
    running: dict[Connection, Compilation] = {}
    finished: dict[int, Figures] = {}
    for index in range(len(kernels)):
        while index not in finished:
            while started < len(kernels) and len(running) < jobs:
                compilation = Compilation(kernels[started], started)
                running[compilation.receiver] = compilation
                started += 1
            for receiver in wait(list(running)):
                compilation = running.pop(receiver)
                finished[compilation.index] = compilation.figures()
        yield finished.pop(index)


def report(sender: Connection, output: str, kernel: TritonKernel) -> None:
    """In a process of its own: send the kernel's figures, and print to ``output``."""
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        found = compiled(kernel)
    except Exception as error:  # of any kind, from any pass of the compiler: it is this kernel's result
        lines = str(error).strip().splitlines() or ["no message"]
        found = Figures(failure=f"{type(error).__name__}: {lines[0]}")
    sender.send(found)


def kind_of(kinds: Any, members: Sequence[str] | None) -> Any:
    """Give the kind of an argument; of one with members, in a tuple of its own name, since the cache's key has that."""
    if members is None:
        return kinds
    name, *fields = members
    return namedtuple(name, fields)(*kinds)


def asked_for(kernel: TritonKernel) -> tuple[ASTSource, dict[str, Any]]:
    """Source and options, as Triton has them of a launch."""
    data = json.loads(kernel.specialization)
    source = ASTSource(
        fn=getattr(importlib.import_module(kernel.module), kernel.name),
        signature={name: kind_of(kinds, data["members"].get(name)) for name, kinds in data["signature"].items()},
        constexprs={tuple(key): value for key, value in zip(data["constant_keys"], data["constant_vals"], strict=True)},
        attrs={tuple(key): value for key, value in zip(data["attrs_keys"], data["attrs_vals"], strict=True)},
    )
    # JSON has made lists of tuples, and options have no lists.
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in data["options"].items()}
    return source, options


def check(kernel: TritonKernel) -> None:
    """Translate to Triton's first IR, in a twentieth of a second; raises what does not compile."""
    source, options = asked_for(kernel)
    target = GPUTarget("cuda", kernel.arch, 32)
    backend = make_backend(target)
    parsed = backend.parse_options(options)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    # Kernels ask the driver in use for what they are compiled.
    with stubbed(StubDriver(kernel.arch)):
        source.make_ir(target, parsed, backend.get_codegen_implementation(parsed), backend.get_module_map(), context)


def compiled(kernel: TritonKernel) -> Figures:
    """Compile what Triton was about to compile, and count."""
    source, options = asked_for(kernel)
    begun = time.monotonic()
    # Kernels ask the driver in use for what they are compiled.
    with stubbed(StubDriver(kernel.arch)):
        program = compile(source, target=GPUTarget("cuda", kernel.arch, 32), options=options)
    seconds = time.monotonic() - begun
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(program.asm["cubin"])
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", "--dump-sass", str(cubin)]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return replace(
        counted(listing),
        shared=program.metadata.shared,
        tensor_memory=getattr(program.metadata, "tmem_size", None) or 0,
        products=len(re.findall(r"\btt\.dot\b", program.asm["ttir"])),
        unwaited=tuple(unwaited(program.asm["ttgir"])),
        seconds=seconds,
    )
