"""One connection to a probed server, and when it is refused.

As cheap as may be: whoever probes shares the cores with those that are measured.
"""

import asyncio
import ssl
import time
from dataclasses import dataclass
from typing import cast

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, and what an answer looks like.

    Attributes:
        text: the question.
        end: of an answer; what follows is of no interest.
        served: how the answer to a caller that is served begins.
        every_s: until it is asked again on the same connection; None for a server that cuts
            a connection that it refuses, so that there is no need to ask.
    """

    text: bytes
    end: bytes
    served: bytes
    every_s: float | None = None


class Probe(asyncio.Protocol):
    """A connection on which one question is asked until it is refused.

    Attributes:
        served: comes true with the first good answer, or false.
        refused_at: comes with the first other answer, or the end: `time.perf_counter()`.
    """

    def __init__(self, question: Question) -> None:
        loop = asyncio.get_running_loop()
        self.served: asyncio.Future[bool] = loop.create_future()
        self.refused_at: asyncio.Future[float] = loop.create_future()
        self._loop = loop
        self._question = question
        self._received = b""
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext, question: Question) -> "Probe":
        """Connect, ask, and return when it is known whether the caller is served.

        Raises:
            OSError: there is no connection.
            TimeoutError: nothing came within `TIMEOUT_S`.
        """
        async with asyncio.timeout(TIMEOUT_S):
            loop = asyncio.get_running_loop()
            _, probe = await loop.create_connection(
                lambda: cls(question), "127.0.0.1", port, ssl=context
            )
            await asyncio.shield(probe.served)
        return probe

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are transports by what they do alone.
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._question.end not in self._received:
            return
        answer, self._received = self._received, b""
        if not answer.startswith(self._question.served):
            self.close()
            return
        if not self.served.done():
            self.served.set_result(True)
        if self._question.every_s is not None:
            self._loop.call_later(self._question.every_s, self._ask)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self.close()

    def close(self) -> None:
        """End it, which is a refusal if there was none yet."""
        if not self.served.done():
            self.served.set_result(False)
        if not self.refused_at.done():
            self.refused_at.set_result(time.perf_counter())
        if self._transport is not None:
            self._transport.abort()

    def _ask(self) -> None:
        if self._transport is not None and not self.refused_at.done():
            self._transport.write(self._question.text)


async def refused_anew(port: int, context: ssl.SSLContext, question: Question) -> float:
    """Open connections until one is not served; return when: `time.perf_counter()`.

    Raises:
        TimeoutError: still served after `TIMEOUT_S`.
    """
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                probe = await Probe.open(port, context, question)
            except OSError:
                return time.perf_counter()
            served = probe.served.result()
            probe.close()
            if not served:
                return probe.refused_at.result()
