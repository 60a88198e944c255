"""The nouns of the road: values that cannot be built wrong, and pure functions over them.

Nothing here opens a file, a socket, a database or a clock; time comes in as an argument. Arrays are
(slice, row, column); positions are LPS in millimetres (PS3.3 C.7.6.2.1.1).
"""
