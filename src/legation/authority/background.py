"""Work that goes on as long as the authority does."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

_RESTART_S = 1.0
_log = logging.getLogger(__name__)


def run_in_background(
    stack: contextlib.AsyncExitStack, name: str, work: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Run `work` until the stack unwinds; begin it anew if it ever fails."""

    async def run() -> None:
        while True:
            try:
                await work()
            except Exception:
                _log.exception("%s: failed, beginning anew", name)
                await asyncio.sleep(_RESTART_S)

    task = asyncio.create_task(run(), name=name)

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(stop)
