/* system_calls.h: which system call another OS thread of this process sits in, from /proc. Needs no GIL. */
#ifndef GREENIO_SYSTEM_CALLS_H
#define GREENIO_SYSTEM_CALLS_H

struct greenio_system_call {
    int number;       /* -1: none, it runs on a processor or waits for one; -2: not known */
    int descriptor;   /* that it is about; -1: none, or not known */
    const char *name; /* NULL: not one of those that programs usually wait in */
};

/* `thread_id` is the kernel's. */
void greenio_system_call_of(int thread_id, struct greenio_system_call *call);

#endif
