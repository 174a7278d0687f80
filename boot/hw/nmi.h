/* NMIs as other cores' doorbells: what boot/kernel/entry.S does about them. */
#ifndef BULKHEAD_HW_NMI_H
#define BULKHEAD_HW_NMI_H

extern volatile unsigned char nmi_rings, nmi_noted, apic_lent;
extern volatile unsigned long nmi_count;

static inline unsigned long bh_nmi_count(void) { return nmi_count; }

static inline void bh_nmi_listen(void) { nmi_rings = 1; }

static inline void bh_nmi_hold(void)
{
    nmi_noted = 0;
    apic_lent = 1;
}

static inline unsigned long bh_nmi_release(void)
{
    unsigned long noted;
    apic_lent = 0;
    noted = nmi_noted;
    nmi_noted = 0;
    return noted;
}

void bh_nmi_unblock(void);                              /* boot/kernel/entry.S */

#endif
