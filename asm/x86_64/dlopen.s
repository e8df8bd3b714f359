# dlopen(path, flags): some flags taken out, then the C library's by a jump, so
# that it sees the real caller, whose search path it uses.
    .pushsection .text.cidalloc_dlopen, "ax", @progbits
    .balign 16
    .hidden cidalloc_dlopen
    .globl cidalloc_dlopen
    .type cidalloc_dlopen, @function
cidalloc_dlopen:
    .cfi_startproc
    push rdi
    .cfi_adjust_cfa_offset 8
    push rsi
    .cfi_adjust_cfa_offset 8
    sub rsp, 8
    .cfi_adjust_cfa_offset 8
    call {next_dlopen}                      # rax its address, rdx the flags to keep
    add rsp, 8
    .cfi_adjust_cfa_offset -8
    pop rsi
    .cfi_adjust_cfa_offset -8
    pop rdi
    .cfi_adjust_cfa_offset -8
    and esi, edx
    jmp rax
    .cfi_endproc
    .size cidalloc_dlopen, .-cidalloc_dlopen
    .popsection
