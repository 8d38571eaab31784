"""Words in a prompt that cause a fault, similar to test card numbers of payment providers.

`dispatch` and the providers react to them. `PROMPT_FAULTS` describes them for users; see `proxy/docs/simulator.md`.
"""

from collections.abc import Mapping
from enum import StrEnum


class PromptFault(StrEnum):
    """A word in brackets that changes the course of a job if its prompt contains the word."""

    FAIL = "[fail]"
    CANCEL = "[cancel]"
    SLOW = "[slow]"
    STUCK = "[stuck]"
    TOO_MANY = "[429]"
    SERVER_ERROR = "[500]"
    REJECT = "[reject]"
    CREDITS = "[credits]"
    UNKNOWN = "[unknown]"
    FLAKY = "[flaky]"
    CUT = "[cut]"
    URL = "[url]"
    BASE64 = "[b64]"


PROMPT_FAULTS: Mapping[str, str] = {
    PromptFault.FAIL.value: "the job fails with the provider's message",
    PromptFault.CANCEL.value: "the provider cancels the job, or fails it if it has no status for cancellation",
    PromptFault.SLOW.value: "the job takes five times as long",
    PromptFault.STUCK.value: "the job never ends",
    PromptFault.TOO_MANY.value: "the first submit gets 429 with Retry-After: 1, the next one succeeds",
    PromptFault.SERVER_ERROR.value: "the submit gets 500 with the provider's error body",
    PromptFault.REJECT.value: "the submit is refused because of its parameters",
    PromptFault.CREDITS.value: "the submit is refused because the account has no credit",
    PromptFault.UNKNOWN.value: "the job has an undocumented status for a while",
    PromptFault.FLAKY.value: "every second poll gets a 502 HTML page",
    PromptFault.CUT.value: "a stream is cut in the middle; for a polled job, one poll response is cut",
    PromptFault.URL.value: "a Gaia image is returned as a URL",
    PromptFault.BASE64.value: "a Gaia image is returned as inline base64",
}

UNDOCUMENTED = "Reticulating"
"""Status word that no provider documents."""


def words_in(text: str) -> frozenset[PromptFault]:
    """Return the fault words in `text`, in any letter case."""
    lowered = text.lower()
    return frozenset(word for word in PromptFault if word in lowered)
