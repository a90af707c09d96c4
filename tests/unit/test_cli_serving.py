"""Tunnels for a device, the packet file, the descriptor limit."""

import os
import resource
import struct
import types

import pytest

from netstack.cli.serving import make_tunnel, pcap_tracer, raise_descriptor_limit
from netstack.codec.pure import PureCodec
from netstack.core.errors import NetstackError
from netstack.core.stats import Stats
from netstack.link.decorators import TracingTunnel
from netstack.link.fd import FdTunnel
from netstack.link.linux import TunDevice


def test_tunnel_is_traced_only_when_there_is_a_tracer(tmp_path):
    runtime = types.SimpleNamespace(codec=PureCodec())
    stats = Stats()
    for path, kind in ((None, FdTunnel), (str(tmp_path / "x.pcapng"), TracingTunnel)):
        inside, outside = os.pipe()
        with pcap_tracer(path) as tracer:
            tunnel = make_tunnel(TunDevice(inside, "tun0", False), 1400, runtime, stats, id, tracer)
            assert type(tunnel) is kind
            assert tunnel.mtu == 1400 and tunnel.stats is stats
            tunnel.close()
        os.close(outside)


def test_packets_are_written_as_pcapng_with_the_time_of_day(tmp_path):
    path = tmp_path / "x.pcapng"
    with pcap_tracer(str(path)) as tracer:
        tracer.packet_in(b"E" + bytes(19), 1.0)
        tracer.packet_out(b"E" + bytes(23), 1.0)
    written = path.read_bytes()
    assert struct.unpack_from("<I", written)[0] == 0x0A0D0D0A
    assert b"E" + bytes(19) in written and b"E" + bytes(23) in written


def test_file_that_cannot_be_made_is_said():
    with pytest.raises(NetstackError, match="No such file"), pcap_tracer("/nonexistent/x"):
        pass


def test_descriptor_limit_is_raised_to_the_hard_one():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(100, limits[1]), limits[1]))
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limits[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
