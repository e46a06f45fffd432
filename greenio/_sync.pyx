# _sync.pyx: being written.
