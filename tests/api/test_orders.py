"""Parsing of orders: every model's fields, and errors that name the invalid ones."""

from typing import Any

import orjson
import pytest

from proxy.api import orders
from proxy.api.orders import ParsedOrder
from proxy.core.errors import BadRequest, InvalidRequest, UnknownModel
from proxy.core.job import Kind
from tests.support import examples
from tests.support.examples import examples_of, filled
from tests.support.registry import REGISTRY

CAT = {"prompt": "A cat"}
IMAGE, AUDIO = "asset_1", "https://example.com/voice.mp3"
SPOKEN = {"prompt": "Hello", "avatar_id": "Anna"}
VALUES = {examples.PROMPT: "A cat", examples.IMAGE: IMAGE, examples.AUDIO: AUDIO}
ITEMS = {"items": [{"unique_id": "row-1", "name": "Ada", "age": 36, "vip": True}]}
MINIMAL: dict[str, dict[str, Any]] = {
    name: filled(examples_of(REGISTRY.provider_of(name)).orders[name], VALUES) for name in REGISTRY.models
} | {"ganai-bulk": ITEMS}


def read(model: str, **fields: Any) -> ParsedOrder:
    return orders.parse(orjson.dumps({"model": model, **fields}), REGISTRY.models)


def faults(model: str, **fields: Any) -> dict[str, str]:
    """Return the error message of each invalid field."""
    with pytest.raises(InvalidRequest) as caught:
        read(model, **fields)
    assert caught.value.errors
    assert caught.value.errors[0].message in caught.value.message
    return {fault.field: fault.message for fault in caught.value.errors}


def refusal(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        orders.parse(body, REGISTRY.models)
    return caught.value


# --- valid orders ---


@pytest.mark.parametrize("model", MINIMAL)
def test_every_model_has_a_minimal_order(model: str) -> None:
    reading = read(model, **MINIMAL[model])
    assert reading.order.model == reading.model.name == model
    assert reading.order.fields.items() >= MINIMAL[model].items()
    assert (reading.order.metadata, reading.order.extra) == ({}, {})


@pytest.mark.parametrize(
    ("model", "defaults"),
    [
        ("gaga-1", {"resolution": "720p", "aspect_ratio": "16:9", "enhance_prompt": True}),
        ("grok-imagine-video", {"duration": 6, "size": "1280x720", "resolution": "720p", "preset": "normal"}),
        ("gpt-image-2", {"size": "1024x1024", "n": 1}),
        ("gpt-5.4-mini", {}),
        ("suno", {}),
        ("heygen-v1", {"test": False, "captions": False}),
    ],
)
def test_an_order_has_the_given_fields_and_defaults(model: str, defaults: dict[str, Any]) -> None:
    assert read(model, **MINIMAL[model]).order.fields == MINIMAL[model] | defaults


FULL: list[Any] = [
    ("gaga-1", {"chunks": [{"prompt": "One"}, {"prompt": "Two", "audio": AUDIO, "duration": 2.5}], "seed": 2**62}),
    ("avatar-h1", {"image": IMAGE, "chunks": [{"audio": AUDIO, "prompt": "Smile"}], "aspect_ratio": "9:16"}),
    ("grok-imagine-video", {**CAT, "images": [IMAGE, "https://example.com/a.png"], "duration": 12}),
    ("gpt-image-2", {**CAT, "n": 10, "quality": "high", "size": "auto"}),
    ("gpt-5.4-mini", {"messages": [{"role": "user", "content": "Hi"}], "temperature": 1, "max_tokens": 5}),
    ("pika", {**CAT, "style": "7"}),
    ("run", {**CAT, "style": "80s_vaporwave"}),
    ("heygen-v1", {"audio": AUDIO, "talking_photo_id": "p", "talking_photo_style": "circle"}),
    ("heygen-v1", {**SPOKEN, "scale": 0.5, "offset": {"x": -0.5}, "background": "#FAFAFA", "captions": True}),
    ("heygen-v1", {"clips": [SPOKEN, {"audio": AUDIO, "avatar_id": "Bob"}], "aspect_ratio": "9:16", "test": True}),
]


@pytest.mark.parametrize(("model", "fields"), FULL)
def test_a_full_order_is_accepted_unchanged(model: str, fields: dict[str, Any]) -> None:
    assert read(model, **fields).order.fields.keys() >= fields.keys()


# --- absent values ---


def test_null_means_absent() -> None:
    nulls = {"seed": None, "chunks": None, "resolution": None, "metadata": None, "extra": None, "unheard_of": None}
    assert read("gaga-1", **CAT, **nulls).order == read("gaga-1", **CAT).order


def test_null_means_absent_inside_a_chunk() -> None:
    # Earlier bug: fields with a default (duration, offset.x) refused null.
    chunk = {"prompt": "Hello", "audio": None, "duration": None}
    assert read("gaga-1", chunks=[chunk]).order == read("gaga-1", chunks=[{"prompt": "Hello"}]).order


def test_an_empty_style_means_absent() -> None:
    assert read("run", **CAT, style="").order == read("run", **CAT).order


def test_another_empty_string_is_not_absent() -> None:
    assert faults("gaga-1", prompt="").keys() == {"prompt"}
    assert faults("gaga-1", **CAT, image="").keys() == {"image"}


@pytest.mark.parametrize("prompt", [" ", "\n\t"])
def test_a_blank_prompt_is_refused(prompt: str) -> None:
    assert faults("suno", prompt=prompt).keys() == {"prompt"}


# --- bodies that are not orders ---


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{'model': 'suno'}", b"model=suno", b"\xff", b'{"a":NaN}', b'{"a":"\\ud800"}']
)
def test_invalid_json_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest, match="not valid JSON"):
        orders.parse(body, REGISTRY.models)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"[]", "an array"),
        (b'"suno"', "a string"),
        (b"1", "a number"),
        (b"1.5", "a number"),
        (b"true", "a boolean"),
        (b"null", "null"),
    ],
)
def test_json_that_is_not_an_object_is_an_invalid_request(body: bytes, name: str) -> None:
    error = refusal(body)
    assert error.message == f"Send an order as a JSON object with a model, not {name}."
    assert error.errors == ()


@pytest.mark.parametrize("body", [b"{}", b'{"model":null,"prompt":"A cat"}', b'{"model":5}', b'{"model":["suno"]}'])
def test_an_order_needs_a_model(body: bytes) -> None:
    assert [fault.field for fault in refusal(body).errors] == ["model"]


@pytest.mark.parametrize("name", ["", "Suno", "suno ", "gpt-5"])
def test_an_unknown_model_is_refused_with_the_available_ones(name: str) -> None:
    with pytest.raises(UnknownModel, match=f"no model .*Available models: {', '.join(REGISTRY.models)}"):
        read(name, **CAT)


def test_a_long_model_name_is_truncated_in_the_error() -> None:
    with pytest.raises(UnknownModel) as caught:
        read("x" * 10_000)
    assert "x" * 100 in caught.value.message
    assert "x" * 101 not in caught.value.message


# --- invalid fields ---


@pytest.mark.parametrize("model", MINIMAL)
def test_an_unknown_field_is_refused_by_its_name(model: str) -> None:
    assert faults(model, **MINIMAL[model], promt="A cat") == {"promt": "unknown field"}


@pytest.mark.parametrize("name", ["model_config", "__class__", "__pydantic_extra__", "self", "a.b"])
def test_an_unknown_field_with_any_name_is_refused(name: str) -> None:
    assert faults("suno", **CAT, **{name: 1}) == {name: "unknown field"}


def test_an_unknown_field_inside_another_is_refused_by_its_path() -> None:
    assert faults("gaga-1", chunks=[{"prompt": "Hello"}, {"prompt": "Hello", "image": IMAGE}]) == {
        "chunks.1.image": "unknown field"
    }


MISSING: list[Any] = [
    ("gaga-1", {}, "prompt"),
    ("avatar-h1", {"audio": AUDIO}, "image"),
    ("avatar-h1", {"image": IMAGE}, "audio"),
    ("avatar-h1-pro", {"image": IMAGE, "prompt": "Smile"}, "audio"),
    ("avatar-h1", {"image": IMAGE, "chunks": [{"prompt": "Smile"}]}, "chunks.0.audio"),
    ("gaga-1", {"chunks": [{"prompt": "One"}, {"audio": AUDIO}]}, "chunks.1.prompt"),
    ("grok-imagine-video", {}, "prompt"),
    ("gpt-image-2", {"n": 2}, "prompt"),
    ("gpt-5.4-mini", {}, "prompt"),
    ("gpt-5.4-mini", {"messages": [{"role": "user"}]}, "messages.0.content"),
    ("suno", {}, "prompt"),
    ("luma", {}, "prompt"),
    ("pika", {"style": "1"}, "prompt"),
    ("run", {"style": "anime"}, "prompt"),
    ("ganai-bulk", {}, "items"),
    ("ganai-bulk", {"items": [{"unique_id": "a"}, {"name": "Ada"}]}, "items.1.unique_id"),
    ("heygen-v1", {"avatar_id": "Anna"}, "prompt"),
    ("heygen-v1", {"prompt": "Hello"}, "avatar_id"),
]


@pytest.mark.parametrize(("model", "fields", "missing"), MISSING)
def test_a_missing_field_is_named(model: str, fields: dict[str, Any], missing: str) -> None:
    assert faults(model, **fields).keys() == {missing}


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        ("gaga-1", "prompt", 5),
        ("gaga-1", "prompt", ["A cat"]),
        ("gaga-1", "duration", "10"),
        ("gaga-1", "duration", True),
        ("gaga-1", "duration", 0),
        ("gaga-1", "seed", "7"),
        ("gaga-1", "seed", True),
        ("gaga-1", "seed", 1.5),
        ("gaga-1", "seed", -1),
        ("gaga-1", "seed", 2**63),
        ("gaga-1", "enhance_prompt", "yes"),
        ("gaga-1", "enhance_prompt", 1),
        ("gaga-1", "aspect_ratio", "wide"),
        ("gaga-1", "image", {"id": "asset_1"}),
        ("grok-imagine-video", "duration", "6"),
        ("grok-imagine-video", "duration", True),
        ("grok-imagine-video", "images", "asset_1"),
        ("grok-imagine-video", "size", "large"),
        ("gpt-image-2", "n", "2"),
        ("gpt-image-2", "n", True),
        ("gpt-image-2", "n", 0),
        ("gpt-image-2", "n", 11),
        ("gpt-5.4-mini", "temperature", "1"),
        ("gpt-5.4-mini", "temperature", 2.1),
        ("gpt-5.4-mini", "max_tokens", 0),
        ("pika", "style", 1),
        ("pika", "style", "8"),
        ("run", "style", "Anime"),
        ("heygen-v1", "scale", "1"),
        ("heygen-v1", "scale", 0),
        ("heygen-v1", "test", "true"),
        ("heygen-v1", "aspect_ratio", "1:1"),
        ("heygen-v1", "avatar_style", "square"),
        ("heygen-v1", "background", "#FFF"),
        ("heygen-v1", "offset", [0, 0]),
    ],
)
def test_an_invalid_value_is_refused_by_field(model: str, field: str, value: object) -> None:
    assert faults(model, **{**MINIMAL[model], field: value}).keys() == {field}


def test_all_invalid_fields_are_reported_together() -> None:
    assert faults("gpt-image-2", n="2", size=1, promt="").keys() == {"prompt", "n", "size", "promt"}


def test_the_error_of_a_style_lists_the_allowed_ones() -> None:
    assert "7 (Black & White)" in faults("pika", **CAT, style="8")["style"]


def test_the_error_of_a_size_suggests_an_allowed_one() -> None:
    assert "such as 16:9" in faults("gaga-1", **CAT, aspect_ratio="wide")["aspect_ratio"]
    for size in ("large", 1024, "1024x1024\n"):
        assert "such as 1280x720" in faults("gpt-image-2", **CAT, size=size)["size"]


# --- alternative forms ---


TWO_FORMS: list[Any] = [
    ("gaga-1", {**CAT, "chunks": [CAT]}, "prompt"),
    ("gaga-1", {"chunks": [CAT], "duration": 5}, "duration"),
    ("gaga-1", {"chunks": [CAT], "audio": AUDIO}, "audio"),
    ("gaga-1", {"chunks": []}, "chunks"),
    ("avatar-h1", {"image": IMAGE, "audio": AUDIO, "chunks": [{"audio": AUDIO}]}, "audio"),
    ("gpt-5.4-mini", {**CAT, "messages": [{"role": "user", "content": "Hi"}]}, "prompt"),
    ("gpt-5.4-mini", {"messages": []}, "messages"),
    ("heygen-v1", {**SPOKEN, "audio": AUDIO}, "prompt"),
    ("heygen-v1", {**SPOKEN, "talking_photo_id": "p"}, "avatar_id"),
    ("heygen-v1", {**SPOKEN, "talking_photo_style": "circle"}, "talking_photo_style"),
    ("heygen-v1", {"audio": AUDIO, "avatar_id": "Anna", "voice_id": "v"}, "voice_id"),
    ("heygen-v1", {"audio": AUDIO, "avatar_id": "Anna", "captions": True}, "captions"),
    ("heygen-v1", {**SPOKEN, "clips": [SPOKEN]}, "prompt"),
    ("heygen-v1", {"clips": [SPOKEN], "scale": 1}, "scale"),
    ("heygen-v1", {"clips": []}, "clips"),
    ("heygen-v1", {"clips": [SPOKEN, {**SPOKEN, "audio": AUDIO}]}, "clips.1.prompt"),
    ("heygen-v1", {"clips": [SPOKEN, {"prompt": "Hello"}]}, "clips.1.avatar_id"),
    ("heygen-v1", {"clips": [SPOKEN, {"audio": AUDIO, "avatar_id": "Bob"}], "captions": True}, "captions"),
]


@pytest.mark.parametrize(("model", "fields", "fault"), TWO_FORMS)
def test_mixed_or_incomplete_forms_are_refused(model: str, fields: dict[str, Any], fault: str) -> None:
    assert faults(model, **fields).keys() == {fault}


# --- bulk items ---


@pytest.mark.parametrize(
    ("items", "fault"),
    [
        ([], "items"),
        ([{"unique_id": str(n)} for n in range(201)], "items"),
        ([{"unique_id": 1}], "items.0.unique_id"),
        ([{"unique_id": " "}], "items.0.unique_id"),
        ([{"unique_id": "a"}, {"unique_id": "a"}], "items.1.unique_id"),
        ([{"unique_id": "a", "name": {"first": "Ada"}}], "items.0.name"),
        ([{"unique_id": "a", "name": None}], "items.0.name"),
        (["a"], "items.0"),
        ({"unique_id": "a"}, "items"),
    ],
)
def test_every_bulk_item_has_tags_and_a_unique_id(items: object, fault: str) -> None:
    assert faults("ganai-bulk", items=items).keys() == {fault}


def test_200_items_are_accepted() -> None:
    assert len(read("ganai-bulk", items=[{"unique_id": str(n)} for n in range(200)]).order.fields["items"]) == 200


# --- metadata ---


def test_metadata_is_kept_apart_from_the_fields() -> None:
    order = read("suno", **CAT, metadata={"user": "7", "": ""}).order
    assert order.metadata == {"user": "7", "": ""}
    assert order.fields == CAT


def test_metadata_of_16_pairs_of_512_characters_is_accepted() -> None:
    metadata = {str(n): "x" * 512 for n in range(16)}
    assert read("suno", **CAT, metadata=metadata).order.metadata == metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {str(n): "" for n in range(17)},
        {"a": 1},
        {"a": None},
        {"a": ["b"]},
        {"a": "x" * 513},
        {"x" * 513: "a"},
        ["a"],
        "a",
    ],
)
def test_other_metadata_is_refused(metadata: object) -> None:
    (field,) = faults("suno", **CAT, metadata=metadata)
    assert field.split(".")[0] == "metadata"


def test_an_integer_may_be_written_as_a_float() -> None:
    written = read("gpt-5.4-mini", **CAT, temperature=1.0, max_tokens=64.0).order
    assert written == read("gpt-5.4-mini", **CAT, temperature=1, max_tokens=64).order
    assert faults("gpt-5.4-mini", **CAT, max_tokens=64.5).keys() == {"max_tokens"}
    assert faults("gpt-5.4-mini", **CAT, max_tokens=True).keys() == {"max_tokens"}


@pytest.mark.parametrize("number", [b"18446744073709551616", b"1e300", b"9007199254740993.0"])
def test_an_inexact_float_is_not_an_integer(number: bytes) -> None:
    refused = refusal(b'{"model":"gpt-5.4-mini","prompt":"A cat","max_tokens":' + number + b"}")
    assert [fault.field for fault in refused.errors] == ["max_tokens"]


# --- extra ---


def test_extra_is_kept_as_it_is() -> None:
    extra = {"tier": "pro", "nested": {"a": [1, None, True]}}
    assert read("gaga-1", **CAT, extra=extra).order.extra == extra


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gaga-1", "aspectRatio"),
        ("gaga-1", "chunks"),
        ("avatar-h1", "enablePromptEnhancement"),
        ("grok-imagine-video", "seconds"),
        ("grok-imagine-video", "input_reference[]"),
        ("gpt-image-2", "n"),
        ("gpt-5.4-mini", "stream"),
        ("suno", "model"),
        ("heygen-v1", "clips"),
        ("heygen-v1", "caption_open"),
    ],
)
def test_extra_may_not_have_fields_that_pollcast_sets(model: str, name: str) -> None:
    fault = {f"extra.{name}": "Pollcast sets this field; use the model's own fields instead"}
    assert faults(model, **MINIMAL[model], extra={"fine": 1, name: 1}) == fault


@pytest.mark.parametrize(
    ("model", "extra", "refused"),
    [
        ("gaga-1", {"n": 128}, ["extra.n"]),
        ("avatar-h1", {"fine": 1, "numVideos": 4}, ["extra.numVideos"]),
        ("grok-imagine-video", {"duration": 60, "N": 2}, ["extra.duration", "extra.N"]),
        ("grok-imagine-video", {"parameters[n]": 4}, ["extra.parameters[n]"]),
        ("gpt-image-2", {"partial_images": 3}, ["extra.partial_images"]),
        ("gpt-image-2", {"input_fidelity": "high"}, ["extra.input_fidelity"]),
        ("gpt-5.4-mini", {"n": 128}, ["extra.n"]),
        ("gpt-5.4-mini", {"max-completion-tokens": 100_000}, ["extra.max-completion-tokens"]),
        ("gpt-5.4-mini", {"service_tier": "priority"}, ["extra.service_tier"]),
        ("gpt-5.4-mini", {"options": [{"best_of": 20}]}, ["extra.options.0.best_of"]),
        ("suno", {"batch_size": 8}, ["extra.batch_size"]),
        ("pika", {"options": {"resolution": "4k"}}, ["extra.options.resolution"]),
        ("heygen-v1", {"dimension": {"width": 3840}}, ["extra.dimension", "extra.dimension.width"]),
    ],
)
def test_extra_that_raises_the_cost_is_refused_by_name(model: str, extra: dict[str, Any], refused: list[str]) -> None:
    assert list(faults(model, **MINIMAL[model], extra=extra)) == refused


@pytest.mark.parametrize(("model", "name"), [("gpt-image-2", "N"), ("gpt-5.4-mini", "maxTokens"), ("suno", "MODEL")])
def test_extra_may_not_have_such_fields_in_another_spelling(model: str, name: str) -> None:
    assert "Pollcast sets this field" in faults(model, **MINIMAL[model], extra={name: 1})[f"extra.{name}"]


@pytest.mark.parametrize(
    ("model", "name"),
    [("gaga-1", "watermark"), ("gpt-5.4-mini", "top_p"), ("gpt-image-2", "background"), ("heygen-v1", "callback_id")],
)
def test_extra_that_costs_nothing_is_kept(model: str, name: str) -> None:
    assert read(model, **MINIMAL[model], extra={name: "x"}).order.extra == {name: "x"}


@pytest.mark.parametrize("value", ["text", 1, 1.5, True])
def test_multipart_accepts_extra_scalars(value: object) -> None:
    assert read("grok-imagine-video", **CAT, extra={"a": value}).order.extra == {"a": value}


@pytest.mark.parametrize("value", [{}, [], ["a"], None])
def test_multipart_refuses_other_extra_values(value: object) -> None:
    assert faults("grok-imagine-video", **CAT, extra={"a": value}).keys() == {"extra.a"}


@pytest.mark.parametrize("name", ["", "\u00e9", "a b", 'a"b', "a\\b", "a\nb", "a\n", "a\0"])
def test_multipart_refuses_names_that_forms_cannot_carry(name: str) -> None:
    assert faults("grok-imagine-video", **CAT, extra={name: 1}).keys() == {f"extra.{name}"}
    assert read("suno", **CAT, extra={name: 1}).order.extra == {name: 1}


@pytest.mark.parametrize("name", ["seed", "a[0]", "a.b:c", "{a}"])
def test_multipart_accepts_every_other_name(name: str) -> None:
    assert read("grok-imagine-video", **CAT, extra={name: 1}).order.extra == {name: 1}


def test_the_bulk_model_refuses_extra() -> None:
    assert faults("ganai-bulk", **MINIMAL["ganai-bulk"], extra={"a": 1}).keys() == {"extra"}
    assert read("ganai-bulk", **MINIMAL["ganai-bulk"], extra={}).order.extra == {}


def test_extra_is_an_object() -> None:
    assert faults("gaga-1", **CAT, extra=[]).keys() == {"extra"}


# --- the fingerprint ---


def fingerprint(body: bytes) -> bytes:
    return orders.parse(body, REGISTRY.models).fingerprint


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":"A cat","model":"gaga-1","extra":{"b":[1,{"d":1,"c":2}],"a":1},"duration":10}',
        b'{ "model" : "gaga-1",\n"prompt":"\\u0041 cat","duration":10,"extra":{"a":1,"b":[1,{"c":2,"d":1}]}}',
        b'{"model":"gaga-1","prompt":"A cat","duration":10.0,"extra":{"a":1.0,"b":[1e0,{"c":2,"d":1}]}}',
    ],
    ids=["other order", "other spelling", "other numbers"],
)
def test_bodies_that_are_equal_as_json_have_one_fingerprint(body: bytes) -> None:
    first = b'{"model":"gaga-1","prompt":"A cat","duration":10,"extra":{"a":1,"b":[1,{"c":2,"d":1}]}}'
    assert fingerprint(body) == fingerprint(first)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gaga-1","prompt":"A dog","extra":{"a":[1,2]}}',
        b'{"model":"gaga-1","prompt":"A cat","extra":{"a":[2,1]}}',
        b'{"model":"gaga-1","prompt":"A cat","extra":{"a":[1,2.5]}}',
        b'{"model":"gaga-1","prompt":"A cat","extra":{"a":["1",2]}}',
        b'{"model":"gaga-1","prompt":"A cat","extra":{"a":[true,2]}}',
        b'{"model":"gaga-1","prompt":"A cat","extra":{"b":[1,2]}}',
        b'{"model":"gaga-1","prompt":"A cat","extra":{"a":[1,2]},"metadata":{"a":"b"}}',
        b'{"model":"gaga-1","prompt":"A cat","extra":{"a":[1,2]},"seed":0}',
    ],
)
def test_other_content_has_another_fingerprint(body: bytes) -> None:
    assert fingerprint(body) != fingerprint(b'{"model":"gaga-1","prompt":"A cat","extra":{"a":[1,2]}}')


@pytest.mark.parametrize(
    "extra", [b'{"a":1e20}', b'{"a":18446744073709551616}', b'{"a":-1e300}'], ids=["1e20", "2^64", "-1e300"]
)
def test_a_number_of_any_size_is_fingerprinted(extra: bytes) -> None:
    # Earlier bug: a whole float became an integer that orjson cannot write (TypeError), which was a 500.
    assert fingerprint(b'{"model":"gaga-1","prompt":"A cat","extra":' + extra + b"}")


@pytest.mark.parametrize("depth", [300, 900])
def test_json_that_is_nested_too_deep_is_refused(depth: int) -> None:
    # Earlier bug: orjson writes at most 254 levels (TypeError), and Python recurses less than orjson reads: a 500.
    body = b'{"model":"gaga-1","prompt":"A cat","extra":{"a":' + b"[" * depth + b"]" * depth + b"}}"
    with pytest.raises((BadRequest, InvalidRequest)):
        orders.parse(body, REGISTRY.models)


# --- references ---


@pytest.mark.parametrize(
    ("model", "fields", "found"),
    [
        ("gaga-1", CAT, {}),
        ("gaga-1", {**CAT, "image": IMAGE, "audio": AUDIO}, {"image": IMAGE, "audio": AUDIO}),
        ("gaga-1", {"chunks": [{**CAT, "audio": AUDIO}, CAT]}, {"chunks.0.audio": AUDIO}),
        ("avatar-h1", {"image": IMAGE, "audio": AUDIO}, {"image": IMAGE, "audio": AUDIO}),
        (
            "grok-imagine-video",
            {**CAT, "images": ["asset_1", "asset_2"]},
            {"images.0": "asset_1", "images.1": "asset_2"},
        ),
        ("gpt-image-2", {**CAT, "images": [AUDIO]}, {"images.0": AUDIO}),
        ("heygen-v1", {**SPOKEN, "background": IMAGE}, {"background": IMAGE}),
        ("heygen-v1", {**SPOKEN, "background": "#FAFAFA"}, {}),
        ("heygen-v1", {"clips": [SPOKEN, {"audio": AUDIO, "avatar_id": "Bob"}]}, {"clips.1.audio": AUDIO}),
        ("ganai-bulk", {"items": [{"unique_id": "asset_1"}]}, {}),
    ],
)
def test_every_asset_and_url_is_found_with_its_path(model: str, fields: dict[str, Any], found: dict[str, str]) -> None:
    assert {reference.field: reference.ref for reference in read(model, **fields).references} == found


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        ("gaga-1", "image", "#x"),
        ("gaga-1", "audio", "#FAFAFA"),
        ("avatar-h1", "image", "#FAFAFA"),
        ("grok-imagine-video", "images", ["#FAFAFA"]),
        ("gpt-image-2", "images", ["#"]),
        ("heygen-v1", "clips", [{"avatar_id": "Anna", "audio": "#FAFAFA"}]),
    ],
)
def test_a_color_outside_a_background_is_a_reference(model: str, field: str, value: Any) -> None:
    fields = {field: value} if field == "clips" else MINIMAL[model] | {field: value}
    assert any(reference.ref.startswith("#") for reference in read(model, **fields).references)


@pytest.mark.parametrize("color", ["#", "#x", "#FFF", "#GGGGGG", "#FAFAFA\n", "#FAFAFA00"])
def test_a_background_s_color_has_six_digits(color: str) -> None:
    fields = SPOKEN | {"background": color}
    assert faults("heygen-v1", **fields).keys() == {"background"}


def test_a_reference_has_its_allowed_kinds() -> None:
    kinds = {}
    for model, field in (("gaga-1", "image"), ("gaga-1", "audio"), ("heygen-v1", "background")):
        (reference,) = read(model, **MINIMAL[model], **{field: IMAGE}).references
        kinds[field] = reference.kinds
    assert kinds == {"image": {Kind.IMAGE}, "audio": {Kind.AUDIO}, "background": {Kind.IMAGE, Kind.VIDEO}}
