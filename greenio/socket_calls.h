/* socket_calls.h: the two system calls of a request, and the bytes that it sends. For _socket, _tls and _streams, with the GIL held. */
#ifndef GREENIO_SOCKET_CALLS_H
#define GREENIO_SOCKET_CALLS_H

#include <Python.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Not libc's recv and send: those are places to cancel an OS thread, which costs more than all else in them. */
static inline Py_ssize_t greenio_recv(int fd, void *buffer, size_t size, int flags)
{
    return syscall(SYS_recvfrom, fd, buffer, size, flags, NULL, NULL);
}

static inline Py_ssize_t greenio_send(int fd, const void *data, size_t size, int flags)
{
    return syscall(SYS_sendto, fd, data, size, flags, NULL, 0);
}

/* The bytes to send; PyBuffer_Release afterwards. Bytes objects cannot change, and the caller holds them. 0, or -1 with an exception. */
static inline int greenio_bytes_of(PyObject *data, Py_buffer *view)
{
    if (!PyBytes_CheckExact(data))
        return PyObject_GetBuffer(data, view, PyBUF_SIMPLE);
    view->obj = NULL;
    view->buf = PyBytes_AS_STRING(data);
    view->len = PyBytes_GET_SIZE(data);
    return 0;
}

#endif
