"""What the node would do, without doing it (``segnode explain``)."""
