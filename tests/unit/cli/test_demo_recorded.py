from datetime import UTC, datetime

from cli.demo.checks import Said
from cli.demo.recorded import Recorded, by_name, by_pieces, by_words
from libs.contracts.events import AgentTurn


def turn(item, text):
    common = {"event_id": f"c:x:{item}", "org": "default", "call": "c", "at": datetime.now(UTC)}
    return AgentTurn(
        item=item, response="r", text=text, heard_text=text, audio_ms=1, heard_ms=1, interrupted=False, **common
    )


def test_a_turn_spoken_in_pieces_is_put_together_from_the_longest_that_fit():
    spoken = {"Ja.": b"a", "Ja. Gern.": b"b", "Was noch?": b"c"}
    found = by_pieces([turn("1", "Ja. Gern. Was noch?"), turn("2", "Ja. Was noch?"), turn("3", "Nein.")], spoken)
    assert found == {"1": Said("Ja. Gern. Was noch?", b"bc"), "2": Said("Ja. Was noch?", b"ac")}


def test_turns_are_found_by_the_names_of_their_items_or_by_their_words():
    recorded = [
        Recorded("x", Said("Ja.", b"a")),
        Recorded("y", Said("Gern.", b"b")),
        Recorded("z", Said("Nein.", b"c")),
    ]
    assert by_name([turn("y", "Gern.")], recorded) == {"y": Said("Gern.", b"b")}
    assert by_words([turn("1", "Ja. Gern."), turn("2", "Nein.")], recorded) == {
        "1": Said("Ja. Gern.", b"a"),
        "2": Said("Nein.", b"c"),
    }
