"""The database edge: one engine, short transactions, migrations.

SQLite by default: write-ahead log, ``synchronous=FULL``, a busy timeout, every writing transaction
opened with BEGIN IMMEDIATE. PostgreSQL runs the same code. Each stage declares its own tables
(``spool.tables``, ``jobs.tables``) and is handed the engine; tables of different stages share no
foreign keys. Transactions stay under 10 ms and never span file or network IO.
"""
