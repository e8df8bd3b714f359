// pop: take the top object of a class from this thread's slab.
//
//   retry: if slabs == 0: return 0          // not taken in, or a special mode
//          rseq_cs = &descriptor
//   start: header = slabs + (*index << SHIFT) + class_at
//          cur = header.cur
//          if lo32(cur) <= header.begin_lo: return 0
//          object = cur[-1]
//          header.cur = cur - 8             // COMMIT
//   abort: nothing was written, retry
//
// in   {class_at}  offset of the class's header in a slab, survives
// out  {object}    the object, or zero to take the slow path
// clobbers {slab} {cur} {rseq}, flags
//
// A conditional branch reaches no other section here, so a miss ends in line:
// it branches to the end with a zero in {object}.
2:
    adrp {rseq}, :gottprel:cidalloc_thread
    ldr {rseq}, [{rseq}, :gottprel_lo12:cidalloc_thread]
    mrs {slab}, tpidr_el0
    add {rseq}, {rseq}, {slab}              // this thread's words
    ldr {object}, [{rseq}, {SLABS_AT}]
    ldr {cur}, [{rseq}, {INDEX_AT}]
    cbz {object}, 5f                        // slabs == 0: slow
    ldr {rseq}, [{rseq}, {RSEQ_AT}]
    adrp {slab}, 6f
    add {slab}, {slab}, :lo12:6f
    str {slab}, [{rseq}, {RSEQ_CS_AT}]      // rseq_cs = &descriptor
3:
    ldr {cur:w}, [{cur}]                    // id = *index
    add {slab}, {object}, {cur}, lsl {SLAB_SHIFT}     // slab = slabs + (id << SHIFT)
    add {slab}, {slab}, {class_at}          // header
    ldr {cur}, [{slab}]                     // cur = header.cur
    ldr {rseq:w}, [{slab}, {BEGIN_AT}]
    mov {object}, xzr                       // what a miss returns
    cmp {cur:w}, {rseq:w}
    b.ls 5f                                 // lo32(cur) <= begin_lo: empty
    ldr {object}, [{cur}, -8]!              // object = cur[-1], cur = cur - 8
    str {cur}, [{slab}]                     // COMMIT header.cur = cur
4:
8:
5:
