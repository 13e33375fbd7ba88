"""What a service owes to whoever started it: signals, readiness, a watchdog.

SIGTERM and SIGINT ask for a graceful end and, sent again, for an immediate one; SIGHUP
asks to reload. Under systemd (``Type=notify``) the protocol of sd_notify(3) is spoken:
one datagram to the socket named by ``NOTIFY_SOCKET``.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

logger = logging.getLogger(__name__)

Serve = Callable[["Supervision"], Coroutine[Any, Any, None]]


class Notifier:
    """Speaks sd_notify(3); says nothing when nobody listens.

    Args:
        environment: where ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC`` stand.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        watchdog = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(watchdog) / 1_000_000 if watchdog.isdecimal() else None

    def send(self, state: str) -> None:
        """Send one state, for example ``READY=1``. A lost message is not worth failing for."""
        if not self._address:
            return
        # A leading @ stands for the NUL of the abstract namespace, unix(7).
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.sendto(state.encode(), address)


class Supervision:
    """What a running service sees of its supervisor.

    Attributes:
        stop: set when the service shall end gracefully.
    """

    def __init__(self, notifier: Notifier) -> None:
        self.stop = asyncio.Event()
        self._notifier = notifier
        self._reloads: list[Callable[[], None]] = []

    def ready(self, status: str = "") -> None:
        """Say that requests are served now."""
        # What is loaded by now stays: the collector need not walk it again and again, which
        # takes a tenth of a second on a small machine, in the middle of a revocation perhaps.
        gc.collect()
        gc.freeze()
        self._notifier.send("READY=1" + (f"\nSTATUS={status}" if status else ""))
        logger.info("ready", extra={"status": status} if status else {})

    def on_reload(self, action: Callable[[], None]) -> None:
        """Call `action` on SIGHUP; an error in it is logged and changes nothing else."""
        self._reloads.append(action)

    def request_stop(self) -> None:
        """Ask for a graceful end."""
        self._notifier.send("STOPPING=1")
        self.stop.set()

    def reload(self) -> None:
        """Do what SIGHUP asks for."""
        for action in self._reloads:
            try:
                action()
            except Exception:
                logger.exception("the reload failed; the old settings stay in force")

    async def feed_watchdog(self) -> None:
        """Show twice per interval that the loop still turns. Never returns."""
        interval_s = self._notifier.watchdog_s
        while interval_s:
            self._notifier.send("WATCHDOG=1")
            await asyncio.sleep(interval_s / 2)


def run(serve: Serve) -> None:
    """Run a service on uvloop until it returns or is told to stop.

    Raises:
        LegationError: whatever `serve` raises.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(supervise(serve, Notifier(os.environ)))  # noqa: TID251 - set by systemd


async def supervise(serve: Serve, notifier: Notifier) -> None:
    """Run `serve` with signals and watchdog attached."""
    loop = asyncio.get_running_loop()
    supervision = Supervision(notifier)
    service = asyncio.ensure_future(serve(supervision))

    def asked_to_stop() -> None:
        if supervision.stop.is_set():
            logger.warning("asked to stop again; ending at once")
            service.cancel()
        supervision.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop)
    loop.add_signal_handler(signal.SIGHUP, supervision.reload)
    watchdog = asyncio.ensure_future(supervision.feed_watchdog())
    try:
        await service
    except asyncio.CancelledError:
        if not supervision.stop.is_set():
            raise
    finally:
        watchdog.cancel()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
