# clone: the system call, then fn(arg) on the new stack, then exit.
#
# in  x0 fn, x1 stack, w2 flags, x3 arg, x4 parent_tid, x5 tls, x6 child_tid
# out x0 as the kernel says; in the parent only
    .pushsection .text.cidalloc_clone, "ax", @progbits
    .balign 16
    .hidden cidalloc_clone
    .globl cidalloc_clone
    .type cidalloc_clone, @function
cidalloc_clone:
    .cfi_startproc
    and x1, x1, -16
    stp x0, x3, [x1, -16]!
    mov w0, w2
    mov x2, x4
    mov x3, x5
    mov x4, x6
    mov x8, {SYS_CLONE}
    svc 0
    cbz x0, 2f
    ret
2:
    .cfi_undefined x30
    mov x29, 0
    mov x30, 0
    ldp x1, x0, [sp], 16
    blr x1
    mov x8, {SYS_EXIT}
    svc 0
    udf 0
    .cfi_endproc
    .size cidalloc_clone, .-cidalloc_clone
    .popsection
