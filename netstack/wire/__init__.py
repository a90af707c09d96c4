"""Octets <-> fields: pure functions for each protocol, no state, no I/O.

A `parse_` function that can meet hostile octets returns a DropReason in place of its value; an `emit_`
function returns bytes with the checksum in place.
"""
