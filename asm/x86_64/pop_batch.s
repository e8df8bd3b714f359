# pop_batch: take up to n objects of a class from this thread's slab.
#
#   retry: rseq_cs = &descriptor
#   start: header = slabs + (*index << SHIFT) + class_at
#          cur = header.cur
#          if lo32(cur) <= header.begin_lo: return 0
#          k = min(n, (lo32(cur) - begin_lo) / 8)
#          for i in 0..k: out[i] = *--cur   # the caller's buffer: private
#          header.cur = cur                 # COMMIT
#          return k
#   abort: only the buffer was written, retry
#
# in   {slabs} {index} {rseq} {class_at} {buffer} {n}, n > 0; all survive
# out  {k}
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
    mov {k:e}, {cur:e}
    sub {k:e}, dword ptr [{header} + {BEGIN_AT}]
    jbe 8f                                  # lo32(cur) <= begin_lo: empty
    shr {k}, 3
    cmp {k}, {n}
    cmova {k}, {n}                          # k = min(k, n)
    xor {i:e}, {i:e}
9:
    sub {cur}, 8
    mov {object}, qword ptr [{cur}]
    mov qword ptr [{buffer} + {i} * 8], {object}      # out[i] = *--cur
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
