"""Queries of other services and of the command line: `v1.rpc.catalog_tools.<verb>`.

- `orders` {limit?, call?}: {"orders": [...]} newest first, each with its lines
- `products` {text?, type?, size?, limit?}: {"products": [...], "total_hits": n}
- `import` {csv, name?}: {"imported": n, "errors": ["line 17: ..."]}; with errors nothing was changed
- `messages` {limit?, call?}: {"messages": [...]} newest first
- `import_customers` {csv, org?}: as `import`, for the organisation's customers
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.contracts.agent import DEFAULT_ORG
from libs.contracts.rpc import RpcRequest
from libs.runtime.database import reading
from services.catalog_tools.catalog import Catalog
from services.catalog_tools.customers import import_customers
from services.catalog_tools.importer import import_csv
from services.catalog_tools.messages import list_messages
from services.catalog_tools.orders import list_orders
from services.catalog_tools.tools import product

VERBS = ("orders", "products", "import", "messages", "import_customers")
MOST_AT_ONCE = 500


class OrdersQuery(BaseModel):
    """Parameters of `orders` and `messages`."""

    limit: Annotated[int, Field(ge=1, le=MOST_AT_ONCE)] = 50
    call: str | None = None


class ProductsQuery(BaseModel):
    """Parameters of `products`."""

    text: Annotated[str, Field(max_length=500)] = ""
    type: str = ""
    size: str = ""
    limit: Annotated[int, Field(ge=1, le=MOST_AT_ONCE)] = 20


class ImportRequest(BaseModel):
    """Parameters of `import`."""

    csv: str
    name: str = "rpc"


class CustomersRequest(BaseModel):
    """Parameters of `import_customers`."""

    csv: str
    org: str | None = None  # else the request's


class Queries:
    """Answers them from the database and the index."""

    def __init__(self, catalog: Catalog, sessions: async_sessionmaker[AsyncSession], country: str = "DE") -> None:
        self._catalog = catalog
        self._country = country
        self._sessions = sessions

    async def answer(self, verb: str, request: RpcRequest) -> dict[str, Any]:
        """Data of the reply.

        Raises:
            pydantic.ValidationError: parameters are wrong.
            sqlalchemy.exc.SQLAlchemyError, OSError: the database failed.
        """
        match verb:
            case "orders":
                wanted = OrdersQuery.model_validate(request.parameters)
                async with reading(self._sessions) as session:
                    return {"orders": await list_orders(session, org=request.org, call=wanted.call, limit=wanted.limit)}
            case "products":
                return self._products(ProductsQuery.model_validate(request.parameters))
            case "messages":
                wanted = OrdersQuery.model_validate(request.parameters)
                async with reading(self._sessions) as session:
                    found = await list_messages(session, org=request.org, call=wanted.call, limit=wanted.limit)
                return {"messages": found}
            case "import_customers":
                given = CustomersRequest.model_validate(request.parameters)
                org = given.org or request.org or DEFAULT_ORG
                async with self._sessions() as session:
                    report = await import_customers(session, given.csv, org, self._country)
                return {"imported": report.imported, "errors": list(report.errors)}
            case _:
                return await self._import(ImportRequest.model_validate(request.parameters))

    def _products(self, wanted: ProductsQuery) -> dict[str, Any]:
        index = self._catalog.index
        if not (wanted.text.strip() or wanted.type or wanted.size):
            some = index.articles[: wanted.limit]
            return {"products": [product(article) for article in some], "total_hits": len(index.articles)}
        found = index.search(wanted.text, type=wanted.type, size=wanted.size, limit=wanted.limit)
        return {"products": [product(hit.article) for hit in found.hits], "total_hits": found.total}

    async def _import(self, wanted: ImportRequest) -> dict[str, Any]:
        async with self._sessions() as session:
            report = await import_csv(session, wanted.csv, name=wanted.name)
        if report.ok:
            await self._catalog.refresh()
        return {"imported": report.imported, "errors": list(report.errors)}
