"""Choosing a port beforehand."""

import socket
from pathlib import Path

import pytest

from legation.config import ports
from legation.errors import Unavailable


def test_the_kernel_gives_the_port_to_nobody_else() -> None:
    """A chosen port can be listened on, and lies below those of outgoing connections."""
    begin = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    chosen = {ports.unused_port() for _ in range(20)}
    assert len(chosen) > 1
    for port in chosen:
        assert 10_000 <= port < begin
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another port is tried when somebody listens on the first choice."""
    with socket.socket() as taken:
        free = ports.unused_port()
        taken.bind(("127.0.0.1", ports.unused_port()))
        choices = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(ports.random, "randrange", lambda *_: next(choices))
        assert ports.unused_port() == free


def test_an_address_of_another_machine_has_no_port_to_offer() -> None:
    """The error names the address and what the system said."""
    with pytest.raises(Unavailable, match=r"no port of 192\.0\.2\.1 is free: Cannot assign"):
        ports.unused_port("192.0.2.1")


@pytest.mark.parametrize("text", ["", "none", "0 0", "10050 60999"])
def test_an_unusable_range_is_replaced(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range that cannot be read, or leaves too little below it, does not stop anyone."""
    (tmp_path / "range").write_text(text)
    monkeypatch.setattr(ports, "_EPHEMERAL_RANGE", tmp_path / "range")
    assert 10_000 <= ports.unused_port() < 32_768
