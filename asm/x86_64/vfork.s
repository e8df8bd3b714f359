# vfork: the system call, with the thread lent for the child's time.
#
# The child returns first and writes over the stack above: the return address
# waits in rdi, and what `lend` returned in rsi and r8, which the kernel keeps
# for each of the two.
    .pushsection .text.cidalloc_vfork, "ax", @progbits
    .balign 16
    .hidden cidalloc_vfork
    .globl cidalloc_vfork
    .type cidalloc_vfork, @function
cidalloc_vfork:
    .cfi_startproc
    sub rsp, 8
    .cfi_adjust_cfa_offset 8
    call {lend}
    add rsp, 8
    .cfi_adjust_cfa_offset -8
    mov rsi, rax
    mov r8, rdx
    pop rdi
    .cfi_adjust_cfa_offset -8
    .cfi_register rip, rdi
    mov eax, {SYS_VFORK}
    syscall
    push rdi
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset rip, 0
    test eax, eax
    jz 2f                                   # the child: still lent
    push rax
    .cfi_adjust_cfa_offset 8
    mov rdi, rsi
    mov rsi, r8
    call {take_back}
    pop rax
    .cfi_adjust_cfa_offset -8
    cmp eax, -4095
    jae 3f
2:
    ret
3:
    mov edi, eax
    jmp {failed}
    .cfi_endproc
    .size cidalloc_vfork, .-cidalloc_vfork
    .popsection
