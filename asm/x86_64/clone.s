# clone: the system call, then fn(arg) on the new stack, then exit.
#
# in  rdi fn, rsi stack, edx flags, rcx arg, r8 parent_tid, r9 tls, [rsp+8] child_tid
# out rax as the kernel says; in the parent only
    .pushsection .text.cidalloc_clone, "ax", @progbits
    .balign 16
    .hidden cidalloc_clone
    .globl cidalloc_clone
    .type cidalloc_clone, @function
cidalloc_clone:
    .cfi_startproc
    and rsi, -16
    sub rsi, 16
    mov qword ptr [rsi], rdi
    mov qword ptr [rsi + 8], rcx
    mov edi, edx
    mov rdx, r8
    mov r8, r9
    mov r10, qword ptr [rsp + 8]
    mov eax, {SYS_CLONE}
    syscall
    test eax, eax
    jz 2f
    ret
2:
    .cfi_undefined rip
    xor ebp, ebp
    pop rax
    pop rdi
    call rax
    mov edi, eax
    mov eax, {SYS_EXIT}
    syscall
    ud2
    .cfi_endproc
    .size cidalloc_clone, .-cidalloc_clone
    .popsection
