"""An exported file in the hand: the answers of its network, without torch, and clear refusals."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from distaug import cli
from distaug.compress.artifact import FORMAT, Artifact, open_artifact
from distaug.compress.export import export, write_onnx
from distaug.compress.judge import evaluate, judge
from distaug.data.held_out import open_held_out
from distaug.data.open import DataSet, open_data
from distaug.errors import ArtifactError, DataError, JobError, StorageError
from distaug.model import registry
from distaug.spec.job import JobSpec, to_dict
from distaug.train.precision import Precision
from distaug.train.predictor import Classifier

SIZE = 32


@dataclass(frozen=True)
class Twins:
    """One network, in torch and as a file."""

    file: Path
    metadata: dict[str, Any]
    classifier: Classifier
    data: DataSet

    def told(self, path: Path, **changed: Any) -> Path:
        """Write the file once more, with other things told; None: not told at all."""
        model, values = onnx.load(self.file), self.metadata | changed
        del model.metadata_props[:]
        write_onnx(model, path, {key: value for key, value in values.items() if value is not None})
        return path


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    root = tmp_path_factory.mktemp("artifact")
    job = JobSpec.model_validate(
        {
            "name": "a",
            "data": {"source": "digits", "test_fraction": 0.2, "max_pixels": 5000},
            "model": {"name": "smallnet", "options": {"widths": [4, 4, 8]}},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTAUG_CACHE", str(root / "cache"))
        data = open_data(job.data)
        module = registry.build(job.model, num_classes=10, image_size=SIZE, seed=3).module.eval()
        numbers = torch.Generator().manual_seed(0)
        for layer in ("stem.0", "head"):  # the stem of a fresh network does not tell colours apart
            torch.nn.init.normal_(module.get_submodule(layer).weight, generator=numbers)
        card = {
            "classes": list(data.classes),
            "image_size": SIZE,
            "mean": list(data.mean),
            "std": list(data.std),
            "eval_geometry": "resize",
            "data_digest": data.digest,
        }
        resolved = {key: card[key] for key in ("image_size", "mean", "std")}
        told = {"job": "a", "job_data": to_dict(job)["data"] | resolved, "final_fit": False}
        export(module, card, root / "a.onnx", card | told)
        more = {"channels_last": False, "precision": "fp32"}
        classifier = Classifier(module, card | more, job, Precision("fp32", torch.device("cpu")))
        yield Twins(root / "a.onnx", card | told, classifier, data)


@pytest.fixture
def artifact(twins: Twins) -> Artifact:
    return open_artifact(twins.file, threads=1)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def pictures() -> list[Any]:
    """Pictures of many kinds and odd sizes."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (*size, 4), dtype=np.uint8) for size in ((33, 57), (70, 31), (SIZE, SIZE), (1, 3))]
    alpha, colour, exact, tiny = (Image.fromarray(pixels) for pixels in noise)
    turned = Image.Exif()
    turned[0x0112] = 6
    return [
        encoded(alpha),
        encoded(colour.convert("RGB"), "JPEG", exif=turned),
        encoded(colour.convert("L")),
        encoded(Image.fromarray(noise[0][:, :, 0].astype(np.uint16) * 257)),
        alpha,
        exact.convert("P"),
        tiny.convert("RGB"),
        noise[1][:, :, :3],
        noise[1][:, :, 0],
    ]


# --- predicting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["resize", "resize_crop"])
def test_predictions_are_those_of_the_network(twins: Twins, tmp_path: Path, geometry: str) -> None:
    artifact = open_artifact(twins.told(tmp_path / "a.onnx", eval_geometry=geometry))
    assert artifact.classes == twins.data.classes and artifact.image_size == SIZE
    network = Classifier(
        twins.classifier.module,
        twins.classifier.card | {"eval_geometry": geometry},
        twins.classifier.job,
        twins.classifier.precision,
    )
    many = [*pictures() * 8, *pictures()[:2]]  # more than one batch
    found, wanted = artifact.predict(many, top=10), network.predict(many, top=10)
    assert [entry["image"] for entry in found] == [f"image {number}" for number in range(74)]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours["image"] == theirs["image"]
        shares = [entry["probability"] for entry in ours["predictions"]]
        assert shares == sorted(shares, reverse=True) and abs(sum(shares) - 1) < 1e-9
        assert by_class(ours) == pytest.approx(by_class(theirs), abs=1e-5)
    likeliest = [entry["predictions"][0]["probability"] for entry in found]
    assert max(likeliest) - min(likeliest) > 0.01, "one answer for all pictures shows nothing"
    json.dumps(found)


def by_class(entry: dict[str, Any]) -> dict[str, float]:
    return {guess["class"]: guess["probability"] for guess in entry["predictions"]}


def test_a_single_picture_is_named_by_its_file(artifact: Artifact, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(pictures()[0])
    [found] = artifact.predict(file, top=2)
    assert found["image"] == str(file) and len(found["predictions"]) == 2
    assert artifact.predict(file.read_bytes(), top=2)[0]["predictions"] == found["predictions"]
    assert artifact.predict([]) == []
    with pytest.raises(ValueError, match="at least 1, found 0"):
        artifact.predict(file, top=0)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("missing.png", "missing.png cannot be classified: .*FileNotFoundError"),
        (b"GIF89a", "image 1 cannot be classified"),
        (np.zeros((4, 4, 3), dtype=np.float32), "image 1 .*allowed are uint8"),
        (encoded(Image.new("L", (100, 100))), "image 1 .*more than data.max_pixels = 5000"),
    ],
    ids=["missing", "damaged", "float", "large"],
)
def test_a_picture_that_cannot_be_read_is_named(artifact: Artifact, bad: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        artifact.predict([pictures()[0], bad])


def test_the_command_predicts_without_torch(twins: Twins, tmp_path: Path) -> None:
    picture = tmp_path / "x.png"
    picture.write_bytes(pictures()[0])
    script = (
        "import sys; from distaug.cli import main; code = main(sys.argv[1:]); "
        "print(*{'torch', 'onnx', 'ray', 'pydantic'} & set(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "predict", str(twins.file), str(picture), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "\n")
    [found] = json.loads(done.stdout)
    [wanted] = twins.classifier.predict([picture])
    assert found["image"] == str(picture)
    assert by_class(found) == pytest.approx(by_class(wanted), abs=1e-5)


# --- evaluating -----------------------------------------------------------------------------------


def test_evaluation_gives_the_figures_of_the_network(
    twins: Twins, artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="distaug"):
        found, wanted = evaluate(artifact), twins.classifier.evaluate()
    assert list(found) == list(wanted) and found["set"] == "test" and found["samples"] == 359
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    assert found | {"loss": 0} == wanted | {"loss": 0}
    assert not caplog.text
    json.dumps(found)


def test_logits_come_in_the_order_of_the_set(twins: Twins, artifact: Artifact) -> None:
    name, split, loader = open_held_out(
        twins.classifier.job.data,
        final_fit=False,
        run="a",
        digest=twins.data.digest,
        classes=artifact.classes,
        device=torch.device("cpu"),
        batch=50,
    )
    counts, logits = judge(artifact, loader.evaluate(name))
    with torch.no_grad():
        wanted = twins.classifier.module(twins.classifier.prepare(split.pictures(torch.arange(len(split)))))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, wanted.numpy(), atol=1e-4)
    assert counts.samples == len(split) == 359
    assert counts.to_dict()["top1"] == (wanted.argmax(1) == split.labels).sum().item() / 359


def test_other_data_than_that_of_the_training(twins: Twins, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = twins.metadata["job_data"]
    other = twins.told(tmp_path / "a.onnx", job_data=data | {"test_fraction": 0.0}, data_digest="0123456789abcdef")
    with caplog.at_level(logging.WARNING, logger="distaug"):
        assert evaluate(open_artifact(other))["set"] == "val"
    assert "the data is not what run 'a' was trained on" in caplog.text and "0123456789ab)" in caplog.text

    neither = twins.told(tmp_path / "a.onnx", job_data=data | {"test_fraction": 0.0}, final_fit=True)
    with pytest.raises(DataError, match="neither a test nor a validation set"):
        evaluate(open_artifact(neither))
    foreign = twins.told(tmp_path / "a.onnx", classes=["cat", "dog"])
    with pytest.raises(DataError, match="the data has 10 classes and the model of run 'a' 2"):
        evaluate(open_artifact(foreign))


def test_the_command_evaluates(twins: Twins, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(twins.file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == evaluate(open_artifact(twins.file))
    assert cli.main(["evaluate", str(twins.file), "--robustness"]) == JobError.exit_code
    assert f"found the file {twins.file}; give the run" in capsys.readouterr().err


# --- refusing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [None, 0.0, 0.5, 0.99], ids=["missing", "empty", "half", "short"])
def test_an_unreadable_file_is_named(twins: Twins, tmp_path: Path, part: float | None) -> None:
    path = tmp_path / "b.onnx"
    if part is not None:
        whole = twins.file.read_bytes()
        path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(StorageError, match=rf"unreadable artifact {path}: \w.*; give an ONNX file"):
        open_artifact(path)


def test_the_file_of_another_program_is_refused(twins: Twins, tmp_path: Path) -> None:
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])] for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", *ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "b.onnx"
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match=rf"{path} is the file of another program: .*lacks distaug\.format"):
        open_artifact(path)
    write_onnx(model, path, twins.metadata)
    with pytest.raises(ArtifactError, match=r"another program: .* are x tensor\(float\), y tensor\(float\), not image"):
        open_artifact(path)
    with pytest.raises(ArtifactError, match=r"lacks distaug\.job_data"):
        open_artifact(twins.told(path, job_data=None))


def test_a_newer_format_is_refused_by_its_number(twins: Twins, tmp_path: Path) -> None:
    path = twins.told(tmp_path / "b.onnx", format=FORMAT + 1, classes=None)
    with pytest.raises(StorageError, match=rf"format {FORMAT + 1}; .* up to {FORMAT}"):
        open_artifact(path)


def test_without_onnx_runtime_its_installation_is_named(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(JobError, match=r"needs onnxruntime: pip install 'distaug\[compress\]'"):
        open_artifact(twins.file)
