"""What greenio.select is: a module with the names of the standard one, and the function that waits for one of many cases."""

from collections.abc import Iterable
from concurrent.futures import Future
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from greenio._scheduler import Fiber
from greenio._select import Selected
from greenio._select import select as select_case
from greenio._waiting import Case, Selectable


class HasFileno(Protocol):
    """What the names of the standard module take beside numbers."""

    def fileno(self) -> int: ...


class SelectsAs(Protocol):
    """What says itself what it is to select: a process, signals."""

    def __select__(self) -> Selectable: ...


_R = TypeVar("_R", bound=int | HasFileno)
_W = TypeVar("_W", bound=int | HasFileno)
_X = TypeVar("_X", bound=int | HasFileno)


class SelectModule(ModuleType):
    """The class of the module object greenio.select: it can be called."""

    if TYPE_CHECKING:  # for greenio.select.epoll(): to type checkers, greenio.select is one of these
        from greenio.select import (
            EPOLL_CLOEXEC as EPOLL_CLOEXEC,
        )
        from greenio.select import (
            EPOLLERR as EPOLLERR,
        )
        from greenio.select import (
            EPOLLET as EPOLLET,
        )
        from greenio.select import (
            EPOLLEXCLUSIVE as EPOLLEXCLUSIVE,
        )
        from greenio.select import (
            EPOLLHUP as EPOLLHUP,
        )
        from greenio.select import (
            EPOLLIN as EPOLLIN,
        )
        from greenio.select import (
            EPOLLMSG as EPOLLMSG,
        )
        from greenio.select import (
            EPOLLONESHOT as EPOLLONESHOT,
        )
        from greenio.select import (
            EPOLLOUT as EPOLLOUT,
        )
        from greenio.select import (
            EPOLLPRI as EPOLLPRI,
        )
        from greenio.select import (
            EPOLLRDBAND as EPOLLRDBAND,
        )
        from greenio.select import (
            EPOLLRDHUP as EPOLLRDHUP,
        )
        from greenio.select import (
            EPOLLRDNORM as EPOLLRDNORM,
        )
        from greenio.select import (
            EPOLLWRBAND as EPOLLWRBAND,
        )
        from greenio.select import (
            EPOLLWRNORM as EPOLLWRNORM,
        )
        from greenio.select import (
            PIPE_BUF as PIPE_BUF,
        )
        from greenio.select import (
            POLLERR as POLLERR,
        )
        from greenio.select import (
            POLLHUP as POLLHUP,
        )
        from greenio.select import (
            POLLIN as POLLIN,
        )
        from greenio.select import (
            POLLMSG as POLLMSG,
        )
        from greenio.select import (
            POLLNVAL as POLLNVAL,
        )
        from greenio.select import (
            POLLOUT as POLLOUT,
        )
        from greenio.select import (
            POLLPRI as POLLPRI,
        )
        from greenio.select import (
            POLLRDBAND as POLLRDBAND,
        )
        from greenio.select import (
            POLLRDHUP as POLLRDHUP,
        )
        from greenio.select import (
            POLLRDNORM as POLLRDNORM,
        )
        from greenio.select import (
            POLLWRBAND as POLLWRBAND,
        )
        from greenio.select import (
            POLLWRNORM as POLLWRNORM,
        )
        from greenio.select import (
            epoll as epoll,
        )
        from greenio.select import (
            error as error,
        )
        from greenio.select import (
            poll as poll,
        )

        @staticmethod
        def select(  # a function cannot be imported into a class
            rlist: Iterable[_R], wlist: Iterable[_W], xlist: Iterable[_X], timeout: float | None = None, /
        ) -> tuple[list[_R], list[_W], list[_X]]: ...

    def __call__(
        self,
        *cases: Selectable | Case | Fiber[Any] | Future[Any] | SelectsAs,
        timeout: float | None = None,
        default: object = ...,
    ) -> Selected:
        return select_case(*cases, timeout=timeout, default=default)

    __call__.__doc__ = select_case.__doc__
