"""What is rare: `@cold` has a function compiled for size, and the way to it laid out as the unlikely one. (tools/build/translate.py; what the
exit path does not reach is compiled so anyway.)"""


def cold(function):
    function._cold_ = True
    return function
