"""The newest version that loads is served, whatever happens in its folder."""

import asyncio
import concurrent.futures
import shutil
import threading
import time

import numpy as np
import pytest
from serving import (
    FAST,
    FakeModel,
    ask_bytes,
    assert_refused,
    picture,
    put,
    sample,
    serving,
    states,
    strict,
    wait_for,
)

from keras_resnet import export
from keras_resnet.errors import SavedModelError
from keras_resnet.export.savedmodel import SavedModel
from keras_resnet.serve import Settings
from keras_resnet.serve.versions import Versions


def assert_answered_by(client, number):
    assert ask_bytes(client, picture()).headers["x-model-version"] == number


@pytest.mark.slow
def test_newer_version_takes_over_while_requests_run(place, two_versions):
    data = picture(5)
    expected = {}
    for number in (1, 2):
        with SavedModel(two_versions / str(number)) as model:
            answer = model.run("serving_bytes", image_bytes=[data])
            expected[str(number)] = answer["probabilities"][0]
    assert np.abs(expected["1"] - expected["2"]).max() > 0.1
    stop, answers = threading.Event(), []
    with serving(place) as client, concurrent.futures.ThreadPoolExecutor() as pool:

        def go_on():
            while not stop.is_set():
                answers.append(ask_bytes(client, data))

        workers = [pool.submit(go_on) for _ in range(3)]
        wait_for(lambda: len(answers) > 5)
        put(two_versions, place, 2)
        wait_for(lambda: states(client).get("2") == "AVAILABLE")
        enough = len(answers) + 5
        wait_for(lambda: len(answers) > enough)
        stop.set()
        for worker in workers:
            worker.result()
        wait_for(lambda: states(client) == {"2": "AVAILABLE", "1": "END"})
        old = client.get("/v1/models/colours/versions/1").json()
        assert old["model_version_status"][0]["status"]["error_code"] == "OK"
        path = "/v1/models/colours/versions/1:predict"
        assert_refused(ask_bytes(client, data, path=path), 404, "2 is served")
        assert sample(client, "keras_resnet_loaded_version") == 2
        corrupt_version_is_named_and_the_old_one_keeps_serving(
            client, place, two_versions
        )
    assert {answer.status_code for answer in answers} == {200}
    seen = [answer.headers["x-model-version"] for answer in answers]
    assert set(seen) == {"1", "2"}
    for number, answer in zip(seen, answers):
        got = strict(answer)["predictions"][0]["probabilities"]
        np.testing.assert_allclose(got, expected[number], atol=1e-5)


def corrupt_version_is_named_and_the_old_one_keeps_serving(client, place, source):
    partial = place / ".4"
    shutil.copytree(source / "1", partial)
    [victim] = (partial / "variables").glob("*.data-*")
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    partial.rename(place / "4")
    wait_for(lambda: states(client).get("4") == "END")
    assert states(client)["2"] == "AVAILABLE"
    entry = client.get("/v1/models/colours/versions/4").json()
    status = entry["model_version_status"][0]["status"]
    assert status["error_code"] == "UNKNOWN"
    assert "Read less bytes" in status["error_message"]
    assert_answered_by(client, "2")
    (place / "4" / "variables" / victim.name).write_bytes(whole)
    wait_for(lambda: states(client).get("4") == "AVAILABLE")
    assert_answered_by(client, "4")


@pytest.mark.slow
def test_versions_without_variables_and_folders_that_disappear(place, two_versions):
    with serving(place) as client:
        shutil.copytree(two_versions / "2", tmp := place / ".2")
        shutil.move(tmp / "variables", place / ".variables")
        tmp.rename(place / "2")  # TensorFlow's loader takes it so
        wait_for(lambda: states(client) == {"2": "END", "1": "AVAILABLE"})
        assert_answered_by(client, "1")
        shutil.move(place / ".variables", place / "2" / "variables")
        wait_for(lambda: states(client).get("2") == "AVAILABLE")
        assert_answered_by(client, "2")
        for number in ("1", "2"):  # the older one first, which is not to be loaded
            shutil.rmtree(place / number)
        wait_for(lambda: client.get("/health").status_code == 503)
        assert client.get("/health").json()["status"] == "unavailable"
        wait_for(lambda: states(client) == {"1": "END", "2": "END"})
        assert_refused(ask_bytes(client, picture()), 503, "no version")
        assert_refused(client.get("/v1/models/colours/metadata"), 503, "no version")
        assert sample(client, "keras_resnet_loaded_version") == 0
        shutil.rmtree(place)
        time.sleep(4 * FAST["poll"])
        put(two_versions, place, 1)
        wait_for(lambda: client.get("/health").status_code == 200)
        assert ask_bytes(client, picture()).status_code == 200


class Loads:
    """A loader of fakes: a version's folder says in a file what becomes of it."""

    def __init__(self):
        self.tried, self.closed = [], []

    def __call__(self, path):
        self.tried.append(path.name)
        if (path / "saved_model.pb").read_text() == "bad":
            raise SavedModelError(f"{path.name} is bad")
        model = FakeModel()
        model.close = lambda: self.closed.append(path.name)
        return model


def write(folder, number, content="good"):
    path = folder / str(number)
    path.mkdir(parents=True, exist_ok=True)
    (path / "saved_model.pb").write_text(content)


def watching(folder, story):
    """Runs `story(versions, loads)`, a coroutine function, and stops the versions."""

    async def main():
        loads = Loads()
        versions = Versions(folder, Settings("m", poll=0), loads)
        try:
            await versions.start()
            await story(versions, loads)
        finally:
            await versions.stop()
        return loads

    return asyncio.run(main())


def test_newest_loadable_version_is_served_and_a_bad_one_tried_once(tmp_path):
    async def story(versions, loads):
        assert versions.current.number == 9
        assert loads.tried == ["10", "9"]
        await versions.poll()
        assert loads.tried == ["10", "9"]
        write(tmp_path, 10, "good now")
        await versions.poll()
        assert versions.current.number == 10
        write(tmp_path, 3)
        await versions.poll()
        assert loads.tried == ["10", "9", "10"]
        shutil.rmtree(tmp_path / "10")  # taken back: the one before serves again
        await versions.poll()
        assert versions.current.number == 9

    for number in (2, 9):
        write(tmp_path, number)
    write(tmp_path, 10, "bad")
    for name in ("x", "-1", "\u00b2", "\u0661", "1.5", str(2**63)):
        (tmp_path / name).mkdir()
    (tmp_path / "77").write_text("no folder")
    loads = watching(tmp_path, story)
    assert loads.closed == ["9", "10", "9"]


def test_zeros_may_come_before_a_version(tmp_path):
    async def story(versions, loads):
        assert versions.current.number == 123
        assert loads.tried == ["00000123"]
        write(tmp_path, "124")
        write(tmp_path, "0124")  # as in TensorFlow Serving, the last by its name
        await versions.poll()
        assert versions.current.number == 124
        assert loads.tried == ["00000123", "124"]

    write(tmp_path, "00000123")
    write(tmp_path, "9")
    watching(tmp_path, story)
    assert export.versions(tmp_path) == [9, 123, 124]


def test_old_version_is_closed_when_its_last_request_has_ended(tmp_path):
    async def story(versions, loads):
        with versions.current.use() as old:
            write(tmp_path, 2)
            await versions.poll()
            assert versions.current.number == 2
            await asyncio.sleep(0.05)
            assert loads.closed == []
            entry = versions.statuses()[1]
            assert (entry["version"], entry["state"]) == ("1", "UNLOADING")
            x = np.zeros(1, np.float32)
            assert (await old.batcher.run("add", {"x": x}, 1))["y"] == [1]
        async with asyncio.timeout(30):
            while versions.statuses()[1]["state"] != "END":
                await asyncio.sleep(0.01)
        assert loads.closed == ["1"]

    write(tmp_path, 1)
    watching(tmp_path, story)


def test_ended_versions_are_forgotten_in_time(tmp_path):
    async def story(versions, loads):
        for number in range(2, 60):
            write(tmp_path, number)
            await versions.poll()
            shutil.rmtree(tmp_path / str(number - 1))
        await asyncio.sleep(0.1)
        await versions.poll()
        assert len(versions.statuses()) < 25

    write(tmp_path, 1)
    watching(tmp_path, story)
