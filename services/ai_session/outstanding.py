"""What a model session still owes when a call ends: transcripts, the usage of responses, results of tools. Pure."""

from __future__ import annotations

from services.ai_session.backends.port import (
    BackendEvent,
    CallerTranscript,
    Lost,
    ResponseEnded,
    ResponseStarted,
    ServerToolBegan,
    ServerToolEnded,
    SpeechDiscarded,
    SpeechStarted,
    SpeechStopped,
    ToolRequested,
)


class Outstanding:
    """Fed with every event of the backend; audio passes by."""

    def __init__(self) -> None:
        self.responses: set[str] = set()
        self._speaking: set[str] = set()
        self._turns: set[str] = set()
        self._tools: set[str] = set()
        self._server_tools: set[str] = set()

    def __bool__(self) -> bool:
        """Whether something is still to come."""
        return bool(self.responses or self._turns or self._tools or self._server_tools)

    @property
    def is_caller_speaking(self) -> bool:
        """A turn has begun and not ended."""
        return bool(self._speaking)

    def note(self, event: BackendEvent) -> None:
        """Take one event."""
        match event:
            case ResponseStarted(response):
                self.responses.add(response)
            case ResponseEnded(response):
                self.responses.discard(response)
            case SpeechStarted(item):
                self._speaking.add(item)
            case SpeechStopped(item):
                self._speaking.discard(item)
                self._turns.add(item)
            case CallerTranscript(item) | SpeechDiscarded(item):
                self._speaking.discard(item)
                self._turns.discard(item)
            case ToolRequested(_, tool_call_id):
                self._tools.add(tool_call_id)
            case ServerToolBegan(_, tool_call_id):
                self._server_tools.add(tool_call_id)
            case ServerToolEnded(tool_call_id):
                self._server_tools.discard(tool_call_id)
            case Lost():
                self._speaking.clear()
                self.responses.clear()
                self._turns.clear()
                self._server_tools.clear()
            case _:
                pass

    def tool_done(self, tool_call_id: str) -> None:
        """A tool has returned."""
        self._tools.discard(tool_call_id)
