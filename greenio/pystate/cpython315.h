/* cpython315.h: CPython 3.15 differs from 3.14 in nothing that a fiber's own thread state does not carry by itself
 * (base_frame, last_profiled_frame and jit_exit are new, and each state's own). */
#ifndef GREENIO_CPYTHON315_H
#define GREENIO_CPYTHON315_H

#include "cpython314.h"

#endif
