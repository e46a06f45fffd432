# _threads.pxd: calls in other OS threads, for fibers: to_thread, the pool of threads behind it, and the way back, from_thread.
#
# There is one pool for the process, without a bound: it only keeps threads warm. What bounds the calls are limiters; the
# default one is for to_thread, others for what must not wait for it, nor it for them.
#
# Everything wants the GIL, and no step here lets it go between finding something out and acting on it: no locks, whatever OS
# threads, signal handlers and destructors take part.
#
# Invariants, true whenever no method is running:
#   - a worker is in `idle` exactly while it waits for a job and none was handed to it; whoever takes it out releases its lock;
#   - a limiter with somebody in line has lent all it has;
#   - a Call holds one of its limiter's places from before its worker is asked for until fn has ended, heard or not.
from greenio._scheduler cimport Fiber, Scheduler
from greenio._waiting cimport Line, PyThread_type_lock


cdef class ThreadLimiter:
    cdef object __weakref__
    cdef Py_ssize_t bound              # places, >= 1
    cdef Py_ssize_t taken              # may be above `bound`, after that was lowered
    cdef unsigned int process          # how many forks lie behind the process that `taken` is about
    cdef Line line                     # who waits for a place

    # A place, waiting for one. Raises what interrupts the fiber: no place was taken.
    cdef int take(self, Scheduler scheduler) except -1
    cdef int give_back(self) except -1
    cdef void renew(self) noexcept


cdef class Job:
    # What a worker does. Made anew for each time.
    cdef unsigned int process          # forks behind the process it was made in
    cdef bint begun                    # a worker has it

    # In the worker: the work. Keeps what it raises.
    cdef int work(self) except -1
    # After it, in the worker, which may have its next job already: tell who waits.
    cdef int deliver(self) except -1
    # What the thread is called meanwhile.
    cdef object title(self)


cdef class Worker:
    cdef PyThread_type_lock lock       # held; released by whoever hands a job over, or None to retire it
    cdef Job job                       # handed over and not yet taken
    cdef object thread                 # threading.Thread
    cdef unsigned int process          # forks behind the process it was started in

    cdef void do(self, Job job) noexcept
    cdef Job take_job(self)
    # The next one, once it is handed over. None: nothing has come for long enough, or it was told to go.
    cdef Job next_job(self)


# Have a worker do it: an idle one, the last to become so, or a new one. RuntimeError: there is none to be had, and the job is as it was.
cdef int start_job(Job job, object what) except -1


cdef class Call(Job):
    cdef Fiber fiber                   # that waits
    cdef object fn
    cdef tuple arguments
    cdef object context                # contextvars.Context
    cdef ThreadLimiter limiter
    cdef bint cancellable
    cdef bint done
    cdef bint abandoned                # the fiber has left
    cdef object value
    cdef object error                  # what fn raised, or None
    cdef Request request               # what the worker wants the fiber to do, or None

    # Parks until fn has ended. Raises what interrupts the fiber: then fn goes on unheard.
    cdef int wait(self, Scheduler scheduler) except -1
    cdef int park(self, Scheduler scheduler) except -1
    cdef int serve_request(self) except -1
    cdef int abandon(self) except -1
    cdef int drop_outcome(self) except -1
    # What fn returned; raises what it raised. Once.
    cdef object result(self)
    # What a checkpoint of the fiber would raise outside of this call, or None.
    cdef object interruption(self)


cdef class Request:
    # A call back among the fibers, for which a worker waits.
    cdef object fn
    cdef tuple arguments
    cdef object context
    cdef bint done
    cdef object value
    cdef object error
    cdef Line line                     # the OS thread that waits

    cdef int finish(self) except -1
