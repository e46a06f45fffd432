/* context_probe.c: the extension module context_probe, fibers of plain C for test_context.py. Tests only.
 *
 * No Python runs on these stacks: each function builds its fibers, runs them to the end of what is to be seen, drops
 * them and returns what was found. What should be there is known to the tests, not here. All under the GIL, one call
 * at a time; a fiber's variables are therefore plain statics.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <execinfo.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unwind.h>

#include "context_probe.h"

#define FRAME __attribute__((noinline, noipa))
#define FRAME_STAYS() __asm__ volatile("") /* after a call: it is no tail call, the frame is there */

enum { STACK_BYTES = 1 << 16, STACK_FILL = 0xA5, DEPTH_MAX = 64 };

static unsigned char *stack_new(void)
{
    unsigned char *limit = aligned_alloc(4096, STACK_BYTES);
    if (limit == NULL)
        PyErr_NoMemory();
    else
        memset(limit, STACK_FILL, STACK_BYTES);
    return limit;
}

static bool stack_has(const unsigned char *limit, const void *address)
{
    return (const unsigned char *)address >= limit && (const unsigned char *)address < limit + STACK_BYTES;
}

/* ---- Walking, as C++ exceptions do it ---- */

struct walk {
    uint64_t from;                /* the frames before the one with this ip do not count; 0: all count */
    int count;                    /* how many frames */
    uint64_t ips[DEPTH_MAX];      /* innermost first */
    uint64_t caller_registers[6]; /* rbx rbp r12-r15 as the rules have them for the second frame */
    uint64_t caller_sp;           /* its rsp */
    uint64_t last_cfa;            /* of the outermost frame, once its own rules were applied */
    bool ended;                   /* at a frame without a return address */
};

static _Unwind_Reason_Code walk_frame(struct _Unwind_Context *frame, void *argument)
{
    static const int dwarf_numbers[6] = {3, 6, 12, 13, 14, 15}; /* psABI, table 3.36 */
    struct walk *walk = argument;
    uint64_t ip = _Unwind_GetIP(frame);
    if (ip == 0) {
        walk->ended = true;
        walk->last_cfa = _Unwind_GetCFA(frame);
        return _URC_NO_REASON;
    }
    if (walk->count == 0 && walk->from != 0 && walk->from != ip)
        return _URC_NO_REASON;
    if (walk->count == DEPTH_MAX)
        return _URC_NORMAL_STOP;
    if (walk->count == 1) {
        for (int i = 0; i < 6; i++)
            walk->caller_registers[i] = _Unwind_GetGR(frame, dwarf_numbers[i]);
        walk->caller_sp = _Unwind_GetCFA(frame);
    }
    walk->ips[walk->count++] = ip;
    return _URC_NO_REASON;
}

static PyObject *walk_ips(const struct walk *walk)
{
    PyObject *ips = PyTuple_New(walk->count);
    for (int i = 0; ips != NULL && i < walk->count; i++)
        PyTuple_SET_ITEM(ips, i, PyLong_FromUnsignedLongLong(walk->ips[i]));
    return ips;
}

/* ---- Stepping: a walk from each instruction of the switch ---- */

struct step {
    uint64_t pc, sp;
    struct walk walk;
};

enum { STEPS_MAX = 4096 };
static struct step *steps; /* STEPS_MAX of them while stepping */
static int step_count;

static bool in_the_switch(uint64_t pc)
{
    /* All four routines stand in one section, in an order of their own. */
    uint64_t first = UINT64_MAX, last = 0;
    void (*const routines[])(void) = {(void (*)(void))greenio_context_initialize, greenio_context_trampoline,
                                      greenio_context_terminate_abnormally, (void (*)(void))greenio_context_resume};
    for (int i = 0; i < 4; i++) {
        uint64_t start = (uint64_t)routines[i];
        first = start < first ? start : first;
        last = start > last ? start : last;
    }
    return pc >= first && pc < last + 256; /* 256: more than the last routine has */
}

static void step_taken(int signal_number, siginfo_t *info, void *argument)
{
    (void)signal_number, (void)info;
    const ucontext_t *interrupted = argument;
    uint64_t pc = (uint64_t)interrupted->uc_mcontext.gregs[REG_RIP];
    if (!in_the_switch(pc) || step_count == STEPS_MAX)
        return;
    struct step *step = &steps[step_count++];
    step->pc = pc;
    step->sp = (uint64_t)interrupted->uc_mcontext.gregs[REG_RSP];
    step->walk = (struct walk){.from = pc};
    _Unwind_Backtrace(walk_frame, &step->walk);
}

/* (pc, rsp, ips, caller's registers, caller's rsp, outermost CFA or None) */
static PyObject *step_as_tuple(const struct step *step)
{
    const uint64_t *r = step->walk.caller_registers;
    PyObject *cfa = step->walk.ended ? PyLong_FromUnsignedLongLong(step->walk.last_cfa) : Py_NewRef(Py_None);
    return Py_BuildValue("(KKN(KKKKKK)KN)", step->pc, step->sp, walk_ips(&step->walk), r[0], r[1], r[2], r[3], r[4],
                         r[5], step->walk.caller_sp, cfa);
}

/* ---- exchange: two contexts, each with its own values in all registers ---- */

struct side {
    const struct registers *fills;
    struct registers *found;
};
static struct side fiber_side;
static Py_ssize_t rounds;

static FRAME void exchange_rounds(struct greenio_context *previous)
{
    for (Py_ssize_t i = 0; i < rounds; i++)
        previous =
            context_probe_resume(previous, NULL, &fiber_side.fills[i], &fiber_side.found[i]).previous_context;
    greenio_context_resume(previous, NULL);
    abort();
}

static FRAME void exchange_nested(struct greenio_context *previous)
{
    exchange_rounds(previous);
    FRAME_STAYS();
}

static void exchange_entry(struct greenio_context *previous, void *data)
{
    (void)data;
    exchange_nested(previous);
    FRAME_STAYS();
}

static PyObject *exchange(PyObject *self, PyObject *args)
{
    (void)self;
    Py_buffer main_fills, fiber_fills;
    int stepping;
    if (!PyArg_ParseTuple(args, "y*y*p", &main_fills, &fiber_fills, &stepping))
        return NULL;
    rounds = main_fills.len / (Py_ssize_t)sizeof(struct registers);
    PyObject *main_found = PyBytes_FromStringAndSize(NULL, main_fills.len);
    PyObject *fiber_found = PyBytes_FromStringAndSize(NULL, main_fills.len);
    unsigned char *stack = stack_new();
    steps = calloc(STEPS_MAX, sizeof *steps);
    step_count = 0;
    PyObject *step_list = PyList_New(0), *result = NULL;
    if (!main_found || !fiber_found || !stack || !steps || !step_list || fiber_fills.len != main_fills.len)
        goto done;

    struct side side = {main_fills.buf, (struct registers *)PyBytes_AS_STRING(main_found)};
    fiber_side = (struct side){fiber_fills.buf, (struct registers *)PyBytes_AS_STRING(fiber_found)};

    struct sigaction own = {.sa_sigaction = step_taken, .sa_flags = SA_SIGINFO}, others;
    if (stepping) {
        struct walk warm_up = {0}; /* the first walk of a process takes locks and memory */
        _Unwind_Backtrace(walk_frame, &warm_up);
        sigaction(SIGTRAP, &own, &others);
        context_probe_step_begin();
    }
    struct greenio_context *context =
        context_probe_initialize(stack + STACK_BYTES, exchange_entry, 0x1F80, 0x037F);
    for (Py_ssize_t i = 0; i < rounds; i++)
        context = context_probe_resume(context, NULL, &side.fills[i], &side.found[i]).previous_context;
    if (stepping) {
        context_probe_step_end();
        sigaction(SIGTRAP, &others, NULL);
    }
    greenio_context_resume(context, NULL); /* the fiber looks at what it finds last */

    for (int i = 0; i < step_count; i++) {
        PyObject *step = step_as_tuple(&steps[i]);
        if (step == NULL || PyList_Append(step_list, step) < 0)
            goto done;
        Py_DECREF(step);
    }
    result = Py_BuildValue("(OOOKK)", main_found, fiber_found, step_list, (unsigned long long)(uintptr_t)stack,
                           (unsigned long long)(uintptr_t)(stack + STACK_BYTES));
done:
    free(stack);
    free(steps);
    Py_XDECREF(main_found);
    Py_XDECREF(fiber_found);
    Py_XDECREF(step_list);
    PyBuffer_Release(&main_fills);
    PyBuffer_Release(&fiber_fills);
    return result;
}

/* ---- the first entry ---- */

static PyObject *first_entry(PyObject *self, PyObject *args)
{
    (void)self;
    unsigned int mxcsr;
    unsigned short control_word;
    unsigned long long data;
    if (!PyArg_ParseTuple(args, "IHK", &mxcsr, &control_word, &data))
        return NULL;
    unsigned char *stack = stack_new();
    if (stack == NULL)
        return NULL;
    unsigned char *base = stack + STACK_BYTES;
    struct greenio_context *context = context_probe_initialize(base, context_probe_first_entry, mxcsr, control_word);
    PyObject *below = PyBytes_FromStringAndSize((const char *)base - 512, 512);

    context_probe_first_entry_found = (struct first_entry){0};
    struct registers fill = {.mxcsr = mxcsr, .x87_control_word = control_word}, found;
    struct greenio_transfer back = context_probe_resume(context, (void *)(uintptr_t)data, &fill, &found);

    const struct first_entry *entry = &context_probe_first_entry_found;
    PyObject *result = Py_BuildValue(
        "{sKsKsNsKsKsKsKsKsKsKsIsIsKsK}", "base", (unsigned long long)(uintptr_t)base, "context",
        (unsigned long long)(uintptr_t)context, "below", below, "rsp", entry->rsp, "rbp", entry->rbp, "rdi",
        entry->rdi, "rsi", entry->rsi, "rax", entry->rax, "rdx", entry->rdx, "return_address", entry->return_address,
        "mxcsr", entry->mxcsr, "x87_control_word", (unsigned int)entry->x87_control_word, "back_context",
        (unsigned long long)(uintptr_t)back.previous_context, "back_data",
        (unsigned long long)(uintptr_t)back.data);
    free(stack);
    return result;
}

/* ---- transfers: what goes over, both ways ---- */

enum { RING_MAX = 8 };
static struct {
    int size;
    unsigned char *stacks[RING_MAX];
    struct greenio_context *contexts[RING_MAX + 1]; /* [size] is main's */
    uint64_t data[256];                             /* what each resume handed over, as received, in order */
    int from[256];                                  /* on whose stack the context received lies; `size`: main's */
    int count;
} ring;

static uint64_t ring_received(struct greenio_transfer transfer)
{
    int from = ring.size; /* on no fiber's stack: main's */
    for (int i = 0; i < ring.size; i++)
        if (stack_has(ring.stacks[i], transfer.previous_context))
            from = i;
    ring.contexts[from] = transfer.previous_context;
    ring.data[ring.count] = (uint64_t)(uintptr_t)transfer.data;
    ring.from[ring.count++] = from;
    return (uint64_t)(uintptr_t)transfer.data;
}

static void ring_entry(struct greenio_context *previous, void *data)
{
    struct greenio_transfer transfer = {previous, data};
    for (;;) {
        unsigned char here;
        int own = 0;
        while (!stack_has(ring.stacks[own], &here))
            own++;
        uint64_t received = ring_received(transfer);
        transfer = greenio_context_resume(ring.contexts[own + 1], (void *)(uintptr_t)(received * 3 + (uint64_t)own));
    }
}

/* main resumes the first, each the next one, the last one main again: `laps` times. Who got what from whom. */
static PyObject *transfers(PyObject *self, PyObject *args)
{
    (void)self;
    int size, laps;
    unsigned long long data;
    if (!PyArg_ParseTuple(args, "iiK", &size, &laps, &data))
        return NULL;
    if (size < 1 || size > RING_MAX || laps * (size + 1) > 256)
        return PyErr_Format(PyExc_ValueError, "1 to %d fibers, 256 transfers", RING_MAX);
    memset(&ring, 0, sizeof ring);
    ring.size = size;
    for (int i = 0; i < size; i++)
        if ((ring.stacks[i] = stack_new()) == NULL)
            return NULL;
    for (int i = 0; i < size; i++)
        ring.contexts[i] = greenio_context_initialize(ring.stacks[i] + STACK_BYTES, ring_entry);
    for (int i = 0; i < laps; i++)
        data = ring_received(greenio_context_resume(ring.contexts[0], (void *)(uintptr_t)data));
    PyObject *result = PyList_New(ring.count);
    for (int i = 0; result != NULL && i < ring.count; i++)
        PyList_SET_ITEM(result, i, Py_BuildValue("(iK)", ring.from[i], (unsigned long long)ring.data[i]));
    for (int i = 0; i < size; i++)
        free(ring.stacks[i]);
    return result;
}

/* ---- walks from inside a fiber ---- */

static struct walk unwound;
static void *traced[DEPTH_MAX];
static int traced_count;

static FRAME void walk_at_depth(int depth)
{
    if (depth == 0) {
        unwound = (struct walk){0};
        _Unwind_Backtrace(walk_frame, &unwound);
        traced_count = backtrace(traced, DEPTH_MAX);
    } else {
        walk_at_depth(depth - 1);
    }
    FRAME_STAYS();
}

static void walk_entry(struct greenio_context *previous, void *data)
{
    walk_at_depth((int)(intptr_t)data);
    greenio_context_resume(previous, NULL);
    abort();
}

static PyObject *walk(PyObject *self, PyObject *depth)
{
    (void)self;
    long levels = PyLong_AsLong(depth);
    unsigned char *stack = PyErr_Occurred() ? NULL : stack_new();
    if (stack == NULL)
        return NULL;
    struct greenio_context *context = greenio_context_initialize(stack + STACK_BYTES, walk_entry);
    backtrace(traced, 1); /* loads what it needs, on this roomy stack */
    greenio_context_resume(context, (void *)levels);
    free(stack);
    PyObject *from_backtrace = PyTuple_New(traced_count);
    for (int i = 0; from_backtrace != NULL && i < traced_count; i++)
        PyTuple_SET_ITEM(from_backtrace, i, PyLong_FromVoidPtr(traced[i]));
    return Py_BuildValue("(NON)", walk_ips(&unwound), unwound.ended ? Py_True : Py_False, from_backtrace);
}

/* ---- C++ exceptions ---- */

static const char *throw_failed;

static void throw_entry(struct greenio_context *previous, void *data)
{
    int depth = (int)(intptr_t)data;
    for (;;) {
        const char *failed = context_throw_and_catch(depth);
        if (failed != NULL)
            throw_failed = failed;
        previous = greenio_context_resume(previous, NULL).previous_context;
    }
}

/* A fiber and main throw and catch in turn, with a switch between. None, or what went wrong. */
static PyObject *throw_and_catch(PyObject *self, PyObject *args)
{
    (void)self;
    int depth, laps;
    if (!PyArg_ParseTuple(args, "ii", &depth, &laps))
        return NULL;
    unsigned char *stack = stack_new();
    if (stack == NULL)
        return NULL;
    throw_failed = NULL;
    struct greenio_context *context = greenio_context_initialize(stack + STACK_BYTES, throw_entry);
    for (int i = 0; i < laps && throw_failed == NULL; i++) {
        context = greenio_context_resume(context, (void *)(intptr_t)depth).previous_context;
        if (throw_failed == NULL)
            throw_failed = context_throw_and_catch(depth);
    }
    free(stack);
    if (throw_failed == NULL)
        Py_RETURN_NONE;
    return PyUnicode_FromString(throw_failed);
}

static void uncaught_entry(struct greenio_context *previous, void *data)
{
    (void)previous, (void)data;
    context_throw();
    FRAME_STAYS();
}

static PyObject *throw_uncaught(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    unsigned char *stack = stack_new();
    if (stack != NULL)
        greenio_context_resume(greenio_context_initialize(stack + STACK_BYTES, uncaught_entry), NULL);
    return NULL;
}

/* ---- the module ---- */

static PyObject *addresses(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
#define ADDRESS(name) #name, (unsigned long long)(uintptr_t)name
    return Py_BuildValue("{sKsKsKsKsKsKsKsK}", ADDRESS(greenio_context_initialize),
                         ADDRESS(greenio_context_trampoline), ADDRESS(greenio_context_terminate_abnormally),
                         ADDRESS(greenio_context_resume), ADDRESS(context_probe_initialize_return),
                         ADDRESS(context_probe_resume_return), ADDRESS(context_probe_first_entry),
                         ADDRESS(exchange_entry));
}

static PyMethodDef methods[] = {
    {"addresses", addresses, METH_NOARGS, "{name: address} of the routines."},
    {"exchange", exchange, METH_VARARGS, "(main's fills, fiber's fills, stepping) -> what each found, the steps."},
    {"first_entry", first_entry, METH_VARARGS, "(mxcsr, x87 control word, data) -> what an entry finds."},
    {"transfers", transfers, METH_VARARGS, "(fibers, laps, data) -> [(from whom, data)] around a ring."},
    {"walk", walk, METH_O, "(depth) -> return addresses seen in a fiber by two walkers."},
    {"throw_and_catch", throw_and_catch, METH_VARARGS, "(depth, laps) -> None or what went wrong."},
    {"throw_uncaught", throw_uncaught, METH_NOARGS, "A fiber throws a C++ exception; does not return."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "context_probe", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_context_probe(void)
{
    return PyModule_Create(&definition);
}
