"""A bounded cache of values that threads compute, such as the chunks of a store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class ChunkCache(Generic[Key, Value]):
    """A thread-safe LRU cache. Threads that need a value which is being computed wait for it."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._lock = threading.Lock()
        # Not cachetools' LRUCache, which takes twice as long to find a chunk; a batch has hundreds.
        self._values: OrderedDict[Key, Future[Value]] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        with self._lock:
            return key in self._values

    def get(self, key: Key) -> Value | None:
        """Return the value of *key*, or None if it is not cached; wait if it is being computed."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
        return None if value is None else value.result()

    def get_or_make(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of *key*, computed by *make* if it is not cached.

        Errors of *make* are raised, and not cached.
        """
        return self.get_or_make_all([key], lambda _: [make()])[0]

    def get_or_make_all(
        self, keys: Sequence[Key], make: Callable[[list[Key]], Sequence[Value]]
    ) -> list[Value]:
        """Return the values of *keys*, of which *make* computes in one call those not cached.

        Errors of *make* are raised, and not cached.

        Args:
            keys: The keys, each once.
            make: Returns the values of the keys that it gets, a part of *keys* in their order. It
                is not called if all are cached or being computed by other threads.
        """
        # The lock guards the dictionary only. `make` runs outside it, so other keys do not wait.
        claimed: list[Key] = []
        values = []
        with self._lock:
            for key in keys:
                value = self._values.get(key)
                if value is None:
                    value = self._values[key] = Future()
                    claimed.append(key)
                else:
                    self._values.move_to_end(key)
                values.append(value)
            while len(self._values) > self.capacity:
                self._values.popitem(last=False)
        if claimed:
            # Before waiting for other threads, which may wait for these.
            self._fulfil(dict(zip(keys, values, strict=True)), claimed, make)
        return [value.result() for value in values]

    def _fulfil(
        self,
        pending: dict[Key, Future[Value]],
        claimed: list[Key],
        make: Callable[[list[Key]], Sequence[Value]],
    ) -> None:
        try:
            for key, value in zip(claimed, make(claimed), strict=True):
                pending[key].set_result(value)
        except BaseException as e:  # noqa: BLE001 - threads that wait for the values raise it too
            for key in claimed:
                # Removed first: a thread that comes later tries again.
                with self._lock:
                    self._values.pop(key, None)
                if not pending[key].done():
                    pending[key].set_exception(e)
