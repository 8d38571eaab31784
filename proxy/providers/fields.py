"""Types of a model's fields: texts, media references and colors, and rules that concern several fields.

An adapter declares the fields of its models with these types. A rule that pydantic checks and JSON Schema cannot derive
stands twice: as a validator, and as a schema for the catalogue.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from proxy.core.job import Kind


@dataclass(frozen=True, slots=True)
class Media:
    """Marker of a field that takes a media reference: an asset's id or an https URL."""

    kinds: frozenset[Kind]
    """Kinds of media that the field accepts."""
    color: bool = False
    """True if the field also accepts a color such as #FAFAFA."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the kinds to the catalogue's schema. A form reads there which fields accept a dropped file."""
        return handler(schema) | {"x-media": sorted(self.kinds)}


ImageRef = Annotated[str, StringConstraints(min_length=1, max_length=2048), Media(frozenset({Kind.IMAGE}))]
AudioRef = Annotated[str, StringConstraints(min_length=1, max_length=2048), Media(frozenset({Kind.AUDIO}))]
VisualRef = Annotated[
    str, StringConstraints(min_length=1, max_length=2048), Media(frozenset({Kind.IMAGE, Kind.VIDEO}), color=True)
]
"""A background: an image, a video, or a color."""
Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
"""Text that is not blank."""
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
"""Seed of a random number generator: a signed 64-bit integer that is not negative."""
MAX_PARTS: Final = 50
"""Maximum number of chunks, clips or scenes in an order, because each may name files to fetch and upload."""
_COLOR: Final = "#[0-9A-Fa-f]{6}"


def field_error(field_name: str, message: str) -> PydanticCustomError:
    """Return the error of one field, for a validator to raise. `field_name` is "" in a validator of that field."""
    return PydanticCustomError("order", "{message}", {"field": field_name, "message": message})


def check_exactly_one(fields: BaseModel, one: str, other: str) -> None:
    """Check that exactly one of two fields is given. The error names the first one."""
    if (getattr(fields, one) is None) == (getattr(fields, other) is None):
        raise field_error(one, f"exactly one of {one} and {other} is required")


def check_dependency(fields: BaseModel, name: str, needed: str) -> None:
    """Check that the field `needed` is given if `name` is. The error names `name`."""
    if getattr(fields, name) is not None and getattr(fields, needed) is None:
        raise field_error(name, f"{name} requires {needed}")


COLOR_SCHEMA: Final[Mapping[str, Any]] = {"pattern": f"^([^#]|{_COLOR}$)"}
"""JSON Schema of the rule that `check_color` checks."""


def check_color(background: str | None) -> str | None:
    """Check the color of a background: `#` and six hexadecimal digits. Other values are returned unchanged."""
    if background and background.startswith("#") and not re.fullmatch(_COLOR, background):
        raise field_error("", "a color is written with six hexadecimal digits, such as #FAFAFA")
    return background


def error_message(message: str) -> WrapValidator:
    """Return a validator that replaces pydantic's message for an invalid value. A bare pattern explains little."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise field_error("", message) from None

    return WrapValidator(check)


AspectRatio = Annotated[
    str, StringConstraints(pattern=r"^\d{1,2}:\d{1,2}$"), error_message("must be two numbers such as 16:9, as text")
]


class Fields(BaseModel):
    """Base class of a model's fields. Unknown fields are refused by name, and values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Reference:
    """A media reference in an order."""

    field: str
    """Path of the field, such as `chunks.0.audio`."""
    kinds: frozenset[Kind]
    """Kinds of media that the field accepts."""
    ref: str
    """An asset's id, or a URL."""


def references(fields: BaseModel, prefix: str = "") -> Iterator[Reference]:
    """Yield every media reference of an order, found by the `Media` markers of its fields."""
    for name, media in _media_markers(type(fields)):
        for path, item in _values(prefix + name, getattr(fields, name)):
            if isinstance(item, BaseModel):
                yield from references(item, f"{path}.")
            elif media and isinstance(item, str) and not (media.color and item.startswith("#")):
                yield Reference(path, media.kinds, item)


@cache
def _media_markers(model: type[BaseModel]) -> Sequence[tuple[str, Media | None]]:
    """Return the names of a model's fields, each with its marker or None.

    The result is cached, because the search takes as long as parsing an order.
    """
    metadata = {name: (*info.metadata, *_inner_metadata(info.annotation)) for name, info in model.model_fields.items()}
    return [(name, next((item for item in items if isinstance(item, Media)), None)) for name, items in metadata.items()]


def _values(name: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, list):
        return [(f"{name}.{index}", item) for index, item in enumerate(value)]
    return [(name, value)]


def _inner_metadata(annotation: Any) -> Iterator[object]:
    yield from getattr(annotation, "__metadata__", ())
    for inner in getattr(annotation, "__args__", ()):
        yield from _inner_metadata(inner)


def is_asset(ref: str) -> bool:
    """Return True if a media reference is an asset's id, and False if it is a URL."""
    return ref.startswith("asset_")


def name_set(text: str) -> frozenset[str]:
    """Return the set of names in a text, which are separated by white space."""
    return frozenset(text.split())


COUNTS: Final = name_set(
    """n best_of num number count quantity amount repeat copies samples sample_count num_samples num_results
    num_outputs num_images images_count image_count number_of_images max_images num_videos video_count
    number_of_videos num_candidates candidate_count generate_count batch batch_size batch_count variations
    num_variations"""
)
"""Parameters of public generation APIs for the number of results.

Source: API references of fal, Replicate, Ark and Veo, read 2026-11.
"""
DURATIONS: Final = name_set(
    """seconds duration duration_seconds duration_ms length video_length video_duration audio_length audio_duration
    max_duration total_duration num_frames frame_count frames fps frame_rate frames_per_second"""
)
"""Parameters of public generation APIs for the length of a result, in time or frames."""
QUALITIES: Final = name_set(
    """quality resolution resolution_name video_resolution video_quality image_size size dimension dimensions width
    height megapixels mode hd pro upscale upscale_factor super_resolution steps num_steps num_inference_steps
    inference_steps"""
)
"""Parameters of public generation APIs for the size of a result, and the effort spent on it."""
PRIORITIES: Final = name_set("""service_tier processing_tier priority queue_priority speed_mode fast_mode turbo""")
"""Parameters of public generation APIs for faster processing at a higher price."""

PART_NAME: Final = r"^[!#-\[\]-~]+$"
"""Pattern of names that a part of a multipart form may have. Servers read other characters in different ways."""
