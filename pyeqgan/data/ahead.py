"""Work done ahead by threads, its results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, depth: int, workers: int, name: str
) -> Generator[Result, None, None]:
    """`function` of each item in order, up to `depth` of them worked out ahead by `workers` threads called `name`.

    What a call raises is raised here, at the place of its item. Closing the generator, exhausting it or leaving it to
    the garbage collector ends the threads.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    try:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def steps_ahead(
    draw: Callable[[int], Result], start: int, stop: int, *, depth: int = 3, workers: int = 1, name: str
) -> Generator[Result, None, None]:
    """What steps start, start + 1, …, stop - 1 draw, in order, up to `depth` of them prepared ahead.

    `workers` background threads prepare one each; decoding leaves Python's lock to the others. They need no seeds:
    whichever prepares a step, it depends on the step alone. What one raises is raised here, at the step it belongs to.
    Closing the generator, exhausting it or leaving it to the garbage collector ends the threads, called `name`.
    """
    for what, value in (("depth", depth), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{what} {value}, expected at least 1")
    return ahead(draw, range(start, stop), depth=max(depth, workers), workers=workers, name=name)
