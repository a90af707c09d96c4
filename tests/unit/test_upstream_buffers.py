"""Buffers come back when nobody refers to them, and never before."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from netstack.upstream.buffers import SIZE, ReadBuffers
from netstack.upstream.streams import LARGE, SocketStream


def address(view: memoryview) -> int:
    """Where a buffer is: views of one buffer share its object."""
    return id(view.obj)


def test_a_buffer_in_use_is_not_handed_out_again() -> None:
    buffers = ReadBuffers(2)
    first, second = buffers.take(), buffers.take()
    assert first is not None and second is not None
    assert address(first) != address(second)
    assert buffers.take() is None
    kept = first[10:20]
    where = address(first)
    del first
    assert buffers.take() is None  # a view of a part is a view
    del kept
    again = buffers.take()
    assert again is not None and address(again) == where


def test_one_buffer_serves_who_lets_go_at_once() -> None:
    buffers = ReadBuffers(8)
    seen = set()
    for _ in range(100):
        view = buffers.take()
        assert view is not None and len(view) == SIZE
        seen.add(address(view))
        del view
    assert len(seen) <= 2


@pytest.mark.parametrize("held", [1, 3, 7])
def test_as_many_as_are_held_are_made(held: int) -> None:
    buffers = ReadBuffers(16)
    window: list[memoryview] = []
    seen = set()
    for _ in range(200):
        view = buffers.take()
        assert view is not None
        seen.add(address(view))
        window.append(view)
        del window[:-held]
    assert held <= len(seen) <= held + 2


def test_without_room_there_is_none() -> None:
    assert ReadBuffers(0).take() is None


class Interest:
    def watch(self, fd: int, socket: Any, readable: bool, writable: bool) -> None:
        pass


def test_what_was_read_stays_while_it_is_held() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    stream = SocketStream(ours, Interest(), None, ReadBuffers(2))  # type: ignore[arg-type]
    held, sent = [], []
    with theirs:
        for letter in b"abcdef":
            octets = bytes([letter]) * LARGE
            theirs.sendall(octets)
            got = b""
            while len(got) < LARGE:
                piece = stream.recv(SIZE)
                held.append(piece)
                got += piece
            sent.append(octets)
        assert b"".join(held) == b"".join(sent)
        theirs.sendall(b"little")
        assert stream.recv(SIZE) == b"little"
    assert stream.recv(SIZE) == b""
    stream.close()
