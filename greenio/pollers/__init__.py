"""Which descriptors are ready: one poller for each kernel interface, chosen here."""

from greenio.pollers.epoll import EpollPoller as DefaultPoller
from greenio.pollers.poller import Entry, Poller

__all__ = ["DefaultPoller", "Entry", "Poller"]
