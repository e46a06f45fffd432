/* pystate_probe.c: thread states as C code sees them. Module pystate_probe, for tests/test_pystate.py; public API only.
 *
 *   state()                  what the current thread state holds, as a dict
 *   idents()                 the thread_id of every thread state of the interpreter
 *   ensure(fn)               let go of the GIL, PyGILState_Ensure, fn(), release: was it our own state, and fn's result
 *   foreign(fn)              the same on an OS thread of its own that Python knows nothing of
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>

static PyObject *probe_state(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    PyThreadState *state = PyThreadState_Get();
#if PY_VERSION_HEX >= 0x030E0000
    long c_recursion = -1, depth = state->py_recursion_limit - state->py_recursion_remaining;
#elif PY_VERSION_HEX >= 0x030C0000
    long c_recursion = state->c_recursion_remaining, depth = state->py_recursion_limit - state->py_recursion_remaining;
#else
    long c_recursion = -1, depth = state->recursion_limit - state->recursion_remaining;
#endif
#if PY_VERSION_HEX >= 0x030D0000
    int locals = state->dict != NULL || state->threading_local_key != NULL || state->threading_local_sentinel != NULL;
#else
    int locals = state->dict != NULL;
#endif
    return Py_BuildValue("{s:K,s:k,s:K,s:n,s:l,s:l,s:O,s:i,s:O}",
                         "address", (unsigned long long)(uintptr_t)state,
                         "ident", state->thread_id,
                         "chunk", (unsigned long long)(uintptr_t)state->datastack_chunk,
                         "chunk_bytes", (Py_ssize_t)state->datastack_chunk->size,
                         "depth", depth,
                         "c_recursion", c_recursion,
                         "locals", locals ? Py_True : Py_False,
                         "gilstate_counter", state->gilstate_counter,
                         "gilstate_is_current", PyGILState_GetThisThreadState() == state ? Py_True : Py_False);
}

static PyObject *probe_idents(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    PyObject *list = PyList_New(0);
    PyThreadState *state = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    for (; list != NULL && state != NULL; state = PyThreadState_Next(state)) {
        PyObject *ident = PyLong_FromUnsignedLong(state->thread_id);
        if (ident == NULL || PyList_Append(list, ident) < 0)
            Py_CLEAR(list);
        Py_XDECREF(ident);
    }
    return list;
}

struct call {
    PyObject *function;
    PyObject *result;
    PyThreadState *seen;
    PyThreadState *seen_after;
};

static void *call_with_gil(void *argument)
{
    struct call *call = argument;
    PyGILState_STATE gil = PyGILState_Ensure();
    call->seen = PyThreadState_Get();
    call->result = PyObject_CallNoArgs(call->function);
    if (call->result == NULL)
        PyErr_WriteUnraisable(call->function);
    call->seen_after = PyThreadState_Get();
    PyGILState_Release(gil);
    return NULL;
}

static PyObject *result_of(struct call *call, int is_right)
{
    if (call->result == NULL)
        call->result = Py_NewRef(Py_None);
    return Py_BuildValue("(NN)", PyBool_FromLong(is_right && call->seen == call->seen_after), call->result);
}

static PyObject *probe_ensure(PyObject *self, PyObject *function)
{
    (void)self;
    struct call call = {.function = function};
    PyThreadState *state = PyThreadState_Get();
    Py_BEGIN_ALLOW_THREADS
    call_with_gil(&call);
    Py_END_ALLOW_THREADS
    return result_of(&call, call.seen == state && PyThreadState_Get() == state);
}

static PyObject *probe_foreign(PyObject *self, PyObject *function)
{
    (void)self;
    struct call call = {.function = function};
    PyThreadState *state = PyThreadState_Get();
    pthread_t thread;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = pthread_create(&thread, NULL, call_with_gil, &call);
    if (error == 0)
        pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS
    if (error != 0)
        return PyErr_Format(PyExc_OSError, "pthread_create: %d", error);
    return result_of(&call, call.seen != state && PyThreadState_Get() == state);
}

static PyMethodDef methods[] = {
    {"state", probe_state, METH_NOARGS, NULL},
    {"idents", probe_idents, METH_NOARGS, NULL},
    {"ensure", probe_ensure, METH_O, NULL},
    {"foreign", probe_foreign, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {.m_base = PyModuleDef_HEAD_INIT, .m_name = "pystate_probe", .m_methods = methods};

PyMODINIT_FUNC PyInit_pystate_probe(void)
{
    return PyModule_Create(&definition);
}
