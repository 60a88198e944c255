"""``python -m node`` is ``segnode``."""

from node.cli import main

main()
