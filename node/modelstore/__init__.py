"""The store of models: which there are, what each lacks here, and how its files are fetched.

The only room that fetches anything, and only ``models pull`` calls it.
"""
