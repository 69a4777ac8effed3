"""Workers connect through the interface that has the address of their machine."""

from __future__ import annotations

import socket

from jobs.training.interface import interface_of


def test_an_interface_is_found_by_its_address():
    assert interface_of("127.0.0.1") in {name for _, name in socket.if_nameindex()}


def test_an_address_of_another_machine_has_no_interface():
    assert interface_of("192.0.2.1") is None
