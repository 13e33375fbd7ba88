"""What every workload attestor offers, and the threads that those share which block."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

from legation.agent.attestation.peers import PeerProcess

T = TypeVar("T")

_THREADS = 4
# One user cannot hold more of the threads than this, for example with an executable on a
# file system that it serves itself and that never answers.
_THREADS_PER_USER = 2
MAX_SELECTOR = 1024  # characters, as in a workload entry


class WorkloadAttestor(Protocol):
    """Says what one source knows of a process: the kernel, systemd, a container engine.

    Whoever implements it may rely on this: `process` is held by a pidfd, and what is said of
    it is believed only if it lived on until everything was said. So a look at
    ``/proc/<pid>`` is a look at that process. An implementation sees to the rest itself:
    that nobody but root could have arranged what it saw.

    Attributes:
        name: of the source, one word; its selectors begin with it.
        time_limit_s: how long it may take.
    """

    name: str
    time_limit_s: float

    async def selectors(self, process: PeerProcess) -> frozenset[str]:
        """Return what the source says of `process`; nothing when it does not know it.

        Raises:
            LegationError: the source cannot be asked, or what it says cannot be believed.
        """
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...


def selector(source: str, kind: str, value: str | None, *, key: str | None = None) -> str | None:
    """Put a selector together; None when there is no value, or no entry could ever name it.

    A key has no colon: the label ``a:b`` = ``c`` would look like the label ``a`` = ``b:c``.
    """
    if value is None or (key is not None and (not key or ":" in key)):
        return None
    text = ":".join(part for part in (source, kind, key, value) if part is not None)
    return text if len(text) <= MAX_SELECTOR and text.isprintable() else None


def selectors_of(*candidates: str | None) -> frozenset[str]:
    """Return those that are selectors."""
    return frozenset(candidate for candidate in candidates if candidate is not None)


class Workers:
    """A few threads for what blocks, fairly shared among users."""

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"attestation-{name}")
        # A slot lives as long as someone waits for it or a thread holds it.
        self._slots: WeakValueDictionary[int, asyncio.Semaphore] = WeakValueDictionary()

    async def run(self, uid: int, function: Callable[[], T]) -> T:
        """Run `function` in a thread on behalf of the user `uid`.

        Whoever stops waiting leaves the thread to finish; it is the user's until then.
        """
        slot = self._slots.setdefault(uid, asyncio.Semaphore(_THREADS_PER_USER))
        await slot.acquire()
        work = self._threads.submit(function)
        loop = asyncio.get_running_loop()
        work.add_done_callback(lambda _: _call_on(loop, slot.release))
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """Let the threads go; what they still find out is of no use to anyone."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
