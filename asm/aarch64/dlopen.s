# dlopen(path, flags): some flags taken out, then the C library's by a jump, so
# that it sees the real caller, whose search path it uses.
    .pushsection .text.cidalloc_dlopen, "ax", @progbits
    .balign 16
    .hidden cidalloc_dlopen
    .globl cidalloc_dlopen
    .type cidalloc_dlopen, @function
cidalloc_dlopen:
    .cfi_startproc
    stp x29, x30, [sp, -32]!
    .cfi_adjust_cfa_offset 32
    .cfi_rel_offset x29, 0
    .cfi_rel_offset x30, 8
    stp x0, x1, [sp, 16]
    bl {next_dlopen}                        // x0 its address, x1 the flags to keep
    mov x16, x0
    mov x17, x1
    ldp x0, x1, [sp, 16]
    ldp x29, x30, [sp], 32
    .cfi_adjust_cfa_offset -32
    .cfi_restore x29
    .cfi_restore x30
    and w1, w1, w17
    br x16
    .cfi_endproc
    .size cidalloc_dlopen, .-cidalloc_dlopen
    .popsection
