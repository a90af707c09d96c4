"""Counters as plain types."""

import json

from netstack.core.drops import DropReason
from netstack.core.stats import COUNTERS, Stats


def test_as_dict_is_json_with_named_drops() -> None:
    stats = Stats()
    stats.packets_in = 3
    stats.drops[DropReason.TCP_PAWS] += 2
    shown = json.loads(json.dumps(stats.as_dict()))
    assert shown["packets_in"] == 3
    assert shown["drops"] == {"tcp_paws": 2}


def test_everything_that_is_counted_is_shown_in_order() -> None:
    assert list(Stats().as_dict()) == [*COUNTERS, "drops"]
