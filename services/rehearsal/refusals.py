"""How the API says no over HTTP: ``{"error": {message, type, param, code}}`` (API reference, "Error codes")."""

from __future__ import annotations

import math
from collections.abc import Mapping

from aiohttp import web

_REQUESTS_PER_MINUTE = 1000
_TOKENS_PER_MINUTE = 200_000


class ApiError(Exception):
    """A request that the API refuses; ``headers`` go out with the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.kind = status, message, code, param, kind
        self.headers = dict(headers or {})

    def body(self) -> dict[str, object]:
        """The JSON of the answer."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> web.Response:
        return web.json_response(self.body(), status=self.status, headers=self.headers)


def missing(param: str) -> ApiError:
    return ApiError(400, f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)


def invalid(param: str, why: str) -> ApiError:
    """A value that the API does not take; ``why`` is a clause without a full stop."""
    return ApiError(400, f"Invalid value for '{param}': {why}.", code="invalid_value", param=param)


def unknown_parameter(param: str) -> ApiError:
    return ApiError(400, f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param)


def unknown_model(model: str) -> ApiError:
    return ApiError(404, f"The model `{model}` does not exist or you do not have access to it.", code="model_not_found")


def rehearsed_refusal(status: int, retry_after_s: float | None = None, code: str | None = None) -> ApiError:
    """The error object that the API sends with this status, ordered by a fault."""
    headers = {}
    if retry_after_s is not None:
        headers = {"Retry-After": str(math.ceil(retry_after_s)), "retry-after-ms": str(round(retry_after_s * 1000))}
    message = "A rehearsed refusal."
    match status:
        case 401:
            return ApiError(401, "Incorrect API key provided.", code=code or "invalid_api_key")
        case 403:
            forbidden = code or "unsupported_country_region_territory"
            return ApiError(403, message, code=forbidden, kind="request_forbidden")
        case 429 if code == "insufficient_quota" or (code is None and retry_after_s is None):
            quota = "You exceeded your current quota, please check your plan and billing details."
            return ApiError(429, quota, code="insufficient_quota", kind="insufficient_quota")
        case 429:
            limits = rate_limit_headers(remaining_requests=0, reset_s=retry_after_s or 1.0)
            limited = "Rate limit reached for requests per min (RPM). Please try again later."
            return ApiError(
                429, limited, code=code or "rate_limit_exceeded", kind="requests", headers={**limits, **headers}
            )
        case _ if status < 500:
            return ApiError(status, message, code=code)
        case 503:
            busy = "The engine is currently overloaded, please try again later."
            return ApiError(503, busy, code=code, kind="service_unavailable_error", headers=headers)
    failed = "The server had an error while processing your request. Sorry about that!"
    return ApiError(status, failed, code=code or "server_error", kind="server_error", headers=headers)


def rate_limit_headers(*, remaining_requests: int = _REQUESTS_PER_MINUTE - 1, reset_s: float = 0.06) -> dict[str, str]:
    """The ``x-ratelimit-*`` headers that every answer carries."""
    return {
        "x-ratelimit-limit-requests": str(_REQUESTS_PER_MINUTE),
        "x-ratelimit-limit-tokens": str(_TOKENS_PER_MINUTE),
        "x-ratelimit-remaining-requests": str(remaining_requests),
        "x-ratelimit-remaining-tokens": str(_TOKENS_PER_MINUTE),
        "x-ratelimit-reset-requests": f"{round(reset_s * 1000)}ms",
        "x-ratelimit-reset-tokens": "0ms",
    }
