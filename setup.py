"""Builds what makes the package fast, when it can; everything else about it is in pyproject.toml.

Two things, both optional: without cffi or mypy, a compiler or Python's headers the package installs all the same, says
so, and runs more slowly.

- The native codec, from C. NETSTACK_NATIVE=0 leaves it out, NETSTACK_NATIVE=1 makes a failure to build it an error.
  NETSTACK_SANITIZE and NETSTACK_COVERAGE: see native/build_native.py.
- The pipeline's own modules (`COMPILED`), ahead of time by mypyc. They stay the Python that they are. They are left
  interpreted in place (editable, --inplace), where a compiled module would hide the edits to its source.
  NETSTACK_COMPILE=0 leaves them so everywhere, NETSTACK_COMPILE=1 makes a failure to compile them an error.
"""

import glob
import os
import sys

from setuptools import setup
from setuptools.command.build_ext import build_ext

NATIVE = os.environ.get("NETSTACK_NATIVE", "auto")
COMPILE = os.environ.get("NETSTACK_COMPILE", "auto")
IN_PLACE = not {"editable_wheel", "develop", "--inplace", "-i"}.isdisjoint(sys.argv)

# What runs for each packet, flow or question. Not what starts or configures an engine, and no class that a host or a
# test derives its own from: an interpreted class cannot inherit from a compiled one.
COMPILED = [
    "codec/base", "codec/emit", "codec/native", "core/flow", "core/packet", "core/seq", "core/stats", "core/timers",
    "dns/bridge", "dns/edns", "dns/filter", "dns/framing", "dns/kept", "dns/message", "engine", "forward/*", "link/fd",
    "policy/firewall", "policy/quic", "policy/tracker", "runtime/driver", "runtime/harness", "runtime/poller", "tcp/*",
    "upstream/buffers", "upstream/bursts", "upstream/connected", "upstream/datagrams", "upstream/dialer",
    "upstream/dns_channels", "upstream/group", "upstream/proxy", "upstream/streams", "wire/*",
]  # fmt: skip
_told = set()


def without(what, why, wanted):
    """Say once that the package will lack `what`, or fail when it was asked for."""
    if wanted == "1":
        raise SystemExit(f"netstack: {what} could not be built: {why}")
    if what not in _told:
        _told.add(what)
        print(f"netstack: without {what} ({why}): everything works, at a lower packet rate.", file=sys.stderr)


class OptionalBuild(build_ext):
    """build_ext whose failure costs speed, not the installation."""

    def run(self):
        """Build all extensions; a compiler that is not there shows here."""
        try:
            super().run()
        except Exception as problem:  # whatever a broken toolchain raises
            self.leave_out(self.extensions, problem)

    def build_extension(self, ext):
        """Build one; what mypyc made comes whole or not at all, since its modules load one another."""
        if ext not in self.extensions:
            return
        try:
            super().build_extension(ext)
        except Exception as problem:
            self.leave_out([each for each in self.extensions if is_compiled(each) == is_compiled(ext)], problem)

    def leave_out(self, extensions, problem):
        """Go on without these; remove what was built of them."""
        why = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        for ext in list(extensions):
            if is_compiled(ext):
                without("compiled modules", why, COMPILE)
            else:
                without("the native codec", why, NATIVE)
            self.extensions.remove(ext)
            built = os.path.join(self.build_lib, self.get_ext_filename(self.get_ext_fullname(ext.name)))
            if os.path.exists(built):
                os.unlink(built)


def is_compiled(ext):
    """Whether an extension is mypyc's (the other one is the codec)."""
    return ext.name != "netstack.codec._native"


def native():
    """What setup() is told for the native codec."""
    if NATIVE == "0":
        return {}
    try:
        import cffi  # noqa: F401
    except ImportError:
        without("the native codec", "cffi is not installed", NATIVE)
        return {}
    return {"cffi_modules": ["native/build_native.py:ffi"]}


def compiled():
    """What setup() is told for the compiled modules."""
    building = not {"build", "build_ext", "bdist_wheel", "install"}.isdisjoint(sys.argv)
    if COMPILE == "0" or not building or (IN_PLACE and COMPILE != "1"):
        return {}
    paths = [path for name in COMPILED for path in sorted(glob.glob(f"netstack/{name}.py"))]
    try:
        from mypyc.build import mypycify

        return {"ext_modules": mypycify(
            [path for path in paths if not path.endswith("__init__.py")],
            opt_level="2", debug_level="0", group_name="netstack", strip_asserts=False,
        )}  # fmt: skip
    except ImportError:
        without("compiled modules", "mypy is not installed", COMPILE)
    except (Exception, SystemExit) as problem:  # mypyc ends the process when it finds no compiler or a wrong type
        without("compiled modules", f"mypyc: {problem}", COMPILE)
    return {}


setup(cmdclass={"build_ext": OptionalBuild}, **native(), **compiled())
