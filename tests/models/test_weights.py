"""Names, cards, hashes, and invalid files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage.color import rgb2gray

from napari_busref import load_sample
from napari_busref.models import card, list_models, load_model
from napari_busref.models.features.bus import Bus
from napari_busref.models.registry import _ARCHITECTURES, KINDS, weights_name
from napari_busref.models.weights import FOLDER, read_weights

SHIPPED = sorted(FOLDER.glob("*.safetensors"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's weights of a tiny bus, with its card."""
    import hashlib

    path = tmp_path / "mine.safetensors"
    model = Bus(8)
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, path)
    content = {
        "name": "mine",
        "kind": "reconstruction",
        "architecture": "Bus",
        "config": {"channels": 8},
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    path.with_suffix(".json").write_text(json.dumps(content))
    return path


def test_every_kind_has_its_models() -> None:
    assert {"auto", "busref", "identity"} <= set(list_models("registration"))
    assert {"gaf", "superfusion", "mda", "refusion"} <= set(list_models("fusion"))
    assert {"average", "maximum", "laplacian", "guided-filter"} <= set(list_models("fusion"))
    assert "matcher" in list_models("features")
    assert set(list_models()) == {name for kind in KINDS for name in list_models(kind)}
    with pytest.raises(ValueError, match="kind must be one of"):
        list_models("segmentation")


def test_own_weights_load(own: Path) -> None:
    model = load_model(own, kind="reconstruction")
    assert not model.training
    assert model(torch.rand(1, 1, 16, 16)).dtype == torch.float32
    assert card(own)["name"] == "mine"


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ValueError, match=r"busref.*got 'busreff'"):
        load_model("busreff", kind="registration")


def test_another_kind_is_refused(own: Path) -> None:
    with pytest.raises(ValueError, match="is for reconstruction; one for fusion"):
        load_model(own, kind="fusion")
    with pytest.raises(ValueError, match="is for fusion"):
        load_model("average", kind="registration")


def test_damaged_weights_are_refused(own: Path) -> None:
    data = bytearray(own.read_bytes())
    data[-1] ^= 1
    own.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        load_model(own)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".ckpt"])
def test_pickles_are_not_opened(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="pickled checkpoints"):
        load_model(path)


def test_weights_may_have_another_name_than_their_model() -> None:
    assert weights_name("superfusion", "fusion") == "superfusion-fusion"
    assert weights_name("gaf") == "gaf"
    assert weights_name("some/where.safetensors") == "some/where.safetensors"
    model = load_model("superfusion", kind="fusion")
    assert type(model) is type(load_model("superfusion-fusion"))


def test_a_pickle_named_safetensors_is_refused(own: Path) -> None:
    import hashlib

    torch.save(Bus(8).state_dict(), own)
    content = json.loads(own.with_suffix(".json").read_text())
    content["sha256"] = hashlib.sha256(own.read_bytes()).hexdigest()
    own.with_suffix(".json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_model(own)


def test_missing_files_are_named(own: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.json.*cannot be read"):
        load_model(tmp_path / "none.safetensors")
    own.unlink()
    with pytest.raises(ValueError, match=r"mine.safetensors cannot be read"):
        load_model(own)


def test_other_shapes_are_refused(own: Path) -> None:
    content = json.loads(own.with_suffix(".json").read_text())
    content["config"]["channels"] = 16
    own.with_suffix(".json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="do not fit the architecture"):
        load_model(own)


def test_shipped_weights_are_complete_and_small() -> None:
    assert {path.stem for path in SHIPPED} >= {"bus", "gaf", "busref"}
    assert sum(path.stat().st_size for path in SHIPPED) < 25e6


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_weights_load_and_say_where_they_come_from(path: Path) -> None:
    content = card(path.stem)
    assert content["name"] == path.stem
    for key in ("data", "recipe", "commit", "device", "steps", "scores"):
        assert content[key], key
    model = load_model(path.stem, kind=content["kind"])
    assert sum(p.numel() for p in model.state_dict().values()) == content["parameters"]


def test_the_shipped_models_stand_on_one_bus() -> None:
    bus = load_model("bus").state_dict()
    for name in ("gaf", "busref"):
        state = load_model(name).state_dict()
        for key, value in bus.items():
            assert torch.equal(state[f"bus.{key}"], value), (name, key)


@pytest.mark.parametrize("weights", SHIPPED, ids=lambda path: path.stem)
def test_shipped_weights_are_trained(weights: Path) -> None:
    """What every new network starts with, such as zeros and ones, has changed."""
    content = card(weights.stem)
    trained = read_weights(weights.stem, content)
    fresh = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        fresh.append(_ARCHITECTURES[content["architecture"]](content["config"]).state_dict())
    fixed = [
        name
        for name, value in fresh[0].items()
        if value.is_floating_point()
        and torch.equal(value, fresh[1][name])
        # GAF compares the maps of two sources, where a common bias cancels
        and not name.endswith("attention.conv.bias")
    ]
    assert content["steps"] >= 100
    assert [name for name in fixed if torch.equal(trained[name].float(), fresh[0][name])] == []


def test_the_learned_loss_of_refusion_left_its_prior() -> None:
    """The weights of the infrared-visible loss; those of the other tasks stayed (docs/results)."""
    model = load_model("refusion")
    sample = load_sample("thermal")
    visible, infrared = (
        torch.from_numpy(np.asarray(image, np.float32))[None, None]
        for image in (rgb2gray(sample.fixed), np.asarray(sample.aligned) / 255)
    )
    with torch.no_grad():
        weights = model.loss_weights(visible, infrared)
    assert float((weights.first - 0.5).abs().mean()) > 0.05


def test_loading_a_model_does_not_import_the_compiler() -> None:
    # torch's compiler takes two CPU seconds to import, once for every command
    code = (
        "import sys\n"
        "from napari_busref import list_models\n"
        "from napari_busref.models import load_model\n"
        "from napari_busref.models.registry import KINDS\n"
        "for kind in KINDS:\n"
        "    for name in list_models(kind):\n"
        "        load_model(name, kind=kind)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
