# vfork: the system call, with the thread lent for the child's time.
#
# The child returns first and writes over the stack above: the return address
# waits in x9, and what `lend` returned in x10 and x11, which the kernel keeps for
# each of the two.
    .pushsection .text.cidalloc_vfork, "ax", @progbits
    .balign 16
    .hidden cidalloc_vfork
    .globl cidalloc_vfork
    .type cidalloc_vfork, @function
cidalloc_vfork:
    .cfi_startproc
    stp x29, x30, [sp, -16]!
    .cfi_adjust_cfa_offset 16
    .cfi_rel_offset x29, 0
    .cfi_rel_offset x30, 8
    bl {lend}
    ldp x29, x9, [sp], 16
    .cfi_adjust_cfa_offset -16
    .cfi_restore x29
    .cfi_register x30, x9
    mov x10, x0
    mov x11, x1
    mov x0, {VFORK_FLAGS}
    mov x1, 0
    mov x2, 0
    mov x3, 0
    mov x4, 0
    mov x8, {SYS_CLONE}
    svc 0
    mov x30, x9
    .cfi_restore x30
    cbz x0, 2f                              // the child: still lent
    stp x0, x30, [sp, -16]!
    .cfi_adjust_cfa_offset 16
    .cfi_rel_offset x30, 8
    mov x0, x10
    mov x1, x11
    bl {take_back}
    ldp x0, x30, [sp], 16
    .cfi_adjust_cfa_offset -16
    .cfi_restore x30
    cmn x0, 4095
    b.hs 3f
2:
    ret
3:
    b {failed}
    .cfi_endproc
    .size cidalloc_vfork, .-cidalloc_vfork
    .popsection
