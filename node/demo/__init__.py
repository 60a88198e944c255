"""The demonstration: a real node, a series by C-STORE and one by STOW-RS, and where the results are.

It talks to the node as any peer would, over DICOM and HTTP, and reads in the node's database what came
of it.
"""
