# epoll.pxd: the poller of Linux.
from libc.stdint cimport uint32_t, uint64_t

from greenio.pollers.poller cimport Entry, Poller

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data

cdef class EpollPoller(Poller):
    cdef int epoll_fd                  # -1 once closed
    cdef epoll_event *events           # room for one call's events
    cdef int open_descriptors(self) except -1
    cdef void close_descriptors(self) noexcept
