import pytest
from hypothesis import given, strategies as st

from services.ai_session.backends.sentences import LONGEST_PIECE, Sentences, ThoughtFilter, speakable


def pieces(text, step=3):
    sentences, found = Sentences(), []
    for at in range(0, len(text), step):
        found += sentences.push(text[at : at + step])
    return found + sentences.end()


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    "expected",
    [
        ["Guten Tag.", "Was kann ich für Sie tun?"],
        ["Der Bogen misst z. B. 70 x 100 cm."],
        ["Das sind 22,5 Kilogramm.", "Bitte nennen Sie mir noch die Menge."],
        ["Wir liefern am 3. Mai gegen 14 Uhr.", "Passt Ihnen das so?"],
        ["Die Art. Nr. 4711 ist lieferbar.", "Sie kostet 3,20 Euro."],
        ["Ja.", "Gern. Ich schaue nach."],
        ["Moment!", "Ich verbinde Sie jetzt mit Herrn Dr. Weber."],
    ],
)
def test_pieces_are_sentences(expected, step):
    assert pieces(" ".join(expected), step) == expected


def test_the_first_piece_may_end_at_a_clause_before_the_sentence_is_written():
    sentences = Sentences()
    assert sentences.push("Gerne, ich schaue gleich nach, ") == []
    assert sentences.push("ob") == ["Gerne, ich schaue gleich nach,"]
    assert sentences.push(" der Artikel, den Sie brauchen, lieferbar ist. ") == []
    assert sentences.end() == ["ob der Artikel, den Sie brauchen, lieferbar ist."]


def test_a_decimal_or_a_dimension_is_never_cut():
    for text in ("Der Preis beträgt heute für Sie 22,5 Euro je Bogen", "Es ist die Platte mit 70,5 × 100 cm am Lager"):
        assert pieces(text, 1) == [text]


def test_an_endless_sentence_is_cut_at_a_clause_or_at_a_word():
    long = "Wort " * 200
    found = pieces(long)
    assert all(len(piece) <= LONGEST_PIECE for piece in found)
    assert " ".join(found) == long.strip()


def test_line_breaks_end_sentences_and_markup_is_not_spoken():
    text = "## Angebot\n\n- **Bogen** zu *3 Euro* das Stück\n- [Karton](http://x.example) zu `5 Euro`\n\n---\nFertig."
    assert pieces(text) == [
        "Angebot",
        "Bogen zu 3 Euro das Stück",
        "Karton zu 5 Euro",
        "Fertig.",
    ]


def test_what_has_no_words_is_no_piece():
    assert speakable(" … ") == ""
    assert pieces("👍 \n\n !") == []


@given(st.text(alphabet="ab, .!?\n1-*", max_size=400), st.integers(1, 50))
def test_no_letter_is_lost_and_none_added(text, step):
    assert "".join(filter(str.isalnum, "".join(pieces(text, step)))) == "".join(filter(str.isalnum, text))


@pytest.mark.parametrize("step", [1, 4, 100])
@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("<think>Er will Papier.</think>\n\nGerne.", "Gerne."),
        ("Gerne. <think>", "Gerne. <think>"),
        ("<thin", "<thin"),
        ("<think>endlos", ""),
    ],
)
def test_thoughts_are_not_spoken(text, heard, step):
    thoughts, found = ThoughtFilter(), ""
    for at in range(0, len(text), step):
        found += thoughts.push(text[at : at + step])
    assert (found + thoughts.end()).strip() == heard
