"""Draws docs/tcp-states.md from the transition table in `netstack/tcp/state.py`.

Responsible for: the Mermaid diagram and the table below it. Refuses to know: anything that is not in the table.
A test compares the page with what this script makes.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from netstack.tcp.state import TRANSITIONS, State, Stimulus  # noqa: E402

PAGE = ROOT / "docs" / "tcp-states.md"

WORDS = {
    Stimulus.SYN: "SYN arrives",
    Stimulus.ACK_OF_SYN: "our SYN is acknowledged",
    Stimulus.FIN: "FIN arrives",
    Stimulus.ACK_OF_FIN: "our FIN is acknowledged",
    Stimulus.CLOSE: "close / FIN",
    Stimulus.RESET: "RST arrives",
    Stimulus.ABORT: "abort / RST",
    Stimulus.EXPIRE: "TIME-WAIT is over",
}

HEAD = """\
# TCP states

Every transition that a connection can make; drawn from `netstack/tcp/state.py`, whose text explains it, by
`python docs/make_state_diagram.py`. A valid RST and an abort of ours lead from every open state to CLOSED and are
left out of the drawing. SYN_RECEIVED begins with the app's SYN; the SYN|ACK leaves only after the far end is reached.

"""


def diagram() -> str:
    """The drawing, in Mermaid."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> LISTEN"]
    for state, row in TRANSITIONS.items():
        for stimulus, following in row.items():
            if stimulus not in (Stimulus.RESET, Stimulus.ABORT):
                lines.append(f"    {state.name} --> {following.name}: {WORDS[stimulus]}")
    return "\n".join([*lines, "    CLOSED --> [*]", "```", ""])


def table() -> str:
    """Every transition, resets included."""
    lines = ["| in | when | then |", "|---|---|---|"]
    for state, row in TRANSITIONS.items():
        lines += [f"| {state.name} | {WORDS[stimulus]} | {row[stimulus].name} |" for stimulus in row]
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    assert set(TRANSITIONS) == set(State)
    return HEAD + diagram() + "\n" + table()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
