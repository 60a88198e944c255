"""Alembic's entry: runs the migrations on the connection that ``node.database.migrate`` hands in.

Each revision is a transaction of its own, on SQLite too: an interrupted upgrade goes on at the
revision where it stood.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    render_as_batch=True,
    transaction_per_migration=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
