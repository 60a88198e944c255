"""Processes and who keeps them alive: one per role, what each does, and what an operator may do."""
