"""Facts, each declared once, as plain data that Python 2.7 and Python 3 import alike.

Everything else is made from them: accessors, names in messages, constants for C and assembly (a module's C_CONSTANTS
become #defines in build/gen/spec.h), and tables in docs/.
"""
