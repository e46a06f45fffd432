"""Every exception of greenio.

    BaseException
      Cancelled               a cancelled fiber or scope; only the scheduler raises it, let it pass
    Exception
      GreenioError
        WouldBlock            the twin of an operation that parks found that it would have to
        ChannelClosed         send on a closed channel, or receive once it is drained
        DeadlockError         every fiber waits for another one
        RunFinishedError      the run that this belonged to has ended
        LimitExceeded         a stream's line or block is longer than the caller allows; nothing was taken
        IncompleteReadError   a stream ended before what was asked for had come; also an EOFError
        InternalError         a bug of greenio's
      ShutDown                what queue.ShutDown is from Python 3.13 on, for those before it; greenio.ShutDown is the right one

Where a built-in or standard class says it (TimeoutError, OSError with its errno, concurrent.futures.CancelledError for the
result of a cancelled fiber), that one is raised.
"""


class Cancelled(BaseException):
    """The fiber, or the scope it is in, was cancelled.

    Raised at every checkpoint until the fiber has ended: an operation that raises it has not happened. Not an
    ``Exception``, so that ``except Exception`` lets it pass.

    Attributes:
        reason: what ``cancel`` was given, or None.
    """

    def __init__(self, reason: object = None) -> None:
        super().__init__(*(() if reason is None else (reason,)))
        self.reason = reason


class GreenioError(Exception):
    """Base of greenio's own errors."""


class WouldBlock(GreenioError):
    """The operation would have had to park."""


class ChannelClosed(GreenioError):
    """The channel is closed, now and for good.

    Attributes:
        index: the number of the case, if a select raised it; else None.
    """

    index: int | None = None


class DeadlockError(GreenioError):
    """Every fiber waits, and nothing is left that could wake one. The text names each fiber, what it waits for and where."""


class RunFinishedError(GreenioError):
    """The run that this fiber or scheduler belonged to has ended."""


class LimitExceeded(GreenioError):
    """A line or block is longer than the caller allows. Nothing was taken: what has come is in the stream's buffer.

    Attributes:
        limit: in bytes.
    """

    def __init__(self, message: str, limit: int) -> None:
        super().__init__(message, limit)
        self.limit = limit

    def __str__(self) -> str:
        return str(self.args[0])


class IncompleteReadError(GreenioError, EOFError):
    """The stream ended before what was asked for had come.

    Attributes:
        partial: the bytes that did come. They are taken from the stream.
        expected: how many were asked for, or None: up to a separator.
    """

    def __init__(self, partial: bytes, expected: int | None) -> None:
        super().__init__(partial, expected)
        self.partial = partial
        self.expected = expected

    def __str__(self) -> str:
        wanted = "the separator" if self.expected is None else f"{self.expected} bytes"
        return f"the stream ended after {len(self.partial)} bytes, before {wanted} had come"


class InternalError(GreenioError):
    """A bug of greenio's: please report it with its text."""


class ShutDown(Exception):
    """The queue was shut down. Stands in for queue.ShutDown where the standard library has none."""
