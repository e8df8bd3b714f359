// What follows every sequence: where an abort goes, the descriptor, and the two
// lists that tell debuggers of sections and of the ways out of them.
//
// labels of the sequence  2 retry, 3 start, 4 end, 8 miss
    .pushsection .text.cidalloc_cold, "ax", @progbits
    .inst {SIGNATURE}                       // an undefined instruction
7:
    b 2b                                    // aborted
    .popsection
    .pushsection __rseq_cs, "aw", @progbits
    .balign 32
6:
    .long 0, 0                              // version, flags
    .quad 3b, 4b - 3b, 7b                   // start, length, abort
    .popsection
    .pushsection __rseq_cs_ptr_array, "awR", @progbits
    .quad 6b
    .popsection
    .pushsection __rseq_exit_point_array, "awR", @progbits
    .quad 3b, 8b
    .popsection
