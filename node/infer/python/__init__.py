"""Runner kind ``python``: a model that is a function, of this package or of its own folder.

A function is named ``node.infer.<module>:<function>``, or ``run.py:<function>`` for a file beside
model.yaml. A model folder is data, and data must not make the node run what it names: a file of code
runs only as the bytes whose sha256 stands in model.yaml, and only in the worker's child.

The contract is one for both::

    def run(spec: ModelSpec, volumes: Mapping[str, Volume], context: RunContext, report: Report)
        -> labels on the grid of the first input: uint8 or uint16, shape (slice, row, column)

What can fail: ``JobFailed`` (permanent where the code is not the declared one, cannot be imported, or
lacks the function).
"""
