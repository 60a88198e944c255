"""Jobs: three of the four durable points of the road, and the rules for trying again.

Enters: what rules decided (``MatchReport``, ``JobRequest``), what workers made (``ResultFile``), how
deliveries ended (``Outcome``). Leaves: a leased job for a worker, a leased delivery for a sender.

One module per noun: ``matches`` (a series set and a rule), ``store`` (jobs, for those who ask),
``leases`` (jobs, for those who work), ``results`` and to whom they are given, ``outbox`` (deliveries
and the health of destinations); ``revisions`` says how far the work of a series went and what a newer
state of it does to older work, ``retry`` how long to wait. ``tables`` is the schema; rows keep why
they are as they are as codes with facts.

What is promised:

- The same job key is one job: it runs once for all rules and destinations that want it.
- A job or delivery has one owner at a time. Every step is one short transaction guarded by that
  owner; one that lost its lease gets ``LeaseLost`` and changes nothing.
- Attempts count when leased, so work that kills the child it runs in is parked after three. A lost
  worker counts as none: three crashes of the node park nothing; ten workers in a row do. Leases are
  counted by the time of the node; functions take ``now`` so that tests need not wait.
- An object, its deliveries and the end of its job are one transaction: after a crash there is all of
  it or none. What is durable is never made again.
- A newer revision withholds what the older one has not delivered yet.
- A destination that is down delays nobody else, and gets everything when it is back, once.

Fails with ``LeaseLost``, ``ResultRefused`` (two different results for one job and form), ``NodeError``
(an operator named a row that cannot be changed that way). Locked databases raise SQLAlchemy's
``OperationalError``; the process loops try again.

Runs on SQLite and PostgreSQL. Where several rows decide together, one transaction at a time works on
a study: SQLite has one writer, PostgreSQL takes an advisory lock.
"""
