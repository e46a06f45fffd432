"""wait, as_completed and FiberPoolExecutor: concurrent.futures for fibers.

What is waited for may be fibers and concurrent.futures.Futures, mixed; who waits may be a fiber, which parks, or an OS thread
without fibers, which blocks. Nothing here holds a lock while Python code of others runs.

Not taken: locks around the executor's queue. Its deques are changed by one atomic operation at a time, in an order that
loses nothing, so that a signal handler may submit too.
"""

import contextvars
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Executor,
    Future,
)
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

from greenio._errors import Cancelled
from greenio._scheduler import Fiber, checkpoint, current_scheduler, running_scheduler
from greenio._task_groups import Bell, has_failed, moment_after

_Result = TypeVar("_Result")
_Parameters = ParamSpec("_Parameters")
_Waitable = TypeVar("_Waitable", bound="Fiber[Any] | Future[Any]")

_pool_numbers = itertools.count()


# --- waiting for several ---------------------------------------------------------------------------------------------


class DoneAndNotDone(NamedTuple, Generic[_Waitable]):
    """What `wait` returns."""

    done: set[_Waitable]
    not_done: set[_Waitable]


class _Watch(Generic[_Waitable]):
    """Collects what ends of *everything*, in order, while it is entered."""

    def __init__(self, everything: set[_Waitable]) -> None:
        self.everything = everything
        self.arrived: deque[_Waitable] = deque()
        self.bell = Bell()
        self.watched: list[_Waitable] = []

    def __enter__(self) -> "_Watch[_Waitable]":
        for each in self.everything:
            self.watched.append(each)
            if isinstance(each, Fiber):
                each.add_done_callback(self.arrive)
                continue
            with each._condition:
                if each._state in ("CANCELLED_AND_NOTIFIED", "FINISHED"):
                    self.arrived.append(each)
                else:
                    # As concurrent.futures.wait does; add_done_callback could not be taken back.
                    waiters: list[Any] = each._waiters
                    waiters.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.watched:
            if isinstance(each, Fiber):
                each.remove_done_callback(self.arrive)
                continue
            with each._condition:
                waiters: list[Any] = each._waiters
                if self in waiters:
                    waiters.remove(self)

    def arrive(self, each: _Waitable) -> None:
        self.arrived.append(each)
        self.bell.ring()

    # What a Future calls on its waiters, under its lock.
    add_result = add_exception = add_cancelled = arrive


def _checked(fibers: Iterable[_Waitable], function: str) -> set[_Waitable]:
    everything = set(fibers)
    for each in everything:
        if not isinstance(each, Fiber | Future):
            raise TypeError(f"{function} wants fibers and concurrent.futures.Futures, not {each!r}")
    return everything


def _failed(each: "Fiber[Any] | Future[Any]") -> bool:
    if isinstance(each, Fiber):
        return has_failed(each)
    return not each.cancelled() and each.exception() is not None


def wait(
    fibers: Iterable[_Waitable], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDone[_Waitable]:
    """Wait for fibers and concurrent.futures.Futures, mixed; as concurrent.futures.wait. Parks the calling fiber.

    Does not count as asking for a result: a failure that nobody asks for is still logged.

    Args:
        fibers: any number; one that is there twice counts once.
        timeout: seconds, or None for ever; 0 only looks.
        return_when: concurrent.futures.FIRST_COMPLETED, FIRST_EXCEPTION (or all have ended) or ALL_COMPLETED.
    Returns:
        (done, not_done), two sets. It raises nothing when *timeout* has passed.
    Raises:
        TypeError, ValueError: an argument is wrong.
        Cancelled: the calling fiber was cancelled.
    """
    if return_when not in (FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED):
        raise ValueError(
            f"return_when must be FIRST_COMPLETED, FIRST_EXCEPTION or ALL_COMPLETED of concurrent.futures, not {return_when!r}"
        )
    everything = _checked(fibers, "wait")
    deadline_ns = moment_after(timeout)
    if running_scheduler() is not None:
        checkpoint()
    done: set[_Waitable] = set()
    with _Watch(everything) as watch:
        while True:
            watch.bell.silence()
            failed = False
            while watch.arrived:
                each = watch.arrived.popleft()
                done.add(each)
                failed = failed or (return_when == FIRST_EXCEPTION and _failed(each))
            if failed or len(done) == len(everything) or (done and return_when == FIRST_COMPLETED):
                break
            if not watch.bell.wait("the end of fibers", everything, deadline_ns):
                break
    return DoneAndNotDone(done, everything - done)


def as_completed(fibers: Iterable[_Waitable], timeout: float | None = None) -> Iterator[_Waitable]:
    """The fibers and concurrent.futures.Futures in the order in which they end; as concurrent.futures.as_completed.

    Those that have ended already come first. ``next`` parks the calling fiber. Does not count as asking for a result.

    Args:
        fibers: any number; one that is there twice comes once.
        timeout: seconds from this call for all of them, or None for ever.
    Raises:
        TypeError, ValueError: an argument is wrong.
        TimeoutError: from ``next``: some had not ended within *timeout*.
        Cancelled: from ``next``: the calling fiber was cancelled.
    """
    return _as_completed(_checked(fibers, "as_completed"), timeout, moment_after(timeout))


def _as_completed(everything: set[_Waitable], timeout: float | None, deadline_ns: int) -> Iterator[_Waitable]:
    count = len(everything)
    with _Watch(everything) as watch:
        while everything:
            watch.bell.silence()
            if not watch.arrived and not watch.bell.wait("the end of fibers", everything, deadline_ns):
                raise TimeoutError(f"{len(everything)} of {count} fibers had not ended within {timeout} seconds")
            while watch.arrived:
                each = watch.arrived.popleft()
                everything.discard(each)
                yield each
                del each


# --- the executor ----------------------------------------------------------------------------------------------------


class FiberFuture(Future[_Result]):
    """A Future of a FiberPoolExecutor: result() and exception() park the calling fiber, or block an OS thread without fibers."""

    def __init__(self) -> None:
        super().__init__()
        self._over = Bell()

    def cancel(self) -> bool:
        """Cancel it if it has not begun; False if it has."""
        try:
            return super().cancel()
        finally:
            if self.cancelled():
                self._over.ring()

    def set_result(self, result: _Result) -> None:
        """For the executor."""
        try:
            super().set_result(result)
        finally:
            self._over.ring()

    def set_exception(self, exception: BaseException | None) -> None:
        """For the executor."""
        try:
            super().set_exception(exception)
        finally:
            self._over.ring()

    def _wait(self, timeout: float | None) -> None:
        if not self._over.wait("the result of a call", self, moment_after(timeout)):
            raise TimeoutError(f"no result within {timeout} seconds")

    def result(self, timeout: float | None = None) -> _Result:
        """What the call returned, waiting for it. Raises what it raised, CancelledError, TimeoutError, Cancelled."""
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, or None, waiting for it. Raises CancelledError, TimeoutError, Cancelled."""
        self._wait(timeout)
        return super().exception(0)


class _Call:
    """A call that was submitted and has not begun."""

    __slots__ = ("args", "context", "fn", "future", "kwargs")

    def __init__(
        self, future: FiberFuture[Any], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.future = future
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.context = contextvars.copy_context()

    def drop(self) -> None:
        """It will never begin."""
        if self.future.cancel():
            self.future.set_running_or_notify_cancel()


class FiberPoolExecutor(Executor):
    """A concurrent.futures.Executor whose workers are fibers of the run in which it was made.

    submit and map may be called from any fiber and any OS thread; each call runs in a copy of its caller's contextvars.
    Workers are spawned as calls come, and end when no call waits. When the run ends, what runs is cancelled and what waits
    is dropped: their futures are cancelled.

    Args:
        max_workers: how many calls run at a time, >= 1; None: all of them.
        fiber_name_prefix: of the workers' names; "FiberPoolExecutor-" and a number unless given.
    Raises:
        ValueError: *max_workers* < 1.
        RuntimeError: no fibers run on this OS thread.
    """

    def __init__(self, max_workers: int | None = None, fiber_name_prefix: str = "") -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError(f"max_workers must be >= 1 fibers or None, not {max_workers!r}")
        self._scheduler = current_scheduler()
        self._calls: deque[_Call] = deque()
        # A worker needs one to live. None: there is no end of them.
        self._permits: deque[None] | None = None if max_workers is None else deque([None] * max_workers)
        self._name = fiber_name_prefix or f"FiberPoolExecutor-{next(_pool_numbers)}"
        self._numbers = itertools.count()
        self._workers: set[Fiber[None]] = set()
        self._is_shut_down = False

    def submit(
        self, fn: Callable[_Parameters, _Result], /, *args: _Parameters.args, **kwargs: _Parameters.kwargs
    ) -> Future[_Result]:
        """Have a fiber call fn(*args, **kwargs); returns the Future of it at once.

        Raises:
            RuntimeError: the executor was shut down.
            RunFinishedError: its run has ended.
        """
        self._refuse_if_shut_down()
        future: FiberFuture[_Result] = FiberFuture()
        call = _Call(future, fn, args, kwargs)
        self._calls.append(call)
        try:
            self._add_worker()
        except BaseException:
            self._take_back(call)
            raise
        try:
            self._refuse_if_shut_down()  # by another OS thread, meanwhile
        except RuntimeError:
            if self._take_back(call):
                raise
        return future

    def _refuse_if_shut_down(self) -> None:
        if self._is_shut_down:
            raise RuntimeError("cannot submit to a FiberPoolExecutor that was shut down")

    def _take_back(self, call: _Call) -> bool:
        try:
            self._calls.remove(call)
        except ValueError:
            return False
        return True

    def _add_worker(self) -> None:
        if self._permits is not None:
            try:
                self._permits.pop()
            except IndexError:
                return  # as many as may live do, and none ends before it has found the queue empty
        try:
            worker = self._scheduler.spawn(self._work, name=f"{self._name}_{next(self._numbers)}")
        except BaseException:
            self._give_permit_back()
            raise
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    def _give_permit_back(self) -> None:
        if self._permits is not None:
            self._permits.append(None)

    def _work(self) -> None:
        try:
            try:
                checkpoint()
                while self._calls:
                    self._run_one()
            except Cancelled:
                self._drop_calls()
                raise
        finally:
            self._give_permit_back()
        # One that came after the last look, and found no permit.
        if self._calls:
            self._add_worker()

    def _run_one(self) -> None:
        try:
            call = self._calls.popleft()
        except IndexError:
            return  # another worker has it
        future = call.future
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = call.context.run(call.fn, *call.args, **call.kwargs)
        except Cancelled as error:
            future.set_exception(CancelledError(*error.args))
            checkpoint()  # the worker itself was cancelled: the run ends
        except BaseException as error:
            future.set_exception(error)
            if isinstance(error, SystemExit | KeyboardInterrupt):
                raise
        else:
            future.set_result(result)
        finally:
            del call, future

    def _drop_calls(self) -> None:
        while self._calls:
            try:
                self._calls.popleft().drop()
            except IndexError:
                return

    def map(
        self, fn: Callable[..., _Result], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[_Result]:
        """The results of fn on the items of *iterables*, in their order; all calls are submitted at once.

        Args:
            timeout: seconds from this call for all of them, or None for ever.
            chunksize: as Executor.map has it; it changes nothing here.
        Raises:
            TimeoutError: from ``next``: a result was not there within *timeout*; what has not begun is cancelled.
            BaseException: from ``next``: what fn raised; what has not begun is cancelled.
        """
        deadline_ns = moment_after(timeout)
        futures = deque(self.submit(fn, *items) for items in zip(*iterables, strict=False))
        return _results_of(futures, timeout, deadline_ns)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and wait until those submitted have ended (parks the calling fiber).

        Args:
            wait: False returns at once; the calls go on.
            cancel_futures: cancel the calls that have not begun.
        """
        self._is_shut_down = True
        if cancel_futures:
            self._drop_calls()
        while wait and self._workers:
            for worker in list(self._workers):
                worker.join()
                self._workers.discard(worker)

    def __repr__(self) -> str:
        state = "shut down" if self._is_shut_down else "open"
        return f"<greenio.FiberPoolExecutor {self._name!r} {state}, {len(self._workers)} workers, {len(self._calls)} calls wait>"


def _results_of(futures: deque[Future[_Result]], timeout: float | None, deadline_ns: int) -> Iterator[_Result]:
    try:
        while futures:
            future = futures[0]
            assert isinstance(future, FiberFuture)
            if not future._over.wait("the result of a call", future, deadline_ns):
                raise TimeoutError(f"no result within {timeout} seconds")
            futures.popleft()
            yield future.result()
    finally:
        for future in futures:
            future.cancel()
