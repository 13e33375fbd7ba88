"""Finding what carries a TLS object when its connection has to end at once.

An `ssl.SSLObject` knows bytes in memory and nothing of the transport that brings them, but
a connection that is cut while it is idle has to be woken up. Who calls `do_handshake` is
what carries the object, so asyncio's and anyio's are noted then. Compiled callers, such as
uvloop's, leave no trace: theirs are searched for among the objects that refer to the TLS
object, once and only when it is cut, for any number of connections at once. The search
takes some 2 ms for every 100,000 objects of the process. No byte passes meanwhile.
"""

import asyncio
import gc
import logging
import socket
import sys
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

_log = logging.getLogger(__name__)


def adopt(transport: Any) -> None:
    """Note that `transport` carries its TLS object: cutting it then needs no search.

    For protocols, in `connection_made`. A transport without TLS of ours is passed over, and
    so are uvloop's, which cannot be referred to weakly: those are searched for.
    """
    tls = transport.get_extra_info("ssl_object")
    if hasattr(tls, "carrier"):
        tls.address = _far_end(transport)
        with suppress(TypeError):
            tls.carrier = weakref.ref(transport)


def hold(transport: Any) -> Callable[[], None]:
    """Do as `adopt`, for transports of every kind, until what is returned is called.

    For protocols that call it in `connection_lost` without fail: until then transport and TLS
    object keep each other alive, with the buffers of a connection.
    """
    tls = transport.get_extra_info("ssl_object")
    if not hasattr(tls, "carrier"):
        return lambda: None
    tls.address = _far_end(transport)
    tls.carrier = lambda: transport

    def release() -> None:
        tls.carrier = None

    return release


def note_caller(tls: Any) -> None:
    """Note who carries `tls`; called by its `do_handshake`, which the carrier has called."""
    caller = sys._getframe(2).f_locals.get("self")  # noqa: SLF001 - see the module's text
    if hasattr(caller, "_app_transport") or hasattr(caller, "transport_stream"):
        tls.carrier = weakref.ref(caller)


def carried_from(carrier: Callable[[], Any] | None) -> str:
    """Return the address of the other end of what carries a TLS object; empty if not known."""
    found = carrier() if carrier is not None else None
    stream = getattr(found, "transport_stream", None)
    if stream is not None:
        return address_of(getattr(stream, "_raw_socket", None))
    # asyncio.sslproto.SSLProtocol has the transport below, a transport is one.
    transport: Any = getattr(found, "_transport", None) or found
    return _far_end(transport) if hasattr(transport, "get_extra_info") else ""


def _far_end(transport: Any) -> str:
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) and name else ""


def address_of(sock: Any) -> str:
    """Return the address of the other end of a socket; empty if it has none."""
    try:
        name = sock.getpeername()
    except (AttributeError, OSError):
        return ""
    return str(name[0]) if isinstance(name, tuple) and name else ""


def end_all(objects: Iterable[Any], error: Exception) -> None:
    """End the connections of TLS objects that are condemned already; from any thread.

    Args:
        objects: with `carrier`, a weak reference or None, and `loop`, an event loop or None.
        error: what the application gets to see, where its transport can say.
    """
    unknown = {}
    for tls in objects:
        carrier = tls.carrier() if tls.carrier is not None else None
        if carrier is None:
            unknown[id(tls)] = tls
        else:
            _end(carrier, tls.loop, error)
    if not unknown:
        return
    for owner in gc.get_referrers(*unknown.values()):
        if not (hasattr(owner, "_get_app_transport") and hasattr(owner, "buffer_updated")):
            continue
        tls = next((one for one in gc.get_referents(owner) if id(one) in unknown), None)
        if tls is not None:
            _in_loop(tls.loop, partial(_end_protocol, owner, error))


def _end(carrier: Any, loop: asyncio.AbstractEventLoop | None, error: Exception) -> None:
    """End what carries a TLS object: a protocol of asyncio, a stream of anyio, a transport."""
    if hasattr(carrier, "transport_stream"):  # anyio.streams.tls.TLSStream
        _shut(getattr(carrier.transport_stream, "_raw_socket", None))
        return
    # asyncio.sslproto.SSLProtocol has one until it has ended
    transport = getattr(carrier, "_app_transport", carrier)
    if transport is not None:
        _in_loop(loop, partial(_end_transport, transport, error))


def _end_protocol(protocol: Any, error: Exception) -> None:
    """End a TLS protocol of uvloop, which shows its transport by this method alone."""
    with suppress(RuntimeError):  # it has ended meanwhile
        _end_transport(protocol._get_app_transport(), error)  # noqa: SLF001


def _end_transport(transport: Any, error: Exception) -> None:
    """Abort a transport; the protocol is to see an error, not what looks like a regular end."""
    inner = getattr(transport, "_ssl_protocol", None)
    try:
        if inner is not None:
            # asyncio: as if bytes had come. It reads, and the condemned object raises.
            inner.buffer_updated(0)
        elif hasattr(transport, "_force_close"):
            transport._force_close(error)  # noqa: SLF001 - uvloop's way to abort with a reason
    except Exception:
        _log.debug("a transport did not take its error", exc_info=True)
    transport.abort()


def _in_loop(loop: asyncio.AbstractEventLoop | None, act: Callable[[], None]) -> None:
    if loop is None:
        act()
        return
    with suppress(RuntimeError):  # the loop is closed, and its connections with it
        loop.call_soon_threadsafe(act)


def _shut(sock: Any) -> None:
    """Shut a socket down in both directions, which wakes up whoever waits for it."""
    if sock is not None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
