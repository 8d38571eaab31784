import pytest

from proxy.simulator import Simulator
from proxy.simulator.files import Sample
from tests.simulator.wire import Client, Clock

BULK = "/create_video/bulk?project_id=p1"
ITEMS = [{"unique_id": "abc123", "names": "Manash"}, {"unique_id": "cba321", "names": "Manash2"}]


async def test_the_reply_contains_all_urls_which_work_after_their_item_succeeded(client: Client, clock: Clock) -> None:
    _, reply = await client.post("ganai", BULK, json=ITEMS)
    assert [each["unique_id"] for each in reply] == ["abc123", "cba321"]
    urls = [value for key, value in reply[0].items() if key.endswith("_url") or key == "permalink"]
    assert len(urls) == 5
    assert {(await client.get("ganai", url))[0] for url in urls} == {404}
    clock.time += 100
    assert {(await client.get("ganai", url))[0] for url in urls} == {200}
    assert (await client.get("ganai", reply[0]["permalink"]))[1] == Sample.VIDEO.bytes


async def test_each_item_has_its_own_duration(client: Client, clock: Clock) -> None:
    _, reply = await client.post("ganai", BULK, json=[{"unique_id": str(number)} for number in range(8)])
    ended: dict[str, float] = {}
    words = set()
    while len(ended) < len(reply):
        for each in reply:
            path = f"/projects/p1/inference/{each['inference_id']}/video_status"
            _, document = await client.get("ganai", path)
            words.add(document["gen_status"])
            assert document["error"] == "None"
            if document["gen_status"] == "SUCCEEDED":
                ended.setdefault(each["unique_id"], clock.time)
        clock.time += 0.25
    assert len(set(ended.values())) > 3
    assert {"PENDING", "PROCESSING", "LIPSYNC_PENDING", "FFMPEG_PENDING", "SUCCEEDED"} <= words


async def test_a_word_in_a_tag_fails_that_item_alone(client: Client, clock: Clock) -> None:
    items = [{"unique_id": "good", "names": "Ann"}, {"unique_id": "bad", "names": "Bob [fail]"}]
    _, reply = await client.post("ganai", BULK, json=items)
    clock.time += 100
    documents = [
        (await client.get("ganai", f"/projects/p1/inference/{each['inference_id']}/video_status"))[1] for each in reply
    ]
    assert [each["gen_status"] for each in documents] == ["SUCCEEDED", "FAILED"]
    assert documents[1]["error"] == {"status_code": 500, "message": "Lip sync failed: no voice was found"}
    assert (await client.get("ganai", reply[1]["permalink"]))[0] == 404


@pytest.mark.parametrize(
    "body", [{"unique_id": "a"}, [], [{"names": "x"}], [{"unique_id": 7}], [{"unique_id": "a", "tag": {}}]]
)
async def test_a_body_other_than_a_list_of_items_is_refused_with_422(client: Client, body: object) -> None:
    status, reply = await client.post("ganai", BULK, json=body)
    assert status == 422
    assert reply["detail"][0]["loc"][0] == "body"


async def test_the_project_is_required_in_the_query(simulator: Simulator, client: Client) -> None:
    status, reply = await client.post("ganai", "/create_video/bulk", json=ITEMS)
    assert (status, reply["detail"][0]["loc"]) == (422, ["query", "project_id"])
    simulator.ganai.projects = {"p2"}
    assert (await client.post("ganai", BULK, json=ITEMS))[0] == 404


async def test_a_project_can_require_tags(simulator: Simulator, client: Client) -> None:
    simulator.ganai.tags = {"city"}
    status, reply = await client.post("ganai", BULK, json=ITEMS)
    assert (status, reply["detail"][0]["loc"]) == (422, ["body", 0, "city"])


async def test_the_reply_can_omit_items_or_their_inference(simulator: Simulator, client: Client) -> None:
    simulator.ganai.omitted_items = {"a"}
    simulator.ganai.without_inference = {"b"}
    simulator.ganai.reversed_reply = True
    _, reply = await client.post("ganai", BULK, json=[{"unique_id": name} for name in "abcd"])
    assert [each["unique_id"] for each in reply] == ["d", "c", "b"]
    assert [each["inference_id"] is None for each in reply] == [False, False, True]


async def test_an_item_can_end_with_any_word(simulator: Simulator, client: Client, clock: Clock) -> None:
    simulator.ganai.end_words = {"a": "BLOCKED"}
    _, reply = await client.submit("ganai")
    clock.time += 100
    _, document = await client.check("ganai", reply)
    assert document["gen_status"] == "BLOCKED"
    assert (await client.get("ganai", reply[0]["video_url"]))[0] == 404


async def test_the_video_url_can_expire_and_the_status_call_renews_it(
    simulator: Simulator, client: Client, clock: Clock
) -> None:
    simulator.ganai.link_lifetime = 60
    _, reply = await client.submit("ganai")
    clock.time += 100
    assert (await client.get("ganai", reply[0]["video_url"]))[0] == 403
    assert (await client.get("ganai", reply[0]["permalink"]))[0] == 200
    _, document = await client.check("ganai", reply)
    assert (await client.get("ganai", document["video_url"]))[0] == 200


async def test_an_inference_is_found_in_its_own_project_only(client: Client) -> None:
    _, reply = await client.submit("ganai")
    status, _ = await client.get("ganai", f"/projects/other/inference/{reply[0]['inference_id']}/video_status")
    assert status == 404
