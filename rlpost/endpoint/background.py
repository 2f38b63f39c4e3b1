"""An event loop in a thread, for callers that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from rlpost.errors import DeadlineError

CLOSE_S = 10.0


class BackgroundLoop:
    """Runs coroutines in a thread that ends with the process."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Begin the work; cancelling the future ends it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, Any], deadline_s: float) -> Any:
        """The result of the work.

        Raises:
            DeadlineError: there is none in time; the work was ended.
        """
        future = self.start(work)
        try:
            return future.result(deadline_s)
        except TimeoutError:
            if future.done():
                raise
            raise DeadlineError("background work did not end in time", needed=f"{deadline_s:g} s") from None
        finally:
            future.cancel()

    def close(self) -> None:
        """End all work and the thread; one that does not end in time is left to the end of the process."""
        if self._loop.is_closed():
            return
        with suppress(TimeoutError):
            self.start(_end_all()).result(CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()


async def _end_all() -> None:
    own = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not own]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
