"""Work that goes on as long as the agent does."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_log = logging.getLogger(__name__)


def supervised(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a part that never ends; when it does all the same, say so."""
    task = asyncio.create_task(work, name=name)

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("%s stopped", name, exc_info=error)

    task.add_done_callback(ended)
    return task
