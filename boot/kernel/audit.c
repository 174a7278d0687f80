/* hypervisor/spec/audit.py. Volatile: only an auditor outside ever reads it. */
#include "spec.h"
#include "hw/audit.h"

volatile struct { unsigned long kind, compartment, root; } published_roots[AUDIT_RECORDS];

void bh_publish_root(unsigned long place, unsigned long kind, unsigned long compartment, unsigned long root)
{
    if (place >= AUDIT_RECORDS)
        return;
    published_roots[place].kind = root ? kind : 0;
    published_roots[place].compartment = compartment;
    published_roots[place].root = root;
}
