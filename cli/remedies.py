"""What a person can do about a call that ended badly, by the reason of its `Termination`."""

from __future__ import annotations

from libs.contracts.termination import Reason

REMEDIES: dict[Reason, str] = {
    Reason.NO_COMMON_CODEC: "they need G.711 or G.722, and SRTP as the trunk wants it: see its `codecs` and `srtp`",
    Reason.MALFORMED_OFFER: "`callbus trace CALL` shows what the other side sent",
    Reason.NO_ACK: "the other side never confirmed the answer: NAT or firewall; set SIP_PUBLIC_HOST",
    Reason.RTP_TIMEOUT: "its audio does not arrive: open RTP_PORTS, set SIP_PUBLIC_HOST; `callbus trace CALL`",
    Reason.NUMBER_INVALID: "the number does not exist, or is not written in E.164",
    Reason.NUMBER_NOT_ALLOWED: "the trunk's fence (`allowed_prefixes`) does not let this number pass",
    Reason.NOT_AUTHENTICATED: "the caller's trunk sent no or a wrong password",
    Reason.OUTSIDE_HOURS: "the route was closed: see its `hours`",
    Reason.NOT_ACCEPTED: "nobody accepted in time: `callbus accept`, or a longer person_timeout_s",
    Reason.NO_ROUTE: "publish a route for the number: `callbus apply`",
    Reason.UNKNOWN_AGENT: "publish the route's agent: `callbus apply`",
    Reason.NO_WORKER: "no worker lives, or all are full: `callbus doctor`, more workers, WORKER_CAPACITY",
    Reason.AT_CAPACITY: "the gateway or the organisation has its most calls: see its limits",
    Reason.TOO_MANY_ATTEMPTS: "attempts are limited per minute or hour: see the organisation and the trunk",
    Reason.BUDGET_SPENT: "the organisation's budget of the day is spent: max_usd_per_day",
    Reason.DRAINING: "the gateway was about to end: start another one before",
    Reason.NOT_READY: "the model was not ready in time: the worker's log, limits.ready_timeout_s",
    Reason.WORKER_LOST: "the worker is gone and none could follow: look at its log, run two at least",
    Reason.GATEWAY_LOST: "the gateway ended without a word: look at its log",
    Reason.INTERNAL_ERROR: "a defect: the log of gateway and worker has the traceback of this call",
    Reason.MODEL_REFUSED: "the provider refused key or model: OPENAI_API_KEY, the agent's model, `callbus doctor`",
    Reason.MODEL_UNREACHABLE: "the provider was not reached: OPENAI_BASE_URL, the network, its status page",
    Reason.MODEL_FAILED: "the provider failed during the call: the worker's log, its status page",
    Reason.TRUNK_FAILED: "`callbus trace CALL` has the provider's answer: account, caller id or barred number",
    Reason.LOST: "nobody was left to say how it ended: a gateway or the bus was killed; look at their logs",
}
