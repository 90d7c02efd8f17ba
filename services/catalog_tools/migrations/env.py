"""Alembic's entry point; the connection comes from `database.migrate`."""

from alembic import context

from services.catalog_tools.models import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    version_table="catalog_tools_version",  # the two services may share one PostgreSQL database
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
