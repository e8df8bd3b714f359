// set_limits: write the limits word of a header, if this thread holds its cid.
//
//   retry: rseq_cs = &descriptor
//   start: if *index != cid: return 0
//          header.limits = limits           // COMMIT
//          return 1
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
    .pushsection .text.cidalloc_cold, "ax", @progbits
    .inst {SIGNATURE}
7:
    b 2b                                    // aborted: nothing was written, retry
    .popsection
    .pushsection __rseq_cs, "aw", @progbits
    .balign 32
6:
    .long 0, 0
    .quad 3b, 4b - 3b, 7b
    .popsection
    .pushsection __rseq_cs_ptr_array, "awR", @progbits
    .quad 6b
    .popsection
    .pushsection __rseq_exit_point_array, "awR", @progbits
    .quad 3b, 8b
    .popsection
