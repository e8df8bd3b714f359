// push_batch: put up to n objects on top of a class of this thread's slab.
//
//   retry: rseq_cs = &descriptor
//   start: header = slabs + (*index << SHIFT) + class_at
//          cur = header.cur
//          if header.end_lo <= lo32(cur): return 0
//          k = min(n, (end_lo - lo32(cur)) / 8)
//          for i in 0..k: *cur++ = in[i]    // above the top: nobody's yet
//          header.cur = cur                 // COMMIT
//          return k
//   abort: no slot below cur was written, retry
//
// in   {slabs} {index} {rseq} {class_at} {buffer} {n}, n > 0, all survive
// out  {k}, in[0..k] were pushed
// clobbers {header} {cur} {i} {object}, flags
2:
    adrp {object}, 6f
    add {object}, {object}, :lo12:6f
    str {object}, [{rseq}, {RSEQ_CS_AT}]    // rseq_cs = &descriptor
3:
    ldr {header:w}, [{index}]               // id = *index
    add {header}, {slabs}, {header}, lsl {SLAB_SHIFT}
    add {header}, {header}, {class_at}
    ldr {cur}, [{header}]                   // cur = header.cur
    ldr {k:w}, [{header}, {END_AT}]
    subs {k:w}, {k:w}, {cur:w}
    b.ls 8f                                 // end_lo <= lo32(cur): full
    lsr {k}, {k}, 3
    cmp {k}, {n}
    csel {k}, {n}, {k}, hi                  // k = min(k, n)
    mov {i}, xzr
9:
    ldr {object}, [{buffer}, {i}, lsl 3]
    str {object}, [{cur}], 8                // *cur++ = in[i]
    add {i}, {i}, 1
    cmp {i}, {k}
    b.lo 9b
    str {cur}, [{header}]                   // COMMIT header.cur = cur
4:
    b 5f
8:
    mov {k}, xzr                            // return 0
5:
