"""A trained model in the hand: the same pictures, the same figures, clear refusals."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import distaug
from distaug.data.decode import decode, eval_view
from distaug.data.loader import Batch
from distaug.data.open import DataSet, open_data
from distaug.errors import DataError, JobError, StorageError
from distaug.model import registry
from distaug.spec.job import JobSpec, to_dict
from distaug.store.checkpoint import weights_digest
from distaug.store.model_files import read_model, write_model
from distaug.store.rundir import RunDir
from distaug.train.local import train
from distaug.train.predictor import Classifier, load
from distaug.train.robustness import STRENGTHS, changed

SIZE = 16


COLOURS = {"name": "colour_net:Colours", "channels_last": False}


def job_of(root: Path, **fields: Any) -> JobSpec:
    defaults = {"data": {"source": "digits"}, "model": {"name": "smallnet", "options": {"widths": [4, 4, 8]}}}
    return JobSpec.model_validate({"name": "a", "runs_dir": str(root)} | defaults | fields)


def finished(root: Path, job: JobSpec, weights: dict[str, Tensor], data: DataSet | None = None, **card: Any) -> Path:
    """Make the run folder that a finished training leaves."""
    run = RunDir(root, "a")
    run.create()
    run.save_job(job)
    values = {
        "model": to_dict(job)["model"],
        "classes": list(data.classes) if data else ["red", "green", "blue"],
        "image_size": data.image_size if data else SIZE,
        "mean": list(data.mean) if data else [0.0, 0.0, 0.0],
        "std": list(data.std) if data else [1.0, 1.0, 1.0],
        "channels_last": job.model.channels_last,
        "precision": "fp32",
        "eval_geometry": "resize",
        "data_digest": data.digest if data else "none",
    }
    write_model(run.model, weights, values | card)
    return run.root


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a user's own network: its probabilities say exactly what it was shown."""
    (tmp_path / "colour_net.py").write_text(
        "import torch\n"
        "class Colours(torch.nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.sharpness = torch.nn.Parameter(torch.zeros(num_classes))\n"
        "    def forward(self, images):\n"
        "        return images.mean((2, 3)) * self.sharpness\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path


def colour_classifier(root: Path, **card: Any) -> Classifier:
    job = job_of(root / "runs", model=COLOURS)
    return load(finished(root / "runs", job, {"sharpness": torch.full((3,), 10.0)}, **card))


def shown(prediction: dict[str, Any]) -> list[float]:
    """Mean red, green and blue of what the network was shown, up to a common offset (blue is 0)."""
    by_name = {entry["class"]: entry["probability"] for entry in prediction["predictions"]}
    logs = [np.log(by_name[name]) / 10 for name in ("red", "green", "blue")]
    return [round(float(value - logs[2]), 3) for value in logs]


def painted(width: int, height: int, colour: tuple[int, int, int], **boxes: tuple[int, int, int, int]) -> Image.Image:
    picture = Image.new("RGB", (width, height), colour)
    for name, box in boxes.items():
        picture.paste({"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}[name], box)
    return picture


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


# --- loading --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, DataSet, nn.Module]]:
    """A run on digits whose network is no better than chance but knows all ten classes."""
    root = tmp_path_factory.mktemp("digits")
    job = job_of(root, data={"source": "digits", "test_fraction": 0.2}, evaluate={"batch": 100})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTAUG_CACHE", str(root / "cache"))
        data = open_data(job.data)
    module = registry.build(job.model, num_classes=10, image_size=32, seed=3).module
    with torch.no_grad():  # statistics that are not those of a fresh network
        module(torch.randn(64, 3, 32, 32))
    finished(root, job, module.state_dict(), data)
    yield root / "a", data, module.eval()


def test_the_network_comes_back_ready_to_use(digits: tuple[Path, DataSet, nn.Module]) -> None:
    path, data, module = digits
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    classifier = distaug.load(path)
    assert torch.equal(torch.random.get_rng_state(), before), "loading moved the global generator"
    assert weights_digest(classifier.module.state_dict()) == weights_digest(module.state_dict())
    assert not classifier.module.training
    assert not any(parameter.requires_grad for parameter in classifier.module.parameters())
    assert classifier.classes == data.classes and classifier.image_size == 32
    assert classifier.mean == data.mean and classifier.std == data.std
    assert classifier.card["weights_digest"] == weights_digest(module.state_dict())


def test_a_run_is_found_by_name(colours: Path) -> None:
    colour_classifier(colours)
    assert load("a").classes == ("red", "green", "blue")
    with pytest.raises(JobError, match="no run 'b'.* holds a;"):
        load("b")


def test_a_run_that_has_not_ended_says_so(colours: Path) -> None:
    run = RunDir(colours / "runs", "a")
    run.create()
    run.save_job(job_of(colours / "runs", model=COLOURS))
    with pytest.raises(StorageError, match=rf"no model in {run.model}.*distaug resume"):
        load(run.root)


def test_weights_of_another_network_are_refused(colours: Path) -> None:
    job = job_of(colours / "runs", model=COLOURS)
    path = finished(colours / "runs", job, {"sharpness": torch.zeros(3), "extra": torch.zeros(1)})
    with pytest.raises(StorageError, match=r"(?s)do not fit the model 'colour_net:Colours'.*extra"):
        load(path)
    path = finished(colours / "runs", job, {"sharpness": torch.zeros(4)})
    with pytest.raises(StorageError, match=r"(?s)size mismatch"):
        load(path)


def test_starting_weights_are_not_needed_any_more(colours: Path) -> None:
    job = job_of(colours / "runs", model=COLOURS | {"weights": "gone.safetensors"})
    path = finished(colours / "runs", job, {"sharpness": torch.full((3,), 10.0)})
    assert load(path).predict(painted(SIZE, SIZE, (255, 0, 0)))[0]["predictions"][0]["class"] == "red"


# --- predicting -----------------------------------------------------------------------------------


def test_probabilities_are_those_of_the_network(digits: tuple[Path, DataSet, nn.Module]) -> None:
    path, data, module = digits
    assert data.test is not None
    pictures = data.test.pictures(torch.arange(70))  # more than one batch
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (data.mean, data.std))
    with torch.no_grad():
        wanted = module((pictures / 255 - mean) / std).softmax(1)
    arrays = [picture.permute(1, 2, 0).numpy() for picture in pictures]
    found = load(path).predict(arrays, top=10)
    assert [entry["image"] for entry in found] == [f"image {i}" for i in range(70)]
    for entry, row in zip(found, wanted, strict=True):
        shares = [prediction["probability"] for prediction in entry["predictions"]]
        assert shares == sorted(shares, reverse=True) and abs(sum(shares) - 1) < 1e-5
        by_name = {prediction["class"]: prediction["probability"] for prediction in entry["predictions"]}
        assert [by_name[name] for name in data.classes] == pytest.approx(row.tolist(), abs=1e-5)
    assert [len(entry["predictions"]) for entry in load(path).predict(arrays[:2])] == [5, 5]
    json.dumps(found)


def test_every_way_to_give_a_picture_gives_the_same(colours: Path) -> None:
    classifier = colour_classifier(colours)
    picture = painted(20, 18, (255, 0, 0), green=(0, 0, 7, 18))
    file = colours / "picture.png"
    file.write_bytes(encoded(picture))
    ways: list[Any] = [str(file), file, file.read_bytes(), picture, np.asarray(picture)]
    found = classifier.predict(ways)
    assert [entry["image"] for entry in found] == [str(file), str(file), "image 2", "image 3", "image 4"]
    assert all(entry["predictions"] == found[0]["predictions"] for entry in found)
    for way in ways:  # a single one
        assert classifier.predict(way)[0]["predictions"] == found[0]["predictions"]
    assert classifier.predict([]) == []
    assert classifier.predict(np.stack([np.asarray(picture)] * 2))[1]["predictions"] == found[0]["predictions"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_opened_pictures_are_treated_like_their_files(colours: Path, mode: str) -> None:
    classifier = colour_classifier(colours)
    ramp = np.linspace(0, 255, 24 * 20).reshape(20, 24).astype(np.uint8)
    grey = Image.fromarray(ramp)
    picture = Image.fromarray(ramp.astype(np.uint16) * 257) if mode in ("I;16", "I") else grey
    picture = picture if picture.mode == mode else picture.convert(mode)
    if mode in ("LA", "RGBA"):
        picture.putalpha(grey.transpose(Image.Transpose.ROTATE_180))
    file = encoded(picture, {"CMYK": "TIFF", "YCbCr": "TIFF", "I": "TIFF"}.get(mode, "PNG"))
    opened = Image.open(io.BytesIO(file))
    assert opened.mode == mode
    from_file, from_opened = classifier.predict([file, opened])
    assert from_opened["predictions"] == from_file["predictions"]


def test_orientation_of_an_opened_picture_is_applied_once(colours: Path) -> None:
    classifier = colour_classifier(colours, image_size=32)
    picture = painted(60, 20, (0, 255, 0), red=(0, 0, 20, 20), blue=(40, 0, 60, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encoded(picture, "JPEG", exif=exif, quality=100, subsampling=0)
    for way in (file, Image.open(io.BytesIO(file))):
        seen = classifier._view(way, "")
        assert seen.shape == (32, 32, 3)
        wanted = eval_view(decode(file, 10**6), 32, 1.0)
        assert np.array_equal(seen, wanted)
    assert decode(file, 10**6).shape == (60, 20, 3)


def test_the_shorter_side_is_scaled_and_the_centre_cut_out(colours: Path) -> None:
    wide = painted(48, 16, (0, 255, 0), red=(16, 0, 32, 16))
    frame = painted(64, 64, (0, 255, 0), red=(3, 3, 61, 61))
    for geometry, frame_is_red in (("resize", False), ("resize_crop", True)):
        classifier = colour_classifier(colours, eval_geometry=geometry)
        seen_wide, seen_frame = map(shown, classifier.predict([wide, frame], top=3))
        assert seen_wide[1] < 0.01 < 0.99 < seen_wide[0], "squashed, or cut out elsewhere"
        assert (seen_frame[1] < 0.01) == frame_is_red


def test_a_picture_of_the_models_size_is_taken_as_it_is(colours: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    [found] = colour_classifier(colours).predict([pixels], top=3)
    mean = pixels.mean((0, 1)) / 255
    assert shown(found) == pytest.approx((mean - mean[2]).tolist(), abs=2e-3)


def test_grey_arrays_are_pictures_too(colours: Path) -> None:
    [found] = colour_classifier(colours).predict(np.full((20, 30), 100, dtype=np.uint8), top=3)
    assert shown(found) == [0, 0, 0]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("missing.png", r"missing.png cannot be classified: .*FileNotFoundError"),
        (".", r"\. cannot be classified"),
        ("text.png", "text.png cannot be classified: not a picture"),
        ("cut.png", "cut.png cannot be classified"),
        ("large.png", "large.png cannot be classified: 100x100 is 10000 pixels"),
        (b"GIF89a", "image 1 cannot be classified"),
        (np.zeros((4, 4, 3), dtype=np.float32), r"image 1 .* float32 \(4, 4, 3\); allowed are uint8"),
        (np.zeros((3, 4, 4), dtype=np.uint8), r"image 1 .* uint8 \(3, 4, 4\)"),
        (np.zeros(4, dtype=np.uint8), r"image 1 .* uint8 \(4,\)"),
        (Image.new("F", (4, 4), 0.5), "image 1 .*mode F"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_picture_that_cannot_be_read_is_named(colours: Path, bad: Any, reason: str) -> None:
    good = encoded(Image.effect_noise((30, 30), 50))
    (colours / "text.png").write_text("no picture")
    (colours / "cut.png").write_bytes(good[: len(good) // 2])
    (colours / "large.png").write_bytes(encoded(Image.new("L", (100, 100))))
    data = {"source": "digits", "max_pixels": 5000}
    job = job_of(colours / "runs", model=COLOURS, data=data)
    classifier = load(finished(colours / "runs", job, {"sharpness": torch.zeros(3)}))
    with pytest.raises(DataError, match=reason):
        classifier.predict([good, bad])


def test_an_opened_picture_that_is_cut_off_is_named(colours: Path) -> None:
    good = encoded(Image.effect_noise((30, 30), 50))
    with pytest.raises(DataError, match="image 0 cannot be classified"):
        colour_classifier(colours).predict(Image.open(io.BytesIO(good[: len(good) // 2])))


def test_top_must_name_a_class(colours: Path) -> None:
    with pytest.raises(ValueError, match="at least 1, found 0"):
        colour_classifier(colours).predict([], top=0)


# --- evaluating -----------------------------------------------------------------------------------


def test_evaluation_counts_every_test_picture_once(digits: tuple[Path, DataSet, nn.Module]) -> None:
    path, data, module = digits
    assert data.test is not None
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (data.mean, data.std))
    pictures = data.test.pictures(torch.arange(len(data.test)))
    with torch.no_grad():
        logits = module((pictures / 255 - mean) / std)
    labels = data.test.labels
    right = logits.argmax(1) == labels
    found = load(path).evaluate()
    assert found["set"] == "test" and found["samples"] == len(labels) == 359
    assert found["top1"] == right.sum().item() / len(labels) and found["tta_top1"] is None
    hits = (logits.topk(5).indices == labels[:, None]).any(1)
    assert found["top5"] == hits.sum().item() / len(labels)
    assert found["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    per_class = {str(k): right[labels == k].float().mean().item() for k in range(10)}
    assert found["per_class"] == pytest.approx(per_class)
    assert found["macro"] == pytest.approx(sum(per_class.values()) / 10)
    confusion = torch.tensor(found["confusion"])
    assert confusion.shape == (10, 10) and confusion.sum(1).tolist() == labels.bincount().tolist()
    assert confusion.diagonal().sum().item() == right.sum().item()
    json.dumps(found)


def test_robustness_is_the_accuracy_on_changed_pictures(digits: tuple[Path, DataSet, nn.Module]) -> None:
    path, data, module = digits
    assert data.test is not None
    labels, ids = data.test.labels, torch.arange(len(data.test))
    classifier = load(path)
    found = classifier.robustness()
    assert (found["set"], found["samples"]) == ("test", 359)
    assert found["top1"] == classifier.evaluate()["top1"]
    assert list(found["changes"]) == list(STRENGTHS)
    for change, row in found["changes"].items():
        assert row["strengths"] == list(STRENGTHS[change]) and row["mean"] == pytest.approx(sum(row["top1"]) / 5)
        pictures = changed(Batch(data.test.pictures(ids), labels, ids, 0), change, row["strengths"][4]).images
        with torch.no_grad():
            right = module(classifier.prepare(pictures)).argmax(1) == labels
        assert row["top1"][4] == right.sum().item() / 359
    json.dumps(found)


def test_without_a_test_set_the_validation_set_is_named(
    tmp_path: Path, digits: tuple[Path, DataSet, nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    weights = digits[2].state_dict()
    job = job_of(tmp_path)
    data = open_data(job.data)
    path = finished(tmp_path, job, weights, data)
    with caplog.at_level(logging.WARNING, logger="distaug"):
        found = load(path).evaluate()
    assert found["set"] == "val" and data.val is not None and found["samples"] == len(data.val)
    assert "not what run" not in caplog.text

    finished(tmp_path, job, weights, data, data_digest="0123456789abcdef")
    with caplog.at_level(logging.WARNING, logger="distaug"):
        load(path).evaluate()
    assert "the data is not what run 'a' was trained on" in caplog.text and "0123456789ab)" in caplog.text

    job = job_of(tmp_path, train={"final_fit": True})
    path = finished(tmp_path, job, weights, open_data(job.data, final_fit=True))
    with pytest.raises(DataError, match="neither a test nor a validation set; .*data.test_fraction"):
        load(path).evaluate()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_evaluation_repeats_the_figures_of_the_result(tmp_path: Path, precision: str) -> None:
    job = job_of(
        tmp_path,
        data={"source": "digits", "test_fraction": 0.2, "per_class": 40},
        train={"epochs": 2, "global_batch": 50, "ema": {"decay": 0.9}},
        evaluate={"tta": ["flip"]},
        precision=precision,
    )
    result = train(job)
    assert result.test is not None
    classifier = load(tmp_path / "a")
    assert weights_digest(read_model(tmp_path / "a" / "model")[0]) == result.weights_digest
    assert weights_digest(classifier.module.state_dict()) == result.weights_digest
    found = classifier.evaluate()
    assert found["top1"] == result.test["top1"] and found["loss"] == result.test["loss"]
    assert found["tta_top1"] == result.test["tta_top1"] != found["top1"]
    assert not any(module.training for module in classifier.module.modules())
    assert list(found["per_class"].values()) == result.test["per_class"]


def test_pictures_of_all_sizes_are_predicted_as_they_are_evaluated(tmp_path: Path) -> None:
    """A folder whose pictures are decoded in each epoch: predicting its test files gives the same counts."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for name, level in (("dark", 60), ("light", 190)):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = (SIZE, SIZE) if number == 0 else rng.integers(SIZE, 50, 2)
                noise = rng.integers(-60, 60, (height, width, 3)) + level
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number}.png")
    job = job_of(
        tmp_path,
        data={"source": "folder", "path": str(tmp_path / "data"), "image_size": SIZE, "loader_workers": 0},
        train={"epochs": 1, "global_batch": 8},
        precision="fp32",
    )
    result = train(job)
    assert result.test is not None and result.test["samples"] == 12
    classifier = load(tmp_path / "a")
    assert classifier.card["eval_geometry"] == "resize_crop"
    assert classifier.evaluate()["top1"] == result.test["top1"]
    loss, right = 0.0, 0
    for file in sorted((tmp_path / "data" / "test").rglob("*.png")):
        first, *others = classifier.predict(file)[0]["predictions"]
        chances = {entry["class"]: entry["probability"] for entry in (first, *others)}
        right += first["class"] == file.parent.name
        loss -= float(np.log(chances[file.parent.name]))
    assert right / 12 == result.test["top1"]
    assert loss / 12 == pytest.approx(result.test["loss"], rel=1e-4)
