"""The words that ask for trouble from within a prompt, as test card numbers do for payments.

The demo and `proxy/docs/simulator.md` show them; `gate` and the providers obey them. `PROMPT_FAULTS` is the table for
people.
"""

from collections.abc import Mapping
from enum import StrEnum


class PromptFault(StrEnum):
    """A word in brackets that changes what becomes of the job whose prompt holds it."""

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
    PromptFault.FAIL.value: "the job fails at its end, with the provider's message",
    PromptFault.CANCEL.value: "the provider cancels the job; one without a word for that fails it",
    PromptFault.SLOW.value: "the job takes five times as long",
    PromptFault.STUCK.value: "the job never ends",
    PromptFault.TOO_MANY.value: "the first submit is answered by 429 with Retry-After: 1, the next one works",
    PromptFault.SERVER_ERROR.value: "the submit is answered by 500 and the provider's own error body",
    PromptFault.REJECT.value: "the submit is refused for its parameters",
    PromptFault.CREDITS.value: "the submit is refused because the account has no credit",
    PromptFault.UNKNOWN.value: "the job passes through a status that the provider never documented",
    PromptFault.FLAKY.value: "every other poll is answered by a 502 HTML page",
    PromptFault.CUT.value: "a stream breaks in its middle; a polled job has one poll answer cut short",
    PromptFault.URL.value: "a Gaia image result is a URL",
    PromptFault.BASE64.value: "a Gaia image result is inline base64",
}

UNDOCUMENTED = "Reticulating"
"""The status word that no provider's page knows."""


def words_in(text: str) -> frozenset[PromptFault]:
    """The words that stand in `text`, in any letter case."""
    lowered = text.lower()
    return frozenset(word for word in PromptFault if word in lowered)
