"""The assumptions, one function each. Every response is bounded by `max_output_tokens`."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time

import aiohttp

from libs.audio.wav import write_wav
from libs.contracts.agent import AgentConfig, Transcription, TurnTaking
from libs.contracts.offer import Offer
from services.ai_session.backends import port
from services.ai_session.backends.realtime import Endpoint, RealtimeBackend
from services.ai_session.costs import tokens_of_text
from services.ai_session.model_watch import shutdown_dates
from tests.live.lab import (
    FAR_AWAY,
    Check,
    Json,
    Lab,
    NotAvailableError,
    RefusedError,
    Socket,
    Verdict,
    caller_speech,
    holds,
)

PCMU = {"type": "audio/pcmu"}
BOUND = 300  # output tokens of a response
GREET = "Sage jetzt: Guten Tag, was darf es sein?"
SENTENCE = "Ihre Bestellung hat die Nummer 4711."


def _spoken(answers: int = 1, heard_s: float = 0.0) -> object:
    """The cost of some bounded responses."""
    tokens = {"text_in": 300 * answers, "audio_in": int(heard_s * 10) * answers, "text_out": 60, "audio_out": BOUND}
    return lambda lab: lab.models.cost_of_response(lab.realtime, {**tokens, "audio_out": BOUND * answers})


def _session(**changes: object) -> Json:
    audio = {"input": {"format": PCMU, "turn_detection": None}, "output": {"format": PCMU}}
    return {"audio": audio, "max_output_tokens": BOUND, "instructions": "Antworte kurz.", **changes}


async def _answer(socket: Socket, **response: object) -> Json:
    await socket.send("response.create", response=response)
    return (await socket.until("response.done"))["response"]


def _realtime(lab: Lab) -> object:
    return lab.socket(f"/realtime?model={lab.realtime}", lab.realtime)


async def codec_echo(lab: Lab) -> Verdict:
    """Both G.711 laws are echoed in `session.updated` as they were asked for."""
    echoed = []
    for law in ("audio/pcmu", "audio/pcma"):
        async with _realtime(lab) as socket:
            audio = {"input": {"format": {"type": law}}, "output": {"format": {"type": law}}}
            session = await socket.configure(audio=audio)
            echoed += [session["audio"][side]["format"]["type"] == law for side in ("input", "output")]
    return holds(all(echoed), "the formats in force are those that were asked for" if all(echoed) else f"{echoed}")


async def instructions_replace(lab: Lab) -> Verdict:
    """`response.instructions` replace the session's for one response, and only for that one."""
    async with _realtime(lab) as socket:
        await socket.configure(**_session(instructions="Sage immer nur das eine Wort Apfel."))
        other = await _answer(socket, instructions="Sage nur das eine Wort Banane.")
        usual = await _answer(socket)
        said = [socket.transcript(each["id"]) for each in (other, usual)]
    right = "banane" in said[0].lower() and "apfel" not in said[0].lower() and "apfel" in said[1].lower()
    return holds(right, f"said {said[0]!r}, then {said[1]!r}")


async def truncation(lab: Lab) -> Verdict:
    """An item can be cut to what was heard; a cut beyond what was received is refused."""
    async with _realtime(lab) as socket:
        await socket.configure(**_session())
        await _answer(socket, instructions="Zähle langsam von eins bis zehn.")
        item = next(item for item, _ in socket.audio())
        received_ms = sum(size for name, size in socket.audio() if name == item) // 8
        cut = {"item_id": item, "content_index": 0}
        await socket.send("conversation.item.truncate", **cut, audio_end_ms=received_ms + 5000)
        beyond = await socket.until("error", "conversation.item.truncated")
        await socket.send("conversation.item.truncate", **cut, audio_end_ms=received_ms // 2)
        within = await socket.until("error", "conversation.item.truncated")
    kinds = (within["type"], beyond["type"])
    return holds(
        kinds == ("conversation.item.truncated", "error"),
        f"half of {received_ms} ms: {kinds[0]}; beyond it: {kinds[1]}",
    )


async def voice_session_transcription(lab: Lab) -> Verdict:
    """Speech-to-speech sessions take the transcription model, and transcribe with it."""
    async with _realtime(lab) as socket:
        audio = {"input": {"format": PCMU, "turn_detection": None, "transcription": {"model": lab.transcription}}}
        session = await socket.configure(audio={**audio, "output": {"format": PCMU}})
        taken = (session["audio"]["input"].get("transcription") or {}).get("model")
        await socket.say(caller_speech())
        await socket.send("input_audio_buffer.commit")
        kind = "conversation.item.input_audio_transcription"
        done = await socket.until(f"{kind}.completed", f"{kind}.failed")
    text = done.get("transcript") or ""
    return holds(taken == lab.transcription and "T-St" in text, f"{taken} heard {text!r}")


async def server_turns(lab: Lab) -> Verdict:
    """The server's voice detection hears a mu-law caller, commits the turn and answers it by itself."""
    async with _realtime(lab) as socket:
        detection = {"type": "server_vad", "silence_duration_ms": 500}
        audio = {"input": {"format": PCMU, "turn_detection": detection}, "output": {"format": PCMU}}
        await socket.configure(**_session(audio=audio))
        await socket.say(caller_speech())
        done = (await socket.until("response.done"))["response"]
    kinds = [event["type"] for event in socket.events]
    steps = [f"input_audio_buffer.{step}" for step in ("speech_started", "speech_stopped", "committed")]
    return holds(all(step in kinds for step in steps) and done["status"] == "completed", f"answer {done['status']}")


async def idle_timeout(lab: Lab) -> Verdict:
    """`idle_timeout_ms` makes the model speak after silence, which counts from the end of its audio."""
    async with _realtime(lab) as socket:
        detection = {"type": "server_vad", "idle_timeout_ms": 5000}
        audio = {"input": {"format": PCMU, "turn_detection": detection}, "output": {"format": PCMU}}
        await socket.configure(**_session(audio=audio))
        await _answer(socket, instructions="Sage nur: Hallo.")
        await socket.say(bytes(2 * 8000 * 12))
        await socket.until("input_audio_buffer.timeout_triggered", limit_s=25)
        done = (await socket.until("response.done"))["response"]
    return holds(done["status"] == "completed", f"timeout_triggered, then an answer {done['status']}")


async def cancelled_usage(lab: Lab) -> Verdict:
    """A cancelled response tells its usage: it is billed."""
    async with _realtime(lab) as socket:
        await socket.configure(**_session())
        await socket.send("response.create", response={"instructions": "Zähle langsam von eins bis fünfzig."})
        await socket.until("response.output_audio.delta")
        await socket.send("response.cancel")
        done = (await socket.until("response.done"))["response"]
    used = (done.get("usage") or {}).get("output_tokens", 0)
    if done["status"] == "completed":
        return Verdict("not available", "the response was over before it could be cancelled")
    return holds(done["status"] == "cancelled" and used > 0, f"{done['status']} with {used} output tokens")


async def reads_verbatim(lab: Lab) -> Verdict:
    """A Realtime session reads a sentence word for word in a response outside the conversation."""
    async with _realtime(lab) as socket:
        await socket.configure(**_session())
        content = [{"type": "input_text", "text": SENTENCE}]
        done = await _answer(
            socket,
            conversation="none",
            instructions="Sprich den Text wörtlich nach, ohne ein Wort hinzuzufügen oder wegzulassen.",
            input=[{"type": "message", "role": "user", "content": content}],
        )
        said = socket.transcript(done["id"])
    same = "".join(filter(str.isalnum, said.lower())) == "".join(filter(str.isalnum, SENTENCE.lower()))
    return holds(same, f"said {said!r}")


async def rate_limits(lab: Lab) -> Verdict:
    """`rate_limits.updated` comes with a response and names what is left of each limit."""
    async with _realtime(lab) as socket:
        await socket.configure(**_session())
        await _answer(socket, instructions="Sage nur: Hallo.")
    told = [one for event in socket.events if event["type"] == "rate_limits.updated" for one in event["rate_limits"]]
    return holds(
        bool(told), ", ".join(f"{one.get('name')}: {one.get('remaining')} left" for one in told) or "none came"
    )


async def workers_own(lab: Lab) -> Verdict:
    """The worker's own connection, with every field that agents may set: URL, headers, configuration, close."""
    transcription = Transcription(language="de", prompt="Sanitärgroßhandel", keywords=("T-Stück",))
    turns = TurnTaking(idle_timeout_ms=30_000, noise_reduction_strength=0.8)
    agent = AgentConfig(
        name="live",
        model=lab.realtime,
        speed=1.1,
        turn_taking=turns,
        transcription=transcription,
        max_output_tokens=BOUND,
    )
    offer = Offer(call="live", org="default", gw="live", epoch=1, caller="", callee="", agent=agent)
    events: asyncio.Queue[port.BackendEvent] = asyncio.Queue()
    tls = ssl.create_default_context() if lab.base_url.startswith("https:") else None
    endpoint = Endpoint(lab.base_url, lab.api_key, lab.realtime, lab.models, tls=tls)
    backend = RealtimeBackend(endpoint, offer, events.put_nowait)
    heard, refused = 0, ""
    try:
        await backend.open(port.Opening("Antworte kurz.", (), ()))
        backend.start_response(GREET)
        async with asyncio.timeout(20):
            while not isinstance(event := await events.get(), port.ResponseEnded):
                match event:
                    case port.Trouble(_, detail):
                        refused = detail
                    case port.Lost(_, detail):
                        raise RefusedError(detail)
                    case port.UsageCounted():
                        lab.purse.pay(event.cost_usd, lab.realtime)
                    case port.AudioDelta():
                        heard += len(event.pcm)
    except port.BackendError as error:
        gone = any(f"HTTP {status}" in str(error) for status in FAR_AWAY)
        raise (NotAvailableError if gone else RefusedError)(str(error)) from None
    finally:
        began = time.monotonic()
        await backend.close()
        closed_ms = (time.monotonic() - began) * 1000
    return holds(
        bool(heard) and not refused, refused or f"{heard / 16_000:.1f} s of audio, closed within {closed_ms:.0f} ms"
    )


# -- over HTTP ---------------------------------------------------------------------------------------------------


async def wav_8khz(lab: Lab) -> Verdict:
    """The transcription endpoint takes a WAV of 8 kHz, 16 bits, mono."""
    pcm = caller_speech()
    form = aiohttp.FormData({"model": lab.transcription})
    form.add_field("file", write_wav(pcm, 8000), filename="turn.wav", content_type="audio/wav")
    _, answer = await lab.post("/audio/transcriptions", data=form)
    lab.purse.pay(lab.models.cost_of_transcription(lab.transcription, {}, len(pcm) / 16_000), lab.transcription)
    text = (answer or {}).get("text", "")
    return holds("T-St" in text, f"heard {text!r}")


async def chat_stream(lab: Lab) -> Verdict:
    """Chat completions stream with `reasoning_effort: none`, and tell their usage at the end."""
    request = {
        "model": lab.chat,
        "stream": True,
        "stream_options": {"include_usage": True},
        "reasoning_effort": "none",
        "max_completion_tokens": 50,
        "messages": [{"role": "user", "content": "Antworte mit dem einen Wort Hallo."}],
    }
    body, _ = await lab.post("/chat/completions", json=request)
    chunks = [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]
    usage = next((chunk["usage"] for chunk in chunks if chunk.get("usage")), None)
    lab.purse.pay(lab.models.cost_of_response(lab.chat, tokens_of_text(usage)), lab.chat)
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    return holds(bool(text) and usage is not None, f"wrote {text!r}, usage {'told' if usage else 'missing'}")


async def speech_pcm(lab: Lab) -> Verdict:
    """The speech endpoint still speaks, as 24 kHz PCM without a header."""
    request = {"model": lab.speech, "voice": "alloy", "input": SENTENCE, "response_format": "pcm"}
    body, _ = await lab.post("/audio/speech", json=request)
    seconds = len(body) / 48_000
    lab.purse.pay(lab.models.cost_of_speech(lab.speech, characters=len(SENTENCE), seconds=seconds), lab.speech)
    right = len(body) % 2 == 0 and not body.startswith(b"RIFF") and 1 < seconds < 15
    return holds(right, f"{seconds:.1f} s of audio at 24 kHz")


async def listed_ends(lab: Lab) -> Verdict:
    """The listing of models carries `shutdown_date`."""
    listing = await lab.get("/models")
    found, all_models = shutdown_dates(listing), listing.get("data") or []
    differing = [
        name for name, ends in sorted(found.items()) if (known := lab.models.get(name).shutdown) and known != ends
    ]
    more = f"; models.toml differs for {', '.join(differing)}" if differing else ""
    return holds(bool(found), f"{len(found)} of {len(all_models)} models have one{more}")


# -- Live and ElevenLabs --------------------------------------------------------------------------------------------


async def live_greeting(lab: Lab) -> Verdict:
    """A Live session speaks first when commentary is appended, in mu-law, and tells its seconds when it is closed."""
    async with lab.socket("/live/sessions", lab.live) as socket:
        audio = {"format": {"type": "audio/pcmu", "rate": 8000}}
        session = {"model": lab.live, "instructions": "Sie sind am Telefon.", "audio": audio}
        await socket.send("session.start", session=session)
        await socket.until("session.started")
        await socket.send("session.commentary.append", delegation_id=None, content=GREET)
        said, heard = "", b""
        silence = base64.b64encode(b"\xff" * 160).decode()
        while len(said) < 10 or not heard:  # a telephone line sends all the time
            await socket.send("session.input_audio.append", audio=silence)
            event = await socket.until("session.output_transcript.delta", "session.output_audio.delta", limit_s=8)
            if event["type"] == "session.output_transcript.delta":
                said += event["delta"]
            else:
                heard += base64.b64decode(event["delta"])
        await socket.send("session.close")
        closed = await socket.until("session.closed")
    seconds = (closed.get("usage") or {}).get("seconds")
    return holds(bool(heard) and seconds is not None, f"said {said!r}, {seconds} s billed")


async def elevenlabs_ulaw(lab: Lab) -> Verdict:
    """ElevenLabs streams mu-law at 8 kHz."""
    if not (lab.elevenlabs_key and lab.elevenlabs_voice):
        return Verdict("not available", "set ELEVENLABS_API_KEY and ELEVENLABS_VOICE_ID")
    url = f"{lab.elevenlabs_url}/v1/text-to-speech/{lab.elevenlabs_voice}/stream?output_format=ulaw_8000"
    request = {"text": SENTENCE, "model_id": lab.elevenlabs_model}
    async with lab.http.post(url, json=request, headers={"xi-api-key": lab.elevenlabs_key}) as answer:
        body = await answer.read()
    if answer.status >= 400:
        return Verdict("does not hold", f"HTTP {answer.status}: {body[:200].decode('utf-8', 'replace')}")
    cost = lab.models.cost_of_speech(lab.elevenlabs_model, characters=len(SENTENCE))
    lab.purse.pay(cost, lab.elevenlabs_model)
    return holds(1 < len(body) / 8000 < 15, f"{len(body) / 8000:.1f} s of mu-law")


def _nothing(_: Lab) -> float:
    return 0.0


CHECKS: tuple[Check, ...] = (
    Check("own-socket", "the worker's own session, with most of what an agent may set", _spoken(), workers_own),
    Check("codec-echo", "session.updated echoes G.711 both ways", _nothing, codec_echo),
    Check("instructions", "response.instructions replace the session's", _spoken(2), instructions_replace),
    Check("truncation", "items are cut to what was heard, not beyond", _spoken(), truncation),
    Check("transcription", "voice sessions transcribe with the model", _spoken(0, 6), voice_session_transcription),
    Check("server-turns", "the server hears and answers a mu-law caller", _spoken(1, 6), server_turns),
    Check("idle-timeout", "idle_timeout_ms makes the model speak", _spoken(2, 12), idle_timeout),
    Check("cancelled", "cancelled responses tell their usage", _spoken(), cancelled_usage),
    Check("verbatim", "a Realtime session reads word for word", _spoken(), reads_verbatim),
    Check("rate-limits", "rate_limits.updated comes with responses", _spoken(), rate_limits),
    Check(
        "wav-8khz",
        "8 kHz WAV is transcribed",
        lambda lab: lab.models.cost_of_transcription(lab.transcription, {}, 6),
        wav_8khz,
    ),
    Check(
        "chat",
        "chat streams without reasoning and tells its usage",
        lambda lab: lab.models.cost_of_response(lab.chat, {"text_in": 50, "text_out": 50}),
        chat_stream,
    ),
    Check(
        "speech",
        "the speech endpoint speaks 24 kHz PCM",
        lambda lab: lab.models.cost_of_speech(lab.speech, characters=len(SENTENCE), seconds=4),
        speech_pcm,
    ),
    Check("model-ends", "the listing of models has shutdown_date", _nothing, listed_ends),
    Check(
        "live-greeting",
        "Live speaks first and tells its seconds",
        lambda lab: lab.models.cost_of_session(lab.live, 15),
        live_greeting,
    ),
    Check(
        "elevenlabs",
        "ElevenLabs streams mu-law",
        lambda lab: (
            lab.models.cost_of_speech(lab.elevenlabs_model, characters=len(SENTENCE)) if lab.elevenlabs_key else 0.0
        ),
        elevenlabs_ulaw,
    ),
)
