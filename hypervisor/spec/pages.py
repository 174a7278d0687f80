"""The kernel's pages that a compartment lives in: how many a manager gives for a VM, by its memory and vCPUs.

A table of the lowest level maps 2 MiB in pages of 4 KiB, one of the next 1 GiB in pages of 2 MiB; what is not aligned begins one more.
"""

MOST = 192                      # that one compartment may have
MANAGER = 64                    # a manager's; the rings that it makes are in it
FIXED = 17                      # a VM's: roots, upper tables, those of its VMM's image, stack and messages, register area
PER_VCPU = 3                    # private page, vCPU page, control block
PER_GIB = 2                     # of RAM: its VMM and its guest map it
PER_PART = 2                    # of an image or module beside those that it fills
LARGE_FRAMES = 512


def for_vm(ram_frames, vcpus):
    """Without its image and modules."""
    return FIXED + vcpus * PER_VCPU + PER_GIB * (ram_frames // (LARGE_FRAMES * LARGE_FRAMES) + 1)


def for_part(frames):
    """For an image or module of so many frames, which the VMM maps page by page."""
    return frames // LARGE_FRAMES + PER_PART
