/* own_errno.h: errno, asked for anew each time. Comes before everything else in what Cython writes.
 *
 * The C library declares that errno stays where it is for as long as a function runs, so compilers keep its address. A fiber that was parked in
 * between may go on on another OS thread, whose errno is another one.
 */
#ifndef GREENIO_OWN_ERRNO_H
#define GREENIO_OWN_ERRNO_H

#ifndef _GNU_SOURCE
#  define _GNU_SOURCE 1 /* as pyconfig.h, which comes later, says it */
#endif
#include <errno.h>

static __attribute__((noinline, unused)) int *greenio_own_errno(void)
{
    int *volatile place = &errno; /* volatile: or the compiler finds out that the function returns the same each time */
    return place;
}

#undef errno
#define errno (*greenio_own_errno())

#endif
