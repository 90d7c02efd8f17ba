"""A small CRM over HTTP, to try `customer_lookup` with. Not for the internet.

    python examples/crm_server.py --port 8099 --token secret
    CRM_URL='http://127.0.0.1:8099/customers?phone={number}' CRM_TOKEN=secret callbus up

It answers `GET /customers?phone=+4930123456` with a JSON object, 404 when nobody has that number, 401 without token.
"""

from __future__ import annotations

import argparse
import hmac

from aiohttp import web

CUSTOMERS = {
    "+4930123456": {
        "name": "Frau Beispiel",
        "company": "Beispiel Haustechnik GmbH",
        "customer_number": "K-1017",
        "note": "liefert bitte immer an die Baustelle",
        "open_orders": 1,
    },
    "+431234567": {"name": "Herr Muster", "company": "Muster Installationen", "customer_number": "K-2042"},
}


def make_app(token: str) -> web.Application:
    """The CRM; an empty `token` lets everybody in."""

    async def customers(request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return web.json_response({"error": "wrong token"}, status=401)
        found = CUSTOMERS.get(request.query.get("phone", ""))
        if found is None:
            return web.json_response({"error": "nobody has this number"}, status=404)
        return web.json_response(found)

    app = web.Application()
    app.router.add_get("/customers", customers)
    return app


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--port", type=int, default=8099)
    options.add_argument("--token", default="")
    chosen = options.parse_args()
    web.run_app(make_app(chosen.token), host="127.0.0.1", port=chosen.port)
