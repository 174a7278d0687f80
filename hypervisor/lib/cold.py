"""What is rare: `@cold` has a function compiled for size, and the way to it laid out as the unlikely one. (tools/build/translate.py; what the
exit path does not reach is compiled so anyway.)"""


def cold(function):
    function._cold_ = True
    return function


def hot(function):
    """What is compiled for speed, though the compiler sees it called only from where it thinks that nobody comes."""
    function._hot_ = True
    return function
