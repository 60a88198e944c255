"""The clock: the only file that imports apscheduler."""
