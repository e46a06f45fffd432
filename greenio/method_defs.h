/* method_defs.h: change what a method of a builtin type does, in place.
 *
 * A type written in C looks its methods up in its PyMethodDef table at each call. So a change there reaches every object of the type,
 * whoever made it and whenever, and every bound method of one that somebody keeps; no dict of a class or module changes. Each method
 * is called by one of seven conventions, which differ between CPython versions: a handler has one trampoline for each.
 *
 * With the GIL, in one interpreter of the process. Whoever includes this has the variables greenio_home and greenio_originals, which are filled here, and
 * greenio_handlers, and in it by number what each handler is. It gets `arguments`, a tuple, or NULL for none, and `keywords`, a dict or NULL, and returns a new reference, or NULL with an exception set.
 */
#ifndef GREENIO_METHOD_DEFS_H
#define GREENIO_METHOD_DEFS_H

#include <Python.h>

enum {
    GREENIO_LOCK_ACQUIRE,
    GREENIO_LOCK_RELEASE,
    GREENIO_RLOCK_ACQUIRE,
    GREENIO_RLOCK_RELEASE,
    GREENIO_RLOCK_IS_OWNED,
    GREENIO_RLOCK_RECURSION_COUNT,
    GREENIO_RLOCK_RELEASE_SAVE,
    GREENIO_RLOCK_ACQUIRE_RESTORE,
    GREENIO_QUEUE_GET,
    GREENIO_QUEUE_GET_NOWAIT,
    GREENIO_QUEUE_PUT,
    GREENIO_QUEUE_PUT_NOWAIT,
    GREENIO_INTERRUPT,
    GREENIO_IMPORT_ACQUIRE,
    GREENIO_IMPORT_RELEASE,
    GREENIO_SIGNAL_SET,
    GREENIO_SIGNAL_WAKEUP,
    GREENIO_FORK,
    GREENIO_HANDLERS
};

struct greenio_method {        /* one PyMethodDef of a type, or of a module's function */
    PyMethodDef *definition;   /* NULL: none */
    PyCFunction original;
};

/* The type that a method belongs to, for the convention that wants it: modules that were imported twice have one each. */
static PyTypeObject *greenio_defining_type(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    while (type->tp_base != NULL && type->tp_base != &PyBaseObject_Type)
        type = type->tp_base;
    return type;
}

/* The tuple and the dict of a vector call; `*keywords` is NULL if there are none. 0, or -1 with MemoryError. */
static int greenio_collect(PyObject *const *values, Py_ssize_t count, PyObject *names, PyObject **arguments, PyObject **keywords)
{
    Py_ssize_t index, named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    *keywords = NULL;
    *arguments = PyTuple_New(count);
    if (*arguments == NULL)
        return -1;
    for (index = 0; index < count; index++)
        PyTuple_SET_ITEM(*arguments, index, Py_NewRef(values[index]));
    if (named == 0)
        return 0;
    *keywords = PyDict_New();
    for (index = 0; *keywords != NULL && index < named; index++) {
        if (PyDict_SetItem(*keywords, PyTuple_GET_ITEM(names, index), values[count + index]) < 0)
            Py_CLEAR(*keywords);
    }
    if (*keywords == NULL) {
        Py_CLEAR(*arguments);
        return -1;
    }
    return 0;
}

static PyObject *greenio_from_vector(int handler, PyObject *self, PyObject *const *values, Py_ssize_t count, PyObject *names)
{
    PyObject *arguments, *keywords, *result;
    if (count == 0 && (names == NULL || PyTuple_GET_SIZE(names) == 0))
        return greenio_handlers[handler](self, NULL, NULL);
    if (greenio_collect(values, count, names, &arguments, &keywords) < 0)
        return NULL;
    result = greenio_handlers[handler](self, arguments, keywords);
    Py_DECREF(arguments);
    Py_XDECREF(keywords);
    return result;
}

/* The tables are the whole process's. In another interpreter, which may have a GIL of its own and has no fibers, methods do what they did:
 * by handler and convention, as several names of one method have the same handler. */
#define GREENIO_TRAMPOLINE(N, convention, parameters, original_arguments, call) \
    static PyObject *greenio_##convention##_##N parameters \
    { \
        if (PyInterpreterState_Get() != greenio_home) \
            return ((PyObject *(*)parameters)greenio_originals[N][greenio_convention_##convention])original_arguments; \
        return call; \
    }

enum {
    greenio_convention_varargs,
    greenio_convention_keywords,
    greenio_convention_none,
    greenio_convention_one,
    greenio_convention_fast,
    greenio_convention_fast_keywords,
    greenio_convention_method,
};

#define GREENIO_TRAMPOLINES(N) \
    GREENIO_TRAMPOLINE(N, varargs, (PyObject *self, PyObject *arguments), \
        (self, arguments), greenio_handlers[N](self, arguments, NULL)) \
    GREENIO_TRAMPOLINE(N, keywords, (PyObject *self, PyObject *arguments, PyObject *keywords), \
        (self, arguments, keywords), greenio_handlers[N](self, arguments, keywords)) \
    GREENIO_TRAMPOLINE(N, none, (PyObject *self, PyObject *none), \
        (self, none), greenio_handlers[N](self, NULL, NULL)) \
    GREENIO_TRAMPOLINE(N, one, (PyObject *self, PyObject *argument), \
        (self, argument), greenio_from_vector(N, self, &argument, 1, NULL)) \
    GREENIO_TRAMPOLINE(N, fast, (PyObject *self, PyObject *const *values, Py_ssize_t count), \
        (self, values, count), greenio_from_vector(N, self, values, count, NULL)) \
    GREENIO_TRAMPOLINE(N, fast_keywords, (PyObject *self, PyObject *const *values, Py_ssize_t count, PyObject *names), \
        (self, values, count, names), greenio_from_vector(N, self, values, count, names)) \
    GREENIO_TRAMPOLINE(N, method, \
        (PyObject *self, PyTypeObject *type, PyObject *const *values, Py_ssize_t count, PyObject *names), \
        (self, type, values, count, names), greenio_from_vector(N, self, values, count, names))

#define GREENIO_ROW(N) \
    { (void *)greenio_varargs_##N, (void *)greenio_keywords_##N, (void *)greenio_none_##N, (void *)greenio_one_##N, \
      (void *)greenio_fast_##N, (void *)greenio_fast_keywords_##N, (void *)greenio_method_##N }

GREENIO_TRAMPOLINES(0) GREENIO_TRAMPOLINES(1) GREENIO_TRAMPOLINES(2) GREENIO_TRAMPOLINES(3) GREENIO_TRAMPOLINES(4)
GREENIO_TRAMPOLINES(5) GREENIO_TRAMPOLINES(6) GREENIO_TRAMPOLINES(7) GREENIO_TRAMPOLINES(8) GREENIO_TRAMPOLINES(9)
GREENIO_TRAMPOLINES(10) GREENIO_TRAMPOLINES(11) GREENIO_TRAMPOLINES(12) GREENIO_TRAMPOLINES(13) GREENIO_TRAMPOLINES(14)
GREENIO_TRAMPOLINES(15) GREENIO_TRAMPOLINES(16) GREENIO_TRAMPOLINES(17)

static void *const greenio_trampolines[GREENIO_HANDLERS][7] = {
    GREENIO_ROW(0), GREENIO_ROW(1), GREENIO_ROW(2), GREENIO_ROW(3), GREENIO_ROW(4), GREENIO_ROW(5), GREENIO_ROW(6),
    GREENIO_ROW(7), GREENIO_ROW(8), GREENIO_ROW(9), GREENIO_ROW(10), GREENIO_ROW(11), GREENIO_ROW(12), GREENIO_ROW(13),
    GREENIO_ROW(14), GREENIO_ROW(15), GREENIO_ROW(16), GREENIO_ROW(17),
};

static int greenio_convention(int flags)
{
    switch (flags & (METH_VARARGS | METH_KEYWORDS | METH_NOARGS | METH_O | METH_FASTCALL | METH_METHOD)) {
    case METH_VARARGS: return 0;
    case METH_VARARGS | METH_KEYWORDS: return 1;
    case METH_NOARGS: return 2;
    case METH_O: return 3;
    case METH_FASTCALL: return 4;
    case METH_FASTCALL | METH_KEYWORDS: return 5;
    case METH_METHOD | METH_FASTCALL | METH_KEYWORDS: return 6;
    default: return -1;
    }
}

/* Find the method behind a descriptor of `type`, or behind a builtin function (`type` NULL). 0, or -1: it is no such thing. */
static int greenio_method_find(struct greenio_method *method, PyObject *callable, PyObject *type)
{
    PyMethodDef *definition;
    if (type != NULL && Py_IS_TYPE(callable, &PyMethodDescr_Type))
        definition = ((PyMethodDescrObject *)callable)->d_method;
    else if (type == NULL && PyCFunction_Check(callable))
        definition = ((PyCFunctionObject *)callable)->m_ml;
    else
        return -1;
    if (greenio_convention(definition->ml_flags) < 0)
        return -1;
    method->definition = definition;
    method->original = definition->ml_meth;
    return 0;
}

static void greenio_method_change(struct greenio_method *method, int handler)
{
    int convention = greenio_convention(method->definition->ml_flags);
    greenio_home = PyInterpreterState_Get();
    greenio_originals[handler][convention] = (void *)method->original;
    method->definition->ml_meth = (PyCFunction)greenio_trampolines[handler][convention];
}

static void greenio_method_put_back(struct greenio_method *method)
{
    if (method->definition != NULL)
        method->definition->ml_meth = method->original;
}

/* What the method did before; `arguments` and `keywords` as a handler's. */
static PyObject *greenio_method_call(const struct greenio_method *method, PyObject *self, PyObject *arguments, PyObject *keywords)
{
    void *original = (void *)method->original;
    PyObject *none = NULL, *names = NULL, *result = NULL;
    PyObject *const *values;
    PyObject **all = NULL;
    PyObject *key, *value;
    Py_ssize_t count, named, position = 0, index;
    int convention = greenio_convention(method->definition->ml_flags);
    if (convention == 2)
        return ((PyCFunction)original)(self, NULL);
    if (arguments == NULL) {
        none = arguments = PyTuple_New(0);
        if (none == NULL)
            return NULL;
    }
    count = PyTuple_GET_SIZE(arguments);
    values = &PyTuple_GET_ITEM(arguments, 0);
    named = keywords == NULL ? 0 : PyDict_Size(keywords);
    if (named > 0 && convention > 4) {
        all = PyMem_Calloc(count + named, sizeof *all);
        names = PyTuple_New(named);
        if (all == NULL || names == NULL) {
            PyErr_NoMemory();
            goto done;
        }
        for (index = 0; index < count; index++)
            all[index] = values[index];
        for (index = 0; PyDict_Next(keywords, &position, &key, &value); index++) {
            PyTuple_SET_ITEM(names, index, Py_NewRef(key));
            all[count + index] = value;
        }
        values = all;
    }
    switch (convention) {
    case 0: result = ((PyCFunction)original)(self, arguments); break;
    case 1: result = ((PyCFunctionWithKeywords)original)(self, arguments, keywords); break;
    case 3: result = ((PyCFunction)original)(self, count > 0 ? values[0] : Py_None); break;
    case 4: result = ((PyObject *(*)(PyObject *, PyObject *const *, Py_ssize_t))original)(self, values, count); break;
    case 5:
        result = ((PyObject *(*)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *))original)(self, values, count, names);
        break;
    default: result = ((PyCMethod)original)(self, greenio_defining_type(self), values, count, names); break;
    }
done:
    PyMem_Free(all);
    Py_XDECREF(names);
    Py_XDECREF(none);
    return result;
}

#endif
