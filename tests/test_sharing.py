"""A run goes to the hub in one commit, and comes back from there bit for bit."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from checkpoints import GOLDENS
from conftest import narrow
from hub import TOKEN, serve_hub
from huggingface_hub import constants
from safetensors.numpy import load_file

import keras_resnet
from keras_resnet import VARIANTS, HubError, ModelError, RunError, WeightsError
from keras_resnet.info import ModelInfo, Protocol
from keras_resnet.opening import net_fields, open_model, read_model_info
from keras_resnet.recipe import Recipe
from keras_resnet.runs import layout
from keras_resnet.sharing import model_card, push_to_hub
from keras_resnet.train.build import resolve
from keras_resnet.weights import cache_folder, hub, load_weights, locate

NAMES = [
    "README.md",
    "config.json",
    "metrics.json",
    "model.safetensors",
    "recipe.json",
]
REPOSITORY = "somebody/colours"
# huggingface_hub 2.4 uploads weights by an argument that its HTTP client renames
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub of its own, with its token, and empty caches."""
    with serve_hub() as server:
        # all that HF_ENDPOINT sets
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        template = template.replace(constants.ENDPOINT, server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
        yield server


@pytest.fixture(scope="module")
def run(trained):
    return trained[0]


@pytest.fixture(scope="module")
def best(run):
    return open_model(run / layout.BEST)


@pytest.fixture
def own_run(run, tmp_path):
    """A copy of the run, for a test that changes it."""
    wanted = shutil.ignore_patterns("checkpoints", "tensorboard")
    return shutil.copytree(run, tmp_path / "own run", ignore=wanted)


def values(model):
    return {variable.path: np.asarray(variable) for variable in model.weights}


def assert_same(model, other):
    assert model.info == other.info
    ours, theirs = values(model), values(other)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        assert value.tobytes() == theirs[path].tobytes(), path


def header(card):
    return yaml.safe_load(card.split("---\n")[1])


def change(run, file, **fields):
    path = run / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_run_is_pushed_in_one_commit_and_read_back_bit_for_bit(server, run, best):
    done = push_to_hub(run, REPOSITORY)
    repository = server.repositories[REPOSITORY]
    assert len(repository["commits"]) == 1
    files = server.files(REPOSITORY)
    assert sorted(files) == NAMES
    assert done.files == {name: len(files[name]) for name in NAMES}
    assert done.url.startswith(f"{server.address}/{REPOSITORY}/commit/")
    assert files["README.md"].decode() == done.card
    assert not repository["private"]
    source = f"hf://{REPOSITORY}"
    assert_same(keras_resnet.create(weights=source), best)
    assert_same(open_model(source), best)
    assert_same(open_model(f"resnet18d:{source}"), best)
    model = keras_resnet.create("resnet18d", classes=3, width=8, depths=(1, 1))
    load_weights(model, source)
    for path, value in values(model).items():
        assert value.tobytes() == values(best)[path].tobytes(), path
    assert model.info.class_names == ("blue", "green", "red")
    assert read_model_info(source) == best.info


def test_recipe_takes_net_and_protocol_from_a_repository(server, run):
    push_to_hub(run, REPOSITORY)
    source = f"hf://{REPOSITORY}"
    overrides = {"width": 8, "depths": [1, 1], "drop_path": 0.1}
    assert net_fields(source) == {"model": "resnet18d", "overrides": overrides}
    recipe = Recipe(**net_fields(source), weights=source, test_size=0, crop_pct=0)
    assert resolve(recipe).test_size == 32
    assert resolve(recipe).crop_pct == 0.875
    assert read_model_info(f"resnet18d:{source}").classes == 3  # as of a teacher


def test_files_beside_the_weights_are_those_of_the_run(server, run):
    push_to_hub(run, f"hf://{REPOSITORY}")
    files = server.files(REPOSITORY)
    history = json.loads((run / layout.HISTORY).read_text())
    most = max(row["val_top1"] for row in history)
    first = next(row for row in history if row["val_top1"] == most)
    assert json.loads(files["metrics.json"]) == first
    stored = Recipe.from_dict(json.loads(files["recipe.json"]))
    assert stored == Recipe.read(run / layout.RECIPE)


def test_second_push_is_a_second_commit_unless_nothing_has_changed(server, own_run):
    push_to_hub(own_run, REPOSITORY)
    commits = server.repositories[REPOSITORY]["commits"]
    push_to_hub(own_run, REPOSITORY)
    assert len(commits) == 1
    push_to_hub(own_run, REPOSITORY, licence="mit")
    assert len(commits) == 2
    assert [name for name in NAMES if commits[0][name] != commits[1][name]] == [
        "README.md"
    ]
    assert header(commits[1]["README.md"].decode())["license"] == "mit"


def test_refreshing_fetches_what_was_pushed_since(server, own_run):
    push_to_hub(own_run, REPOSITORY)
    source = f"hf://{REPOSITORY}"
    before = keras_resnet.create(weights=source)
    changed = open_model(own_run / layout.BEST)
    changed.get_layer("head").bias.assign([1, 2, 3])
    changed.save(own_run / layout.BEST)
    push_to_hub(own_run, REPOSITORY)
    assert_same(keras_resnet.create(weights=source), before)
    load_weights(before, source, refresh=True)
    assert_same(before, changed)


def test_dry_run_asks_nobody_and_says_the_same(server, run, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    planned = push_to_hub(run, REPOSITORY, dry_run=True)
    assert server.requests == []
    assert planned.url is None
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = push_to_hub(run, REPOSITORY)
    assert dataclasses.replace(done, url=None) == planned


def test_private_repository_is_created_so_and_a_public_one_is_not_mistaken_for_it(
    server, run
):
    push_to_hub(run, REPOSITORY, private=True)
    assert server.repositories[REPOSITORY]["private"]
    server.repositories["somebody/open"] = {"private": False, "commits": []}
    with pytest.raises(HubError, match=r"somebody/open: exists and is public"):
        push_to_hub(run, "somebody/open", private=True)
    assert server.repositories["somebody/open"]["commits"] == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "does not accept the token; log in again"),
        (403, "the token may not write there"),
        (404, "the hub has no such owner"),
        (500, "500.*try again later"),
    ],
)
def test_refusal_of_the_hub_is_one_line(status, words, server, run):
    server.failure = status
    with pytest.raises(HubError, match=f"{REPOSITORY}: cannot.*{words}") as error:
        push_to_hub(run, REPOSITORY)
    assert "\n" not in str(error.value)
    assert server.repositories == {}


def test_wrong_token_no_token_and_no_hub_are_one_line_each(
    server, run, monkeypatch, tmp_path
):
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with pytest.raises(HubError, match="does not accept the token"):
        push_to_hub(run, REPOSITORY)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HubError, match=r"no token .*hf auth login"):
        push_to_hub(run, REPOSITORY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # discard
    with pytest.raises(HubError, match=r"colours: cannot be uploaded: ") as error:
        push_to_hub(run, REPOSITORY)
    assert "\n" not in str(error.value)
    assert server.repositories == {}


@pytest.mark.parametrize(
    "name", ["colours", "a/b/c", "a/", "a/b@v1", "hf:/a/b", "a b/c", "a/--b", "a/b\n"]
)
def test_malformed_name_is_refused_before_anything_is_read(name, tmp_path):
    with pytest.raises(HubError, match=r"repository=.*must be owner/name"):
        push_to_hub(tmp_path / "no run", name)


def test_what_is_no_finished_run_of_a_classifier_is_refused(run, own_run, tmp_path):
    with pytest.raises(RunError, match=r"nowhere: contains no recipe\.json"):
        push_to_hub(tmp_path / "nowhere", REPOSITORY)
    (own_run / layout.BEST).unlink()
    with pytest.raises(RunError, match=r"own run: has no best\.keras; train it"):
        push_to_hub(own_run, REPOSITORY)
    info = json.loads(json.dumps(dataclasses.asdict(open_model(run).info)))
    for fields, words in (
        ({"task": "detect"}, r"is for task='detect'"),
        (
            {"config": None, "variant": "applications:MobileNet"},
            "applications:MobileNet is not",
        ),
    ):
        with zipfile.ZipFile(own_run / layout.BEST, "w") as file:
            config = {"config": {"info": {**info, **fields}}}
            file.writestr("config.json", json.dumps(config))
        with pytest.raises(ModelError, match=rf"best\.keras: {words}"):
            push_to_hub(own_run, REPOSITORY)


def test_card_says_what_the_run_says(run):
    card = push_to_hub(run, REPOSITORY, dry_run=True).card
    row = json.loads((run / layout.HISTORY).read_text())
    best = max(row, key=lambda it: it["val_top1"])
    assert f"| top-1 | {best['val_top1']:.2%} |" in card
    assert f"after epoch {best['epoch']} of 3" in card
    assert "top-5" not in card  # of three classes
    assert "36 images to train on, 12 images to validate; 3 classes" in card
    assert "`blue`, `green`, `red`" in " ".join(card.split())
    assert 'keras_resnet.create(weights="hf://somebody/colours")' in card
    assert 'overrides: {"width": 8, "depths": [1, 1], "drop_path": 0.1}' in card
    assert "timm does not have this net" in card
    told = header(card)
    assert told["library_name"] == "keras_resnet"
    assert "license" not in told
    assert "Not stated" in card
    (result,) = told["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == best["val_top1"]
    assert result["dataset"]["name"] == "colours"
    text = card.partition("```yaml\n")[2].partition("```")[0]
    assert Recipe.from_dict(yaml.safe_load(text)) == Recipe.read(run / layout.RECIPE)


@pytest.mark.parametrize(
    ("weights", "licence", "base"),
    [
        ("imagenet", "apache-2.0", "timm/resnet18d.ra4_e3600_r224_in1k"),
        ("ra2_in1k", "apache-2.0", "timm/resnet18d.ra2_in1k"),
        ("hf://timm/resnet18d.ra2_in1k@main", "apache-2.0", "timm/resnet18d.ra2_in1k"),
        ("hf://somebody/other", None, "somebody/other"),
        ("/home/somebody/secret/run", None, None),
    ],
)
def test_licence_and_base_are_those_of_the_released_weights_it_started_from(
    weights, licence, base, own_run
):
    change(own_run, layout.RECIPE, weights=weights)
    card = push_to_hub(own_run, REPOSITORY, dry_run=True).card
    assert header(card).get("license") == licence
    assert header(card).get("base_model") == base
    assert "/home" not in card
    card = push_to_hub(own_run, REPOSITORY, dry_run=True, licence="cc0-1.0").card
    assert header(card)["license"] == "cc0-1.0"


def test_noncommercial_licence_goes_on_to_what_started_from_its_weights(own_run):
    tag = "fb_swsl_ig1b_ft_in1k"
    change(own_run, layout.RECIPE, model="resnet18b", weights=tag)
    card = push_to_hub(own_run, REPOSITORY, dry_run=True).card
    assert header(card)["license"] == "cc-by-nc-4.0"
    assert f"that of the weights it started from, hf://timm/resnet18.{tag}" in card


def test_teacher_of_this_machine_is_told_by_its_last_part_alone(server, own_run):
    fields = {"teacher": "resnet50d:/home/me/best.safetensors", "temperature": 20.0}
    change(own_run, layout.RECIPE, **fields)
    push_to_hub(own_run, REPOSITORY)
    recipe = json.loads(server.files(REPOSITORY)["recipe.json"])
    assert recipe["teacher"] == "resnet50d:best.safetensors"


def test_card_is_of_a_description_recipe_and_measures_without_any_run():
    names = ("a|b", "`tick`", "été", "- ".join("abcdefgh" * 5))
    info = ModelInfo("resnet50d", VARIANTS["resnet50d"], classes=4, class_names=names)
    measures = {"top1": 0.5, "top5": 0.75, "loss": 1.0}
    card = model_card("me/net", info, Recipe(), measures, {}, "mit")
    assert header(card)["library_name"] == "timm"
    assert 'timm.create_model("hf-hub:me/net", pretrained=True)' in card
    assert "| top-1 | 50.00% |" in card
    listed = card[card.index("`a|b`") :]
    assert listed.startswith(f"`a|b`, `` `tick` ``, `été`,\n`{names[3]}`.\n")
    assert card.endswith("## Licence\n\nmit.\n")


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_of_timms_nets_name_them_as_timm_does(variant):
    """By timm 1.0.31's `list_models`; timm itself is not needed."""
    ours = {f"resnet{depth}a" for depth in (26, 50, 101, 152, 200)}
    ours |= {f"resnet{depth}c" for depth in (18, 26, 34, 200)}
    ours |= {"resnet18vd", "resnet34vd", "resnet200vd", "seresnet50d"}
    settings = hub.to_settings(ModelInfo(variant, VARIANTS[variant]))
    assert ("architecture" in settings) == (variant not in ours)
    if variant not in ours:
        plain = f"{settings['architecture']}b" == variant
        assert plain or settings["architecture"] == variant


def test_released_nets_have_the_names_that_timm_gives_them():
    for tags in keras_resnet.weights.released.released().values():
        for row in tags.values():
            if row.origin.startswith("hf://timm/"):
                info = ModelInfo(row.variant, VARIANTS[row.variant])
                name = row.origin.removeprefix("hf://timm/").partition(".")[0]
                assert hub.timm_name(info) == name


@pytest.mark.parametrize(
    "overrides",
    [
        {"width": narrow("resnet18d")},
        {"depths": (2, 2, 2)},
        {"output_stride": 16},
        {"attention": "se"},
        {"mean": (0.5,), "std": (0.5,)},
        {"fused_batch_norm": None},
    ],
)
def test_changed_net_is_not_taken_for_timms(overrides):
    config = VARIANTS["resnet18d"].replace(**overrides)
    info = ModelInfo("resnet18d", config)
    assert hub.timm_name(info) is None
    assert list(hub.to_settings(info)) == ["keras_resnet"]


def test_settings_read_back_are_the_protocol_and_the_description():
    config = VARIANTS["resnet50b"].replace(
        mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), drop_path=0.1, zero_gamma=False
    )
    protocol = Protocol(160, 0.95, "bilinear")
    info = ModelInfo(
        "resnet50b", config, classes=2, class_names=("x", "y"), protocol=protocol
    )
    settings = json.loads(json.dumps(hub.to_settings(info)))
    assert hub.description(settings) == info
    read = hub.protocol(settings)
    assert (tuple(read.pop("mean")), tuple(read.pop("std"))) == (
        config.mean,
        config.std,
    )
    assert Protocol(**read) == protocol
    assert settings["architecture"] == "resnet50"
    assert settings["label_names"] == ["x", "y"]
    assert settings["pretrained_cfg"]["first_conv"] == "conv1"
    assert settings["num_classes"] == settings["pretrained_cfg"]["num_classes"] == 2


@pytest.fixture(scope="module")
def real_run(run, tmp_path_factory):
    """A run whose best model is a whole resnet18d, with random weights."""
    copy = tmp_path_factory.mktemp("real") / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    model = keras_resnet.create("resnet18d", classes=3)
    random = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(random.uniform(0.5, 1, variable.shape).astype(np.float32))
    model.info = model.info.replace(class_names=("blue", "green", "red"))
    model.save(copy / layout.BEST)
    change(copy, layout.RECIPE, overrides={})
    return copy


@pytest.mark.slow
def test_weights_of_a_net_that_timm_has_are_in_timms_names(server, real_run, tmp_path):
    push_to_hub(real_run, REPOSITORY)
    (tmp_path / "x.safetensors").write_bytes(
        server.files(REPOSITORY)["model.safetensors"]
    )
    found = {
        name: tensor.shape
        for name, tensor in load_file(tmp_path / "x.safetensors").items()
    }
    manifest = json.loads((GOLDENS / "timm" / "resnet18d.manifest.json").read_text())
    theirs = {
        name: (3, *shape[1:]) if name.startswith("fc.") else tuple(shape)
        for name, shape, _ in manifest
    }
    assert found == theirs
    assert_same(
        keras_resnet.create(weights=f"hf://{REPOSITORY}"),
        open_model(real_run / layout.BEST),
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depths": [10**9]}, r"config\.json describes.*too large for its weights"),
        ({"depths": [1, 2]}, "does not fit the net"),
        ({"width": "wide"}, r"config\.json describes no net \(width='wide'"),
        ({"classes": 4, "class_names": None}, "all but the head fits"),
        ({"config": None, "variant": "x:Y"}, r"describes no net \(it is of x:Y"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_description_that_does_not_fit_is_refused_before_a_net_is_built(
    changes, words, server, run
):
    push_to_hub(run, REPOSITORY)
    files = server.files(REPOSITORY)
    settings = json.loads(files["config.json"])
    described = settings["keras_resnet"]
    target = described["config"] if {*changes} & {*described["config"]} else described
    target.update(changes)
    lying = {**files, "config.json": json.dumps(settings).encode()}
    server.repositories[REPOSITORY]["commits"].append(lying)
    with pytest.raises(WeightsError, match=words):
        locate(f"hf://{REPOSITORY}")
    assert not cache_folder().exists()


def test_repository_that_says_no_variant_needs_one(server):
    files = {"config.json": json.dumps({"architecture": "resnet18d"}).encode()}
    server.repositories["timm/net"] = {"private": False, "commits": [files]}
    with pytest.raises(WeightsError, match=r"timm/net: does not say which net"):
        keras_resnet.create(weights="hf://timm/net")
    with pytest.raises(WeightsError, match=r"resnet50d:hf://timm/net"):
        open_model("hf://timm/net")
    assert net_fields("hf://timm/net") == {}
    with pytest.raises(WeightsError, match=r"nobody/net: cannot be fetched"):
        open_model("hf://nobody/net")


def test_command_lists_files_and_card_and_uploads_when_told_to(server, run, call):
    done = call("push", run, f"hf://{REPOSITORY}", cwd=run.parent)
    assert (done.returncode, done.err) == (0, "")
    assert server.requests == []
    assert all(name in done.out for name in NAMES)
    assert "# colours" in done.out
    assert done.out.rstrip().endswith("nothing was uploaded; --upload does")
    words = ("push", run, f"hf://{REPOSITORY}", "--upload", "--private", "--json")
    done = call(*words, "--licence", "mit", cwd=run.parent)
    assert done.returncode == 0
    result = json.loads(done.out)
    assert list(result["files"]) == NAMES
    assert result["url"].startswith(server.address)
    assert header(result["card"])["license"] == "mit"
    assert server.repositories[REPOSITORY]["private"]
    done = call("push", run, "colours", cwd=run.parent)
    assert done.returncode == 1
    assert done.err.startswith("keras-resnet: repository='colours': must be owner/name")
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_command_finds_the_hub_by_its_environment(server, run, tmp_path):
    program = "from keras_resnet.cli import program; program()"
    words = ["push", str(run), REPOSITORY, "--upload"]
    environment = os.environ | {
        "HF_ENDPOINT": server.address,
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(Path(keras_resnet.__file__).parents[1]),
    }
    subprocess.run([sys.executable, "-c", program, *words], env=environment, check=True)
    assert sorted(server.files(REPOSITORY)) == NAMES
