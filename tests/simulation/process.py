"""One simulated process: its tasks, its requests to the broker, and the ways in which it dies, pauses or is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from functools import partial
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, NoReturn, Protocol, TypeVar, cast

from streams.exit import ending
from tests.simulation.log import BrokerError, Busy
from tests.simulation.steps import Effect, Fault

__all__ = ["Killed", "Process", "Surroundings", "Unheard", "end_task", "own_tasks"]

T = TypeVar("T")
_RETRY_S = 0.02  # clients ask again so soon when a former transaction's markers are still being written
_GIVE_UP_S = 1.0  # and give up on an answer after this long


class Killed(BaseException):
    """Ends the task that met its process's death; nothing catches it."""


class Unheard(BrokerError):
    """No answer came: the request may have taken effect, or not."""


class Surroundings(Protocol):
    """What a process needs of the world."""

    def fault_at(self, kind: str) -> Fault | None:
        """Count a point of this kind, and say what goes wrong at it."""

    def delay_s(self, what: str, nth: int) -> float:
        """How long the nth request of a kind takes, or its answer: always the same in a history, whatever else is in it."""

    def cut_off(self, process: Process, seconds: float) -> None:
        """The group forgets the process without telling it."""

    def died(self, process: Process, doing: str, error: BaseException | None) -> None: ...


_process: ContextVar[Process] = ContextVar("process")


def own_tasks(loop: asyncio.AbstractEventLoop, coro: Any, context: Context | None = None) -> asyncio.Task[Any]:
    """The loop's task factory: each task belongs to the process that started it."""
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, context=context)
    process = _process.get(None) if context is None else context.get(_process)
    if process is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
    return task


class Process:
    """Base of the simulated worker."""

    def __init__(self, name: str, around: Surroundings) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.tasks: set[asyncio.Task[Any]] = set()
        self._around = around
        self._held: list[Callable[[], None]] = []
        self._request_counts: dict[str, int] = {}
        self._context = copy_context()
        self._context.run(_process.set, self)
        self._context.run(ending.set, self._surprised)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something as this process."""
        return asyncio.get_running_loop().create_task(work, context=self._context)

    # Ends

    def kill(self) -> None:
        """SIGKILL: no task goes on, and no answer arrives; what was sent is on its way.

        Raises Killed when it is the current task that dies.
        """
        if self.alive:
            self._around.died(self, "killed", None)
        self._end()

    def exit(self) -> None:
        """The process ends by itself. Raises Killed when the current task is its own."""
        if self.alive:
            self._around.died(self, "left", None)
        self._end()

    def _surprised(self, doing: str, error: BaseException | None) -> NoReturn:
        if self.alive and not isinstance(error, Killed):
            self._around.died(self, doing, error)
        self._end()
        raise Killed

    def _end(self) -> None:
        self.alive = False
        current = asyncio.current_task() if self.tasks else None
        for task in list(self.tasks):
            if task is not current:
                end_task(task)
        if current in self.tasks:
            raise Killed

    def check_alive(self) -> None:
        """Every effect outside asks this first: a dead process has none."""
        if not self.alive:
            raise Killed

    # A process that is stopped for a while, and does not notice

    def pause(self, seconds: float) -> None:
        if self.alive and not self.paused:
            self.paused = True
            asyncio.get_running_loop().call_later(seconds, self.resume)

    def resume(self) -> None:
        self.paused = False
        held, self._held = self._held, []
        for action in held:
            action()

    def _when_running(self, action: Callable[[], None]) -> None:
        if self.paused:
            self._held.append(action)
        else:
            action()

    # Effects outside

    def at(self, kind: str) -> None:
        """A point between two steps that need no answer: the process may die here."""
        self.check_alive()
        fault = self._around.fault_at(kind)
        if fault is not None:
            self._suffer(fault)

    def request(self, kind: str, effect: Callable[[], T]) -> asyncio.Future[T]:
        """Ask the broker. `effect` happens there once, later or never, whether or not this process still lives then."""
        self.check_alive()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        fault = self._around.fault_at(kind)
        delay_s = self._delay_s(kind)
        effect_of = fault.effect if fault is not None else None
        if fault is not None and effect_of is Effect.LATE:
            delay_s += fault.seconds
        elif fault is not None and effect_of is Effect.LOST:
            loop.call_later(_GIVE_UP_S, self._fail, future, Unheard(f"{kind}: no answer"))
            return future
        elif fault is not None and effect_of not in (Effect.UNHEARD, Effect.KILLED_AFTER):
            self._suffer(fault)
        self._when_running(lambda: _later(loop, delay_s, self._deliver, kind, effect, future, fault))
        return future

    def _delay_s(self, kind: str) -> float:
        nth = self._request_counts[kind] = self._request_counts.get(kind, 0) + 1
        return self._around.delay_s(self.name + kind, nth)

    def _suffer(self, fault: Fault) -> None:
        match fault.effect:
            case Effect.KILLED | Effect.KILLED_AFTER:
                self.kill()
            case Effect.PAUSED:
                self.pause(fault.seconds)
            case Effect.CUT_OFF:
                self._around.cut_off(self, fault.seconds)
            case Effect.LATE | Effect.LOST | Effect.UNHEARD:
                pass  # of requests alone

    def _deliver(self, kind: str, effect: Callable[[], T], future: asyncio.Future[T], fault: Fault | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            result = effect()
        except Busy:
            if self.alive:
                loop.call_later(_RETRY_S, self._deliver, kind, effect, future, fault)
            return
        except BrokerError as error:
            loop.call_later(self._delay_s(kind), self._fail, future, error)
            return
        if fault is not None and fault.effect is Effect.KILLED_AFTER:
            self.kill()
        elif fault is not None and fault.effect is Effect.UNHEARD:
            loop.call_later(_GIVE_UP_S, self._fail, future, Unheard(f"{kind}: no answer"))
        else:
            loop.call_later(self._delay_s(kind), self._answer, future, result)

    def _answer(self, future: asyncio.Future[T], result: T) -> None:
        self._when_running(partial(_resolve, future, result))

    def _fail(self, future: asyncio.Future[Any], error: BrokerError) -> None:
        self._when_running(partial(_reject, future, error))


def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task; one that has not begun makes its first step before, lest Python complain of what it would await."""
    if getcoroutinestate(cast(Coroutine[Any, Any, Any], task.get_coro())) == CORO_CREATED:
        task.get_loop().call_soon(task.cancel)
    else:
        task.cancel()


def _later(loop: asyncio.AbstractEventLoop, delay_s: float, call: Callable[..., None], *args: Any) -> None:
    loop.call_later(delay_s, call, *args)


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _reject(future: asyncio.Future[Any], error: BrokerError) -> None:
    if not future.done():
        future.set_exception(error)
