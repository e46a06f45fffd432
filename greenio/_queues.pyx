# _queues.pyx: being written.
