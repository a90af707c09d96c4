"""The command line: ``netstack exec | run | replay | ...``.

Responsible for: finding the command's module, turning errors into one line and an exit status.
Refuses to know: what a command does. Each module here that defines `add_parser` is one command.

Exit status: 0, 1 for what went wrong, 2 for a wrong command line, 130 after Ctrl-C; `exec` returns its command's.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import netstack
from netstack.core.errors import NetstackError, UsageError

# module and what it is for, in the order of --help; a module that is not installed is left out
COMMANDS = {
    "exec": "run one program behind the firewall",
    "run": "serve a TUN device",
    "replay": "feed a capture through the engine",
    "diff": "compare two policies over a capture",
    "explain": "say which rule decides, and why",
    "dns": "serve filtered DNS",
    "intercept": "take over this desktop's DNS",
    "doctor": "say what this machine allows",
}

_DESCRIPTION = """\
A user-space network stack that filters traffic where it starts.
Programs may connect to what they resolved through DNS, and to nothing else."""

_EXAMPLES = """\
examples:
  netstack exec -v -- curl https://example.com    every verdict of one program's traffic
  netstack exec --enforcement audit -- firefox    nothing refused, everything reported
  netstack run --tun tun0 --dns 9.9.9.9           serve a device that you route yourself
  netstack doctor                                 what works on this machine

`netstack COMMAND --help` describes a command."""


class Parser(argparse.ArgumentParser):
    """argparse, with mistakes told in one line."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        settings.setdefault("allow_abbrev", False)
        super().__init__(*arguments, **settings)

    def error(self, message: str) -> NoReturn:
        """A wrong command line: one line, status 2."""
        self.exit(2, f"netstack: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. `arguments` without the program's name."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser = _parser(arguments)
        parsed = parser.parse_args(arguments)
        if getattr(parsed, "function", None) is None:
            parser.print_help()
            return 0
        return int(parsed.function(parsed))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except UsageError as problem:
        return _complain(problem, 2)
    except NetstackError as problem:
        return _complain(problem, 1)
    except BrokenPipeError:
        # whoever read our output is gone; the interpreter must not complain about it at exit
        _mute_standard_output()
        return 1
    except OSError as problem:
        _mute_standard_output()  # it may be what is full
        where = f"{problem.filename}: " if problem.filename else ""
        return _complain(NetstackError(where + (problem.strerror or str(problem))), 1)
    except KeyboardInterrupt:
        return 130


def _mute_standard_output() -> None:
    with contextlib.suppress(OSError):  # it has no descriptor when a caller replaced it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(problem: Exception, status: int) -> int:
    message = " ".join(str(problem).split()) or type(problem).__name__
    print(f"netstack: {message}", file=sys.stderr)
    return status


def _parser(arguments: Sequence[str]) -> Parser:
    parser = Parser(prog="netstack", description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument("--version", action="version", version=f"netstack {netstack.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    # Only the command that was asked for is imported: start-up time is felt at every `exec`.
    wanted = next((word for word in arguments if word in COMMANDS), None)
    for name, summary in COMMANDS.items():
        module = f"netstack.cli.{name}"
        if name == wanted:
            importlib.import_module(module).add_parser(commands)
        elif importlib.util.find_spec(module) is not None:
            commands.add_parser(name, help=summary)
    return parser
