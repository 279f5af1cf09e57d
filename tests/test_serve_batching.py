"""Concurrent requests are run together, and each gets its own answer."""

import asyncio
import concurrent.futures
import itertools

import numpy as np
import pytest
from serving import FakeModel, ask_bytes, picture, sample, strict

from keras_resnet.errors import SavedModelError
from keras_resnet.serve.batching import RUNNERS, Batcher, Pool


def run_all(model, requests, max_rows=4, wait=0.05):
    """[outputs or error] of concurrent requests, each a list of numbers."""

    async def main():
        pool = Pool(max_rows, wait)
        with pool.executor:
            batcher = Batcher(model, pool)
            calls = [
                batcher.run("add", {"x": np.array(rows, np.float32)}, len(rows))
                for rows in requests
            ]
            results = await asyncio.gather(*calls, return_exceptions=True)
            await asyncio.wait_for(batcher.drain(), 10)
            return results

    return asyncio.run(main())


def test_concurrent_requests_are_joined_and_get_their_own_answers():
    model = FakeModel()
    requests = [[1], [2, 3], [4], [5, 6, 7], [8]]
    results = run_all(model, requests)
    for rows, result in zip(requests, results):
        np.testing.assert_array_equal(result["y"], np.array(rows) + 1)
    assert sorted(model.ran) == [4, 4]


def test_large_request_is_run_in_several_batches():
    model = FakeModel()
    [result] = run_all(model, [range(10)])
    np.testing.assert_array_equal(result["y"], np.arange(10) + 1)
    assert sorted(model.ran) == [2, 4, 4]


def test_batch_has_no_more_pixels_than_it_may():
    async def main():
        model = FakeModel()
        pool = Pool(9, 0.05, max_pixels=100)
        with pool.executor:
            batcher = Batcher(model, pool)
            x, each = np.zeros(2, np.float32), np.array([10, 35])
            calls = [batcher.run("add", {"x": x}, 2, each) for _ in range(5)]
            await asyncio.wait_for(asyncio.gather(*calls), 10)
        return model.ran

    assert sorted(asyncio.run(main())) == [2, 4, 4]


def test_only_the_culprit_of_a_batch_gets_its_error():
    results = run_all(FakeModel(), [[1], [13], [2], [3]])
    assert isinstance(results[1], SavedModelError)
    for value, index in ((1, 0), (2, 2), (3, 3)):
        np.testing.assert_array_equal(results[index]["y"], [value + 1])


def test_what_does_not_answer_by_rows_is_not_joined():
    model = FakeModel(by_rows=False)
    run_all(model, [[1], [2, 3], list(range(9))])
    assert sorted(model.ran) == [1, 2, 9]


def test_callers_who_go_away_leave_no_trace():
    async def main():
        model = FakeModel(seconds=0.05)
        pool = Pool(2, 0.01)
        with pool.executor:
            batcher = Batcher(model, pool)

            def start(value):
                x = np.full(1, value, np.float32)
                return asyncio.ensure_future(batcher.run("add", {"x": x}, 1))

            gone = [start(n) for n in range(20)]
            await asyncio.sleep(0.02)
            for task in gone:
                task.cancel()
            kept = await asyncio.wait_for(start(40), 10)
            await asyncio.wait_for(batcher.drain(), 10)
            return kept, sum(model.ran)

    kept, rows = asyncio.run(main())
    np.testing.assert_array_equal(kept["y"], [41])
    assert rows <= 2 * RUNNERS + 1  # those that ran already, and the last


@pytest.mark.slow
def test_joined_requests_of_the_real_model_get_their_own_answers(shared, served):
    sizes = itertools.cycle([(40, 36), (90, 61), (33, 32)])
    colours = itertools.cycle([(220, 50, 40), (40, 200, 60), (30, 60, 220)])
    pictures = [picture(n, next(sizes), colour=next(colours)) for n in range(24)]
    expected = [
        served.run("serving_bytes", image_bytes=[data])["probabilities"][0]
        for data in pictures
    ]
    before = sample(shared, "keras_resnet_batch_rows_count")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda data: ask_bytes(shared, data), pictures))
    for answer, row in zip(answers, expected):
        got = strict(answer)["predictions"][0]["probabilities"]
        np.testing.assert_allclose(got, row, atol=1e-5)
    batches = sample(shared, "keras_resnet_batch_rows_count") - before
    assert batches < len(pictures)
