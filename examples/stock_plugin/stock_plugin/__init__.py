"""An example plug-in: how many of an article are in stock, from a CSV file that something else keeps up to date.

STOCK_FILE=examples/stock_plugin/stock.csv callbus plugin run stock_plugin:StockLevel
"""

from __future__ import annotations

import csv
from pathlib import Path

from pydantic import BaseModel, Field
from pydantic_settings import BaseSettings

from libs.plugins import ExternalPlugin, PluginContext, PluginError


class Settings(BaseSettings):
    """A plug-in reads its own settings."""

    stock_file: Path = Path("stock.csv")


class Article(BaseModel):
    """What the model is told that it may ask."""

    article_number: str = Field(min_length=1, description="Article number from search_products")


class StockLevel(ExternalPlugin[Article]):
    """Plain synchronous code: it runs in a thread of its own."""

    name = "stock_level"
    description = "Tells how many of an article are in stock now. Use it when the caller asks whether it is there."
    parameters = Article
    idempotent = True
    timeout_s = 2.0

    async def start(self) -> None:
        """A file that is not there keeps the tool off the bus, with a line in the log."""
        self._file = Settings().stock_file
        self._file.stat()

    def execute(self, params: Article, context: PluginContext) -> object:
        """One look into the file per question: it is small, and always right."""
        with self._file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                if row["article_number"] == params.article_number:
                    return {"article_number": params.article_number, "in_stock": int(row["in_stock"])}
        raise PluginError(f"There is no stock figure for article {params.article_number}.")
