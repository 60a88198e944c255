"""A folder in, results out, without a server: the parts of the node in one process (``segnode run``)."""
