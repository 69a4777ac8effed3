"""Which network interface gloo and NCCL use.

By default, gloo listens on the address to which the host name resolves, on many machines a loopback address, where no
other machine can reach it. NCCL takes the first interface, which may be one of a container network.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct

_GET_ADDRESS = 0x8915
"""SIOCGIFADDR of netdevice(7): the IPv4 address of an interface."""

_INTERFACE_ENV = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def connect_through(address: str) -> None:
    """Make gloo and NCCL of this process use the interface that has an address.

    Variables that are already set stay, and without such an interface both libraries choose for themselves.
    """
    interface = interface_of(address)
    if interface is not None:
        for name in _INTERFACE_ENV:
            os.environ.setdefault(name, interface)


def interface_of(address: str) -> str | None:
    """Return the name of the network interface that has an IPv4 address; None if no interface has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            with contextlib.suppress(OSError):  # an interface without an IPv4 address
                answer = fcntl.ioctl(any_socket.fileno(), _GET_ADDRESS, request)
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None
