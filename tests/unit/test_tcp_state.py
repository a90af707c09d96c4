from __future__ import annotations

import importlib.util

import pytest

from netstack.core.errors import StateError
from netstack.tcp.state import MAY_RECEIVE, MAY_SEND, TRANSITIONS, State, Stimulus, next_state
from tests.house.source import ROOT


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(State)


def test_every_state_is_reached_from_listen() -> None:
    reached = {State.LISTEN}
    while True:
        following = reached | {after for state in reached for after in TRANSITIONS[state].values()}
        if following == reached:
            break
        reached = following
    assert reached == set(State)


def test_every_state_leads_to_closed() -> None:
    for state in State:
        seen, now = {state}, {state}
        while now:
            now = {after for item in now for after in TRANSITIONS[item].values()} - seen
            seen |= now
        assert State.CLOSED in seen


def test_nothing_leaves_closed() -> None:
    assert TRANSITIONS[State.CLOSED] == {}


def test_every_open_state_can_be_reset_and_aborted() -> None:
    for state in set(State) - {State.CLOSED, State.LISTEN}:
        assert next_state(state, Stimulus.RESET) is State.CLOSED
        assert next_state(state, Stimulus.ABORT) is State.CLOSED


def test_both_ways_to_time_wait() -> None:
    apart = next_state(next_state(State.FIN_WAIT_1, Stimulus.ACK_OF_FIN), Stimulus.FIN)
    together = next_state(next_state(State.FIN_WAIT_1, Stimulus.FIN), Stimulus.ACK_OF_FIN)
    assert apart is together is State.TIME_WAIT


def test_a_stimulus_without_a_row_is_an_error() -> None:
    with pytest.raises(StateError, match="FIN cannot happen in LISTEN"):
        next_state(State.LISTEN, Stimulus.FIN)


def test_who_may_close_may_send_and_who_hears_a_fin_may_receive() -> None:
    assert {state for state in State if Stimulus.CLOSE in TRANSITIONS[state]} == MAY_SEND - {State.SYN_RECEIVED}
    assert {state for state in State if Stimulus.FIN in TRANSITIONS[state]} == MAY_RECEIVE


def test_the_diagram_in_the_docs_is_that_of_the_table() -> None:
    path = ROOT / "docs" / "make_state_diagram.py"
    spec = importlib.util.spec_from_file_location("make_state_diagram", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "tcp-states.md").read_text(encoding="utf-8") == module.page(), (
        "run docs/make_state_diagram.py"
    )
