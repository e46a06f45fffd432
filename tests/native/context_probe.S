/* context_probe.S: naked routines around the context switch; context_probe.h says what for. Tests only.
 *
 * They have unwind rules of their own, since the tests walk through them.
 */
        .intel_syntax noprefix
        .text

.macro  routine name
        .globl  \name
        .hidden \name
        .type   \name, @function
        .p2align 4
\name:
        .cfi_startproc
        endbr64
.endm

.macro  end_routine name
        .cfi_endproc
        .size   \name, . - \name
.endm

.macro  save register
        push    \register
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset \register, 0
.endm

.macro  restore register
        pop     \register
        .cfi_adjust_cfa_offset -8
        .cfi_restore \register
.endm

/* rdi context, rsi data, rdx fill, rcx found. On the stack: own MXCSR and control word at +0, found at +8, and 8 bytes
 * that keep the stack aligned at the call. */
routine context_probe_resume
        save    rbx
        save    rbp
        save    r12
        save    r13
        save    r14
        save    r15
        sub     rsp, 24
        .cfi_adjust_cfa_offset 24
        mov     [rsp + 8], rcx
        stmxcsr [rsp]
        fnstcw  [rsp + 4]
        fnclex                          /* an old flag would trap once it is unmasked */
        ldmxcsr [rdx]
        fldcw   [rdx + 4]
        mov     rbx, [rdx + 0x08]
        mov     rbp, [rdx + 0x10]
        mov     r12, [rdx + 0x18]
        mov     r13, [rdx + 0x20]
        mov     r14, [rdx + 0x28]
        mov     r15, [rdx + 0x30]
        mov     rcx, [rdx + 0x38]
        mov     qword ptr [rsp - 0x40], 0       /* where the context will lie: its padding is zero */
        call    greenio_context_resume
        .globl  context_probe_resume_return
        .hidden context_probe_resume_return
context_probe_resume_return:
        mov     rcx, [rsp + 8]
        stmxcsr [rcx]
        fnstcw  [rcx + 4]
        mov     word ptr [rcx + 6], 0
        mov     [rcx + 0x08], rbx
        mov     [rcx + 0x10], rbp
        mov     [rcx + 0x18], r12
        mov     [rcx + 0x20], r13
        mov     [rcx + 0x28], r14
        mov     [rcx + 0x30], r15
        mov     qword ptr [rcx + 0x38], 0
        mov     [rcx + 0x40], rax
        fnclex
        fldcw   [rsp + 4]
        ldmxcsr [rsp]
        add     rsp, 24
        .cfi_adjust_cfa_offset -24
        restore r15
        restore r14
        restore r13
        restore r12
        restore rbp
        restore rbx
        ret
end_routine context_probe_resume

/* rdi stack_base, rsi entry, edx MXCSR, ecx x87 control word. */
routine context_probe_initialize
        sub     rsp, 24
        .cfi_adjust_cfa_offset 24
        stmxcsr [rsp]
        fnstcw  [rsp + 4]
        mov     [rsp + 8], edx
        mov     [rsp + 12], cx
        fnclex
        ldmxcsr [rsp + 8]
        fldcw   [rsp + 12]
        call    greenio_context_initialize
        .globl  context_probe_initialize_return
        .hidden context_probe_initialize_return
context_probe_initialize_return:
        fnclex
        fldcw   [rsp + 4]
        ldmxcsr [rsp]
        add     rsp, 24
        .cfi_adjust_cfa_offset -24
        ret
end_routine context_probe_initialize

routine context_probe_first_entry
        mov     [rip + context_probe_first_entry_found + 0x00], rsp
        mov     [rip + context_probe_first_entry_found + 0x08], rbp
        mov     [rip + context_probe_first_entry_found + 0x10], rdi
        mov     [rip + context_probe_first_entry_found + 0x18], rsi
        mov     [rip + context_probe_first_entry_found + 0x20], rax
        mov     [rip + context_probe_first_entry_found + 0x28], rdx
        mov     rax, [rsp]
        mov     [rip + context_probe_first_entry_found + 0x30], rax
        stmxcsr [rip + context_probe_first_entry_found + 0x38]
        fnstcw  [rip + context_probe_first_entry_found + 0x3C]
        sub     rsp, 24
        .cfi_adjust_cfa_offset 24
        movaps  [rsp], xmm0             /* faults unless the stack came aligned */
        call    greenio_context_resume
        ud2
end_routine context_probe_first_entry

        .set    trap_flag, 0x100

routine context_probe_step_begin
        pushfq
        .cfi_adjust_cfa_offset 8
        or      qword ptr [rsp], trap_flag
        popfq
        .cfi_adjust_cfa_offset -8
        ret
end_routine context_probe_step_begin

routine context_probe_step_end
        pushfq
        .cfi_adjust_cfa_offset 8
        and     qword ptr [rsp], ~trap_flag
        popfq
        .cfi_adjust_cfa_offset -8
        ret
end_routine context_probe_step_end

        .bss
        .globl  context_probe_first_entry_found
        .hidden context_probe_first_entry_found
        .type   context_probe_first_entry_found, @object
        .p2align 4
context_probe_first_entry_found:
        .zero   0x40
        .size   context_probe_first_entry_found, 0x40

        .section .note.GNU-stack, "", @progbits
