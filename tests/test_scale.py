"""Predictions and training by the engines of others answer as the package does."""

import json
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import write_picture

import keras_resnet
from keras_resnet import Predictor, data, evaluate, scale
from keras_resnet.errors import DataError, ModelError, RayError
from keras_resnet.ray import connected
from keras_resnet.scale import predictor, tables

parquet = pytest.importorskip("pyarrow.parquet")
# Ray's own use of what it deprecates
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")


@pytest.fixture(scope="module")
def mixed(folder, tmp_path_factory):
    """Good pictures, and files that are none."""
    mixed = tmp_path_factory.mktemp("mixed") / "pictures"
    shutil.copytree(folder / "train", mixed)
    (mixed / "red" / "000.png").write_bytes(b"no picture")
    (mixed / "red" / "empty.jpg").touch()
    return mixed


@pytest.fixture(scope="module")
def expected(mixed, trained):
    return list(evaluate.predict_each(trained[1], [mixed], top=2))


def rows_of(out):
    return parquet.read_table(out).to_pylist()


def assert_rows(rows, expected):
    assert [row["path"] for row in rows] == [row["file"] for row in expected]
    for row, other in zip(rows, expected):
        assert row["ok"] == ("problem" not in other)
        assert row["problem"] == other.get("problem")
        assert row["classes"] == other.get("classes")
        if row["ok"]:  # by another batch, in which a fast kernel may sum otherwise
            close = pytest.approx(other["probabilities"], rel=1e-6)
            assert row["probabilities"] == close


@pytest.mark.slow
def test_predictor_answers_as_predict_does(trained, mixed, expected):
    paths = [row["file"] for row in expected]
    content = [Path(path).read_bytes() for path in paths]
    for model in (trained[0], str(trained[0]), trained[1]):
        predict = Predictor(model, top=2)
        for batch in ({"bytes": content, "key": paths}, {"path": paths}):
            answer = predict(batch)
            assert list(answer["key" if "key" in batch else "path"]) == paths
            assert "bytes" not in answer
            for place, row in enumerate(expected):
                assert answer["ok"][place] == ("problem" not in row)
                assert answer["problem"][place] == row.get("problem", "")
                if "problem" not in row:
                    assert list(answer["top_classes"][place]) == row["classes"]
                    chances = answer["top_probabilities"][place].tolist()
                    assert chances == row["probabilities"]


def test_predictor_opens_its_model_once_a_process(trained, mixed, monkeypatch):
    opened = []
    predictor._opened.cache_clear()
    monkeypatch.setattr(
        predictor, "_opened", predictor.functools.lru_cache(opened.append)
    )
    for _ in range(3):
        again = pickle.loads(pickle.dumps(Predictor(trained[0])))
        again._open()
    assert opened == [str(trained[0])]
    assert len(pickle.dumps(Predictor(trained[0]))) < 1000


def test_predictor_gives_features(trained, folder):
    paths = sorted(map(str, (folder / "val" / "red").iterdir()))
    predict = Predictor(trained[0], features=True, batch_size=3)
    vectors = predict({"path": [*paths, "missing.png"]})
    assert vectors["ok"].tolist() == [True] * len(paths) + [False]
    head = trained[1].get_layer("head")
    logits = vectors["features"][:-1] @ np.array(head.kernel) + np.array(head.bias)
    answers = Predictor(trained[0], top=1)({"path": paths})
    names = evaluate.class_names(trained[1])
    assert [names[i] for i in logits.argmax(-1)] == answers["top_classes"][
        :, 0
    ].tolist()
    assert not vectors["features"][-1].any()


@pytest.mark.parametrize("options", [{"top": 0}, {"batch_size": 0}])
def test_predictor_checks_its_numbers(options):
    with pytest.raises(ValueError, match="must be 1 or more"):
        Predictor("run", **options)


def test_predictor_names_a_missing_column(trained):
    with pytest.raises(DataError, match='batch: has the columns image; must have "byt'):
        Predictor(trained[0])({"image": []})
    answer = Predictor(trained[0], top=2)({"bytes": []})
    assert answer["top_classes"].shape == (0, 2)


def test_export_has_no_features(exported):
    with pytest.raises(ModelError, match="an exported model gives probabilities alone"):
        Predictor(exported, features=True)({"bytes": [b""]})


def test_tables_have_the_rows_of_predict(
    trained, mixed, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(tables, "BLOCK", 8)
    out = tmp_path / "out"
    result = scale.predict_to_tables(trained[0], [mixed], out, top=2)
    assert result == {"path": str(out), "pictures": len(expected), "bad": 2}
    assert_rows(rows_of(out), expected)
    parts = sorted(out.glob("part-*"))
    assert len(parts) == -(-len(expected) // 8)
    before = {part: part.stat().st_mtime_ns for part in parts}
    parts[1].unlink()
    assert scale.predict_to_tables(trained[0], [mixed], out, top=2) == result
    assert_rows(rows_of(out), expected)
    after = {part: part.stat().st_mtime_ns for part in parts}
    assert {part for part in parts if before[part] != after[part]} == {parts[1]}
    with pytest.raises(DataError, match="has predictions with another top; choose"):
        scale.predict_to_tables(trained[0], [mixed], out, top=3)
    with pytest.raises(DataError, match="has predictions with another pictures, paths"):
        scale.predict_to_tables(trained[0], [mixed / "red"], out, top=2)


def test_tables_of_features(trained, folder, tmp_path):
    paths = sorted(map(str, (folder / "val" / "red").iterdir()))
    scale.predict_to_tables(trained[0], paths, tmp_path / "out", features=True)
    vectors = Predictor(trained[0], features=True)({"path": paths})["features"]
    assert [row["features"] for row in rows_of(tmp_path / "out")] == vectors.tolist()


def test_tables_refuse_what_is_not_theirs(trained, folder, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match="exists, and is no folder of predictions"):
            scale.predict_to_tables(trained[0], [folder], out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures are given"):
        scale.predict_to_tables(trained[0], [tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_writes_tables(trained, mixed, tmp_path, call):
    done = call("predict", trained[0], mixed, "--out", "out", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads(done.out) == {"path": "out", "pictures": 37, "bad": 2}
    assert "2 of 37 files cannot be classified" in done.err
    done = call("predict", trained[0], mixed, "--features", cwd=tmp_path)
    assert done.returncode == 2
    assert "--features: needs --out" in done.err


def test_missing_ray_and_pyarrow_are_one_line(trained, folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RayError, match=r"ray='auto': needs Ray.*keras-resnet-d\[ray\]"):
        scale.predict_to_tables(trained[0], [folder], out, ray="auto")
    with pytest.raises(RayError, match=r"ray='local': needs Ray"):
        scale.ray_train(keras_resnet.RECIPES["demo"], folder, tmp_path / "run", 2)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    tables._pyarrow.cache_clear()
    with pytest.raises(RayError, match="out: needs Ray and pyarrow"):
        scale.predict_to_tables(trained[0], [folder], out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("workers", "gpus"), [(0, 0), (2, -1)])
def test_numbers_of_workers_are_checked(workers, gpus, tmp_path):
    recipe = keras_resnet.RECIPES["demo"]
    with pytest.raises(RayError, match=f"workers={workers}, gpus={gpus}: must be 1 or"):
        scale.ray_train(recipe, tmp_path, tmp_path / "run", workers, gpus)


@pytest.fixture(scope="module")
def cluster():
    """Ray with two CPUs, whatever this machine has."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, num_gpus=0, log_to_driver=False, include_dashboard=False)
    with connected("local"):  # which exists already
        yield ray
    assert ray.is_initialized()
    ray.shutdown()


@pytest.mark.slow
def test_ray_writes_the_same_shards(cluster, folder, tmp_path):
    here = tmp_path / "here", tmp_path / "there"
    left = []
    data.prepare(folder, here[0], shard_bytes=20_000)
    data.prepare(
        folder,
        here[1],
        shard_bytes=20_000,
        ray="local",
        progress=lambda pictures, total: left.append(total) or pictures,
    )
    assert left == [0]  # the workers wrote all of them
    one, two = ({it.name: it.read_bytes() for it in at.iterdir()} for at in here)
    assert one == two


@pytest.mark.slow
def test_bad_picture_on_ray_is_named(cluster, own_folder, tmp_path):
    victim = own_folder / "train" / "blue" / "002.jpg"
    victim.write_bytes(victim.read_bytes()[:300])
    with pytest.raises(DataError, match=r"blue/002.jpg: cannot be read"):
        data.prepare(own_folder, tmp_path / "records", resize=256, ray="local")


def kill(title, when):
    """Kills a process of Ray once something holds; whether it did."""
    killed = []

    def watch():
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not killed:
            time.sleep(0.1)
            for file in Path("/proc").glob("[0-9]*/cmdline") if when() else ():
                try:
                    if title in file.read_bytes():
                        os.kill(int(file.parent.name), signal.SIGKILL)
                        killed.append(file)
                        break
                except OSError:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    return thread, killed


@pytest.mark.slow
def test_ray_predicts_as_predict_does_when_a_worker_is_killed(
    cluster, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(tables, "BLOCK", 64)
    pictures = tmp_path / "pictures"
    for number in range(2000):
        path = pictures / f"{number:04d}.png"
        if number % 97 == 5:
            path.write_bytes(b"no picture" * (number % 2))
        else:
            write_picture(path, (number % 256, 90, 200 - number % 200), number)
    out = tmp_path / "out"
    thread, killed = kill(b"MapWorker", lambda: len(list(out.glob("part-*"))) > 3)
    result = scale.predict_to_tables(trained[0], [pictures], out, top=2, ray="local")
    thread.join()
    assert killed
    assert result == {"path": str(out), "pictures": 2000, "bad": 21}
    assert_rows(
        rows_of(out), list(evaluate.predict_each(trained[1], [pictures], top=2))
    )


@pytest.mark.slow
def test_model_that_cannot_be_opened_on_ray_is_named(cluster, folder, tmp_path):
    with pytest.raises(RayError, match=r"ray: a worker failed: .*nothing"):
        scale.predict_to_tables(
            tmp_path / "nothing", [folder], tmp_path / "out", ray="local"
        )


@pytest.mark.slow
def test_ray_trains_past_the_loss_of_a_worker(cluster, folder, tiny, tmp_path):
    recipe = tiny.replace(epochs=6, batch_statistics="synchronized")
    runs = tmp_path / "undisturbed", tmp_path / "run"
    scale.ray_train(recipe, folder, runs[0], workers=2)
    seen = runs[1] / "checkpoints"
    thread, killed = kill(b"RayTrainWorker", lambda: len(list(seen.glob("e*"))) > 1)
    model = scale.ray_train(recipe, folder, runs[1], workers=2, checkpoint_steps=1)
    thread.join()
    assert killed
    undisturbed = keras_resnet.open_model(runs[0])
    for one, two in zip(undisturbed.weights, model.weights, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(two))


@pytest.mark.slow
def test_failed_training_on_ray_says_why(cluster, folder, tiny, tmp_path):
    recipe = tiny.replace(batch_size=7, batch_statistics="synchronized")
    with pytest.raises(RayError, match="batch_size=7"):
        scale.ray_train(recipe, folder, tmp_path / "run", workers=2, max_failures=0)
