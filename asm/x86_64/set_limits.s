# set_limits: write the limits word of a header, if this thread holds its cid.
#
#   retry: rseq_cs = &descriptor
#   start: if *index != cid: return 0
#          header.limits = limits           # COMMIT
#          return 1
#   abort: nothing was written, retry
#
# in   {index} {rseq} {cid} {header} {limits}; all survive
# out  {done}
# clobbers flags
2:
    lea {done}, [rip + 6f]
    mov qword ptr [{rseq} + {RSEQ_CS_AT}], {done}     # rseq_cs = &descriptor
3:
    cmp dword ptr [{index}], {cid:e}        # does this thread hold the cid?
    jne 8f
    mov qword ptr [{header} + {LIMITS_AT}], {limits}  # COMMIT header.limits = limits
4:
    mov {done:e}, 1
5:
    .pushsection .text.cidalloc_cold, "ax", @progbits
8:
    xor {done:e}, {done:e}                  # return 0
    jmp 5b
    .popsection
