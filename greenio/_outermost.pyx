"""Python code run as if nothing had called it: the main program of `python -m greenio`.

On the OS thread's own stack and thread state, by its main fiber. While it runs, what called us is not on the interpreter's chain of
frames; an exception comes out with the frames of the code alone, below those of the callers that it then passes.
"""

import os

from libc.errno cimport errno
from libc.stdio cimport FILE, fdopen, stdin


cdef extern from "pystate/outermost.h":
    object greenio_outermost_call(object function, object arguments)
    object greenio_outermost_file(FILE *file, const char *name, object globals)
    object greenio_outermost_print(object exception)
    bint GREENIO_COMMAND_IS_DEDENTED


COMMAND_IS_DEDENTED = bool(GREENIO_COMMAND_IS_DEDENTED)  # `python -c` does that on this version


def call_outermost(fn, *args):
    """Call fn(*args), where stack walks from the inside end; return what it returns."""
    return greenio_outermost_call(fn, args)


def run_file(int fd, str name not None, dict globals not None):
    """Run the source in an open file, as `python file` does, in *globals*.

    Args:
        fd: the file, at its start; it is closed.
        name: what tracebacks call it.
    Raises:
        BaseException: what the program raises, or SyntaxError.
    """
    cdef bytes shown = os.fsencode(name)
    cdef FILE *file = fdopen(fd, "rb")
    if file == NULL:
        raise OSError(errno, os.strerror(errno))
    greenio_outermost_file(file, shown, globals)


def run_stdin(dict globals not None):
    """Run the source that the standard input holds, as `python -` does."""
    greenio_outermost_file(stdin, b"<stdin>", globals)


def print_outermost(exception):
    """What the interpreter does about an exception that left the main program.

    Calls sys.excepthook and sets sys.last_exc. Ends the process for a SystemExit, unless it goes on interactively (-i).
    """
    greenio_outermost_print(exception)
