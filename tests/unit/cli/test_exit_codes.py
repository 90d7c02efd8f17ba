"""Every way a call can end has an exit code, and the page of the command line shows them as they are."""

from cli.checkout import ROOT
from cli.exit_codes import CODE_OF, MEANING, ExitCode, table_for_docs
from libs.contracts.termination import RESULT_OF, Reason, Result


def test_every_reason_has_a_code_and_every_code_a_meaning() -> None:
    assert set(CODE_OF) == set(Reason)
    assert set(MEANING) == set(ExitCode)


def test_a_call_is_a_success_for_the_shell_exactly_when_it_is_one_for_the_record() -> None:
    for reason, code in CODE_OF.items():
        assert (code is ExitCode.SUCCESS) == (RESULT_OF[reason] is Result.SUCCESS), reason


def test_ends_that_scripts_tell_apart_have_codes_of_their_own() -> None:
    apart = [
        Reason.CALLEE_BUSY,
        Reason.CALLEE_NO_ANSWER,
        Reason.CALLEE_DECLINED,
        Reason.NUMBER_INVALID,
        Reason.NUMBER_NOT_ALLOWED,
        Reason.TRUNK_FAILED,
        Reason.NO_WORKER,
        Reason.MODEL_FAILED,
        Reason.INTERNAL_ERROR,
    ]
    assert len({CODE_OF[reason] for reason in apart}) == len(apart)
    assert all(CODE_OF[reason] >= 10 for reason in apart)  # below are the command's own


def test_the_page_of_the_command_line_holds_the_table() -> None:
    assert table_for_docs() in (ROOT / "docs" / "cli.md").read_text("utf-8")
