/* context_walk.c: a program with one fiber, for gdb to walk and for crashing. Tests only.
 *
 *   context_walk switch   starts a fiber, which stops and goes on; gdb breaks at what has a name for it
 *   context_walk return   starts a fiber whose entry returns; tells where that ends, and dies of it
 *
 * No Python, no optimisation of the frames: a backtrace is known beforehand.
 */
#define _GNU_SOURCE /* REG_RIP */
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

#include "context.h"

#define FRAME __attribute__((noinline, noipa))
#define FRAME_STAYS() __asm__ volatile("")

static _Alignas(4096) unsigned char stack[1 << 16];

/* For gdb, by name. */
struct greenio_context *volatile looked_at;
FRAME void fiber_is_running(void) { FRAME_STAYS(); }
FRAME void fiber_is_unstarted(void) { FRAME_STAYS(); }
FRAME void fiber_is_parked(void) { FRAME_STAYS(); }
FRAME void fiber_is_parked_again(void) { FRAME_STAYS(); }

static FRAME void inner(struct greenio_context *previous)
{
    previous = greenio_context_resume(previous, NULL).previous_context;
    fiber_is_running();
    greenio_context_resume(previous, NULL);
}

static FRAME void outer(struct greenio_context *previous)
{
    inner(previous);
    FRAME_STAYS();
}

static void entry(struct greenio_context *previous, void *data)
{
    (void)data;
    outer(previous);
    FRAME_STAYS();
}

static FRAME void switches(void)
{
    looked_at = greenio_context_initialize(stack + sizeof stack, entry);
    fiber_is_unstarted();
    looked_at = greenio_context_resume(looked_at, NULL).previous_context;
    fiber_is_parked();
    looked_at = greenio_context_resume(looked_at, NULL).previous_context;
    fiber_is_parked_again();
}

/* ---- an entry that returns ---- */

struct seen {
    void *from;
    int frames;
    bool at_base;
};

static _Unwind_Reason_Code count_frame(struct _Unwind_Context *frame, void *argument)
{
    struct seen *seen = argument;
    void *ip = (void *)_Unwind_GetIP(frame);
    if (ip == seen->from || (seen->frames > 0 && ip != NULL))
        seen->frames++;
    if (ip == NULL)
        seen->at_base = (unsigned char *)_Unwind_GetCFA(frame) == stack + sizeof stack;
    return seen->frames < 100 ? _URC_NO_REASON : _URC_NORMAL_STOP;
}

static void say(const char *words)
{
    if (write(STDOUT_FILENO, words, strlen(words)) < 0)
        _exit(3);
}

static void illegal_instruction(int signal_number, siginfo_t *info, void *argument)
{
    (void)signal_number;
    const ucontext_t *interrupted = argument;
    struct seen seen = {.from = (void *)interrupted->uc_mcontext.gregs[REG_RIP]};
    say(info->si_addr == (void *)greenio_context_terminate_abnormally ? "in terminate_abnormally\n" : "elsewhere\n");
    say((unsigned char *)interrupted->uc_mcontext.gregs[REG_RSP] == stack + sizeof stack ? "rsp at base\n"
                                                                                          : "rsp elsewhere\n");
    _Unwind_Backtrace(count_frame, &seen);
    say(seen.frames == 1 ? "one frame\n" : "not one frame\n");
    say(seen.at_base ? "walk ends at base\n" : "walk ends elsewhere\n");
    /* SA_RESETHAND: back at the same instruction, it is fatal. */
}

static void entry_that_returns(struct greenio_context *previous, void *data)
{
    (void)previous, (void)data;
}

static void returns(void)
{
    struct sigaction action = {.sa_sigaction = illegal_instruction, .sa_flags = SA_SIGINFO | SA_RESETHAND};
    sigaction(SIGILL, &action, NULL);
    greenio_context_resume(greenio_context_initialize(stack + sizeof stack, entry_that_returns), NULL);
    say("came back\n");
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "switch") == 0)
        switches();
    else if (argc == 2 && strcmp(argv[1], "return") == 0)
        returns();
    else
        return 2;
    return 0;
}
