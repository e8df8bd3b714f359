/* The tables of the C++ program. */
#include "rule.h"

extern const struct rule new_rules[], language_rules[];

const struct rule *const rule_tables[] = {new_rules, language_rules, NULL};
