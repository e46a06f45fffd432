# _select.pyx: being written.
