/* monitor.h: one OS thread that watches all schedulers. It never takes the GIL and never runs Python.
 *
 * While some scheduler is busy it looks every 5 ms, or four times in a time slice or a stall's limit; while all of them wait in their pollers it sleeps, after one last look.
 * What it does for each:
 *   - brings a signal that only the main thread state has heard of to the fiber that computes (CPython 3.13+);
 *   - wakes a scheduler once that has been waiting for a whole tick: a signal may have come between its last look at
 *     the signals and the wait;
 *   - keeps the overflow handler in front (faulthandler.enable() during a run);
 *   - asks a fiber that has run for a whole time slice to let the others run (_slices.pyx);
 *   - tells of a stall: nothing was switched to for a while, though a fiber could have run. Cheap while nothing stalls: it looks
 *     whether three counters have changed.
 * All functions want the GIL, which also orders them. The thread blocks all signals.
 */
#ifndef GREENIO_MONITOR_H
#define GREENIO_MONITOR_H

#include <Python.h>
#include <stdint.h>

struct greenio_watched {                 /* one scheduler; lives in it */
    PyThreadState *volatile running;     /* the thread state of the fiber that runs */
    PyThreadState *signals;              /* the state that hears of signals if it is this OS thread's, else NULL */
    PyThreadState *volatile away_running; /* while its fibers run on another OS thread than that: what runs there now, */
    PyThreadState *away_signals;         /* and the state that hears of signals; else NULL */
    volatile uint64_t switches;          /* counts every switch; one writer */
    volatile uint64_t idle_periods;      /* counts the times it found nothing to run; one writer */
    volatile int waiting;                /* it is in its poller's wait, or about to be */
    int wake_fd;                         /* eight bytes written here end the wait; -1: there is none */
    volatile uint64_t looks;             /* counts its looks at timers and descriptors; one writer */
    int64_t stall_after_ns;              /* standing still for so long is a stall; 0: it is not watched for that */
    uint64_t run_id;                     /* no other run's in this process */
    int thread_id;                       /* the kernel's, of its OS thread */
    int poll_fd;                         /* readable when descriptors that are waited for have news; -1: there is none */
    const volatile size_t *ring_head;    /* fibers are ready while the two differ */
    const volatile size_t *ring_tail;
    const volatile Py_ssize_t *io_waiting; /* fibers that wait for descriptors */
    volatile int asked;                  /* of `stalled`, and not answered yet. Who answers, with the GIL, sets the next two, and clears it */
    volatile int64_t due_ns;             /* when the next timer is due, on CLOCK_MONOTONIC; 0: not known, INT64_MAX: never */
    volatile int64_t tell_after_ns;      /* how long the stall must last to be told once more */
    int64_t slice_ns;                    /* how long a fiber may run until it is asked to let the others run; 0: as long as it likes */
    int slice_signal;                    /* how it is asked: by this signal's handler, in Python */
    int slice_is_sent;                   /* the OS thread must really get the signal to hear of it; it gets it while it computes */
    volatile uint64_t slice_switches;    /* `switches` when it was asked */
    uint64_t turn_switches;              /* and at the beginning of the turn that the monitor looks at; private to it, as the rest */
    int64_t turn_ns;                     /* when that was seen to have begun */
    uint64_t seen_idle_period;           /* private to the monitor, as the rest */
    uint64_t nudged_idle_period;
    uint64_t seen_progress;
    int64_t still_ns;                    /* no progress since then */
    int64_t looked_ns;                   /* the look before this one */
    int64_t needed_ns;                   /* a fiber could run since then; 0: none could */
    struct greenio_watched *next;
};

struct greenio_monitor_hooks {
    int (*forward_signals)(PyThreadState *signals, PyThreadState *volatile *running);
    void (*watch_overflow_handler)(void);
    /* It stands still: have somebody with the GIL tell whether a timer is due, and what it is that stalls. Nonzero: somebody will. */
    int (*stalled)(struct greenio_watched *watched);
};

/* Grows with everything by which a scheduler shows that it is alive. */
static inline uint64_t greenio_monitor_progress(const struct greenio_watched *watched)
{
    return watched->switches + watched->looks + watched->idle_periods;
}

/* Watch one more; the first starts the thread. 0, or an errno. */
int greenio_monitor_add(struct greenio_watched *watched, const struct greenio_monitor_hooks *hooks);

/* Watch it no longer: not looked at again once this returns. The last one ends the thread and waits for its end. */
void greenio_monitor_remove(struct greenio_watched *watched);

/* A scheduler has something to run again. Cheap unless the monitor sleeps. */
extern volatile int greenio_monitor_asleep;
void greenio_monitor_rouse(void);

/* The end of a wait, however it ends. The monitor sets its flag and then looks at ours, we the other way round. */
static inline void greenio_monitor_wait_over(struct greenio_watched *watched)
{
    __atomic_store_n(&watched->waiting, 0, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&greenio_monitor_asleep, __ATOMIC_SEQ_CST))
        greenio_monitor_rouse();
}

/* Around fork: end the thread, for good as far as the kernel can tell; start it again if anything is watched. */
void greenio_monitor_stop(void);
int greenio_monitor_start(void);

/* In a forked child: nothing is watched, no thread. */
void greenio_monitor_after_fork_child(void);

/* For tests: how many looks it has taken, and how long it waits between two, in ns, below a second; 0: as ever. */
uint64_t greenio_monitor_ticks(void);
void greenio_monitor_set_tick(int64_t ns);

#endif
