"""The virtio-net header in front of every packet of a TUN opened with IFF_VNET_HDR.

Responsible for: its layout and the few values that are used.
Refuses to know: the ioctl that turns it on.
Source: virtio 1.2 section 5.1.6; linux/virtio_net.h. Fields are in the machine's own byte order.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("=BBHHHH")  # flags, gso type, header length, gso size, checksum start, checksum offset
NEEDS_CSUM = 1  # the checksum field holds the pseudo-header's sum; who passes the packet on must finish it
DATA_VALID = 2  # somebody verified it
TRUSTED = NEEDS_CSUM | DATA_VALID
GSO_NONE, GSO_TCP4, GSO_TCP6, GSO_UDP = 0, 1, 4, 5
GSO_ECN = 0x80  # bit of the gso type: the first segment carries CWR
