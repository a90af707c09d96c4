"""Describes the native codec to cffi (out-of-line API mode); setup.py and the tests build it from here.

``python native/build_native.py [DIRECTORY]`` builds ``netstack/codec/_native`` in place, or elsewhere,
without setup.py. NETSTACK_SANITIZE names sanitizers (``address,undefined``), NETSTACK_COVERAGE=1
instruments for gcov; both build without optimisation that would hide what they look for.
"""

from __future__ import annotations

import importlib.machinery
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = ["checksum.c", "parse.c", "coalesce.c", "segment.c", "fdio.c", "datagrams.c"]


def declarations() -> str:
    """What stands between the cdef marks of netstack.h."""
    text = (HERE / "include" / "netstack.h").read_text()
    found = re.search(r"/\* cdef begin \*/(.*)/\* cdef end \*/", text, re.S)
    if found is None:
        raise RuntimeError("netstack.h has lost its cdef marks")
    return re.sub(r"/\*.*?\*/", "", found.group(1), flags=re.S)


def flags() -> tuple[list[str], list[str]]:
    """Compiler and linker flags, by the environment."""
    compiler, linker = ["-std=c11", "-Wall", "-Wextra", "-Wno-unused-parameter"], []
    sanitizers = os.environ.get("NETSTACK_SANITIZE", "")
    if sanitizers:
        compiler += ["-O1", "-g", f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer"]
        linker += [f"-fsanitize={sanitizers}"]
    elif os.environ.get("NETSTACK_COVERAGE"):
        compiler += ["-O0", "-g", "--coverage"]
        linker += ["--coverage"]
    else:
        compiler += ["-O3"]
    return compiler, linker


def relative(path: Path) -> str:
    """setuptools wants source paths relative to setup.py."""
    return os.path.relpath(path, _WORK)


_WORK = Path(tempfile.mkdtemp(prefix="netstack-build-")) if __name__ == "__main__" else Path.cwd()
_COMPILER, _LINKER = flags()
ffi = FFI()
ffi.cdef(declarations())
ffi.set_source(
    "netstack.codec._native",
    '#include "netstack.h"',
    sources=[relative(HERE / "src" / name) for name in SOURCES],
    include_dirs=[relative(HERE / "include")],
    depends=[relative(HERE / "include" / "netstack.h"), relative(HERE / "src" / "internal.h")],
    extra_compile_args=_COMPILER,
    extra_link_args=_LINKER,
)


def main() -> None:
    """Build into the package, or into the directory that is given, without setup.py's metadata."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "netstack" / "codec"
    os.chdir(_WORK)
    built = Path(ffi.compile(tmpdir=str(_WORK)))
    for stale in target.glob("_native.*"):
        stale.unlink()
    # The stable ABI's name, as setup.py gives it: Python would prefer the other to a newer build of setup.py's.
    abi3 = ".abi3.so" in importlib.machinery.EXTENSION_SUFFIXES
    shutil.copy(built, target / ("_native.abi3.so" if abi3 else built.name))
    shutil.rmtree(_WORK)


if __name__ == "__main__":
    main()
