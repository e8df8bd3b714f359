// push: put an object on top of a class of this thread's slab.
//
//   retry: if slabs == 0: return 0          // not taken in, or a special mode
//          rseq_cs = &descriptor
//   start: header = slabs + (*index << SHIFT) + class_at
//          cur = header.cur
//          if lo32(cur) >= header.end_lo: return 0
//          *cur = object                    // above the top: nobody's yet
//          header.cur = cur + 8             // COMMIT
//   abort: no slot below cur was written, retry
//
// in   {class_at}  offset of the class's header in a slab, survives
//      {object}    the object, survives
// out  {done}      not zero if pushed, else take the slow path
// clobbers {slab} {rseq} {desc}, flags
//
// A conditional branch reaches no other section here, so a miss ends in line:
// it branches to the end with a zero in {done}.
2:
    adrp {rseq}, :gottprel:cidalloc_thread
    ldr {rseq}, [{rseq}, :gottprel_lo12:cidalloc_thread]
    mrs {slab}, tpidr_el0
    add {rseq}, {rseq}, {slab}              // this thread's words
    ldr {done}, [{rseq}, {SLABS_AT}]
    ldr {slab}, [{rseq}, {INDEX_AT}]
    cbz {done}, 5f                          // slabs == 0: slow
    ldr {rseq}, [{rseq}, {RSEQ_AT}]
    adrp {desc}, 6f
    add {desc}, {desc}, :lo12:6f
    str {desc}, [{rseq}, {RSEQ_CS_AT}]      // rseq_cs = &descriptor
3:
    ldr {slab:w}, [{slab}]                  // id = *index
    add {slab}, {done}, {slab}, lsl {SLAB_SHIFT}      // slab = slabs + (id << SHIFT)
    add {slab}, {slab}, {class_at}          // header
    ldr {desc}, [{slab}]                    // cur = header.cur
    ldr {rseq:w}, [{slab}, {END_AT}]
    mov {done}, xzr                         // what a miss returns
    cmp {desc:w}, {rseq:w}
    b.hs 5f                                 // lo32(cur) >= end_lo: full
    str {object}, [{desc}]                  // *cur = object
    add {done}, {desc}, 8
    str {done}, [{slab}]                    // COMMIT header.cur = cur + 8
4:
8:
5:
