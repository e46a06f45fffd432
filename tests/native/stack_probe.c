/* stack_probe.c: the extension module stack_probe, the stacks and the fault handler without fibers. Tests only.
 *
 * Stacks and addresses are ints. No Python runs on these stacks: run_* switch to one (ucontext, so that nothing here rests
 * on our own assembly), recurse in C and come back. What should be there is known to the tests, not here. All under the
 * GIL, one call at a time; what the functions share is therefore plain statics.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "overflow.h"

#define FRAME __attribute__((noinline, noipa))

static PyObject *raise_errno(void)
{
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *from_pointer(const void *pointer)
{
    return PyLong_FromVoidPtr((void *)pointer);
}

/* Arguments are unsigned integers, the last ones optional (0). */
static int take(PyObject *args, unsigned long long *into, int least, int most)
{
    Py_ssize_t count = PyTuple_GET_SIZE(args);
    if (count < least || count > most) {
        PyErr_Format(PyExc_TypeError, "%d to %d arguments, not %zd", least, most, count);
        return -1;
    }
    for (int i = 0; i < most; i++) {
        into[i] = 0;
        if (i < count) {
            into[i] = PyLong_AsUnsignedLongLongMask(PyTuple_GET_ITEM(args, i));
            if (PyErr_Occurred())
                return -1;
        }
    }
    return 0;
}

#define STACK(value) ((struct greenio_stack *)(uintptr_t)(value))
#define ADDRESS(value) ((char *)(uintptr_t)(value))

/* ---- stack.h, call by call ---- */

static PyObject *probe_init(PyObject *module, PyObject *args)
{
    int yellow = 0, forced = -1;
    Py_ssize_t hot = GREENIO_HOT_STACK_DEFAULT_BYTES, colours = GREENIO_STACK_DEFAULT_COLOURS;
    (void)module;
    if (!PyArg_ParseTuple(args, "|iinn", &yellow, &forced, &hot, &colours))
        return NULL;
    return greenio_stack_init((size_t)hot, (size_t)colours, yellow, forced) == 0 ? Py_NewRef(Py_None) : raise_errno();
}

static PyObject *probe_guard_kind(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromLong(greenio_stack_guard_kind());
}

static PyObject *probe_has_yellow(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyBool_FromLong(greenio_stack_has_yellow());
}

static PyObject *probe_round(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    return take(args, value, 1, 1) != 0 ? NULL : PyLong_FromSize_t(greenio_stack_round(value[0]));
}

static PyObject *probe_acquire(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    struct greenio_stack *stack = greenio_stack_acquire(value[0]);
    return stack != NULL ? from_pointer(stack) : raise_errno();
}

static PyObject *probe_release(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    greenio_stack_release(STACK(value[0]));
    Py_RETURN_NONE;
}

static PyObject *probe_give_back(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    greenio_stack_give_back();
    Py_RETURN_NONE;
}

static PyObject *probe_discard(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    greenio_stack_discard(STACK(value[0]));
    Py_RETURN_NONE;
}

static PyObject *probe_pool_has_room(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    return take(args, value, 1, 1) != 0 ? NULL : PyBool_FromLong(greenio_stack_pool_has_room(STACK(value[0])));
}

static PyObject *probe_pool_take(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    return take(args, value, 1, 1) != 0 ? NULL : from_pointer(greenio_stack_pool_take(value[0]));
}

static PyObject *probe_set_high_water(PyObject *module, PyObject *args)
{
    unsigned long long value[2] = {0, 0};
    (void)module;
    if (take(args, value, 1, 2) != 0)
        return NULL;
    greenio_stack_set_high_water(value[0], value[1]);
    return PyLong_FromSize_t(greenio_stack_high_water());
}

static PyObject *probe_take_surplus(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    int64_t next_ns = 0;
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    struct greenio_stack *stack = greenio_stack_take_surplus((int64_t)value[0], &next_ns);
    return stack != NULL ? from_pointer(stack) : PyLong_FromLongLong(-next_ns);
}

static PyObject *probe_look(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    greenio_stack_look(value[0]);
    return PyLong_FromSize_t(greenio_stack_to_look_at);
}

struct visit {
    PyObject *list;
    Py_ssize_t most; /* stop at this many */
};

static int visit_one(struct greenio_stack *stack, void *closure)
{
    struct visit *visit = closure;
    PyObject *item = from_pointer(stack);
    if (item == NULL || PyList_Append(visit->list, item) != 0)
        return -1;
    Py_DECREF(item);
    return PyList_GET_SIZE(visit->list) == visit->most;
}

static PyObject *probe_in_use(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    if (take(args, value, 0, 1) != 0)
        return NULL;
    struct visit visit = {PyList_New(0), (Py_ssize_t)value[0]};
    greenio_stack_visit_in_use(visit_one, &visit);
    return visit.list;
}

static PyObject *probe_stats(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    struct greenio_stack_stats s;
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    if (!greenio_stack_stats(value[0], &s))
        Py_RETURN_NONE;
    return Py_BuildValue("{s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:n,s:(nnn)}", "stack_bytes", s.stack_bytes,
                         "slot_bytes", s.slot_bytes, "in_use", s.in_use, "in_use_peak", s.in_use_peak, "pooled", s.pooled,
                         "cold", s.cold, "high_water", s.high_water, "slabs", s.slabs, "reserved_bytes",
                         s.reserved_bytes, "acquired_total", s.acquired_total, "reused_total", s.reused_total,
                         "given_back_total", s.given_back_total, "guards", s.guards[0], s.guards[1], s.guards[2]);
}

static PyObject *probe_canary_intact(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    return take(args, value, 1, 1) != 0 ? NULL : PyBool_FromLong(greenio_stack_canary_intact(STACK(value[0])));
}

static PyObject *probe_find(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    return take(args, value, 1, 1) != 0 ? NULL : from_pointer(greenio_stack_find(ADDRESS(value[0])));
}

static PyObject *probe_locate(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    struct greenio_stack_place place;
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    if (!greenio_stack_locate(ADDRESS(value[0]), &place))
        Py_RETURN_NONE;
    return Py_BuildValue("Nin", from_pointer(place.stack), (int)place.part, (Py_ssize_t)place.stack_bytes);
}

static PyObject *probe_part(PyObject *module, PyObject *args)
{
    unsigned long long value[2];
    (void)module;
    return take(args, value, 2, 2) != 0 ? NULL : PyLong_FromLong(greenio_stack_part(STACK(value[0]), ADDRESS(value[1])));
}

static PyObject *probe_open_yellow(PyObject *module, PyObject *args)
{
    unsigned long long value[2] = {0, 0}; /* a stack; the lowest address, all of the half if it is left out */
    (void)module;
    if (take(args, value, 1, 2) != 0)
        return NULL;
    return greenio_stack_open_yellow(STACK(value[0]), ADDRESS(value[1])) == 0 ? Py_NewRef(Py_None) : raise_errno();
}

static PyObject *probe_close_yellow(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    return greenio_stack_close_yellow(STACK(value[0])) == 0 ? Py_NewRef(Py_None) : raise_errno();
}

static PyObject *probe_yellow_open_count(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromLong(greenio_stack_yellow_open_count);
}

/* The control block of a stack, as a dict. */
static PyObject *probe_block(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    struct greenio_stack *s = STACK(value[0]);
    return Py_BuildValue("{s:N,s:N,s:N,s:n,s:N,s:N,s:i,s:i,s:i,s:(ii),s:n}", "base", from_pointer(s->base), "limit",
                         from_pointer(s->limit), "data", from_pointer(s->data), "data_bytes", s->data_bytes,
                         "thread_state", from_pointer(s->thread_state), "owner", from_pointer(s->owner), "guard_kind",
                         (int)s->guard_kind, "yellow_open", (int)s->yellow_open, "size_class", (int)s->size_class,
                         "taken", (int)s->taken[0], (int)s->taken[1], "block_bytes", sizeof *s);
}

static PyObject *probe_set_thread_state(PyObject *module, PyObject *args)
{
    unsigned long long value[2];
    (void)module;
    if (take(args, value, 2, 2) != 0)
        return NULL;
    STACK(value[0])->thread_state = ADDRESS(value[1]);
    Py_RETURN_NONE;
}

static PyObject *probe_set_owner(PyObject *module, PyObject *args)
{
    unsigned long long value[2];
    (void)module;
    if (take(args, value, 2, 2) != 0)
        return NULL;
    STACK(value[0])->owner = ADDRESS(value[1]);
    Py_RETURN_NONE;
}

/* ---- memory ---- */

static PyObject *probe_peek(PyObject *module, PyObject *args)
{
    unsigned long long value[2];
    (void)module;
    return take(args, value, 2, 2) != 0 ? NULL : PyBytes_FromStringAndSize(ADDRESS(value[0]), (Py_ssize_t)value[1]);
}

static PyObject *probe_fill(PyObject *module, PyObject *args)
{
    unsigned long long value[3];
    (void)module;
    if (take(args, value, 3, 3) != 0)
        return NULL;
    memset(ADDRESS(value[0]), (int)value[2], value[1]);
    Py_RETURN_NONE;
}

/* Write a byte in a forked child with no handler: the child's wait status. */
static PyObject *probe_write_status(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    int status = 0;
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile char *)ADDRESS(value[0]) = 1;
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        return raise_errno();
    return PyLong_FromLong(WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
}

/* Whether the kernel may read the byte: write(2) to a pipe, so that there is no fault. */
static PyObject *probe_is_readable(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    int ends[2];
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    if (pipe(ends) != 0)
        return raise_errno();
    int is_readable = write(ends[1], ADDRESS(value[0]), 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return PyBool_FromLong(is_readable);
}

/* ---- running C on a stack ---- */

static ucontext_t caller_context, stack_context;
static struct greenio_stack *standing;  /* the stack that we switched to, or NULL */
static void (*job)(void);
static volatile int stop_recursing;     /* what RecursionError is to Python */
static size_t job_bytes;                /* how far down to go below the base */
static size_t job_frame_bytes;
static size_t job_depth;                /* frames at the deepest point */
static int job_signal;
static sigjmp_buf way_out;

static void job_entry(void)
{
    job();
}

static PyObject *run(struct greenio_stack *stack, void (*what)(void))
{
    job = what;
    job_depth = 0;
    stop_recursing = 0;
    standing = stack;
    getcontext(&stack_context);
    stack_context.uc_stack.ss_sp = stack->limit;
    stack_context.uc_stack.ss_size = (size_t)(stack->base - stack->limit);
    stack_context.uc_link = &caller_context;
    makecontext(&stack_context, job_entry, 0);
    if (sigsetjmp(way_out, 1) == 0) /* handler_longjmp may end it */
        swapcontext(&caller_context, &stack_context);
    standing = NULL;
    return PyLong_FromSize_t(job_depth);
}

static FRAME void recurse(size_t depth)
{
    volatile char frame[256];
    memset((void *)frame, 0x5A, sizeof frame);
    if (!stop_recursing && (size_t)(standing->base - (char *)frame) < job_bytes)
        recurse(depth + 1);
    else {
        job_depth = depth;
        if (job_signal != 0)
            raise(job_signal);
    }
    frame[0] = frame[1];
}

static void job_recurse(void)
{
    recurse(1);
}

static void job_jump(void)
{
    volatile char *frame = __builtin_alloca(job_frame_bytes);
    frame[0] = 0x5A; /* its lowest byte, nothing in between */
}

/* Recurse `bytes` deep on the stack, and raise `signal` there unless it is 0. The frames that it took; fewer if the hook
 * take_recursion stopped it. */
static PyObject *probe_run_deep(PyObject *module, PyObject *args)
{
    unsigned long long value[3];
    (void)module;
    if (take(args, value, 2, 3) != 0)
        return NULL;
    job_bytes = value[1];
    job_signal = (int)value[2];
    return run(STACK(value[0]), job_recurse);
}

/* Write to the lowest byte of a frame of `bytes` on the stack. */
static PyObject *probe_run_jump(PyObject *module, PyObject *args)
{
    unsigned long long value[2];
    (void)module;
    if (take(args, value, 2, 2) != 0)
        return NULL;
    job_frame_bytes = value[1];
    return run(STACK(value[0]), job_jump);
}

/* ---- overflow.h ---- */

enum { DESCRIBE_LINE, DESCRIBE_FAULT, DESCRIBE_HANG };

static volatile char *volatile bad_address = (char *)1;
static int describe_how;
static int take_result;      /* what take_recursion returns */
static int takes;            /* how often it was called */
static int use_current;

static int hook_take_recursion(struct greenio_stack *stack)
{
    takes++;
    stack->taken[0] = 1234;
    stop_recursing = 1;
    return take_result;
}

static void hook_describe(struct greenio_stack *stack, int fd)
{
    dprintf(fd, "described: owner %p\n", stack->owner);
    if (describe_how == DESCRIBE_FAULT)
        *bad_address = 1;
    while (describe_how == DESCRIBE_HANG)
        pause();
    dprintf(fd, "described to the end\n");
}

static struct greenio_stack *hook_current(void)
{
    return standing;
}

static struct greenio_overflow_hooks hooks;

static PyObject *probe_install(PyObject *module, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"describe", "take_result", "current", NULL};
    (void)module;
    describe_how = DESCRIBE_LINE;
    take_result = 0;
    use_current = 1;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|iii", names, &describe_how, &take_result, &use_current))
        return NULL;
    hooks.take_recursion = hook_take_recursion;
    hooks.describe = hook_describe;
    hooks.current = use_current ? hook_current : NULL;
    return greenio_overflow_install(&hooks) == 0 ? Py_NewRef(Py_None) : raise_errno();
}

static PyObject *probe_takes(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromLong(takes);
}

static PyObject *probe_prepare_thread(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return greenio_overflow_prepare_thread() == 0 ? Py_NewRef(Py_None) : raise_errno();
}

static PyObject *probe_forget_thread(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    greenio_overflow_forget_thread();
    Py_RETURN_NONE;
}

/* (address, bytes) of the calling thread's alternate stack, or None. */
static PyObject *probe_alternate_stack(PyObject *module, PyObject *unused)
{
    stack_t now;
    (void)module, (void)unused;
    if (sigaltstack(NULL, &now) != 0)
        return raise_errno();
    if (now.ss_flags & SS_DISABLE)
        Py_RETURN_NONE;
    return Py_BuildValue("Nn", from_pointer(now.ss_sp), (Py_ssize_t)now.ss_size);
}

static PyObject *probe_recover(PyObject *module, PyObject *args)
{
    unsigned long long value[2];
    (void)module;
    return take(args, value, 2, 2) != 0 ? NULL
                                        : PyLong_FromLong(greenio_overflow_recover(STACK(value[0]), ADDRESS(value[1])));
}

static PyObject *probe_report_and_die(PyObject *module, PyObject *args)
{
    unsigned long long value;
    const char *what;
    (void)module;
    if (!PyArg_ParseTuple(args, "Ks", &value, &what))
        return NULL;
    greenio_overflow_report_and_die(STACK(value), what);
}

/* ---- other people's handlers, to be found behind ours ---- */

static volatile int handled;                /* how often one was called */
static volatile int handled_mask;           /* signals that were blocked in it: 1 SIGSEGV, 2 SIGUSR1 */
static volatile int handled_has_address;    /* its siginfo had the fault's address */
static char *repairable;                    /* a page without access */

static void note_handled(void)
{
    sigset_t now;
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    handled++;
    handled_mask = sigismember(&now, SIGSEGV) | sigismember(&now, SIGUSR1) << 1;
}

static void handler_plain(int number) /* does nothing at all about it */
{
    (void)number;
    note_handled();
    errno = EDOM;
}

static void handler_repair(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    note_handled();
    handled_has_address = info->si_addr == repairable;
    mprotect(repairable, 4096, PROT_READ | PROT_WRITE);
}

static void handler_longjmp(int number)
{
    (void)number;
    note_handled();
    siglongjmp(way_out, 1);
}

static struct sigaction before_reraise;

static void handler_reraise(int number) /* as faulthandler does, but for the report */
{
    note_handled();
    static const char line[] = "handler_reraise was here\n";
    (void)!write(2, line, sizeof line - 1);
    sigaction(SIGSEGV, &before_reraise, NULL);
    raise(number);
}

/* set_handler(name, flags): flags as in SA_*; SIGUSR1 is blocked in all of them. */
static PyObject *probe_set_handler(PyObject *module, PyObject *args)
{
    const char *name;
    int flags = 0;
    struct sigaction action;
    (void)module;
    if (!PyArg_ParseTuple(args, "s|i", &name, &flags))
        return NULL;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGUSR1);
    action.sa_flags = flags;
    if (strcmp(name, "plain") == 0)
        action.sa_handler = handler_plain;
    else if (strcmp(name, "longjmp") == 0)
        action.sa_handler = handler_longjmp;
    else if (strcmp(name, "reraise") == 0)
        action.sa_handler = handler_reraise;
    else if (strcmp(name, "ignore") == 0)
        action.sa_handler = SIG_IGN;
    else if (strcmp(name, "default") == 0)
        action.sa_handler = SIG_DFL;
    else {
        action.sa_sigaction = handler_repair;
        action.sa_flags |= SA_SIGINFO;
    }
    return sigaction(SIGSEGV, &action, &before_reraise) == 0 ? Py_NewRef(Py_None) : raise_errno();
}

/* (calls, blocked signals, whether the address was there), of the handlers above. */
static PyObject *probe_handled(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return Py_BuildValue("iii", handled, handled_mask, handled_has_address);
}

/* A fault that handler_repair repairs. */
static PyObject *probe_fault_repairable(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    if (repairable == NULL)
        repairable = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(repairable, 4096, PROT_NONE);
    *(volatile char *)repairable = 1;
    Py_RETURN_NONE;
}

/* A fault at `address`, out of which handler_longjmp jumps. */
static PyObject *probe_fault_longjmp(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    if (sigsetjmp(way_out, 1) == 0)
        *(volatile char *)ADDRESS(value[0]) = 1;
    Py_RETURN_NONE;
}

static PyObject *probe_fault(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    *(volatile char *)ADDRESS(value[0]) = 1;
    Py_RETURN_NONE;
}

/* raise(SIGSEGV); errno after it, which was 0. */
static PyObject *probe_raise(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    errno = 0;
    raise(SIGSEGV);
    return PyLong_FromLong(errno);
}

/* Whose turn it is: 0 default, 1 ignored, else the handler's address. */
static PyObject *probe_handler(PyObject *module, PyObject *unused)
{
    struct sigaction now;
    (void)module, (void)unused;
    sigaction(SIGSEGV, NULL, &now);
    return from_pointer((void *)now.sa_handler);
}

/* Count the calls of a handler without SA_ONSTACK for a signal: its frame is pushed on the stack that runs. */
static PyObject *probe_count_signal(PyObject *module, PyObject *args)
{
    unsigned long long value[1];
    struct sigaction action;
    (void)module;
    if (take(args, value, 1, 1) != 0)
        return NULL;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler_plain;
    sigaction((int)value[0], &action, NULL);
    Py_RETURN_NONE;
}

#define FUNCTION(name, kind) {#name, (PyCFunction)(void *)probe_##name, kind, NULL}

static PyMethodDef methods[] = {
    FUNCTION(init, METH_VARARGS),
    FUNCTION(guard_kind, METH_NOARGS),
    FUNCTION(has_yellow, METH_NOARGS),
    FUNCTION(round, METH_VARARGS),
    FUNCTION(acquire, METH_VARARGS),
    FUNCTION(release, METH_VARARGS),
    FUNCTION(discard, METH_VARARGS),
    FUNCTION(give_back, METH_NOARGS),
    FUNCTION(pool_has_room, METH_VARARGS),
    FUNCTION(pool_take, METH_VARARGS),
    FUNCTION(set_high_water, METH_VARARGS),
    FUNCTION(take_surplus, METH_VARARGS),
    FUNCTION(look, METH_VARARGS),
    FUNCTION(in_use, METH_VARARGS),
    FUNCTION(stats, METH_VARARGS),
    FUNCTION(canary_intact, METH_VARARGS),
    FUNCTION(find, METH_VARARGS),
    FUNCTION(locate, METH_VARARGS),
    FUNCTION(part, METH_VARARGS),
    FUNCTION(open_yellow, METH_VARARGS),
    FUNCTION(close_yellow, METH_VARARGS),
    FUNCTION(yellow_open_count, METH_NOARGS),
    FUNCTION(block, METH_VARARGS),
    FUNCTION(set_thread_state, METH_VARARGS),
    FUNCTION(set_owner, METH_VARARGS),
    FUNCTION(peek, METH_VARARGS),
    FUNCTION(fill, METH_VARARGS),
    FUNCTION(write_status, METH_VARARGS),
    FUNCTION(is_readable, METH_VARARGS),
    FUNCTION(run_deep, METH_VARARGS),
    FUNCTION(run_jump, METH_VARARGS),
    FUNCTION(install, METH_VARARGS | METH_KEYWORDS),
    FUNCTION(takes, METH_NOARGS),
    FUNCTION(prepare_thread, METH_NOARGS),
    FUNCTION(forget_thread, METH_NOARGS),
    FUNCTION(alternate_stack, METH_NOARGS),
    FUNCTION(recover, METH_VARARGS),
    FUNCTION(report_and_die, METH_VARARGS),
    FUNCTION(set_handler, METH_VARARGS),
    FUNCTION(handled, METH_NOARGS),
    FUNCTION(fault_repairable, METH_NOARGS),
    FUNCTION(fault_longjmp, METH_VARARGS),
    FUNCTION(fault, METH_VARARGS),
    FUNCTION(raise, METH_NOARGS),
    FUNCTION(handler, METH_NOARGS),
    FUNCTION(count_signal, METH_VARARGS),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_def = {PyModuleDef_HEAD_INIT, "stack_probe", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_stack_probe(void)
{
    PyObject *module = PyModule_Create(&module_def);
    if (module == NULL)
        return NULL;
    PyModule_AddIntConstant(module, "MADVISE", GREENIO_GUARD_MADVISE);
    PyModule_AddIntConstant(module, "MPROTECT", GREENIO_GUARD_MPROTECT);
    PyModule_AddIntConstant(module, "CANARY", GREENIO_GUARD_CANARY);
    PyModule_AddIntConstant(module, "RED", GREENIO_PART_RED);
    PyModule_AddIntConstant(module, "YELLOW", GREENIO_PART_YELLOW);
    PyModule_AddIntConstant(module, "STACK", GREENIO_PART_STACK);
    PyModule_AddIntConstant(module, "DATA", GREENIO_PART_DATA);
    PyModule_AddIntConstant(module, "DESCRIBE_FAULT", DESCRIBE_FAULT);
    PyModule_AddIntConstant(module, "DESCRIBE_HANG", DESCRIBE_HANG);
    PyModule_AddIntConstant(module, "GUARD_BYTES", GREENIO_GUARD_BYTES);
    PyModule_AddIntConstant(module, "GUARD_HALF_BYTES", GREENIO_GUARD_HALF_BYTES);
    PyModule_AddIntConstant(module, "SA_NODEFER", SA_NODEFER);
    PyModule_AddIntConstant(module, "SA_RESETHAND", (int)SA_RESETHAND);
    return module;
}
