"""A whole order as a pipeline places it: recording, words, answer and tools, speech. With the package's client."""

import json

import pytest

from .http_client import ORDER, caller_clip, openai_client, serving, wav
from .test_scenarios import Shop

NAMES = ("search_products", "order_add", "order_show", "order_submit")
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in NAMES]


async def answered(client, messages, shop):
    """Ask, run the tools and ask again until the model speaks; the history grows by all of it."""
    while True:
        completion = await client.chat.completions.create(
            model="gpt-5.6-luna", messages=messages, tools=TOOLS, prompt_cache_key="call-1"
        )
        message = completion.choices[0].message
        messages.append(message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
        for call in message.tool_calls or []:
            output = shop.run(call.function.name, json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(output)})
        if not message.tool_calls:
            return message.content


@pytest.mark.parametrize("kept_messages", [1000, 6], ids=["with its whole history", "with a short memory"])
async def test_an_order_is_placed_turn_by_turn(kept_messages):
    shop, messages = Shop(), [{"role": "system", "content": "[scenario: bestellung]"}]
    async with serving() as rehearsal, openai_client(rehearsal) as client:
        spoken = [await answered(client, messages, shop)]
        for number, turn in enumerate(ORDER.turns, start=1):
            file = wav(caller_clip(f"bestellung-{number}"))
            heard = await client.audio.transcriptions.create(model="gpt-transcribe", file=file)
            assert heard.text == turn.caller
            messages.append({"role": "user", "content": heard.text})
            spoken.append(await answered(client, messages, shop))
            speech = await client.audio.speech.create(
                model="gpt-4o-mini-tts", voice="marin", input=spoken[-1], response_format="pcm"
            )
            assert len(speech.content) > 24000
            recent = [i for i, m in enumerate(messages) if m["role"] == "user"][-2:]
            if len(messages) > kept_messages:
                messages[1:] = messages[recent[0] :]
    quantities = [arguments["quantity"] for name, arguments in shop.calls if name == "order_add"]
    assert (spoken[0], quantities) == (ORDER.greeting, [10, 5, 20])
    assert shop.calls[-1][0] == "order_submit"
    assert spoken[-1].endswith("Auf Wiederhören.")
    assert rehearsal.requests.conversations()[0].turn == len(ORDER.turns)
