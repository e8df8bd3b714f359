# pop: take the top object of a class from this thread's slab.
#
#   retry: if slabs == 0: return 0          # not taken in, or a special mode
#          rseq_cs = &descriptor
#   start: header = slabs + (*index << SHIFT) + class_at
#          cur = header.cur
#          if lo32(cur) <= header.begin_lo: return 0
#          object = cur[-1]
#          header.cur = cur - 8             # COMMIT
#   abort: nothing was written, retry
#
# in   {class_at}  offset of the class's header in a slab; survives
# out  {object}    the object, or zero to take the slow path
# clobbers {slab} {cur} {rseq}, flags
2:
    mov {rseq}, qword ptr [rip + cidalloc_thread@GOTTPOFF]
    mov {slab}, qword ptr fs:[{rseq} + {SLABS_AT}]
    mov {cur}, qword ptr fs:[{rseq} + {INDEX_AT}]
    test {slab}, {slab}                     # 0: slow
    jz 8f
    mov {rseq}, qword ptr fs:[{rseq} + {RSEQ_AT}]
    lea {object}, [rip + 6f]
    mov qword ptr [{rseq} + {RSEQ_CS_AT}], {object}   # rseq_cs = &descriptor
3:
    mov {cur:e}, dword ptr [{cur}]          # id = *index
    shl {cur}, {SLAB_SHIFT}
    add {slab}, {cur}
    add {slab}, {class_at}                # header, by one register (see README)
    mov {cur}, qword ptr [{slab}]           # cur = header.cur
    cmp {cur:e}, dword ptr [{slab} + {BEGIN_AT}]
    jbe 8f                                  # lo32(cur) <= begin_lo: empty
    mov {object}, qword ptr [{cur} - 8]     # object = cur[-1]
    sub {cur}, 8
    mov qword ptr [{slab}], {cur}           # COMMIT header.cur = cur - 8
4:
5:
    .pushsection .text.cidalloc_cold, "ax", @progbits
8:
    xor {object:e}, {object:e}              # return 0
    jmp 5b
    .popsection
