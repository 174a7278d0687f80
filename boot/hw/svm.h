/* boot/kernel/svm.S */
#ifndef BULKHEAD_HW_SVM_H
#define BULKHEAD_HW_SVM_H

unsigned long bh_svm_run(unsigned long area, unsigned long vmcb, unsigned long vmcb_hpa, unsigned long host_hpa);
void bh_svm_save_host(unsigned long host_hpa);

#endif
