/* monitor.c: the watching thread; what it is for is in monitor.h. */
#define _GNU_SOURCE
#include "monitor.h"
#include "system_calls.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TICK_NS 5000000 /* below a second */
#define SHORTEST_TICK_NS 250000 /* for a stall, however short its limit */
#define TICKS_BEFORE_SLEEP 20 /* idle looks before it sleeps, so that a server with pauses does not wake it each time */

volatile int greenio_monitor_asleep;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static int condition_ready;
static pthread_t thread;
static volatile pid_t thread_id; /* of the kernel's */
static int running;              /* the thread exists */
static int stopping;
static struct greenio_watched *watched_list;
static struct greenio_monitor_hooks hooks;
static volatile uint64_t ticks;
static volatile int64_t usual_tick_ns = TICK_NS;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int has_events(const struct greenio_watched *watched)
{
    struct pollfd asked = {.fd = watched->poll_fd, .events = POLLIN};
    return *watched->io_waiting > 0 && watched->poll_fd >= 0 && poll(&asked, 1, 0) > 0;
}

static void ask(struct greenio_watched *watched)
{
    watched->asked = 1; /* first: the answer may come at once */
    if (!hooks.stalled(watched))
        watched->asked = 0;
}

static void look_for_stall(struct greenio_watched *watched, int64_t now)
{
    uint64_t progress = greenio_monitor_progress(watched);
    int64_t before = watched->looked_ns;
    watched->looked_ns = now;
    if (watched->waiting || progress != watched->seen_progress) {
        watched->seen_progress = progress;
        watched->still_ns = now;
        watched->needed_ns = 0;
        watched->due_ns = 0;
        watched->tell_after_ns = watched->stall_after_ns;
        return;
    }
    if (watched->asked)
        return;
    if (watched->needed_ns == 0) {
        int64_t due_ns = watched->due_ns;
        if (*watched->ring_head != *watched->ring_tail || has_events(watched))
            watched->needed_ns = before;
        else if (due_ns != 0 && due_ns <= now)
            watched->needed_ns = due_ns > watched->still_ns ? due_ns : watched->still_ns;
        else if (due_ns == 0 && now - watched->still_ns >= watched->stall_after_ns) {
            ask(watched);
            return;
        }
    }
    if (watched->needed_ns != 0 && now - watched->needed_ns >= watched->tell_after_ns)
        ask(watched);
}

/* Asks again at each look: whoever is asked may not be where it can be switched. */
static void look_for_slice(struct greenio_watched *watched, int64_t now)
{
    uint64_t switches = watched->switches;
    if (watched->waiting || switches != watched->turn_switches) {
        watched->turn_switches = switches;
        watched->turn_ns = now;
    } else if (now - watched->turn_ns >= watched->slice_ns) {
        watched->slice_switches = switches;
        if (!watched->slice_is_sent) {
            PyErr_SetInterruptEx(watched->slice_signal);
            return;
        }
        struct greenio_system_call call;
        greenio_system_call_of(watched->thread_id, &call);
        if (call.number < 0)
            syscall(SYS_tgkill, getpid(), watched->thread_id, watched->slice_signal);
    }
}

/* Returns whether anything needs another look soon. */
static int look(void)
{
    int busy = 0;
    int64_t now = now_ns();
    for (struct greenio_watched *watched = watched_list; watched != NULL; watched = watched->next) {
        if (watched->slice_ns != 0 && watched->signals != NULL)
            look_for_slice(watched, now);
        if (watched->signals != NULL)
            hooks.forward_signals(watched->signals, &watched->running);
        if (watched->away_signals != NULL)
            hooks.forward_signals(watched->away_signals, &watched->away_running);
        if (watched->stall_after_ns != 0)
            look_for_stall(watched, now);
        if (!watched->waiting) {
            busy = 1;
            continue;
        }
        uint64_t period = watched->idle_periods;
        if (period != watched->seen_idle_period) {
            watched->seen_idle_period = period;
            busy = 1;
        } else if (period != watched->nudged_idle_period) {
            watched->nudged_idle_period = period;
            if (watched->signals != NULL && watched->wake_fd >= 0) {
                uint64_t one = 1;
                ssize_t ignored = write(watched->wake_fd, &one, sizeof one);
                (void)ignored;
            }
        }
    }
    hooks.watch_overflow_handler();
    ticks++;
    return busy;
}

static int64_t tick_ns(void)
{
    int64_t tick = usual_tick_ns;
    for (struct greenio_watched *watched = watched_list; watched != NULL; watched = watched->next) {
        if (watched->slice_ns != 0 && watched->slice_ns / 4 < tick)
            tick = watched->slice_ns / 4;
        /* A stall is told up to two looks late, and whoever is behind a hundred of them waits a hundred times. */
        int64_t part_ns = watched->stall_after_ns / 4 > SHORTEST_TICK_NS ? watched->stall_after_ns / 4 : SHORTEST_TICK_NS;
        if (watched->stall_after_ns != 0 && part_ns < tick)
            tick = part_ns;
    }
    return tick;
}

static int all_wait(void)
{
    for (struct greenio_watched *watched = watched_list; watched != NULL; watched = watched->next)
        if (!__atomic_load_n(&watched->waiting, __ATOMIC_SEQ_CST))
            return 0;
    return 1;
}

static void *watch(void *unused)
{
    int idle_looks = 0;
    (void)unused;
    pthread_setname_np(pthread_self(), "greenio-monitor");
    thread_id = (pid_t)syscall(SYS_gettid);
    pthread_mutex_lock(&lock);
    while (!stopping) {
        idle_looks = look() ? 0 : idle_looks + 1;
        if (idle_looks >= TICKS_BEFORE_SLEEP) {
            __atomic_store_n(&greenio_monitor_asleep, 1, __ATOMIC_SEQ_CST);
            if (!all_wait()) /* one has become busy since the look, and may have found us awake */
                greenio_monitor_asleep = 0;
            while (greenio_monitor_asleep && !stopping)
                pthread_cond_wait(&changed, &lock);
            idle_looks = 0;
        } else {
            struct timespec until;
            clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_nsec += tick_ns();
            if (until.tv_nsec >= 1000000000) {
                until.tv_nsec -= 1000000000;
                until.tv_sec++;
            }
            pthread_cond_timedwait(&changed, &lock, &until);
        }
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

int greenio_monitor_start(void)
{
    if (running || watched_list == NULL)
        return 0;
    if (!condition_ready) {
        pthread_condattr_t attributes;
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&changed, &attributes);
        pthread_condattr_destroy(&attributes);
        condition_ready = 1;
    }
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    stopping = 0;
    greenio_monitor_asleep = 0;
    thread_id = 0;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 128 * 1024);
    int error = pthread_create(&thread, &attributes, watch, NULL);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    running = error == 0;
    return error;
}

void greenio_monitor_stop(void)
{
    if (!running)
        return;
    pthread_mutex_lock(&lock);
    stopping = 1;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    running = 0;
    /* The join returns a moment before the kernel has forgotten the thread, and os.fork counts what the kernel knows. */
    for (int tries = 0; thread_id != 0 && tries < 1000 && syscall(SYS_tgkill, getpid(), thread_id, 0) == 0; tries++)
        sched_yield();
}

int greenio_monitor_add(struct greenio_watched *watched, const struct greenio_monitor_hooks *given)
{
    pthread_mutex_lock(&lock);
    hooks = *given;
    watched->seen_idle_period = watched->nudged_idle_period = 0;
    watched->turn_switches = UINT64_MAX;
    watched->asked = 0;
    watched->seen_progress = UINT64_MAX;
    watched->next = watched_list;
    watched_list = watched;
    pthread_mutex_unlock(&lock);
    int error = greenio_monitor_start();
    if (error != 0)
        greenio_monitor_remove(watched);
    greenio_monitor_rouse();
    return error;
}

void greenio_monitor_remove(struct greenio_watched *watched)
{
    pthread_mutex_lock(&lock);
    struct greenio_watched **link = &watched_list;
    while (*link != NULL && *link != watched)
        link = &(*link)->next;
    if (*link != NULL)
        *link = watched->next;
    int last = watched_list == NULL;
    pthread_mutex_unlock(&lock);
    if (last)
        greenio_monitor_stop();
}

void greenio_monitor_rouse(void)
{
    pthread_mutex_lock(&lock);
    greenio_monitor_asleep = 0;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

void greenio_monitor_after_fork_child(void)
{
    pthread_mutex_init(&lock, NULL);
    condition_ready = 0;
    running = 0;
    watched_list = NULL;
    greenio_monitor_asleep = 0;
}

void greenio_monitor_set_tick(int64_t ns)
{
    usual_tick_ns = ns > 0 ? ns : TICK_NS;
}

uint64_t greenio_monitor_ticks(void)
{
    return ticks;
}
