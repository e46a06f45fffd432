"""wait, as_completed and FiberPoolExecutor: concurrent.futures for fibers.

What is waited for may be fibers and concurrent.futures.Futures, mixed; who waits may be a fiber, which parks, or an OS thread
without fibers, which blocks. Nothing here holds a lock while Python code of others runs.

Not taken: locks around the executor's queue. Its deques are changed by one atomic operation at a time, in an order that
loses nothing, so that a signal handler may submit too.
"""

import contextvars
import itertools
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Executor,
    Future,
)
from functools import partial
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

from greenio._errors import Cancelled, RunFinishedError
from greenio._scheduler import Fiber, checkpoint, current_fiber, current_scheduler, running_scheduler
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
    # Not each.exception(): a FiberFuture's may park.
    return not each.cancelled() and Future.exception(each, 0) is not None


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

    def _invoke_callbacks(self) -> None:
        # What every end of a Future calls, once its state says so. First, since callbacks may ask for the result.
        self._over.ring()
        super()._invoke_callbacks()  # type: ignore[misc]  # typeshed lacks it

    def _end_cancelled(self) -> None:
        # Of a call that runs, for which cancel() is too late. As set_exception does it.
        with self._condition:
            self._state = "CANCELLED_AND_NOTIFIED"
            waiters: list[Any] = self._waiters
            for waiter in waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._invoke_callbacks()

    def _wait_until(self, deadline_ns: int) -> bool:
        # Once it is done there is nothing to wait for, not even between the change of its state and the bell.
        return self.done() or self._over.wait("the result of a call", self, deadline_ns)

    def _wait(self, timeout: float | None) -> None:
        if not self._wait_until(moment_after(timeout)):
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
        try:
            self.future.cancel()
        finally:  # done callbacks may raise what is no Exception
            if self.future.cancelled():
                self.future.set_running_or_notify_cancel()


class _Worker:
    """What an executor knows of one of its fibers, from before it is spawned until it has ended."""

    __slots__ = ("fiber", "gone", "has_begun", "was_cancelled")

    def __init__(self) -> None:
        self.fiber: Fiber[None] | None = None  # None before it is spawned, and at the end
        self.has_begun = False  # for good: without a stack a fiber ends before it begins
        self.was_cancelled = False
        self.gone = Bell()  # rung when nothing of it is left


class FiberPoolExecutor(Executor):
    """A concurrent.futures.Executor whose workers are fibers of the run in which it was made.

    submit and map may be called from any fiber and any OS thread; each call runs in a copy of its caller's contextvars.
    Workers are spawned as calls come, and end when no call waits. When the run ends, what runs is cancelled and what waits
    is dropped: their futures are cancelled (``cancelled()`` is true of both). A forked child begins without workers and calls:
    what was submitted before goes on in the parent, and is never done in the child.

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
        self._max_workers = max_workers
        self._name = fiber_name_prefix or f"FiberPoolExecutor-{next(_pool_numbers)}"
        self._numbers = itertools.count()
        self._workers: set[_Worker] = set()
        self._is_shut_down = False
        _pools.add(self)

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
            self._add_worker(self._refuse_if_shut_down)
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

    def _add_worker(self, check: Callable[[], None] | None = None) -> None:
        if self._permits is not None:
            try:
                self._permits.pop()
            except IndexError:
                return  # as many as may live do; each looks at the queue after it has given its permit back
        worker = _Worker()
        self._workers.add(worker)
        try:
            if check is not None:
                check()  # only now: a shutdown that comes later finds the worker, and waits for it
            worker.fiber = self._scheduler.spawn(self._work, worker, name=f"{self._name}_{next(self._numbers)}")
        except BaseException:
            self._give_permit_back(worker)
            self._forget(worker)
            raise
        worker.fiber.add_done_callback(partial(self._worker_ended, worker))

    def _give_permit_back(self, worker: _Worker) -> None:
        if self._permits is not None and worker in self._workers:  # else a fork has come between
            self._permits.append(None)

    def _forget(self, worker: _Worker) -> None:
        self._workers.discard(worker)
        worker.fiber = None
        worker.gone.ring()

    def _work(self, worker: _Worker) -> None:
        worker.fiber = current_fiber()  # spawn may not have returned yet, on another OS thread
        worker.has_begun = True
        try:
            while self._calls:
                checkpoint()  # calls that never park must not keep the other fibers from running, nor the run from ending
                self._run_one()
        except Cancelled:
            worker.was_cancelled = True
            raise

    def _worker_ended(self, worker: _Worker, fiber: Fiber[None]) -> None:
        # However it ended: its function may not have been called at all, or a call may have raised SystemExit.
        self._give_permit_back(worker)
        # Before the looks at the queue: whoever found no permit has put its call there.
        try:
            if worker.was_cancelled:
                self._drop_calls()
            elif not worker.has_begun:
                self._fail_call(MemoryError(f"{fiber.name}, which was to make this call, got no stack"))
        finally:
            try:
                self._replace_worker()
            finally:
                self._forget(worker)

    def _replace_worker(self) -> None:
        if not self._calls:
            return
        try:
            self._add_worker()
        except BaseException as error:
            self._drop_calls()
            if not isinstance(error, RunFinishedError):
                raise

    def _fail_call(self, error: BaseException) -> None:
        # One call for each worker that got no stack: all are answered, and none is tried for ever.
        try:
            future = self._calls.popleft().future
        except IndexError:
            return
        if future.set_running_or_notify_cancel():
            future.set_exception(error)

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
        except Cancelled:
            future._end_cancelled()
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
        raised: BaseException | None = None
        while self._calls:
            try:
                call = self._calls.popleft()
            except IndexError:
                break
            try:
                call.drop()
            except BaseException as error:  # from a done callback; the other calls want their answers too
                raised = error
        if raised is not None:
            raise raised

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
                fiber = worker.fiber
                if fiber is not None:
                    fiber.join()
                worker.gone.wait("the end of a worker", self, moment_after(None))

    def _renew(self, survivor: Fiber[Any] | None) -> None:
        # In a forked child. A fiber that forks may be a worker; what its call returns is the future's result here too.
        self._calls = deque()
        self._workers = {worker for worker in self._workers if survivor is not None and worker.fiber is survivor}
        if self._max_workers is not None:
            self._permits = deque([None] * (self._max_workers - len(self._workers)))

    def __repr__(self) -> str:
        state = "shut down" if self._is_shut_down else "open"
        return f"<greenio.FiberPoolExecutor {self._name!r} {state}, {len(self._workers)} workers, {len(self._calls)} calls wait>"


def _results_of(futures: deque[Future[_Result]], timeout: float | None, deadline_ns: int) -> Iterator[_Result]:
    try:
        while futures:
            future = futures[0]
            assert isinstance(future, FiberFuture)
            if not future._wait_until(deadline_ns):
                raise TimeoutError(f"no result within {timeout} seconds")
            futures.popleft()
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


_pools: "weakref.WeakSet[FiberPoolExecutor]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # The scheduler's own step has come before: it was registered first.
    survivor = None if running_scheduler() is None else current_fiber()
    for pool in list(_pools):
        pool._renew(survivor)


os.register_at_fork(after_in_child=_after_fork_in_child)
