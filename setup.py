"""Builds the native codec when it can; everything else about the package is in pyproject.toml.

The extension is optional: without cffi, a compiler or Python's headers the package installs all the
same, says so once, and runs on the pure codec. NETSTACK_NATIVE=0 leaves it out, NETSTACK_NATIVE=1 makes
a failure to build it an error. NETSTACK_SANITIZE and NETSTACK_COVERAGE: see native/build_native.py.
"""

import os
import sys

from setuptools import setup
from setuptools.command.build_ext import build_ext

WANTED = os.environ.get("NETSTACK_NATIVE", "auto")
_told = False


def without_native(why):
    """Say once that there will be no native codec, or fail when it was asked for."""
    global _told
    if WANTED == "1":
        raise SystemExit(f"netstack: the native codec could not be built: {why}")
    if not _told:
        _told = True
        print(
            f"netstack: the native codec was not built ({why}).\n"
            "netstack: everything works with the pure-Python codec, at a lower packet rate.",
            file=sys.stderr,
        )


class OptionalBuild(build_ext):
    """build_ext whose failure costs speed, not the installation."""

    def run(self):
        """Build all extensions; a compiler that is not there shows here."""
        try:
            super().run()
        except Exception as problem:  # whatever a broken toolchain raises
            without_native(_first_line(problem))
            self.extensions = []

    def build_extension(self, ext):
        """Build one; cffi's generated source and ours are compiled here."""
        try:
            super().build_extension(ext)
        except Exception as problem:
            without_native(_first_line(problem))

    def copy_extensions_to_source(self):
        """--inplace: copy only what was really built."""
        self.extensions = [ext for ext in self.extensions if os.path.exists(self.get_ext_fullpath_built(ext.name))]
        super().copy_extensions_to_source()

    def get_ext_fullpath_built(self, name):
        """Where the build directory has an extension."""
        return os.path.join(self.build_lib, self.get_ext_filename(self.get_ext_fullname(name)))


def _first_line(problem):
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


def options():
    """What setup() is told besides pyproject.toml."""
    if WANTED == "0":
        return {}
    try:
        import cffi  # noqa: F401
    except ImportError:
        without_native("cffi is not installed")
        return {}
    return {"cffi_modules": ["native/build_native.py:ffi"], "cmdclass": {"build_ext": OptionalBuild}}


setup(**options())
