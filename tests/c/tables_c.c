/* The tables of the C program. */
#include "rule.h"

extern const struct rule alignment_rules[], size_rules[], block_rules[], report_rules[], thread_rules[];

const struct rule *const rule_tables[] = {alignment_rules, size_rules, block_rules, report_rules, thread_rules, NULL};
