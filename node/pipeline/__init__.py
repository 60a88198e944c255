"""The one room where the stages meet: one module per process loop, each readable top to bottom.

::

    accept     socket, folder -> ingest -> spool                       process "receive"
    settle     tick -> completion, gate, rules -> match and job rows    process "route"
    work       lease -> run_job in a warm child -> result, outbox       process "work"
    deliver    lease -> destination -> receipt                          process "deliver"

``build`` makes stage objects of configuration values, ``supervise`` keeps the processes alive.
Catch-alls stand only in the loops here: they record the traceback on the row in hand and go on.
"""
