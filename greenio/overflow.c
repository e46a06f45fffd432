/* overflow.c: what happens when a fiber's C stack runs out. The contract is in overflow.h.
 *
 * The handler must never make things worse for a program that has faults of its own, so most of this file is manners:
 *   - what was installed before is kept whole (mask, flags) and called as the kernel would have called it. It is called
 *     rather than put back, since one that repairs the fault and returns, or leaves by siglongjmp, must find us in place
 *     at the next fault;
 *   - a handler that is installed after us goes to the top of our list as soon as greenio_overflow_install looks again,
 *     and we stand in front once more. It may hold us for its predecessor and raise into us: then the one below it in the
 *     list is next, and below the last one is the kernel's default. So every way leads to an end;
 *   - one that returns and has repaired nothing (faulthandler after faulthandler.disable()) may be waiting for another thread
 *     to do so, hence it is called again when the fault comes back; but not for ever: then the one below it is asked.
 * The default action is taken by restoring it and returning: the instruction faults again, and the process ends exactly as
 * without us, its core file showing the right place.
 *
 * Thread-local variables are of the initial-exec model: the others may allocate at the first use, here in a handler.
 */
#define _GNU_SOURCE
#include "overflow.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define ALTERNATE_STACK_BYTES ((size_t)64 * 1024)
#define ALTERNATE_STACK_GUARD_BYTES ((size_t)4096)
/* One that is there already and as large as this is good enough for the report; faulthandler's is smaller. */
#define ALTERNATE_STACK_ENOUGH_BYTES ((size_t)32 * 1024)

/* The yellow half is closed again when its fiber has at least this much below its stack pointer: closed at the very edge,
 * the next call would open it again. */
#define RECOVER_MARGIN_BYTES ((size_t)16 * 1024)

/* Recursion may be left untaken until so many pages of the yellow half are open. */
#define POSTPONE_MAX_PAGES 8

/* What the kernel may want to push for a signal handler: all vector and tile registers, with room to spare. */
#define SIGNAL_FRAME_MAX_BYTES ((size_t)16 * 1024)

#ifndef GREENIO_DESCRIBE_SECONDS
#  define GREENIO_DESCRIBE_SECONDS 5 /* then the process ends, described or not */
#endif

#define CHAIN_MAX 16
#define CHAIN_VERSIONS 16

#define FUTILE_CALLS_MAX 1000 /* of one handler in a row, for one fault */

#ifndef MADV_POPULATE_READ /* Linux 5.14; older headers lack them */
#  define MADV_POPULATE_READ 22
#  define MADV_POPULATE_WRITE 23
#endif

/* Bits of a page fault's error code, as the processor pushes it (Intel SDM vol. 3, 4.7) */
#define FAULT_WRITE 2
#define FAULT_FETCH 16

/* The handlers behind us: the last one is asked first, below entries[0] is the default action. A version that was published
 * does not change (but for SA_RESETHAND), so that handlers on other threads can read it; it is written again only after all
 * the others were. */
struct chain {
    int count;
    struct sigaction entries[CHAIN_MAX];
};

static struct chain chain_versions[CHAIN_VERSIONS];
static unsigned chain_newest;            /* index; atomic */
static const struct greenio_overflow_hooks *installed_hooks;
static volatile char is_installing;      /* somebody is changing the chain */
static volatile sig_atomic_t is_dying;   /* the default action was restored: install must not undo that */
static volatile char is_reporting;       /* some thread writes a report */

struct thread_record {
    /* passing on */
    uintptr_t passing_frame;    /* where the handler stands that is calling a previous one; 0: none */
    int level;                  /* index in the chain of the one called last */
    char is_raised_again;       /* by the one called last, while SIGSEGV was blocked: comes as soon as we return */
    int futile_calls;           /* of the one called last, for the fault below; 0: no such fault */
    uintptr_t futile_instruction;
    uintptr_t futile_address;
    /* reporting */
    volatile char is_describing;
    /* taking recursion */
    const ucontext_t *interrupted; /* by the fault being handled; NULL: its registers do not matter */
    /* alternate stack */
    char *memory;               /* made by prepare_thread, or NULL; its guard comes first */
    size_t memory_bytes;
    stack_t replaced;           /* what was there before; to be put back */
};

static __thread struct thread_record self __attribute__((tls_model("initial-exec")));

/* What asm/ is for calls, this is for signals: the registers of the code that was interrupted. */
static uintptr_t interrupted_stack_pointer(const ucontext_t *context)
{
    return (uintptr_t)context->uc_mcontext.gregs[REG_RSP];
}

static uintptr_t interrupted_instruction(const ucontext_t *context)
{
    return (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
}

static int interrupted_in_register(const ucontext_t *context, int32_t low, int32_t high)
{
    for (int i = REG_R8; i <= REG_RCX; i++) { /* the general registers but rsp */
        int32_t value = (int32_t)context->uc_mcontext.gregs[i];
        if (value >= low && value <= high)
            return 1;
    }
    return 0;
}

static int interrupted_error(const ucontext_t *context)
{
    return (int)context->uc_mcontext.gregs[REG_ERR];
}

/* ---- ends ---------------------------------------------------------------------------------------------------------- */

static void set_action(int number, void (*handler)(int), struct sigaction *before)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, before);
}

static void unblock(int number)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void restore_default(void)
{
    is_dying = 1;
    set_action(SIGSEGV, SIG_DFL, NULL);
}

/* End the process by SIGSEGV, here and now. */
static void __attribute__((noreturn)) end_process(void)
{
    restore_default();
    unblock(SIGSEGV);
    raise(SIGSEGV);
    _exit(128 + SIGSEGV);
}

static void give_up(int number)
{
    (void)number;
    end_process();
}

/* ---- report -------------------------------------------------------------------------------------------------------- */

struct text {
    size_t length;
    char bytes[512];
};

static void add(struct text *text, const char *more)
{
    while (*more != '\0' && text->length < sizeof text->bytes)
        text->bytes[text->length++] = *more++;
}

static void add_number(struct text *text, size_t number)
{
    char digits[24];
    char *first = digits + sizeof digits - 1;
    *first = '\0';
    do {
        *--first = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    add(text, first);
}

static void write_text(const struct text *text)
{
    size_t done = 0;
    while (done < text->length) {
        ssize_t count = write(STDERR_FILENO, text->bytes + done, text->length - done);
        if (count < 0 && errno != EINTR)
            return;
        if (count > 0)
            done += (size_t)count;
    }
}

/* `stack` is the one to describe (NULL: nobody's), `stack_bytes` its usable size (0: not known). */
static void report(struct greenio_stack *stack, const char *what, size_t stack_bytes)
{
    /* Two threads at once: the second waits until the first has ended the process, or has taken too long. */
    const struct timespec pause = {0, 10 * 1000 * 1000};
    for (int i = 0; __atomic_exchange_n(&is_reporting, 1, __ATOMIC_ACQUIRE) != 0 && i < GREENIO_DESCRIBE_SECONDS * 100; i++)
        nanosleep(&pause, NULL);

    struct text text = {.length = 0};
    add(&text, "greenio: C stack overflow: ");
    add(&text, what);
    if (stack_bytes != 0) {
        add(&text, " (");
        add_number(&text, stack_bytes);
        add(&text, " bytes usable; see stack_size= of run and spawn, and on_big_stack)");
    }
    add(&text, "\n");
    write_text(&text);

    const struct greenio_overflow_hooks *hooks = __atomic_load_n(&installed_hooks, __ATOMIC_ACQUIRE);
    if (stack != NULL && hooks != NULL && hooks->describe != NULL) {
        /* The interpreter may be in any state: describing it may fault, which the handler notices by the flag, or hang. */
        struct sigaction before;
        set_action(SIGALRM, give_up, &before);
        unblock(SIGALRM);
        self.is_describing = 1;
        alarm(GREENIO_DESCRIBE_SECONDS);
        hooks->describe(stack, STDERR_FILENO);
        alarm(0);
        self.is_describing = 0;
        sigaction(SIGALRM, &before, NULL);
    }
    __atomic_store_n(&is_reporting, 0, __ATOMIC_RELEASE);
}

void greenio_overflow_report_and_die(struct greenio_stack *stack, const char *what)
{
    struct greenio_stack_place place = {0};
    if (stack != NULL)
        greenio_stack_locate(stack, &place);
    report(stack, what, place.stack_bytes);
    unblock(SIGSEGV);
    raise(SIGSEGV); /* through our handler, so that those behind it (faulthandler) have their say */
    end_process();
}

/* ---- passing on ---------------------------------------------------------------------------------------------------- */

/* Call a handler as the kernel would: with its mask, and without itself unless it asked for that. */
static void call_previous(struct sigaction *previous, void (*handler)(int), int number, siginfo_t *info, void *context)
{
    sigset_t block = previous->sa_mask, before;
    if (!(previous->sa_flags & SA_NODEFER))
        sigaddset(&block, number);
    if (previous->sa_flags & (int)SA_RESETHAND)
        __atomic_store_n(&previous->sa_handler, SIG_DFL, __ATOMIC_RELAXED);
    sigset_t pending;
    pthread_sigmask(SIG_BLOCK, &block, &before);
    if (previous->sa_flags & SA_SIGINFO)
        ((void (*)(int, siginfo_t *, void *))(void *)handler)(number, info, context);
    else
        handler(number);
    if (sigismember(&block, number) && sigpending(&pending) == 0 && sigismember(&pending, number))
        self.is_raised_again = 1;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Whether the access that faulted would fault again, as far as the kernel tells: it is asked to do all but the access. */
static int faults_still(const siginfo_t *info, const ucontext_t *context)
{
    uintptr_t page = (uintptr_t)info->si_addr & ~(uintptr_t)4095;
    int error = interrupted_error(context);
    if (info->si_code == SI_KERNEL || (error & FAULT_FETCH)) /* cannot be asked */
        return 1;
    return madvise((void *)page, 4096, error & FAULT_WRITE ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) != 0;
}

/* Whether this is the fault that came last, and nothing was repaired. */
static int is_repeat(const siginfo_t *info, const ucontext_t *context)
{
    return info->si_code > 0 && self.futile_calls > 0 && interrupted_instruction(context) == self.futile_instruction
           && (uintptr_t)info->si_addr == self.futile_address;
}

/* After a handler returned: did it do anything about the fault? `instruction` and `stack_pointer` are from before. */
static void note_futile_call(const siginfo_t *info, const ucontext_t *context, uintptr_t instruction, uintptr_t stack_pointer)
{
    uintptr_t address = (uintptr_t)info->si_addr;
    if (interrupted_instruction(context) != instruction || interrupted_stack_pointer(context) != stack_pointer
        || !faults_still(info, context)) {
        self.futile_calls = 0;
        return;
    }
    if (!is_repeat(info, context))
        self.futile_calls = 0;
    self.futile_calls++;
    self.futile_instruction = instruction;
    self.futile_address = address;
}

/* Treat the signal as if our handler, which stands at `frame`, were not there. `is_nested`: it came out of a handler that we
 * called. */
static void pass_on(int number, siginfo_t *info, ucontext_t *context, uintptr_t frame, int is_nested)
{
    struct chain *chain = &chain_versions[__atomic_load_n(&chain_newest, __ATOMIC_ACQUIRE)];
    int is_forced = info->si_code > 0; /* the kernel's own, which cannot be ignored */
    /* Whether returning makes it happen again. SI_KERNEL may stand for a handler's frame that found no room. */
    int is_restartable = is_forced && info->si_code != SI_KERNEL;
    int level = chain->count - 1;
    if (is_nested || (self.is_raised_again && !is_forced))
        level = self.level - 1;
    else if (is_repeat(info, context))
        level = self.futile_calls % FUTILE_CALLS_MAX == 0 ? self.level - 1 : self.level;
    if (level >= chain->count) /* it is another chain by now */
        level = chain->count - 1;
    self.level = level;
    self.is_raised_again = 0;

    struct sigaction *previous = level >= 0 ? &chain->entries[level] : NULL;
    void (*handler)(int) = previous != NULL ? __atomic_load_n(&previous->sa_handler, __ATOMIC_RELAXED) : SIG_DFL;
    if (handler == SIG_DFL || handler == SIG_IGN) {
        if (is_restartable)
            restore_default();
        else if (is_forced || handler == SIG_DFL)
            end_process();
        return;
    }
    uintptr_t outer_frame = self.passing_frame;
    uintptr_t instruction = interrupted_instruction(context), stack_pointer = interrupted_stack_pointer(context);
    self.passing_frame = frame;
    call_previous(previous, handler, number, info, context);
    self.passing_frame = outer_frame;
    if (is_forced && !is_nested && !self.is_raised_again)
        note_futile_call(info, context, instruction, stack_pointer);
}

/* ---- the handler --------------------------------------------------------------------------------------------------- */

/* The slot that this OS thread stands on, or NULL. A stack pointer that jumped may be in somebody else's slot, so the hook
 * is asked if there is one. */
static struct greenio_stack *standing_on(const void *stack_pointer)
{
    const struct greenio_overflow_hooks *hooks = __atomic_load_n(&installed_hooks, __ATOMIC_ACQUIRE);
    if (hooks != NULL && hooks->current != NULL)
        return hooks->current();
    return greenio_stack_find(stack_pointer);
}

/* Whether the fiber goes on: its yellow half is open down to `lowest` now, and was not before, and it will raise RecursionError
 * soon. */
static int go_on_in_yellow(struct greenio_stack *stack, const char *lowest)
{
    const struct greenio_overflow_hooks *hooks = __atomic_load_n(&installed_hooks, __ATOMIC_ACQUIRE);
    const char *before = greenio_stack_open_limit(stack);
    if (hooks == NULL || hooks->take_recursion == NULL || greenio_stack_open_yellow(stack, lowest) != 0
        || greenio_stack_open_limit(stack) == before)
        return 0;
    if (stack->yellow_open > POSTPONE_MAX_PAGES)
        self.interrupted = NULL;
    if (hooks->take_recursion(stack) >= 0)
        return 1;
    if (before == stack->limit)
        greenio_stack_close_yellow(stack);
    return 0;
}

int greenio_overflow_in_register(int32_t value)
{
    return self.interrupted != NULL && interrupted_in_register(self.interrupted, value - 1, value + 1);
}

static void report_fault(struct greenio_stack *standing, const struct greenio_stack_place *touched)
{
    const char *what;
    struct greenio_stack_place place;
    if (standing == NULL)
        what = "the guard of a fiber's stack was touched by code that stands on no fiber's stack";
    else if (touched->stack == standing)
        what = "a fiber hit the guard of its stack";
    else if (touched->stack == NULL)
        what = "a fiber jumped over the guard of its stack and hit the guard of an unused stack";
    else
        what = "a fiber jumped over the guard of its stack and hit another fiber's guard";
    if (standing == NULL || !greenio_stack_locate(standing, &place))
        place = *touched;
    report(place.stack, what, place.stack_bytes);
}

/* A real fault at `address`: 1 if the fiber goes on, 0 if it is to be passed on, reported if it was in a guard. */
static int handle_fault(const void *address, const void *stack_pointer)
{
    struct greenio_stack_place touched;
    if (!greenio_stack_locate(address, &touched)
        || (touched.part != GREENIO_PART_RED && touched.part != GREENIO_PART_YELLOW))
        return 0; /* in a slot, but not in its guard: an attempt to execute data, say */

    struct greenio_stack *standing = standing_on(stack_pointer);
    if (touched.part == GREENIO_PART_YELLOW && touched.stack != NULL && touched.stack == standing
        && greenio_stack_find(stack_pointer) == standing && go_on_in_yellow(standing, address))
        return 1;
    report_fault(standing, &touched);
    return 0;
}

/* The kernel found no room for the frame of some other signal's handler (one without SA_ONSTACK): SIGSEGV comes in its
 * place, with no address, and that signal is lost. An access to an address that is none looks the same; it comes again once
 * the yellow half is open further, and is then not close to the end of the stack any more. 1 if the fiber goes on. */
static int handle_lost_signal(const char *stack_pointer)
{
    struct greenio_stack *standing = standing_on(stack_pointer);
    struct greenio_stack_place place;
    if (standing == NULL || !greenio_stack_locate(stack_pointer, &place) || place.stack != standing)
        return 0;
    if (stack_pointer >= greenio_stack_open_limit(standing) + SIGNAL_FRAME_MAX_BYTES)
        return 0;
    if (go_on_in_yellow(standing, stack_pointer - SIGNAL_FRAME_MAX_BYTES))
        return 1;
    report(standing, "no room on a fiber's stack for a signal handler, or a bad address was used close to its guard",
           place.stack_bytes);
    return 0;
}

static void on_fault(int number, siginfo_t *info, void *interrupted)
{
    int errno_before = errno;
    if (self.is_describing)
        end_process();

    ucontext_t *context = interrupted;
    uintptr_t frame = (uintptr_t)__builtin_frame_address(0);
    const void *stack_pointer = (const void *)interrupted_stack_pointer(context);
    int is_nested = self.passing_frame != 0 && frame < self.passing_frame;
    int goes_on = 0;
    if (!is_nested) {
        self.passing_frame = 0; /* if it was not, that handler was left by siglongjmp */
        self.interrupted = context;
        if (is_repeat(info, context))
            ; /* it was looked at, and reported */
        else if (info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR)
            goes_on = handle_fault(info->si_addr, stack_pointer);
        else if (info->si_code == SI_KERNEL)
            goes_on = handle_lost_signal(stack_pointer);
    }
    if (!goes_on)
        pass_on(number, info, context, frame, is_nested);
    errno = errno_before;
}

/* ---- installing ---------------------------------------------------------------------------------------------------- */

static int is_ours(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == on_fault;
}

/* Put `newcomer` on top of the chain. One that is there already moves up. */
static void chain_push(const struct sigaction *newcomer)
{
    unsigned index = __atomic_load_n(&chain_newest, __ATOMIC_RELAXED);
    const struct chain *old = &chain_versions[index];
    index = (index + 1) % CHAIN_VERSIONS;
    struct chain *new = &chain_versions[index];

    new->count = 0;
    if (newcomer->sa_handler != SIG_DFL && newcomer->sa_handler != SIG_IGN) { /* these never ask whoever was before them */
        for (int i = 0; i < old->count; i++) {
            int is_same = old->entries[i].sa_handler == newcomer->sa_handler;
            int is_too_many = i == 1 && old->count == CHAIN_MAX; /* forget the oldest, but for the bottom */
            if (!is_same && !is_too_many)
                new->entries[new->count++] = old->entries[i];
        }
    }
    new->entries[new->count++] = *newcomer;
    __atomic_store_n(&chain_newest, index, __ATOMIC_RELEASE);
}

int greenio_overflow_install(const struct greenio_overflow_hooks *hooks)
{
    struct sigaction current, ours, replaced;
    if (hooks != NULL)
        __atomic_store_n(&installed_hooks, hooks, __ATOMIC_RELEASE);
    if (is_dying || __atomic_exchange_n(&is_installing, 1, __ATOMIC_ACQUIRE) != 0)
        return 0;

    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = on_fault;
    /* SA_NODEFER: those behind us raise from within, and a fault while describing must reach us. */
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&ours.sa_mask);
    int result = sigaction(SIGSEGV, NULL, &current);
    if (result == 0 && !is_ours(&current)) {
        chain_push(&current); /* before we can be called */
        result = sigaction(SIGSEGV, &ours, &replaced);
        if (result == 0 && !is_ours(&replaced) && replaced.sa_handler != current.sa_handler)
            chain_push(&replaced);
    }
    __atomic_store_n(&is_installing, 0, __ATOMIC_RELEASE);
    return result;
}

/* ---- alternate stacks ---------------------------------------------------------------------------------------------- */

int greenio_overflow_prepare_thread(void)
{
    stack_t now;
    if (sigaltstack(NULL, &now) != 0)
        return -1;
    if (now.ss_flags & SS_ONSTACK) /* called from a signal handler, which stands on it */
        return 0;
    if (!(now.ss_flags & SS_DISABLE) && now.ss_size >= ALTERNATE_STACK_ENOUGH_BYTES)
        return 0;

    if (self.memory == NULL) {
        size_t bytes = ALTERNATE_STACK_GUARD_BYTES + ALTERNATE_STACK_BYTES;
        char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            return -1;
        if (mprotect(memory, ALTERNATE_STACK_GUARD_BYTES, PROT_NONE) != 0) {
            int error = errno;
            munmap(memory, bytes);
            errno = error;
            return -1;
        }
        self.memory = memory;
        self.memory_bytes = bytes;
    }
    stack_t ours;
    memset(&ours, 0, sizeof ours);
    ours.ss_sp = self.memory + ALTERNATE_STACK_GUARD_BYTES;
    ours.ss_size = self.memory_bytes - ALTERNATE_STACK_GUARD_BYTES;
    if (sigaltstack(&ours, &self.replaced) != 0) {
        int error = errno;
        munmap(self.memory, self.memory_bytes);
        self.memory = NULL;
        errno = error;
        return -1;
    }
    return 0;
}

void greenio_overflow_forget_thread(void)
{
    stack_t now;
    if (self.memory == NULL || sigaltstack(NULL, &now) != 0)
        return;
    /* Somebody put theirs on top and will put ours back: then ours must stay. */
    if (now.ss_sp != self.memory + ALTERNATE_STACK_GUARD_BYTES || (now.ss_flags & SS_ONSTACK))
        return;
    self.replaced.ss_flags &= SS_DISABLE;
    if (sigaltstack(&self.replaced, NULL) != 0)
        return;
    munmap(self.memory, self.memory_bytes);
    self.memory = NULL;
}

/* ---- afterwards ---------------------------------------------------------------------------------------------------- */

int greenio_overflow_recover(struct greenio_stack *stack, const void *stack_pointer)
{
    const char *position = stack_pointer;
    if (!stack->yellow_open || position < stack->limit + RECOVER_MARGIN_BYTES || position > stack->base)
        return 0;
    return greenio_stack_close_yellow(stack) == 0;
}
