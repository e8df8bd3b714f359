# push: put an object on top of a class of this thread's slab.
#
#   retry: if slabs == 0: return 0          # not taken in, or a special mode
#          rseq_cs = &descriptor
#   start: header = slabs + (*index << SHIFT) + class_at
#          cur = header.cur
#          if lo32(cur) >= header.end_lo: return 0
#          *cur = object                    # above the top: nobody's yet
#          header.cur = cur + 8             # COMMIT
#   abort: no slot below cur was written, retry
#
# in   {class_at}  offset of the class's header in a slab; survives
#      {object}    the object; survives
# out  {done}      not zero if pushed, else take the slow path
# clobbers {slab} {rseq}, flags
2:
    mov {rseq}, qword ptr [rip + cidalloc_thread@GOTTPOFF]
    mov {slab}, qword ptr fs:[{rseq} + {SLABS_AT}]
    mov {done}, qword ptr fs:[{rseq} + {INDEX_AT}]
    test {slab}, {slab}                     # 0: slow
    jz 8f
    mov {rseq}, qword ptr fs:[{rseq} + {RSEQ_AT}]
    lea {desc}, [rip + 6f]
    mov qword ptr [{rseq} + {RSEQ_CS_AT}], {desc}     # rseq_cs = &descriptor
3:
    mov {done:e}, dword ptr [{done}]        # id = *index
    shl {done}, {SLAB_SHIFT}
    add {slab}, {done}
    add {slab}, {class_at}                # header, by one register (see README)
    mov {done}, qword ptr [{slab}]          # cur = header.cur
    cmp {done:e}, dword ptr [{slab} + {END_AT}]
    jae 8f                                  # lo32(cur) >= end_lo: full
    mov qword ptr [{done}], {object}        # *cur = object
    add {done}, 8
    mov qword ptr [{slab}], {done}          # COMMIT header.cur = cur + 8
4:
5:
    .pushsection .text.cidalloc_cold, "ax", @progbits
8:
    xor {done:e}, {done:e}                  # return 0
    jmp 5b
    .popsection
