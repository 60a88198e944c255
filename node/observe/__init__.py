"""Logs and health: what the node says about itself, without a word about a patient.

Log lines carry UIDs, counts and sentences as extra fields; they never carry names, IDs, birth dates
or accession numbers.
"""
