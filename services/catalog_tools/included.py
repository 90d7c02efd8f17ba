"""The plug-ins that come with callbus: who is calling, and a message for somebody."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.contracts.number_patterns import E164
from libs.plugins import ExternalPlugin, PluginContext, PluginError
from libs.plugins.plugin import NoParameters
from libs.runtime.database import reading
from services.catalog_tools import customers, messages
from services.catalog_tools.customers import Crm, CrmError
from services.catalog_tools.models import Message


class CustomerLookup(ExternalPlugin[NoParameters]):
    """By the caller's own number only: nobody is told about others by naming their number."""

    name: ClassVar[str] = "customer_lookup"
    description: ClassVar[str] = (
        "Tells who is calling, from the number of the call: name, company, customer number. Ask the caller to confirm"
        " before you rely on it; the number does not prove who speaks."
    )
    idempotent: ClassVar[bool] = True
    timeout_s: ClassVar[float] = 5.0

    def __init__(self, sessions: async_sessionmaker[AsyncSession], crm: Crm | None) -> None:
        self._sessions, self._crm = sessions, crm

    async def execute(self, params: NoParameters, context: PluginContext) -> object:
        """The CRM's word first, then the table's."""
        if E164.fullmatch(context.caller) is None:
            return {"found": False, "reason": "the caller's number is withheld or unknown"}
        problem = ""
        if self._crm is not None:
            try:
                if (found := await self._crm.find(context.org, context.caller)) is not None:
                    return {"found": True, "customer": found}
            except CrmError as error:
                problem = str(error)
                context.log.warning("the CRM was not reached", problem=problem)
        try:
            async with reading(self._sessions) as session:
                found = await customers.find(session, context.org, context.caller)
        except (SQLAlchemyError, OSError):
            raise PluginError("The customers cannot be looked up at the moment.") from None
        if found is not None:
            return {"found": True, "customer": found}
        if problem:
            raise PluginError("The customers cannot be looked up at the moment.")
        return {"found": False, "reason": "the number belongs to no known customer"}


class Note(BaseModel):
    """Parameters of take_message."""

    text: str = Field(min_length=1, max_length=2000, description="The message, in the caller's words")
    name: str = Field("", max_length=200, description="Who called")
    number: str = Field(
        "", max_length=64, description="Where to call back, if it is not the number that the caller calls from"
    )
    recipient: str = Field("", max_length=200, description="For whom the message is: a person or a department")


class TakeMessage(ExternalPlugin[Note]):
    """Stored once, however often the request comes: in this process, after it, and in its replicas."""

    name: ClassVar[str] = "take_message"
    description: ClassVar[str] = (
        "Stores a message for a person or a department, to be called back for example. Repeat it to the caller first."
    )
    parameters: ClassVar[type[BaseModel]] = Note
    timeout_s: ClassVar[float] = 5.0

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions

    async def execute(self, params: Note, context: PluginContext) -> object:
        """The number under which it is stored."""
        try:
            try:
                number = await self._store(params, context)
            except IntegrityError:  # another replica was first with the same tool call
                number = await self._store(params, context)
        except (SQLAlchemyError, OSError) as error:
            context.log.error("a message was not stored", problem=str(error).partition("\n")[0])
            raise PluginError("The message could not be stored at the moment.") from None
        return {"stored": True, "message": number, "number": params.number or context.caller}

    async def _store(self, params: Note, context: PluginContext) -> int:
        message = Message(
            org=context.org,
            call=context.call,
            tool_call_id=context.tool_call_id,
            caller=context.caller,
            agent=context.agent,
            recipient=params.recipient,
            name=params.name,
            number=params.number or context.caller,
            text=params.text,
            taken_at=messages.now(),
        )
        async with self._sessions.begin() as session:
            return await messages.store(session, message)
