"""The start-up heap of boot/runtime.c: after seal_heap() any allocation is a panic."""
from rpython.rtyper.lltypesystem import lltype, rffi
from rpython.translator.tool.cbuild import ExternalCompilationInfo

seal_heap = rffi.llexternal('bulkhead_seal_heap', [], lltype.Void, _nowrapper=True, _callable=lambda: None,
                            compilation_info=ExternalCompilationInfo(includes=['bulkhead.h']))
