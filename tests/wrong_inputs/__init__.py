"""Inputs that must never become a silent wrong result: each with what must become of it.

One module per kind of fault gives a ``CASES`` tuple; ``tests/e2e/test_wrong_inputs.py`` sends every
case by C-STORE, STOW-RS and ``segnode run`` and compares state, reason code, sentence and exit code.
"""
