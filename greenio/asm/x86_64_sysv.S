/* x86_64_sysv.S: the context switch on x86-64, System V ABI.  The contract is context.h.
 *
 * Four routines, in the order of a fiber's life:
 *   greenio_context_initialize            builds a context that has not run yet
 *   greenio_context_trampoline            is where it wakes up; goes on to its entry
 *   greenio_context_terminate_abnormally  is where an entry that returns ends
 *   greenio_context_resume                is the switch itself
 *
 * Called from any thread; no routine calls another, touches a global, or knows Python or libc.
 *
 * A stopped context is 64 bytes on its own stack, and the address of these bytes is its only handle:
 *
 *   +0x00  MXCSR (4) | x87 control word (2) | padding (2)    <- the context's address
 *   +0x08  rbx
 *   +0x10  rbp
 *   +0x18  r12
 *   +0x20  r13
 *   +0x28  r14
 *   +0x30  r15
 *   +0x38  resume address                     (struct greenio_context, offsets asserted in the header)
 *
 * That is what the ABI has a callee keep (System V psABI x86-64, 3.2.1), besides rsp, which is the handle
 * plus 0x40 once the context runs again.  The rest is dead across any call, so across this one.
 *
 * Invariants:
 *   - whichever stack rsp is on, a whole context lies above it: a signal may come at any instruction;
 *   - at each instruction the unwind rules (.cfi_...) lead to the caller on the stack that rsp is on, so
 *     debuggers, profilers and C++ exceptions walk a context, and stop at its base;
 *   - a context is continued by `ret`, and it was left by `call`: return predictions stay in step.
 *
 * Roads not taken:
 *   - Continuing by `jmp`.  Faster in a bare ping-pong, but it leaves one return prediction too many: under
 *     four nested calls a switch takes 34 ns that way, 16 to 18 ns this way.
 *   - Loading MXCSR and the x87 control word each time.  Storing is cheap, loading is not, and they
 *     hardly ever differ: comparing them first saves 2.5 ns.
 *   - Switching shadow stacks (CET SHSTK).  Each fiber would need one of its own; the note at the end of
 *     this file therefore claims indirect branch tracking only.
 *
 * To look at a stopped context in gdb: set rbx, rbp and r12 to r15 from the fields above, then rsp to its
 * address + 0x40 and pc to its resume address; `backtrace` shows the fiber.  Put the registers back
 * before you continue.
 */
        .intel_syntax noprefix
        .text


/* struct greenio_context *greenio_context_initialize(void *stack_base, greenio_context_entry entry)
 *
 * Build the context that will start `entry` at the first resume.
 *
 *   in    rdi  stack_base  the highest address of the stack, 16-byte aligned
 *         rsi  entry       gets {the context that first resumed it, the data handed over}
 *   out   rax              the context, at stack_base - 0x40
 *
 * The four parts that matter before a fiber has run: the control words, the entry in rbx and
 * terminate_abnormally in rbp (both for the trampoline), the trampoline as resume address.
 * r12 to r15 are left as they lie: the entry may expect nothing of them.
 */
        .globl  greenio_context_initialize
        .hidden greenio_context_initialize
        .type   greenio_context_initialize, @function
        .p2align 4
greenio_context_initialize:
        .cfi_startproc
        endbr64
        lea     rax, [rdi - 0x40]

        /* The values after a reset, whatever the creator runs with: round to nearest, all exceptions
         * masked, x87 precision 64 bits.  Intel SDM, vol. 2 LDMXCSR and vol. 1 section 8.1.5. */
        mov     dword ptr [rax + 0x00], 0x1F80
        mov     dword ptr [rax + 0x04], 0x037F          /* and zero padding */

        mov     [rax + 0x08], rsi
        lea     rcx, [rip + greenio_context_terminate_abnormally]
        mov     [rax + 0x10], rcx
        lea     rcx, [rip + greenio_context_trampoline]
        mov     [rax + 0x38], rcx
        ret
        .cfi_endproc
        .size   greenio_context_initialize, . - greenio_context_initialize


/* greenio_context_trampoline: the first instructions of each fiber, and the last frame of its backtrace.
 *
 *   in    rax:rdx  {context of whoever resumed us, its data}: the result of a resume, as anywhere
 *         rsi      the same data, where resume received it
 *         rbx      entry
 *         rbp      terminate_abnormally
 *         rsp      the stack's base, 16-byte aligned
 *   out   enters rbx(rdi = context, rsi = data) as if called from terminate_abnormally, with rsp 8 below
 *         a multiple of 16 and rbp zero, as the ABI has it for a new stack (psABI 3.2.2, 3.4.1)
 *
 * Reached by the `ret` in resume, so it needs no endbr64; the entry, reached by `jmp`, does, and has one
 * when compiled for indirect branch tracking.
 *
 * One set of unwind rules spans all from greenio_context_base to greenio_context_terminate_abnormally.
 * It says that there is no return address: here every walk ends.  A walker looks up the byte before
 * a return address, and two return addresses lead here, so each has a byte before it that no one runs:
 *   - the trampoline's own, in a context not yet started: greenio_context_base;
 *   - terminate_abnormally, in all others: the `nop` above it, still part of the trampoline by name.
 * The CFA is the stack's base throughout.
 */
        .type   greenio_context_base, @function
        .p2align 4
greenio_context_base:
        .cfi_startproc
        .cfi_undefined rip
        .cfi_def_cfa_offset 0
        nop
        .size   greenio_context_base, . - greenio_context_base

        .globl  greenio_context_trampoline
        .hidden greenio_context_trampoline
        .type   greenio_context_trampoline, @function
greenio_context_trampoline:
        push    rbp                                     /* the entry's return address */
        .cfi_adjust_cfa_offset 8
        mov     rdi, rax
        xor     ebp, ebp                                /* walkers of frame pointers stop here too */
        jmp     rbx
        .cfi_adjust_cfa_offset -8                       /* as it stands once the entry has returned */
        nop
        .size   greenio_context_trampoline, . - greenio_context_trampoline


/* greenio_context_terminate_abnormally: an entry returned.  There is nowhere to go: SIGILL, right here. */
        .globl  greenio_context_terminate_abnormally
        .hidden greenio_context_terminate_abnormally
        .type   greenio_context_terminate_abnormally, @function
greenio_context_terminate_abnormally:
        ud2
        .cfi_endproc
        .size   greenio_context_terminate_abnormally, . - greenio_context_terminate_abnormally


/* struct greenio_transfer greenio_context_resume(struct greenio_context *context, void *data)
 *
 * Leave the running context and continue `context`, which gets {our context, `data`} as the result of
 * its own call.
 *
 *   in    rdi  context  as returned by an earlier resume, or by greenio_context_initialize
 *         rsi  data     handed over, never looked at
 *   out   rax:rdx       {context of whoever continues us, its data}
 *
 * Keeps what the ABI calls callee-saved: rbx rbp r12-r15, the MXCSR control bits, the x87 control word.
 * Both contexts sit on stacks of one OS thread at the moment of the call, so TLS and the signal mask stay.
 *
 * In the upper half rsp is on the stack we leave, in the lower half on the one we continue.  The saved
 * context is the same on both, so the unwind rules hold across the switch, and name the other caller.
 */
        .globl  greenio_context_resume
        .hidden greenio_context_resume
        .type   greenio_context_resume, @function
        .p2align 4
greenio_context_resume:
        .cfi_startproc
        .cfi_remember_state
        endbr64

        /* Save ours.  The resume address, at +0x38, was pushed by the call. */
        sub     rsp, 0x38
        .cfi_adjust_cfa_offset 0x38
        mov     [rsp + 0x08], rbx
        .cfi_rel_offset rbx, 0x08
        mov     [rsp + 0x10], rbp
        .cfi_rel_offset rbp, 0x10
        mov     [rsp + 0x18], r12
        .cfi_rel_offset r12, 0x18
        mov     [rsp + 0x20], r13
        .cfi_rel_offset r13, 0x20
        mov     [rsp + 0x28], r14
        .cfi_rel_offset r14, 0x28
        mov     [rsp + 0x30], r15
        .cfi_rel_offset r15, 0x30
        stmxcsr [rsp + 0x00]
        fnstcw  [rsp + 0x04]

        /* Load MXCSR if it differs, leaving aside the sticky exception flags, bits 0 to 5: these are
         * no callee's to keep. */
        mov     ecx, [rsp + 0x00]
        xor     ecx, [rdi + 0x00]
        test    ecx, 0xFFFFFFC0
        jz      .Lsame_mxcsr
        ldmxcsr [rdi + 0x00]
.Lsame_mxcsr:
        movzx   ecx, word ptr [rsp + 0x04]
        cmp     cx, [rdi + 0x04]
        je      .Lsame_x87_control_word
        fldcw   [rdi + 0x04]
.Lsame_x87_control_word:

        /* The switch.  Up to here a signal runs on our stack, from here on the other one's. */
        mov     rax, rsp
        mov     rdx, rsi
        mov     rsp, rdi

        /* Load theirs. */
        mov     rbx, [rsp + 0x08]
        mov     rbp, [rsp + 0x10]
        mov     r12, [rsp + 0x18]
        mov     r13, [rsp + 0x20]
        mov     r14, [rsp + 0x28]
        mov     r15, [rsp + 0x30]
        add     rsp, 0x38
        .cfi_restore_state
        ret                                             /* to +0x38, their resume address */
        .cfi_endproc
        .size   greenio_context_resume, . - greenio_context_resume


/* This file keeps to indirect branch tracking (IBT), and makes no claim on shadow stacks (SHSTK): in a
 * process that loads it, the C library leaves those off.  Linux Extensions to gABI, "Program Property". */
        .section .note.gnu.property, "a", @note
        .p2align 3
        .long   4                                       /* bytes of the name */
        .long   16                                      /* bytes of the properties */
        .long   5                                       /* NT_GNU_PROPERTY_TYPE_0 */
        .asciz  "GNU"
        .long   0xC0000002                              /* GNU_PROPERTY_X86_FEATURE_1_AND */
        .long   4                                       /* bytes of its value */
        .long   1                                       /* IBT; SHSTK would be 2 */
        .long   0                                       /* padding to 8 */

/* Without this section the linker would make every stack of the process executable. */
        .section .note.GNU-stack, "", @progbits
