"""Tables of catalog_tools: products, baskets, orders, customers, messages, answers given, events still to publish.

Money is whole cents. Baskets and orders belong to an organisation and a call.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, ForeignKeyConstraint, MetaData, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from libs.runtime.database import CONSTRAINT_NAMES, UtcDateTime


class Table(DeclarativeBase):
    """Ancestor of all tables."""

    metadata = MetaData(naming_convention=CONSTRAINT_NAMES)
    type_annotation_map = {datetime: UtcDateTime, str: Text}  # noqa: RUF012  SQLAlchemy's own declaration


class Product(Table):
    """One article; `position` keeps the catalogue's order, which breaks ties in the search."""

    __tablename__ = "products"

    article_number: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    name: Mapped[str]
    type: Mapped[str]
    size: Mapped[str]
    material: Mapped[str]
    price_cents: Mapped[int]
    unit: Mapped[str]
    synonyms: Mapped[str] = mapped_column(default="")


class CatalogueImport(Table):
    """Every import; the highest id is the catalogue's revision, by which replicas notice a new one."""

    __tablename__ = "catalogue_imports"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  SQLAlchemy's own declaration

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    source: Mapped[str]
    products: Mapped[int]
    imported_at: Mapped[datetime]


class Basket(Table):
    """What a call has chosen so far. `epoch` is the highest that changed it: an older worker is refused (R7)."""

    __tablename__ = "baskets"

    org: Mapped[str] = mapped_column(primary_key=True)
    call: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(default=0)
    epoch: Mapped[int] = mapped_column(default=0)
    submitted_revision: Mapped[int | None]


class BasketLine(Table):
    """One article in a basket, with name and price as they were when it was chosen."""

    __tablename__ = "basket_lines"
    __table_args__ = (ForeignKeyConstraint(["org", "call"], ["baskets.org", "baskets.call"], ondelete="CASCADE"),)

    org: Mapped[str] = mapped_column(primary_key=True)
    call: Mapped[str] = mapped_column(primary_key=True)
    article_number: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    name: Mapped[str]
    unit: Mapped[str]
    quantity: Mapped[int]
    unit_price_cents: Mapped[int]


class Answer(Table):
    """What a tool call was answered, so that its repetition changes nothing and hears the same."""

    __tablename__ = "answers"

    org: Mapped[str] = mapped_column(primary_key=True)
    call: Mapped[str] = mapped_column(primary_key=True)
    tool_call_id: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str | None]  # of name and arguments; None: before this was kept
    reply: Mapped[str]
    answered_at: Mapped[datetime]


class Order(Table):
    """A submitted basket: stored exactly once by call and basket revision (R8)."""

    __tablename__ = "orders"
    __table_args__ = (UniqueConstraint("org", "call", "basket_revision"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    order_id: Mapped[str] = mapped_column(unique=True)
    org: Mapped[str]
    call: Mapped[str] = mapped_column(index=True)
    basket_revision: Mapped[int]
    caller: Mapped[str]
    agent: Mapped[str]
    customer: Mapped[str | None]
    note: Mapped[str | None]
    total_cents: Mapped[int] = mapped_column(BigInteger)
    placed_at: Mapped[datetime]


class OrderedLine(Table):
    """One line of an order."""

    __tablename__ = "order_lines"

    order_pk: Mapped[int] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    article_number: Mapped[str]
    name: Mapped[str]
    unit: Mapped[str]
    quantity: Mapped[int]
    unit_price_cents: Mapped[int]


class PendingEvent(Table):
    """Transactional outbox: committed with its order, published afterwards, also by the next process."""

    __tablename__ = "pending_events"

    event_id: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[str]
    created_at: Mapped[datetime]
    published_at: Mapped[datetime | None]


class Customer(Table):
    """Somebody who may call: found by the number they call from (E.164)."""

    __tablename__ = "customers"

    org: Mapped[str] = mapped_column(primary_key=True)
    phone: Mapped[str] = mapped_column(primary_key=True)
    customer_number: Mapped[str]
    name: Mapped[str]
    company: Mapped[str]
    note: Mapped[str]


class Message(Table):
    """What a caller left word of, once per tool call."""

    __tablename__ = "messages"
    __table_args__ = (UniqueConstraint("org", "call", "tool_call_id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    org: Mapped[str]
    call: Mapped[str]
    tool_call_id: Mapped[str]
    caller: Mapped[str]
    agent: Mapped[str]
    recipient: Mapped[str]
    name: Mapped[str]
    number: Mapped[str]
    text: Mapped[str]
    taken_at: Mapped[datetime]
