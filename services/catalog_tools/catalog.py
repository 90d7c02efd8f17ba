"""The catalogue in memory, kept in step with the database, also when another replica imported."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from libs.runtime.database import reading
from services.catalog_tools.models import CatalogueImport, Product
from services.catalog_tools.search import Article, Index


class Catalog:
    """The present search index; `refresh` replaces it when there is a newer import."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions
        self._revision = -1
        self.index = Index(())

    async def refresh(self) -> bool:
        """Load the products if they changed; tell whether they did."""
        async with reading(self._sessions) as session:
            revision = await session.scalar(select(func.max(CatalogueImport.id))) or 0
            if revision == self._revision:
                return False
            products = (await session.scalars(select(Product).order_by(Product.position))).all()
        self.index = Index(_article(product) for product in products)
        self._revision = revision
        return True


def _article(product: Product) -> Article:
    return Article(
        article_number=product.article_number,
        name=product.name,
        type=product.type,
        size=product.size,
        material=product.material,
        price_cents=product.price_cents,
        unit=product.unit,
        synonyms=product.synonyms,
    )
