"""Numbers as they stand in SIP become E.164; what is no number stays what it is."""

import pytest

from libs.call_leg.numbers import normalise


@pytest.mark.parametrize(
    ("user", "country", "expected"),
    [
        ("030 1234567", "DE", "+49301234567"),
        ("0301234567", "DE", "+49301234567"),
        ("+49301234567", "DE", "+49301234567"),
        ("0049301234567", "DE", "+49301234567"),
        ("+49 (30) 123-4567", "DE", "+49301234567"),
        ("(030) 123/4567", "DE", "+49301234567"),
        ("0171 2345678", "DE", "+491712345678"),
        ("+43 1 2345678", "DE", "+4312345678"),
        ("0043 1 2345678", "DE", "+4312345678"),
        ("044 668 18 00", "CH", "+41446681800"),
        ("2125550123", "US", "+12125550123"),
        ("  030 1234567 ", "DE", "+49301234567"),
        # parameters that trunks add to the user part
        ("+49301234567;npdi", "DE", "+49301234567"),
        ("0301234567;phone-context=+49", "DE", "+49301234567"),
        ("frau;meier", "DE", "frau;meier"),
        # extensions and what no number plan knows stay
        ("101", "DE", "101"),
        ("12", "DE", "12"),
        ("112", "DE", "112"),
        ("5550123", "US", "5550123"),
        ("49301234567", "DE", "+49301234567"),
        ("1234567t0", "DE", "1234567t0"),
        ("bestellung", "DE", "bestellung"),
        ("Frau.Müller", "DE", "Frau.Müller"),
        ("*21#", "DE", "*21#"),
        ("+4930123456789012345678", "DE", "+4930123456789012345678"),
        ("+", "DE", "+"),
        ("0000", "DE", "0000"),
        ("011 1 212 5550100", "DE", "011 1 212 5550100"),
        # withheld
        ("", "DE", "anonymous"),
        ("   ", "DE", "anonymous"),
        ("anonymous", "DE", "anonymous"),
        ("Anonymous", "DE", "anonymous"),
        ("restricted", "DE", "anonymous"),
        ("unavailable", "DE", "anonymous"),
        ("unknown", "DE", "anonymous"),
        ("Private", "DE", "anonymous"),
        ("tel:", "DE", "anonymous"),
        ("+266696687", "DE", "anonymous"),  # the letters of ANONYMOUS on a keypad, as Twilio sends it
        # telephone URIs (RFC 3966)
        ("tel:+49-30-1234567", "DE", "+49301234567"),
        ("TEL:+49(30)1234567;ext=12", "DE", "+49301234567"),
        ("tel:4711;phone-context=example.com", "DE", "4711"),
        # emergency and service numbers, extensions of a PBX
        ("110", "DE", "110"),
        ("115", "DE", "115"),
        ("116117", "DE", "116117"),
        ("11833", "DE", "11833"),
        ("4711", "DE", "4711"),
        ("911", "US", "911"),
        ("0800 3302424", "DE", "+498003302424"),
        # malformed and hostile: printable, bounded, never an exception
        ("++49301234567", "DE", "++49301234567"),
        ("+49\x0030\r\n1234567", "DE", "+49301234567"),
        ("\u202e+49301234567", "DE", "+49301234567"),
        ("\ud800", "DE", "anonymous"),
        ("'; DROP TABLE calls; --", "DE", "'; DROP TABLE calls; --"),
        ("9" * 1000, "DE", "9" * 64),
        ("x" * 1000, "DE", "x" * 64),
        ("0301234567", "XX", "0301234567"),
        ("0301234567", "", "0301234567"),
    ],
)
def test_a_number_becomes_e164_and_a_name_stays(user, country, expected):
    assert normalise(user, country) == expected
