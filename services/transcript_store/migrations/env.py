"""Alembic's entry point; the connection comes from `database.migrate`."""

from alembic import context

from services.transcript_store.models import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    version_table="transcript_store_version",  # the two services may share one PostgreSQL database
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
