# _task_groups.pyx: being written.
