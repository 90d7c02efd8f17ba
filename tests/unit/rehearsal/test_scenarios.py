import json
from pathlib import Path

import pytest

from services.rehearsal.scenario import Scenario, ScenarioError, ScenarioSet, load_scenarios
from services.rehearsal.speech import CLIPS, read_index
from services.rehearsal.speech_text import sentences

from .driver import PCMU, SIMPLE, Driver, of, one

BESTELLUNG = load_scenarios(Path("deploy/config/scenarios/bestellung.yaml"))[0]
TOOLS = [
    {"type": "function", "name": name, "description": name, "parameters": {"type": "object"}}
    for name in ("search_products", "order_add", "order_show", "order_submit")
]
CONFIG = {"audio": PCMU, "tools": TOOLS}


class Shop:
    """Answers tool calls as the catalogue's tools do."""

    def __init__(self, *, empty=False):
        self.empty = empty
        self.calls = []

    def run(self, name, arguments):
        self.calls.append((name, arguments))
        match name:
            case "search_products":
                product = {"article_number": f"A{len(self.calls)}", "price_eur": "1.45"}
                return {"products": [] if self.empty else [product]}
            case "order_add" | "order_show":
                return {"basket": {"revision": 1, "lines": [], "total_eur": "0.00"}}
            case "order_submit":
                return {"order_id": "o-1", "number": "1", "lines": [{}, {}, {}], "total_eur": "1.00"}


def answer(driver, shop):
    """Run responses and tools until the model has spoken; return the texts."""
    texts = []
    while True:
        found = driver.settle()
        done = one(found, "response.done")["response"]
        calls = [item for item in done["output"] if item["type"] == "function_call"]
        for item in done["output"]:
            texts += [part["transcript"] for part in item.get("content", [])]
        for call in calls:
            output = shop.run(call["name"], json.loads(call["arguments"]))
            driver.tool(call["call_id"], json.dumps(output))
        if not calls:
            return texts
        driver.send("response.create")


def replay(driver, items):
    for item in items:
        driver.send("conversation.item.create", item=item)


def said(role, text):
    kind = "input_text" if role == "user" else "output_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def called(call_id, name, arguments, output):
    call = {"type": "function_call", "call_id": call_id, "name": name, "arguments": json.dumps(arguments)}
    return [call, {"type": "function_call_output", "call_id": call_id, "output": json.dumps(output)}]


def test_the_order_is_taken_from_greeting_to_submission():
    driver, shop = Driver(BESTELLUNG, session=CONFIG), Shop()
    driver.send("response.create")
    spoken = answer(driver, shop)
    for _ in BESTELLUNG.turns:
        driver.turn()
        spoken += answer(driver, shop)
    assert [name for name, _ in shop.calls] == [
        *("search_products", "order_add", "search_products", "order_add"),
        *("search_products", "order_show", "order_add", "order_show", "order_submit"),
    ]
    quantities = [(a["article_number"], a["quantity"]) for n, a in shop.calls if n == "order_add"]
    assert quantities == [("A1", 10), ("A3", 5), ("A5", 20)]
    assert spoken[-1].endswith("Ihre Bestellung mit drei Positionen ist aufgegeben. Auf Wiederhören.")
    assert not driver.core.truth.client_errors


def test_every_sentence_of_the_demo_is_recorded():
    driver, recorded = Driver(BESTELLUNG, session=CONFIG), read_index(CLIPS)
    spoken = []
    for shop in (Shop(), Shop(empty=True)):
        for _ in range(4):
            driver.turn()
            spoken += answer(driver, shop)
    for text in (*spoken, *BESTELLUNG.static_texts()):
        assert [s for s in sentences(text) if s not in recorded] == []


def test_parallel_calls_come_in_one_response():
    driver = Driver(BESTELLUNG, session=CONFIG)
    replay(driver, [said("user", "eins"), said("user", "zwei"), said("user", "drei")])
    driver.turn()
    output = one(driver.settle(), "response.done")["response"]["output"]
    assert [item["name"] for item in output] == ["search_products", "order_show"]
    driver.tool(output[0]["call_id"], "{}")
    driver.send("response.create")
    text = one(driver.settle(), "response.done")["response"]["output"][0]["content"][0]["transcript"]
    assert text == BESTELLUNG.wait


def test_a_failed_search_is_admitted_instead_of_ordered():
    driver, shop = Driver(BESTELLUNG, session=CONFIG), Shop(empty=True)
    driver.turn()
    assert answer(driver, shop)[0].startswith("Das habe ich leider nicht gefunden.")
    assert [name for name, _ in shop.calls] == ["search_products"]


def test_tools_that_the_session_does_not_offer_are_not_called():
    driver, shop = Driver(BESTELLUNG, session={"audio": PCMU}), Shop()
    driver.turn()
    answer(driver, shop)
    assert shop.calls == []


def test_a_new_session_goes_on_with_the_turn_after_the_replayed_ones():
    driver, shop = Driver(BESTELLUNG, session=CONFIG), Shop()
    hit = {"products": [{"article_number": "107003"}]}
    replay(
        driver,
        [
            said("assistant", "Guten Tag."),
            said("user", "zehn T-Stücke"),
            said("assistant", "Zehn T-Stücke sind notiert."),
            said("user", "Übergangsmuffen?"),
            *called("c1", "search_products", {"query": "x"}, hit),
            said("assistant", "Ja, die haben wir am Lager."),
        ],
    )
    driver.turn()
    assert answer(driver, shop) == ["Gern, fünf Stück sind notiert. Was noch?"]
    assert shop.calls == [("order_add", {"article_number": "107003", "quantity": 5})]


def test_an_unanswered_replayed_turn_is_answered_with_an_apology():
    driver, shop = Driver(BESTELLUNG, session=CONFIG), Shop()
    replay(
        driver,
        [
            said("assistant", "Guten Tag."),
            said("user", "zehn T-Stücke"),
            *called("c1", "search_products", {"query": "x"}, {"products": [{"article_number": "A7"}]}),
        ],
    )
    driver.send("response.create")
    spoken = answer(driver, shop)
    assert spoken == [BESTELLUNG.resumed, "Zehn T-Stücke, 22 Millimeter, sind notiert. Was noch?"]
    assert shop.calls == [("order_add", {"article_number": "A7", "quantity": 10})]


def test_a_cut_off_answer_goes_on_after_the_last_sentence_that_was_heard():
    driver, shop = Driver(BESTELLUNG, session=CONFIG), Shop()
    hit = {"products": [{"article_number": "A1", "price_eur": "1.45"}]}
    replay(
        driver,
        [
            said("user", "eins"),
            said("user", "Übergangsmuffen?"),
            *called("c1", "search_products", {}, hit),
            said("assistant", "Ja, die haben wir am Lager. Das Stück kostet 1 Euro 45. Wir führen"),
        ],
    )
    instructions = "The line was interrupted while you were speaking. Go on where your last sentence stopped."
    driver.send("response.create", response={"instructions": instructions})
    spoken = answer(driver, shop)
    assert spoken[0] == BESTELLUNG.resumed
    assert spoken[1].startswith("Wir führen sie auch in anderen Größen")


def test_a_greeting_that_was_cut_is_finished():
    driver = Driver(BESTELLUNG, session=CONFIG)
    replay(driver, [said("assistant", "Guten Tag, Sanitärgroßhandel Muster.")])
    driver.send("response.create")
    assert answer(driver, Shop())[1].startswith("Sie sprechen mit einem KI-Assistenten.")


def test_the_answer_after_a_barge_in_belongs_to_the_new_turn():
    driver, shop = Driver(BESTELLUNG, session=CONFIG), Shop()
    replay(driver, [said("user", "eins")])
    driver.turn()
    driver.settle()
    call = driver.core.truth.conversation.items[-1]
    driver.tool(call.body["call_id"], json.dumps({"products": [{"article_number": "B", "price_eur": "1.45"}]}))
    driver.send("response.create")
    driver.until(driver.now + 0.5)
    driver.turn()
    assert driver.core.truth.responses[-1]["status"] == "cancelled"
    assert answer(driver, shop) == ["Gern, fünf Stück sind notiert. Was noch?"]
    assert shop.calls == [("order_add", {"article_number": "B", "quantity": 5})]


def test_a_tool_result_overtaken_by_a_new_turn_does_not_repeat_the_answer():
    driver, shop = Driver(BESTELLUNG, session=CONFIG), Shop()
    replay(driver, [said("user", "eins"), said("user", "zwei")])
    replay(driver, called("c0", "search_products", {}, {"products": [{"article_number": "B"}]})[:1])
    driver.turn()
    answer(driver, shop)
    driver.tool("c0", "{}")
    driver.send("response.create")
    assert answer(driver, shop) == [BESTELLUNG.follow_up]


@pytest.mark.parametrize(
    ("instructions", "spoken"),
    [
        ("Say exactly the following to the caller, word for word, then stop:\nHallo. Wer da?", "Hallo. Wer da?"),
        ('Begrüße den Anrufer mit "Schönen guten Tag."', "Schönen guten Tag."),
        ("The call has reached its time limit. Say goodbye.", SIMPLE.goodbye),
        ("The line was interrupted and words were lost. Ask them to repeat the last thing.", SIMPLE.ask_to_repeat),
        ("Greet the caller.", SIMPLE.greeting),
    ],
)
def test_instructions_of_a_response_are_followed(instructions, spoken):
    driver = Driver(session={"audio": PCMU})
    driver.send("response.create", response={"instructions": instructions})
    assert answer(driver, Shop()) == [spoken]


def test_extra_turns_get_the_default_answers_in_rotation():
    scenario = Scenario(name="s", greeting="Hallo", default_answers=["Eins.", "Zwei."])
    driver = Driver(scenario, session={"audio": PCMU})
    spoken = []
    for _ in range(3):
        driver.turn()
        spoken += answer(driver, Shop())
    assert spoken == ["Eins.", "Zwei.", "Eins."]


def test_several_answers_become_several_items_of_one_response():
    scenario = Scenario(name="s", greeting="Hallo", turns=[{"caller": "x", "answer": ["Erstens.", "Zweitens."]}])
    driver = Driver(scenario, session={"audio": PCMU})
    driver.turn()
    found = driver.settle()
    added = of(found, "response.output_item.added")
    assert [frame["output_index"] for frame in added] == [0, 1]
    assert len({frame["item_id"] for frame in of(found, "response.output_audio.delta")}) == 2


def test_the_scenario_is_chosen_by_instructions_then_by_url_then_by_default():
    scenarios = ScenarioSet([SIMPLE, BESTELLUNG], "simple")
    assert scenarios.choose(instructions="Du bist.\n[scenario: bestellung]").name == "bestellung"
    assert scenarios.choose(instructions="", query="bestellung").name == "bestellung"
    assert scenarios.choose(instructions="[scenario: unknown]").name == "simple"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("name: x", "greeting"),
        ("{name: x, greeting: g, turns: [{caller: c}]}", "turns.0.answer"),
        ("{name: x, greeting: g, turns: [{caller: c, answer: '{% if %}'}]}", "turns.0.answer"),
        ("{name: x, greeting: g, colour: red}", "colour"),
        ("{name: x, greeting: g, faults: [{kind: close, cod: 1}]}", "faults.0.cod"),
        ("{name: [", "not YAML"),
    ],
)
def test_a_bad_scenario_file_is_named_with_its_field(tmp_path, text, field):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ScenarioError, match=r"bad\.yaml: .*") as error:
        load_scenarios(file)
    assert field in str(error.value)


def test_templates_cannot_reach_into_python():
    escape = "{{ ''.__class__.__mro__ }}"
    scenario = Scenario(name="s", greeting="Hallo", turns=[{"caller": "x", "answer": escape}])
    driver = Driver(scenario, session={"audio": PCMU})
    driver.turn()
    assert answer(driver, Shop()) == [scenario.default_answer(1)]
