"""The tools: what the model is told of them, what they take, what they do. No NATS here.

Bad arguments, unknown articles and empty baskets are answered with one sentence for the model.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.contracts.tool import ToolDescription, ToolReply, ToolRequest
from libs.plugins.schema import sentence
from libs.runtime.database import reading
from services.catalog_tools import orders, wording
from services.catalog_tools.catalog import Catalog
from services.catalog_tools.models import Answer
from services.catalog_tools.money import cents, euros
from services.catalog_tools.orders import Caller, OrderError
from services.catalog_tools.search import Article

TIMEOUT_MS = 8000
MOST_HITS = 50


def _as_text(value: object) -> object:
    """Models write article numbers and sizes as numbers now and then, and leave out what they do not know."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # 101004.0 is what JSON makes of a number in some languages
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _no_truth(value: object) -> object:
    """To Python `true` is the number one; to a caller it is not."""
    if isinstance(value, bool):
        raise ValueError("it must be a whole number")
    return value


Text = Annotated[str, BeforeValidator(_as_text), Field(max_length=500)]
Number = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=64)]
Count = Annotated[int, BeforeValidator(_no_truth)]
Quantity = Annotated[int, Field(ge=1, le=orders.MOST_PIECES), BeforeValidator(_no_truth)]  # bounds that models see


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Nothing(_Arguments):
    """No arguments."""


class Search(_Arguments):
    """Arguments of search_products."""

    query: Text = Field(description="What the caller asks for, in their words, with the size: 'T-Stück 22 mm Kupfer'")
    type: Text = Field("", description="One of the product types, to search only there")
    size: Text = Field("", description="Size alone, if it is not in the query: '22', '22x15', '1/2 Zoll'")
    limit: Count = Field(8, ge=1, le=MOST_HITS, description="How many products at most")


class ByNumber(_Arguments):
    """Arguments of product_details."""

    article_number: Number = Field(description="Article number from search_products")


class Add(ByNumber):
    """Arguments of order_add."""

    quantity: Quantity = Field(description="How many to add")


class Remove(ByNumber):
    """Arguments of order_remove."""

    quantity: Quantity | None = Field(None, description="How many to take out; all of them if left out")


class Show(_Arguments):
    """Arguments of order_show."""

    language: Literal["de", "en"] = Field("de", description="Language of `say`, the sentence to read back")


class Submit(Show):
    """Arguments of order_submit. `revision` binds the order to what the caller has heard and agreed to."""

    revision: Count = Field(ge=0, description="revision of the basket as order_show told it, which you have read back")
    customer: Text = Field("", description="Name or customer number, if the caller gave it")
    note: Text = Field("", description="A wish that goes with the order, such as a delivery date")


class ToolError(ValueError):
    """One sentence for the model."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool's description and the model of its arguments; `changes` are remembered by tool_call_id."""

    name: str
    description: str
    arguments: type[_Arguments]
    changes: bool = False

    def describe(self) -> ToolDescription:
        """What workers find in the endpoint's metadata; every tool may be repeated with the same tool_call_id."""
        return ToolDescription(
            name=self.name,
            description=self.description,
            parameters=_json_schema(self.arguments),
            idempotent=True,
            timeout_ms=TIMEOUT_MS,
        )


TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("product_types", "Lists the types of products in the catalogue.", Nothing),
        Tool(
            "search_products",
            "Finds products by name, type, size and material. Always search before adding to the order;"
            " when several products fit, ask the caller which one is meant.",
            Search,
        ),
        Tool("product_details", "Tells everything about one product.", ByNumber),
        Tool("order_add", "Adds a product to the caller's order and returns the whole order.", Add, changes=True),
        Tool("order_remove", "Takes a product out of the caller's order, or some of it.", Remove, changes=True),
        Tool(
            "order_show",
            "Shows the caller's order with all lines and the total. `say` is the sentence to read it back with.",
            Show,
        ),
        Tool(
            "order_submit",
            "Places the order. Only after the caller has heard the order of order_show read back and agreed to it;"
            " needs the revision that order_show told. `say` tells the order number.",
            Submit,
            changes=True,
        ),
    )
}


class Toolbox:
    """Answers tool requests from the catalogue and the database; never raises for what a request contains."""

    def __init__(
        self,
        catalog: Catalog,
        sessions: async_sessionmaker[AsyncSession],
        *,
        ordered: Callable[[], None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._catalog = catalog
        self._sessions = sessions
        self._ordered = ordered
        self._clock = clock
        self.counters: Counter[str] = Counter()

    async def answer(self, request: ToolRequest) -> ToolReply:
        """Carry out a request.

        Raises:
            sqlalchemy.exc.SQLAlchemyError, OSError: the database failed; the request may be repeated.
        """
        tool = TOOLS.get(request.name)
        if tool is None:
            return self._refused(f"There is no tool {request.name!r}.")
        try:
            arguments = tool.arguments.model_validate(request.arguments)
        except ValidationError as error:
            return self._refused(_sentence(tool.name, error))
        try:
            if tool.changes:
                return await self._change(request, arguments)
            return ToolReply(ok=True, output=await self._read(request, arguments))
        except (ToolError, OrderError) as error:
            return self._refused(str(error))

    def _refused(self, sentence: str) -> ToolReply:
        self.counters["refused"] += 1
        return ToolReply(ok=False, error=sentence)

    async def _read(self, request: ToolRequest, arguments: _Arguments) -> dict[str, Any]:
        match arguments:
            case Search():
                return self._search(arguments)
            case ByNumber():
                return {"product": product(self._article(arguments.article_number))}
        if request.name == "product_types":
            return {"types": list(self._catalog.index.types)}
        async with reading(self._sessions) as session:
            shown = await orders.show(session, _caller(request))
        assert isinstance(arguments, Show)
        basket = shown["basket"]
        return {**shown, "say": wording.basket(basket["lines"], cents(basket["total_eur"]), arguments.language)}

    def _search(self, wanted: Search) -> dict[str, Any]:
        found = self._catalog.index.search(wanted.query, type=wanted.type, size=wanted.size, limit=wanted.limit)
        return {"products": [product(hit.article) for hit in found.hits], "total_hits": found.total}

    def _article(self, number: str) -> Article:
        article = self._catalog.index.article(number)
        if article is None:
            raise ToolError(f"There is no article {number}; find the right number with search_products.")
        return article

    async def _change(self, request: ToolRequest, arguments: _Arguments) -> ToolReply:
        try:
            return await self._change_once(request, arguments)
        except IntegrityError:  # another replica was first with the same call or order: now its answer is there
            self.counters["raced"] += 1
            return await self._change_once(request, arguments)

    async def _change_once(self, request: ToolRequest, arguments: _Arguments) -> ToolReply:
        caller, fingerprint = _caller(request), _fingerprint(request, arguments)
        key = (request.org, request.call, request.tool_call_id)
        async with self._sessions.begin() as session:
            known = await session.get(Answer, key)
            if known is None and not isinstance(arguments, Submit):
                await orders.lock_basket(session, caller)  # a repetition that overtook is seen after the lock
                known = await session.get(Answer, key)
            if known is not None:
                if known.request_hash not in (None, fingerprint):
                    raise ToolError("This tool_call_id was used for another request already; nothing was changed.")
                self.counters["repeated"] += 1
                return ToolReply.model_validate_json(known.reply)
            reply = ToolReply(ok=True, output=await self._carry_out(session, caller, arguments))
            body = json.dumps(reply.model_dump(mode="json"), ensure_ascii=False)
            answer = Answer(org=key[0], call=key[1], tool_call_id=key[2], reply=body, answered_at=self._clock())
            answer.request_hash = fingerprint
            session.add(answer)
        if isinstance(arguments, Submit):
            self._ordered()
        return reply

    async def _carry_out(self, session: AsyncSession, caller: Caller, arguments: _Arguments) -> dict[str, Any]:
        match arguments:
            case Add():
                return await orders.add(session, caller, self._article(arguments.article_number), arguments.quantity)
            case Remove():
                article = self._catalog.index.article(arguments.article_number)
                number = article.article_number if article else arguments.article_number
                return await orders.remove(session, caller, number, arguments.quantity)
            case Submit():
                customer, note = arguments.customer or None, arguments.note or None
                order = await orders.submit(session, caller, arguments.revision, customer, note, self._clock())
                return {**order, "say": wording.order_number(order["number"], arguments.language)}
        raise ToolError("This tool cannot do that.")


def product(article: Article) -> dict[str, str]:
    """An article as tools and queries report it."""
    return {
        "article_number": article.article_number,
        "name": article.name,
        "type": article.type,
        "size": article.size,
        "material": article.material,
        "price_eur": euros(article.price_cents),
        "unit": article.unit,
    }


def _caller(request: ToolRequest) -> Caller:
    return Caller(request.org, request.call, request.epoch, request.caller, request.agent)


def _fingerprint(request: ToolRequest, arguments: _Arguments) -> str:
    """The same for a repetition, whether a quantity came as 2 or as "2"."""
    content = json.dumps([request.name, arguments.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _sentence(tool: str, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if (tool, first["type"], first["loc"]) == ("order_submit", "missing", ("revision",)):
        return "Read the order back first: order_show tells its revision; order_submit needs it."
    return sentence(tool, error)


def _json_schema(arguments: type[BaseModel]) -> dict[str, Any]:
    """The plain schema that speech models want: no titles, optional values simply not required."""
    schema = arguments.model_json_schema()
    properties: dict[str, Any] = {}
    for name, entry in schema.get("properties", {}).items():
        plain = {k: v for k, v in entry.items() if k not in ("title", "default", "anyOf", "maxLength", "minLength")}
        for choice in entry.get("anyOf", ()):
            if choice.get("type") != "null":
                plain |= choice
        properties[name] = plain
    return {"type": "object", "properties": properties, "required": schema.get("required", [])}
