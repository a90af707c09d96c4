"""Counters as plain types."""

import json

from netstack.core.drops import DropReason
from netstack.core.stats import Stats


def test_as_dict_is_json_with_named_drops() -> None:
    stats = Stats(packets_in=3)
    stats.drops[DropReason.TCP_PAWS] += 2
    shown = json.loads(json.dumps(stats.as_dict()))
    assert shown["packets_in"] == 3
    assert shown["drops"] == {"tcp_paws": 2}
