# push_batch: put up to n objects on top of a class of this thread's slab.
#
#   retry: rseq_cs = &descriptor
#   start: header = slabs + (*index << SHIFT) + class_at
#          cur = header.cur
#          if header.end_lo <= lo32(cur): return 0
#          k = min(n, (end_lo - lo32(cur)) / 8)
#          for i in 0..k: *cur++ = in[i]    # above the top: nobody's yet
#          header.cur = cur                 # COMMIT
#          return k
#   abort: no slot below cur was written, retry
#
# in   {slabs} {index} {rseq} {class_at} {buffer} {n}, n > 0; all survive
# out  {k}: in[0..k] were pushed
# clobbers {header} {cur} {i} {object}, flags
2:
    lea {object}, [rip + 6f]
    mov qword ptr [{rseq} + {RSEQ_CS_AT}], {object}   # rseq_cs = &descriptor
3:
    mov {header:e}, dword ptr [{index}]     # id = *index
    shl {header}, {SLAB_SHIFT}
    add {header}, {slabs}
    add {header}, {class_at}
    mov {cur}, qword ptr [{header}]         # cur = header.cur
    mov {k:e}, dword ptr [{header} + {END_AT}]
    sub {k:e}, {cur:e}
    jbe 8f                                  # end_lo <= lo32(cur): full
    shr {k}, 3
    cmp {k}, {n}
    cmova {k}, {n}                          # k = min(k, n)
    xor {i:e}, {i:e}
9:
    mov {object}, qword ptr [{buffer} + {i} * 8]
    mov qword ptr [{cur}], {object}         # *cur++ = in[i]
    add {cur}, 8
    inc {i}
    cmp {i}, {k}
    jb 9b
    mov qword ptr [{header}], {cur}         # COMMIT header.cur = cur
4:
5:
    .pushsection .text.cidalloc_cold, "ax", @progbits
8:
    xor {k:e}, {k:e}                        # return 0
    jmp 5b
    .popsection
