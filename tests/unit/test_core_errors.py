"""The error tree: one root, and what each kind carries."""

import inspect

from netstack.core import errors


def test_all_have_one_root() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert len(kinds) >= 9
    assert all(issubclass(kind, errors.NetstackError) for kind in kinds)


def test_dial_error_keeps_errno() -> None:
    assert errors.DialError("refused", 111).errno == 111
    assert errors.ProtectError("no").errno == 0
    assert issubclass(errors.ConfigError, ValueError)
