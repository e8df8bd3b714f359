// pop_batch: take up to n objects of a class from this thread's slab.
//
//   retry: rseq_cs = &descriptor
//   start: header = slabs + (*index << SHIFT) + class_at
//          cur = header.cur
//          if lo32(cur) <= header.begin_lo: return 0
//          k = min(n, (lo32(cur) - begin_lo) / 8)
//          for i in 0..k: out[i] = *--cur   // the caller's buffer: private
//          header.cur = cur                 // COMMIT
//          return k
//   abort: only the buffer was written, retry
//
// in   {slabs} {index} {rseq} {class_at} {buffer} {n}, n > 0, all survive
// out  {k}
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
    ldr {k:w}, [{header}, {BEGIN_AT}]
    subs {k:w}, {cur:w}, {k:w}
    b.ls 8f                                 // lo32(cur) <= begin_lo: empty
    lsr {k}, {k}, 3
    cmp {k}, {n}
    csel {k}, {n}, {k}, hi                  // k = min(k, n)
    mov {i}, xzr
9:
    ldr {object}, [{cur}, -8]!
    str {object}, [{buffer}, {i}, lsl 3]    // out[i] = *--cur
    add {i}, {i}, 1
    cmp {i}, {k}
    b.lo 9b
    str {cur}, [{header}]                   // COMMIT header.cur = cur
4:
    b 5f
8:
    mov {k}, xzr                            // return 0
5:
