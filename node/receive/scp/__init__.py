"""The upper layer as an acceptor: from a TCP connection to the P-DATA of an association.

``negotiation`` reads requests and writes answers, without IO. ``wire`` is a socket with its buffer;
``door`` holds whoever has not asked yet, on one thread; ``association`` is a thread for each that was
let in, and the table of states that says what may happen when.
"""
