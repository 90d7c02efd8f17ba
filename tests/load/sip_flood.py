"""A scanner: SIP requests of several kinds at a steady rate from one address; counts what comes back.

`python -m tests.load.sip_flood 127.0.0.66 127.0.0.1 5060 2000 8` prints `sent received`.
"""

from __future__ import annotations

import socket
import sys
import time

STEP_S = 0.01
SDP = "v=0\r\no=- 1 1 IN IP4 {own}\r\ns=-\r\nc=IN IP4 {own}\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 8\r\n"


def request(method: str, own: str, port: int, target: str, number: int) -> bytes:
    """One that a trunk would answer."""
    body = SDP.format(own=own) if method == "INVITE" else ""
    lines = (
        f"{method} sip:{100 + number % 900}@{target} SIP/2.0",
        f"Via: SIP/2.0/UDP {own}:{port};branch=z9hG4bK{number};rport",
        "Max-Forwards: 70",
        f"From: <sip:scanner@{own}>;tag={number}",
        f"To: <sip:{100 + number % 900}@{target}>",
        f"Call-ID: {number}@{own}",
        f"CSeq: 1 {method}",
        f"Contact: <sip:scanner@{own}:{port}>",
        "Content-Type: application/sdp",
        f"Content-Length: {len(body)}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def flood(own: str, target: str, target_port: int, rate: int, seconds: float) -> tuple[int, int]:
    """Send; gives how many went out and how many datagrams came back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((own, 0))
        sock.setblocking(False)
        port = sock.getsockname()[1]
        methods = ("INVITE", "REGISTER", "OPTIONS", "INVITE")
        ready = [request(methods[number % 4], own, port, target, number) for number in range(4000)]
        sent = received = 0
        began_at = time.monotonic()
        while (now := time.monotonic()) < began_at + seconds:
            for _ in range(int((now - began_at) * rate) - sent):
                sock.sendto(ready[sent % len(ready)], (target, target_port))
                sent += 1
            while True:
                try:
                    sock.recv(4096)
                except BlockingIOError:
                    break
                received += 1
            time.sleep(STEP_S)
        return sent, received


if __name__ == "__main__":
    own, target, port, rate, seconds = sys.argv[1:]
    print(*flood(own, target, int(port), int(rate), float(seconds)))
