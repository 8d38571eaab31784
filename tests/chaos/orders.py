"""The orders of a campaign: any model, any trouble that a prompt can ask for, each with a token that nothing else has.

The token stands in the prompt (for Gan.ai in a tag of every item), so that the upstream's log tells whose order it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from proxy.simulator import PromptFault
from tests.support.examples import AUDIO, IMAGE, PROMPT, examples_of, filled, small_order
from tests.support.registry import REGISTRY

FINAL: Final = frozenset({"Completed", "Error", "Canceled"})
_WORDS: Final = tuple(word for word in PromptFault if word is not PromptFault.TOO_MANY)
"""The campaigns choose by themselves whom they refuse by 429, to know which submits were refused."""
_TOKEN: Final = re.compile(r"order-\d{6}")
_ENDS: Final[Mapping[PromptFault, str]] = {
    PromptFault.FAIL: "upstream_failed",
    PromptFault.CANCEL: "upstream_failed",
    PromptFault.STUCK: "deadline_exceeded",
    PromptFault.SERVER_ERROR: "upstream_failed",
    PromptFault.REJECT: "upstream_rejected",
    PromptFault.CREDITS: "upstream_credits",
}
_OF_ONE_ITEM: Final = frozenset({PromptFault.FAIL, PromptFault.CANCEL, PromptFault.STUCK})
"""What befalls one item of a list, and not the others."""


def token_in(text: str) -> str | None:
    """The token of the order that a text belongs to."""
    found = _TOKEN.search(text)
    return found[0] if found else None


@dataclass(slots=True)
class Order:
    """An order, what its client has seen of it, and how it may end."""

    token: str
    body: dict[str, Any]
    word: PromptFault | None
    by_generate: bool
    """Ordered by POST /api/generate, and reconnected to by it at times."""
    watched: bool
    cancels: bool
    """Its client asks for its end, at some moment."""
    job: str | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)
    refused: bool = False
    """Turned away until its client gave up: there must be no job."""

    @property
    def model(self) -> str:
        """The name of the ordered model."""
        return str(self.body["model"])

    @property
    def streamed(self) -> bool:
        """Whether the provider answers with a stream that cannot be resumed."""
        return REGISTRY.models[self.model].streamed

    @property
    def repeatable(self) -> bool:
        """True if its provider promises that a repeat buys once."""
        return REGISTRY.models[self.model].repeatable

    @property
    def over(self) -> bool:
        """Whether its client has seen the final event."""
        return bool(self.seen) and self.seen[-1]["status"] in FINAL

    @property
    def end(self) -> str:
        """How it ends when all goes as asked for: `Completed`, `Canceled`, or an Error's code."""
        if self.word is PromptFault.CUT and self.streamed:
            return "interrupted"
        if (
            self.word is PromptFault.CANCEL
            and self.model in examples_of(REGISTRY.provider_of(self.model)).canceled_by_word
        ):
            return "Canceled"
        if self.word is None or (self.word in _OF_ONE_ITEM and len(self.body.get("items", ())) > 1):
            return "Completed"
        return _ENDS.get(self.word, "Completed")


@dataclass(slots=True)
class Orders:
    """Makes orders, each with the next token; `trouble` is the share of them that ask for some."""

    chance: Random
    trouble: float
    stuck: bool = True
    """Whether some may ask never to end."""
    made: list[Order] = field(default_factory=list)

    def new(self, assets: Mapping[str, str]) -> Order:
        """An order of any model; `assets` are an image's and an audio's id."""
        model = self.chance.choice(tuple(REGISTRY.models))
        token = f"order-{len(self.made) + 1:06}"
        word = self._word()
        body = {"model": model, **self._fields(model, f"{token} {word or ''} A lake", assets)}
        by_generate, watched, cancels = (self.chance.random() < share for share in (0.3, 0.9, 0.1))
        # Where the provider cancels by itself, nobody could tell whose cancel it was.
        order = Order(token, body, word, by_generate, watched, cancels and word is not PromptFault.CANCEL)
        self.made.append(order)
        return order

    def _word(self) -> PromptFault | None:
        word = self.chance.choice(_WORDS)
        wanted = self.chance.random() < self.trouble and (self.stuck or word is not PromptFault.STUCK)
        return word if wanted else None

    def _fields(self, model: str, prompt: str, assets: Mapping[str, str]) -> dict[str, Any]:
        some = self.chance.random() < 0.5
        image, audio = assets["image"], assets["audio"]
        small: dict[str, Any] = filled(small_order(model), {PROMPT: prompt, IMAGE: image, AUDIO: audio})
        match model:
            case "gaga-1":
                return {"chunks": [{"prompt": prompt, "audio": audio}]} if some else {"prompt": prompt}
            case "grok-imagine-video" | "gpt-image-2" | "image2":
                return {**small, **({"images": [image]} if some else {})}
            case "ganai-bulk":
                return {"items": self._items(prompt)}
            case "heygen-v1" | "heygen-v3":
                return {**small, **({"background": image} if some else {})}
        return small

    def _items(self, prompt: str) -> list[dict[str, str]]:
        plain = token_in(prompt) or ""
        others = [{"unique_id": f"item-{n}", "name": plain} for n in range(2, 2 + self.chance.randrange(3))]
        return [{"unique_id": "item-1", "name": prompt}, *others]
