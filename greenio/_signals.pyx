# _signals.pyx: signals delivered to fibers.
#
# One handler in Python stands for all subscriptions; it runs at once, on top of whatever runs, and does nothing but send the number
# into the channel of each subscription, which never waits.
#
# Invariants:
#   - a number is in `subscribers` as long as a subscription has it, and `before` then has what to put back;
#   - what is put back is what the kernel had, to the bit (flags, mask, handlers from outside of Python), and what Python knew of it;
#   - a subscription's channel has room for whatever may be sent: PENDING of each of its numbers.
#
# Not taken: signalfd (wants the signals blocked in all OS threads, and children inherit that), and the wakeup descriptor (one a process).
import os
import signal
import threading
from collections import namedtuple

from greenio import _dump_signal
from greenio._channels import Channel
from greenio._errors import ChannelClosed
from greenio._explain import signal_name
from greenio._scheduler import current_fiber, running_scheduler
from greenio._select import Mapped, after, select

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.string cimport memcpy

cdef extern from "<signal.h>" nogil:
    struct sigaction_t "sigaction":
        pass
    int sigaction(int number, const sigaction_t *action, sigaction_t *before)

cdef enum:
    PENDING = 100            # of one number that nobody has looked at; more are dropped

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigemptyset(sigset_t *signals)
    int sigaddset(sigset_t *signals, int number)

cdef extern from "<sys/signalfd.h>" nogil:
    enum:
        SFD_CLOEXEC
        SFD_NONBLOCK
    int signalfd(int fd, const sigset_t *mask, int flags)

_Before = namedtuple("_Before", "handler action")

cdef dict subscribers = {}   # number: list of SignalSubscription, in order of entering
cdef dict before = {}        # number: _Before
cdef set faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


cdef bytes read_action(int number):
    cdef sigaction_t action
    if sigaction(number, NULL, &action) != 0:
        raise OSError(errno, os.strerror(errno))
    return PyBytes_FromStringAndSize(<char *>&action, sizeof(action))


cdef int write_action(int number, bytes saved) except -1:
    cdef sigaction_t action
    memcpy(&action, PyBytes_AS_STRING(saved), sizeof(action))
    if sigaction(number, &action, NULL) != 0:
        raise OSError(errno, os.strerror(errno))
    return 0


def _deliver(number, frame):
    cdef SignalSubscription subscription
    for subscription in subscribers.get(number, ()):
        subscription.add(number)
    previous = before.get(number)
    if previous is not None and previous.handler is _dump_signal._dump:
        previous.handler(number, frame)


cdef int take_over(int number) except -1:
    previous = _Before(signal.getsignal(number), read_action(number))
    before[number] = previous
    try:
        signal.signal(number, _deliver)
        if previous.handler is _dump_signal._dump:
            write_action(number, previous.action)    # its own C handler calls Python's, and dumps if Python does not answer
    except BaseException:
        del before[number]
        raise
    return 0


cdef object put_back(int number):
    # Returns what another signal's handler raised meanwhile: signal.signal lets those run that are under way, and then does nothing.
    previous = before[number]
    raised = None
    for _ in range(100):
        if signal.getsignal(number) is not _deliver:
            break                    # done, or the program has installed something else since
        try:
            # None: a handler from outside of Python. There is no way to tell Python so again; the kernel is told.
            signal.signal(number, signal.SIG_DFL if previous.handler is None else previous.handler)
            write_action(number, previous.action)
        except BaseException as error:
            raised = error
    del before[number]
    return raised


cdef object named(int number):
    try:
        return signal.Signals(number)
    except ValueError:
        return number


cdef class SignalSubscription:
    """Signals as a fiber receives them; made by `signals`.

    Attributes:
        numbers: a tuple of the signals, in the order given, each once.
    """
    cdef object __weakref__
    cdef readonly tuple numbers
    cdef object channel          # of ints; None: not entered
    cdef object fiber            # that entered it
    cdef dict pending            # number: how many are in the channel
    cdef set handed_out          # numbers that were received at least once

    def __init__(self):
        raise TypeError("made by greenio.signals(number, …)")

    cdef int add(self, int number) except -1:
        if self.pending[number] >= PENDING:
            return 0
        self.pending[number] += 1
        self.channel.send_nowait(number)
        return 0

    def _take(self, number):
        self.pending[number] -= 1
        self.handed_out.add(number)
        return named(number)

    def __enter__(self):
        """Receive the signals from now on, in place of their handlers.

        Raises:
            RuntimeError: not inside greenio.run() on the main OS thread, or entered already.
            OSError: a signal cannot be handled (SIGKILL, SIGSTOP). All handlers are as they were.
        """
        cdef list entered = []
        if self.channel is not None:
            raise RuntimeError(f"{self!r} is entered already")
        if running_scheduler() is None:
            raise RuntimeError("signals() delivers to fibers, and none run on this OS thread: use it inside greenio.run(main)")
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "signals() is for a run on the main OS thread, where Python handles signals; this is another one. Receive them "
                "there, and hand them over: an Event, a Channel and a Queue work between OS threads")
        self.begin()
        try:
            for number in self.numbers:
                there = subscribers.get(number)
                if there is None:
                    there = subscribers[number] = []
                    entered.append(number)
                    there.append(self)
                    take_over(number)
                else:
                    there.append(self)
                    entered.append(number)
        except BaseException as error:
            do_all(self.leave())
            if isinstance(error, OSError):
                raise OSError(error.errno, f"{signal_name(number)} cannot be received: {error.strerror}") from None
            raise
        self.fiber = current_fiber()
        return self

    cdef int begin(self) except -1:
        self.channel = Channel(PENDING * len(self.numbers))
        self.pending = dict.fromkeys(self.numbers, 0)
        self.handed_out = set()
        return 0

    cdef list leave(self):
        # Out of everything. Returns what is left to do, as functions: raise what a handler raised, and raise again the signals that
        # came, were never handed out, and that nobody else gets.
        cdef list rest = []
        for number in self.numbers:
            there = subscribers.get(number)
            if there is None or self not in there:
                continue
            if len(there) == 1 and number in before:
                raised = put_back(number)       # until it is done, signals still come here
                if raised is not None:
                    rest.append((_raise, raised))
            there.remove(self)
            if there:
                continue
            del subscribers[number]
            if self.pending[number] and number not in self.handed_out:
                rest.append((signal.raise_signal, number))
        channel, self.channel = self.channel, None
        self.fiber = None
        channel.close()
        return rest

    def __exit__(self, exception_type, exception, traceback):
        """Put the handlers back that were there before, unless other subscriptions have the signals still.

        A signal that came and was never received, not even once, is raised again, for whatever was there before.
        """
        if self.channel is None:
            return
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{self!r} was entered on the main OS thread and must be left there")
        do_all(self.leave())

    def wait(self, timeout=None):
        """The number of the next signal, a signal.Signals where it has a name. Parks until one comes.

        Args:
            timeout: seconds, or None for ever; 0 does not park.
        Raises:
            TimeoutError: none came within *timeout*. ChannelClosed: the context was left.
            Cancelled: this fiber was cancelled. No signal was taken.
            ValueError: *timeout* is negative.
        """
        channel = self._channel()
        if timeout is None:
            return self._take(channel.receive())
        index, number = select(channel, after(timeout))
        if index != 0:
            index, number = select(channel, default=None)      # one that came at the same moment is first
        if index != 0:
            raise TimeoutError(f"{self!r}: none came within {timeout} seconds")
        return self._take(number)

    def _channel(self):
        if self.channel is None:
            raise ChannelClosed(f"{self!r} receives nothing outside of its with block")
        return self.channel

    def __iter__(self):
        return self

    def __next__(self):
        channel = self.channel
        if channel is None:
            raise StopIteration
        try:
            number = channel.receive()
        except ChannelClosed:
            raise StopIteration from None
        return self._take(number)

    def __select__(self):
        return Mapped(self._channel(), self._take)

    def __repr__(self):
        return f"signals({', '.join([signal_name(number) for number in self.numbers])})"


def _raise(error):
    raise error


cdef int do_all(list rest) except -1:
    # To the last, even if a handler raises.
    if rest:
        try:
            fn, argument = rest.pop(0)
            fn(argument)
        finally:
            do_all(rest)
    return 0


def signals(*numbers):
    """Receive signals in a fiber: a context manager, and an iterable of their numbers.

        with greenio.signals(signal.SIGTERM, signal.SIGHUP) as received:
            for number in received:
                if number == signal.SIGTERM:
                    break
                reload()

    Inside the block nothing else is done for these signals: with SIGINT among them, there is no KeyboardInterrupt. Several fibers may
    receive the same signal, each in a block of its own: each gets every one. Several that share one block get each signal once. What the
    program was told before is put back when the last block with that signal is left, exactly: also SIG_IGN, SIG_DFL, and a
    handler from outside of Python (of which signal.getsignal then says SIG_DFL). A handler that the program itself installs meanwhile stays.

    Signals are kept in the order in which Python saw them; of those that came between two of its looks, which the kernel and Python
    merge into one of each, the lower number is first. Up to 100 of each number wait to be received, further ones are dropped. One that came
    but of whose number none was ever received is raised again when the block is left. Nothing is lost to a wait that is cancelled or
    times out. While a block is open no run is a deadlock: a signal may come.

    select(received) takes the next one. In a forked process the forking fiber's own blocks go on, without the parent's signals; those
    of other fibers are over. The signal that run(dump_signal=…) was given still writes the dump.

    Args:
        numbers: at least one; signal.SIGTERM or a plain number.
    Returns:
        A SignalSubscription, to be entered in a fiber of a run on the main OS thread; it may be entered again once it was left.
    Raises:
        ValueError: none were given, or one is no signal, or is a fault's (SIGSEGV, SIGBUS, SIGFPE, SIGILL), which cannot wait for a fiber.
        TypeError: one is no number.
    """
    cdef SignalSubscription made
    if not numbers:
        raise ValueError("signals() wants at least one signal, for example signals(signal.SIGTERM)")
    known = signal.valid_signals()
    for number in numbers:
        if not isinstance(number, int):
            raise TypeError(f"a signal is a number such as signal.SIGTERM, not {number!r}")
        if number not in known:
            raise ValueError(f"no such signal: {number}")
        if number in faults:
            raise ValueError(f"{signal_name(number)} tells of a fault of the code that runs, which cannot go on until a fiber looks")
    made = SignalSubscription.__new__(SignalSubscription)
    made.numbers = tuple(dict.fromkeys([int(number) for number in numbers]))
    return made


def open_signalfd(numbers):
    """A descriptor (signalfd) that is readable while one of the signals *numbers* is pending, which the caller has blocked."""
    cdef sigset_t wanted
    cdef int fd
    sigemptyset(&wanted)
    for number in numbers:
        if sigaddset(&wanted, number) < 0:
            raise OSError(errno, f"{os.strerror(errno)}: signal {number}")
    fd = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK)
    if fd < 0:
        raise OSError(errno, os.strerror(errno))
    return fd


def _after_fork_in_child():
    cdef SignalSubscription subscription
    fiber = None if running_scheduler() is None else current_fiber()
    for number, there in list(subscribers.items()):
        for subscription in list(there):
            if subscription.channel is None:
                continue
            if subscription.fiber is not fiber:
                subscription.leave()
            elif number == subscription.numbers[0]:
                subscription.begin()


os.register_at_fork(after_in_child=_after_fork_in_child)
