"""Events, and what is projected from them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "conversations",
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=True),
        sa.Column("callee", sa.Text(), nullable=True),
        sa.Column("agent", sa.Text(), nullable=True),
        sa.Column("route", sa.Text(), nullable=True),
        sa.Column("direction", sa.Text(), nullable=True),
        sa.Column("entrance", sa.Text(), nullable=True),
        sa.Column("gw", sa.Text(), nullable=True),
        sa.Column("codec", sa.Text(), nullable=True),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("offered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_event_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("duration_ms", sa.Double(), nullable=True),
        sa.Column("talk_ms", sa.Double(), nullable=True),
        sa.Column("cost_usd", sa.Double(), nullable=False),
        sa.Column("workers", sa.JSON(), nullable=False),
        sa.Column("media", sa.JSON(), nullable=True),
        sa.Column("event_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("call", name=op.f("pk_conversations")),
    )
    op.create_index(op.f("ix_conversations_began_at"), "conversations", ["began_at"], unique=False)
    op.create_index(op.f("ix_conversations_ended_at"), "conversations", ["ended_at"], unique=False)
    op.create_index(op.f("ix_conversations_org"), "conversations", ["org"], unique=False)
    op.create_index(op.f("ix_conversations_outcome"), "conversations", ["outcome"], unique=False)
    op.create_table(
        "deleted_calls",
        sa.Column("call_hash", sa.Text(), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("call_hash", name=op.f("pk_deleted_calls")),
    )
    op.create_table(
        "events",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_call"), "events", ["call"], unique=False)
    op.create_table(
        "latencies",
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("stopped_to_first_delta_ms", sa.Double(), nullable=True),
        sa.Column("stopped_to_first_frame_ms", sa.Double(), nullable=True),
        sa.Column("stopped_to_heard_ms", sa.Double(), nullable=True),
        sa.Column("tools_ms", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("call", "position", name=op.f("pk_latencies")),
    )
    op.create_table(
        "order_references",
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("basket_revision", sa.Integer(), nullable=False),
        sa.Column("customer", sa.Text(), nullable=True),
        sa.Column("lines", sa.JSON(), nullable=False),
        sa.Column("total_eur", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("call", "position", name=op.f("pk_order_references")),
    )
    op.create_table(
        "tool_calls",
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("tool_call_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("arguments", sa.JSON(), nullable=True),
        sa.Column("ok", sa.Boolean(), nullable=True),
        sa.Column("output", sa.JSON(), nullable=True),
        sa.Column("called_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("returned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("took_ms", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("call", "position", name=op.f("pk_tool_calls")),
    )
    op.create_table(
        "turns",
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("speaker", sa.Text(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("heard_text", sa.Text(), nullable=True),
        sa.Column("interrupted", sa.Boolean(), nullable=False),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("audio_ms", sa.Double(), nullable=True),
        sa.Column("heard_ms", sa.Double(), nullable=True),
        sa.Column("from_sample", sa.BigInteger(), nullable=True),
        sa.Column("folded", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("call", "position", name=op.f("pk_turns")),
    )
    op.create_table(
        "usage",
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("tokens", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("cost_usd", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("call", "position", name=op.f("pk_usage")),
    )


def downgrade() -> None:
    op.drop_table("usage")
    op.drop_table("turns")
    op.drop_table("tool_calls")
    op.drop_table("order_references")
    op.drop_table("latencies")
    op.drop_index(op.f("ix_events_call"), table_name="events")
    op.drop_table("events")
    op.drop_table("deleted_calls")
    op.drop_index(op.f("ix_conversations_outcome"), table_name="conversations")
    op.drop_index(op.f("ix_conversations_org"), table_name="conversations")
    op.drop_index(op.f("ix_conversations_ended_at"), table_name="conversations")
    op.drop_index(op.f("ix_conversations_began_at"), table_name="conversations")
    op.drop_table("conversations")
