"""Tunnel addresses that are the home network's."""

import pytest

from netstack.config import Config, make_config
from netstack.link import collision


@pytest.fixture
def home(monkeypatch):
    """Sets the host's own address; towards everything."""

    def at(address: str | None) -> None:
        monkeypatch.setattr(collision, "source_towards", lambda target: address)

    return at


def test_home_network_is_avoided(home) -> None:
    home("10.0.0.77")
    assert collision.collides("10.0.0.1")
    tunnel = collision.without_collision(Config()).tunnel
    assert (tunnel.address, tunnel.device_address) == ("198.18.0.1", "198.18.0.2")
    assert "try 198.18.0.1" in (collision.warning(Config()) or "")


@pytest.mark.parametrize("address", ["192.168.1.5", "10.0.1.77", "10.1.0.2", None])
def test_other_networks_are_no_collision(home, address: str | None) -> None:
    home(address)
    assert collision.without_collision(Config()) == Config()
    assert collision.warning(Config()) is None


def test_chosen_addresses_are_kept_but_warned_about(home) -> None:
    home("10.9.0.77")
    config = make_config({"tunnel": {"address": "10.9.0.1"}})
    assert collision.without_collision(config) is config
    assert "10.9.0.1 lies in this host's own network" in (collision.warning(config) or "")


def test_the_kernel_is_asked_for_loopback() -> None:
    assert collision.source_towards("127.0.0.1") == "127.0.0.1"
    assert collision.collides("127.0.0.9")
