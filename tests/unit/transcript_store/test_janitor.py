"""The janitor against scripts of what it hears: it ends what nobody owns, and nothing that lives."""

from libs.contracts.termination import Reason
from services.transcript_store.janitor import EndCall, Janitor, OpenCall

TICK = 0.25
CALL = OpenCall("c1", "default", "gw-1")


class Stage:
    """A janitor whose clock and hearing the script controls."""

    def __init__(self, grace_s: float = 30.0, link: bool = True) -> None:
        self.core = Janitor(grace_s, TICK)
        self.now = 1000.0
        self.gateways: dict[str, set[str]] = {}
        if link:
            self.core.link_up(self.now)

    def run(self, seconds: float, tick: float = TICK) -> list[EndCall]:
        ends = []
        for _ in range(round(seconds / tick)):
            self.now += tick
            for gw, calls in self.gateways.items():
                self.core.heard(gw, calls)
            ends += self.core.tick(self.now)
        return ends


def test_a_call_whose_gateway_vanished_is_ended_after_the_grace() -> None:
    stage = Stage()
    stage.gateways["gw-1"] = {"c1"}
    stage.core.open_calls([CALL])
    assert stage.run(300) == []
    del stage.gateways["gw-1"]
    assert stage.run(29) == []
    assert stage.run(2) == [EndCall("c1", "default", Reason.GATEWAY_LOST)]


def test_a_call_that_its_living_gateway_forgot_is_lost() -> None:
    stage = Stage()
    stage.gateways["gw-1"] = set()
    stage.core.open_calls([CALL])
    assert stage.run(32) == [EndCall("c1", "default", Reason.LOST)]


def test_a_restarted_gateway_has_a_new_id_and_does_not_own_the_old_calls() -> None:
    stage = Stage()
    stage.gateways["gw-2"] = set()
    stage.core.open_calls([CALL])
    assert stage.run(32) == [EndCall("c1", "default", Reason.GATEWAY_LOST)]


def test_heartbeats_without_a_list_are_no_sign_of_the_call() -> None:
    stage = Stage()
    stage.gateways["gw-1"] = set()
    stage.core.open_calls([CALL])
    ends = []
    for _ in range(32):
        stage.core.heard("gw-1", None)
        ends += stage.run(1)
    assert [end.reason for end in ends] == [Reason.LOST]


def test_a_call_on_any_gateway_lives() -> None:
    stage = Stage()
    stage.gateways["gw-2"] = {"c1"}
    stage.core.open_calls([CALL])
    assert stage.run(100) == []


def test_at_the_start_live_calls_have_the_whole_grace_to_be_heard() -> None:
    stage = Stage()
    stage.core.open_calls([CALL])  # open for hours by the database: the store was down
    assert stage.run(25) == []
    stage.gateways["gw-1"] = {"c1"}
    assert stage.run(300) == []


def test_silence_while_the_own_link_is_down_is_no_evidence() -> None:
    stage = Stage()
    stage.core.open_calls([CALL])
    assert stage.run(25) == []
    stage.core.link_down()
    assert stage.run(300) == []
    stage.core.link_up(stage.now)
    assert stage.run(29) == []
    assert stage.run(3) == [EndCall("c1", "default", Reason.GATEWAY_LOST)]


def test_without_a_link_nothing_is_ever_ended() -> None:
    stage = Stage(link=False)
    stage.core.open_calls([CALL])
    assert stage.run(1000) == []


def test_a_time_in_which_we_were_stopped_ourselves_does_not_count() -> None:
    stage = Stage()
    stage.core.open_calls([CALL])
    assert stage.run(20) == []
    stage.now += 3600  # a frozen process, a suspended laptop
    assert stage.core.tick(stage.now) == []
    assert stage.run(9) == []
    assert stage.run(3) == [EndCall("c1", "default", Reason.GATEWAY_LOST)]


def test_a_call_that_ended_by_itself_is_left_alone() -> None:
    stage = Stage()
    stage.core.open_calls([CALL])
    assert stage.run(20) == []
    stage.core.open_calls([])
    assert stage.run(60) == []


def test_an_end_is_decided_once_and_again_only_if_it_did_not_come_about() -> None:
    stage = Stage()
    stage.core.open_calls([CALL])
    assert len(stage.run(31)) == 1
    assert stage.run(28) == []
    assert len(stage.run(3)) == 1


def test_a_call_seen_again_in_the_database_keeps_its_silence() -> None:
    stage = Stage()
    ends = []
    for _ in range(7):
        stage.core.open_calls([CALL])
        ends += stage.run(5)
    assert len(ends) == 1
