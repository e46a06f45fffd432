/* assistants.c: the threads that work for the monitor; the contract is in assistants.h. */
#define _GNU_SOURCE
#include "assistants.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST_ASSISTANTS 1024       /* at work or waiting; a scheduler has one at work, and as many that carry as it allows */
#define IDLE_SECONDS 5
#define END_PATIENCE_MS 1000
#define STACK_BYTES ((size_t)1024 * 1024) /* formats a traceback and calls logging's handlers */

struct job {
    struct greenio_watched *watched; /* NULL: none */
    uint64_t run_id;
    int thread_id;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;   /* a job is there, or the end */
static int condition_ready;
static int alive;                /* threads */
static int waiting;              /* of them, for a job */
static int carrying;             /* of them, for as long as it takes */
static int ending;
static struct job next_job;      /* not taken yet */
static volatile pid_t last_ended; /* of the kernel's; 0: none */
static greenio_assistant_work work;

static void moment_from_now(struct timespec *moment, int64_t ms)
{
    clock_gettime(CLOCK_MONOTONIC, moment);
    int64_t ns = moment->tv_nsec + ms % 1000 * 1000000;
    moment->tv_sec += ms / 1000 + ns / 1000000000;
    moment->tv_nsec = ns % 1000000000;
}

/* With the lock: the next job, if one comes in time. */
static int take_job(struct job *job)
{
    struct timespec until;
    moment_from_now(&until, IDLE_SECONDS * 1000);
    waiting++;
    int error = 0;
    while (next_job.watched == NULL && !ending && error == 0)
        error = pthread_cond_timedwait(&changed, &lock, &until);
    waiting--;
    *job = next_job;
    next_job.watched = NULL;
    return job->watched != NULL;
}

static void *assist(void *unused)
{
    struct greenio_system_call call;
    struct job job;
    sigset_t all;
    (void)unused;
    sigfillset(&all);
    pthread_setname_np(pthread_self(), "greenio-assist");
    pthread_mutex_lock(&lock);
    while (take_job(&job)) {
        pthread_mutex_unlock(&lock);
        greenio_system_call_of(job.thread_id, &call);
        PyGILState_STATE before = PyGILState_Ensure();
        work(job.watched, job.run_id, &call);
        PyGILState_Release(before);
        pthread_sigmask(SIG_SETMASK, &all, NULL);
        pthread_mutex_lock(&lock);
    }
    alive--;
    last_ended = (pid_t)syscall(SYS_gettid);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static int start_one(void)
{
    if (!condition_ready) {
        pthread_condattr_t attributes;
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&changed, &attributes);
        pthread_condattr_destroy(&attributes);
        condition_ready = 1;
    }
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, &attributes, assist, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    alive += error == 0;
    return error == 0;
}

void greenio_assistants_work(greenio_assistant_work given)
{
    work = given;
}

void greenio_assistants_carry(const sigset_t *mask)
{
    pthread_mutex_lock(&lock);
    carrying++;
    pthread_mutex_unlock(&lock);
    pthread_sigmask(SIG_SETMASK, mask, NULL);
}

void greenio_assistants_let_go(void)
{
    pthread_mutex_lock(&lock);
    carrying--;
    pthread_mutex_unlock(&lock);
}

int greenio_assistants_send(struct greenio_watched *watched)
{
    int sent = 0;
    pthread_mutex_lock(&lock);
    if (!ending && next_job.watched == NULL && (waiting > 0 || (alive < MOST_ASSISTANTS && start_one()))) {
        next_job.watched = watched;
        next_job.run_id = watched->run_id;
        next_job.thread_id = watched->thread_id;
        pthread_cond_signal(&changed);
        sent = 1;
    }
    pthread_mutex_unlock(&lock);
    return sent;
}

void greenio_assistants_end(void)
{
    pthread_mutex_lock(&lock);
    int any = alive > carrying;
    pthread_mutex_unlock(&lock);
    if (!any)
        return;
    PyThreadState *state = PyEval_SaveThread();
    struct timespec until;
    moment_from_now(&until, END_PATIENCE_MS);
    pthread_mutex_lock(&lock);
    ending = 1;
    next_job.watched = NULL;
    pthread_cond_broadcast(&changed);
    for (int error = 0; alive > carrying && error == 0;)
        error = pthread_cond_timedwait(&changed, &lock, &until);
    ending = 0;
    pid_t ended = last_ended;
    last_ended = 0;
    pthread_mutex_unlock(&lock);
    /* It counts as a thread until the kernel has forgotten it, and os.fork counts. */
    for (int tries = 0; ended != 0 && tries < 1000 && syscall(SYS_tgkill, getpid(), ended, 0) == 0; tries++)
        sched_yield();
    PyEval_RestoreThread(state);
}

void greenio_assistants_after_fork_child(void)
{
    pthread_mutex_init(&lock, NULL);
    condition_ready = 0;
    alive = 0;
    carrying = 0;
    waiting = 0;
    ending = 0;
    next_job.watched = NULL;
    last_ended = 0;
}
