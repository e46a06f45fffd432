/* assistants.h: OS threads that may take the GIL, for what the monitor thread must not do itself.
 *
 * The monitor has seen that a scheduler stands still and sends an assistant. It first notes, without the GIL, which system call the
 * stuck OS thread sits in (with the GIL it would find it waiting for the GIL), then takes the GIL and calls `work`.
 * Assistants are made when they are needed, wait for more work for some seconds, and end. They block all signals.
 */
#ifndef GREENIO_ASSISTANTS_H
#define GREENIO_ASSISTANTS_H

#include <signal.h>

#include "monitor.h"
#include "system_calls.h"

/* With the GIL, on an assistant. `call`: what the scheduler's OS thread sat in. The scheduler may be gone: `watched` is only a
 * name until it was found among the living, with that run_id. */
typedef void (*greenio_assistant_work)(struct greenio_watched *watched, uint64_t run_id, const struct greenio_system_call *call);

/* Who does the work, once. */
void greenio_assistants_work(greenio_assistant_work work);

/* With the GIL, on an assistant at work: it carries fibers from now on, which may last. Nobody waits for its end until somebody says, once
 * and with the GIL, that it was told to let go of them. Until then it blocks the signals in `mask` only. */
void greenio_assistants_carry(const sigset_t *mask);
void greenio_assistants_let_go(void);

/* From the monitor thread, without the GIL: have somebody work on it. 0: nobody can be had; it may be asked again. */
int greenio_assistants_send(struct greenio_watched *watched);

/* With the GIL, which is let go meanwhile: end them. Those at work are waited for, for a second at most; they end by themselves. The
 * monitor sends no more until it is started again. */
void greenio_assistants_end(void);

/* In a forked child: there are none. */
void greenio_assistants_after_fork_child(void);

#endif
