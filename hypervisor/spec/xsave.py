"""The FPU state in memory, in XSAVE's standard format; its first 512 bytes are FXSAVE's. PKRU is not in it.

Source: Intel SDM Vol. 1, "Managing State Using the XSAVE Feature Set".
"""
X87, SSE, AVX, PKRU = 1 << 0, 1 << 1, 1 << 2, 1 << 9        # components, as in XCR0
MXCSR = 24
XMM = 160                                       # XMM0 to XMM15, 16 bytes each
XSTATE_BV = 512                                 # in the header: the components that XRSTOR finds in the area; it resets the others
YMM_HIGH = 576                                  # bits 255 to 128 of YMM0 to YMM15
BYTES = 832
REGISTERS = 16
