def broken_rule(vendor, vcpu):
    return 0
