// set_limits: write the limits word of a header, if this thread holds its cid.
//
//   retry: rseq_cs = &descriptor
//   start: if *index != cid: return 0
//          header.limits = limits           // COMMIT
//          return 1
//   abort: nothing was written, retry
//
// in   {index} {rseq} {cid} {header} {limits}, all survive
// out  {done}
// clobbers flags
2:
    adrp {done}, 6f
    add {done}, {done}, :lo12:6f
    str {done}, [{rseq}, {RSEQ_CS_AT}]      // rseq_cs = &descriptor
3:
    ldr {done:w}, [{index}]
    cmp {done:w}, {cid:w}                   // does this thread hold the cid?
    b.ne 8f
    str {limits}, [{header}, {LIMITS_AT}]   // COMMIT header.limits = limits
4:
    mov {done}, 1
    b 5f
8:
    mov {done}, xzr                         // return 0
5:
