/* cpython315.h: CPython 3.15 differs from 3.14 in nothing that a fiber's own thread state does not carry by itself
 * (base_frame, last_profiled_frame and jit_exit are new, and each state's own), but for this:
 * - The remote unwinder gives up on the whole process when a thread state has a base frame and no frame of Python above it. So a
 *   state that waits for its next fiber has neither. */
#ifndef GREENIO_CPYTHON315_H
#define GREENIO_CPYTHON315_H

#define GREENIO_VERSION_PUTS_AWAY 1

extern ptrdiff_t greenio_version_base_frame_offset; /* in a thread state; known once one was put away */
#ifdef GREENIO_VERSION_IMPLEMENTATION
ptrdiff_t greenio_version_base_frame_offset;
#endif

static inline void greenio_version_put_away(PyThreadState *state)
{
    greenio_version_base_frame_offset = (char *)state->base_frame - (char *)state;
    state->current_frame = NULL;
    state->base_frame = NULL;
}

static inline void greenio_version_take_out(PyThreadState *state)
{
    if (state->base_frame != NULL)
        return;
    state->base_frame = (struct _PyInterpreterFrame *)((char *)state + greenio_version_base_frame_offset);
    state->current_frame = state->base_frame;
}

#include "cpython314.h"

#endif
