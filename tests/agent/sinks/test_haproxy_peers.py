"""From what HAProxy lists to whose stream is ended: exactly the revoked peer's."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.agent.sinks.servers.haproxy_peers import shut_down
from legation.errors import LegationError, TimedOut, Unavailable

HEAD = "# table: peers, type: string, size:100, used:{used}\n"
STREAM = "{id}: proto=tcpv4 src={src} fe={fe} be=b srv=s ts=00 epoch=0 age=1s\n"


class Scripted:
    """Lists what it was given, and ends streams when told to."""

    def __init__(self, rows, streams, *, deaf=False):
        self.rows, self.streams, self.ended, self.deaf = rows, dict(streams), [], deaf

    async def ask(self, command):
        words = command.decode().split()
        if words[:2] == ["show", "table"]:
            rows = [
                f"0x1{n}: key={key} use={use} exp=1\n" for n, (key, use) in enumerate(self.rows)
            ]
            return (HEAD.format(used=len(rows)) + "".join(rows) + "\n").encode()
        if words[:2] == ["show", "sess"]:
            found = [STREAM.format(id=i, src=s, fe=f) for i, (s, f) in self.streams.items()]
            return "".join(found).encode()
        assert words[:2] == ["shutdown", "session"], words
        self.ended.append(words[2])
        if not self.deaf:
            del self.streams[words[2]]
        return b"\n"


async def test_one_peer_is_told_from_another_by_all_of_its_place():
    """Another port, another frontend, an entry no longer in use: none of them is hers."""
    haproxy = Scripted(
        [
            ("AB01@10.0.0.1@40000@web", 1),
            ("CD02@10.0.0.1@40001@web", 1),
            ("CD02@10.0.0.1@40000@tcp", 1),
            ("AB01@10.0.0.2@40002@web", 0),
            ("AB01@2001:db8::1@40003@web", 1),
            ("AB01@::ffff:10.0.0.9@40004@web", 1),
        ],
        {
            "0xa": ("10.0.0.1:40000", "web"),
            "0xb": ("10.0.0.1:40001", "web"),
            "0xc": ("10.0.0.1:40000", "tcp"),
            "0xd": ("10.0.0.2:40002", "web"),
            "0xe": ("2001:db8:0::1:40003", "web"),
            "0xf": ("10.0.0.9:40004", "web"),
        },
    )
    assert await shut_down(haproxy.ask, "peers", {"AB01"}, timeout_s=5) == 3
    assert sorted(haproxy.ended) == ["0xa", "0xe", "0xf"]


async def test_a_stream_that_does_not_end_is_an_error():
    """What goes on is not said to have ended."""
    haproxy = Scripted(
        [("AB@10.0.0.1@1@web", 1)], {"0xa": ("10.0.0.1:1", "web")}, deaf=True
    )  # fmt: skip
    with pytest.raises(TimedOut, match=r"go on after 0\.05 s"):
        await shut_down(haproxy.ask, "peers", {"AB"}, timeout_s=0.05)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("AB@10.0.0.1@1", "are not SERIAL@ADDRESS@PORT@FRONTEND"),
        ("AB@10.0.0@1@web", "an address that is none"),
    ],
)
async def test_a_table_of_something_else_is_an_error(key, said):
    """Keys of another form, or without an address, are refused rather than passed over."""
    haproxy = Scripted([(key, 1)], {})
    with pytest.raises(Unavailable, match=said):
        await shut_down(haproxy.ask, "peers", {"AB"}, timeout_s=1)


@given(st.binary(max_size=200), st.binary(max_size=200))
async def test_whatever_it_lists_is_an_answer_or_an_error_of_ours(table, streams):
    """No listing, however odd, ends in anything but a refusal in words."""

    async def ask(command):
        if command.startswith(b"show table"):
            return HEAD.format(used=1).encode() + b"0x1: key=AB@10.0.0.1@1@web use=1 exp\n" + table
        return streams if command.startswith(b"show sess") else b"\n"

    with contextlib.suppress(LegationError):
        assert await shut_down(ask, "peers", {"AB"}, timeout_s=0.05) == 0
