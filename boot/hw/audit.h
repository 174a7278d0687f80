/* boot/kernel/audit.c */
#ifndef BULKHEAD_HW_AUDIT_H
#define BULKHEAD_HW_AUDIT_H

void bh_publish_root(unsigned long place, unsigned long kind, unsigned long compartment, unsigned long root);

#endif
