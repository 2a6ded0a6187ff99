"""The compression of a trained model: stage by stage, each measured and put before the gate. Read it top to bottom."""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from distaug import draws
from distaug.compress import measure, quantize
from distaug.compress.artifact import open_artifact
from distaug.compress.export import export
from distaug.compress.finetune import finetune_job
from distaug.compress.judge import judge
from distaug.compress.prune import Size, magnitude, remove_channels
from distaug.compress.workshop import Workshop, workshop
from distaug.data.held_out import reader
from distaug.data.loader import Loader
from distaug.data.open import DataSet, open_data
from distaug.errors import ArtifactError, DataError, DivergedError
from distaug.model import registry
from distaug.spec.compress import ChannelsSpec, CompressSpec, DynamicSpec, FinetuneSpec, Int8Spec, MagnitudeSpec
from distaug.spec.job import JobSpec, to_dict
from distaug.store.checkpoint import encode_weights, versions
from distaug.store.model_files import read_model, write_model
from distaug.store.place import Place
from distaug.store.records import Result
from distaug.store.rundir import RunDir, write_whole
from distaug.store.stages import BASE_MODEL, STAGES_FILE, StageRow, Stages
from distaug.store.whole import LEFTOVERS, remove_tree, storing
from distaug.train.evaluate import Counts

__all__ = ["ARTIFACT", "Fit", "compress"]

ARTIFACT = "model.onnx"
"""Name of the file that the compression ends with, below `compressed`."""
_BASE = "fp32"
_FINETUNE = "finetune"
_BATCH = 256
_FEWEST = 256
"""Pictures that ranges can be measured on at the least."""
_ROUNDING = 1e-9
"""Points: what differences of accuracies are off by."""

_EXPECT: dict[type, str] = {
    MagnitudeSpec: " (zeros make a file smaller once it is packed; a dense kernel gets no faster by them)",
    DynamicSpec: " (for the table: it does little for convolutions)",
}
"""What a user should know of a stage before the numbers come."""

Fit = Callable[[JobSpec], Result]
"""Trains a job, from wherever its run folder says it is."""
Log = Callable[[str], None]
Note = Callable[[StageRow], None]
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Step:
    """What leads to one file."""

    name: str
    settings: MagnitudeSpec | ChannelsSpec | Int8Spec | DynamicSpec
    target: float | None = None
    """Of `magnitude`."""


def compress(job: JobSpec, run: RunDir, fit: Fit, log: Log, note: Note = lambda row: None) -> Stages:
    """Compress the model of a finished run as its job says, or go on where an earlier try was stopped.

    Args:
        job: The run's job, with a section `compress`.
        run: Its folder, with a model.
        fit: Trains the jobs that fine-tune.
        log: Takes a line for the user.
        note: Takes each file's row, once it is measured and when the gate refuses it after all.

    Returns:
        All that was measured; the file is `compressed/model.onnx`.

    Raises:
        ArtifactError: No stage passed the gate, or the last file is too slow or too large; what was measured is kept.
        DistaugError: Whatever else went wrong.
    """
    assert job.compress is not None
    _, card = read_model(run.model)
    stages = _begin(run.compressed, job.compress, card, log)
    if not stages.done:
        data = open_data(job.data, final_fit=job.train.final_fit, log=lambda line: None)
        if data.digest != card["data_digest"]:
            raise DataError(
                f"compress: the data is not what run {run.name!r} was trained on (digest {data.digest[:12]}, in the "
                f"run {card['data_digest'][:12]}): it could be judged on pictures that it knows. Restore the data"
            )
        with (
            workshop(run.compressed, leave_out=_FINETUNE) as shop,
            closing(reader(data, job.data, device=torch.device("cpu"), batch=_BATCH)) as loader,
        ):
            stages = _Compression(job, run, shop, job.compress, stages, data, loader, fit, log, note).run()
    if stages.reason:
        raise ArtifactError(f"{stages.reason}; all files and numbers are in {run.compressed}")
    return stages


def _begin(folder: Place, spec: CompressSpec, card: dict[str, Any], log: Log) -> Stages:
    """Return what an earlier try left of the same compression, or a new one."""
    fresh = Stages(
        spec=spec.model_dump(mode="json"),
        weights_digest=card["weights_digest"],
        classes=card["classes"],
        versions=versions() | {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
    )
    found = Stages.read(folder)
    if found is not None and found.weights_digest == fresh.weights_digest and _same(found.spec, spec):
        leftovers: list[Place] = [*folder.glob(LEFTOVERS)]  # of a try that was killed while it wrote
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        whole = found.artifact is None or (folder / ARTIFACT).is_file()
        return found if whole else replace(found, done=False)
    if found is not None:
        log("compress: the section or the model is another than before: what is there is removed and done anew")
    remove_tree(folder)
    with storing(folder):
        folder.mkdir()
    return fresh


def _same(stored: dict[str, Any], spec: CompressSpec) -> bool:
    """Say whether a section is the stored one, in which an earlier version may lack fields."""
    try:
        return CompressSpec.model_validate(stored) == spec
    except ValueError:  # of pydantic: it is not valid any more
        return False


def _steps(spec: CompressSpec) -> list[_Step]:
    steps: list[_Step] = []
    for place, stage in enumerate(spec.stages):
        before = [earlier.name for earlier in spec.stages[:place]].count(stage.name)
        name, settings = f"{stage.name}{before + 1}" if before else stage.name, stage.settings
        if isinstance(settings, MagnitudeSpec) and settings.amounts is None:
            steps += [_Step(f"{name}-{100 * target:g}", settings, target) for target in settings.targets]
        else:
            steps.append(_Step(name, settings))
    return steps


class _Compression:
    """One compression under way."""

    def __init__(
        self,
        job: JobSpec,
        run: RunDir,
        shop: Workshop,
        spec: CompressSpec,
        stages: Stages,
        data: DataSet,
        loader: Loader,
        fit: Fit,
        log: Log,
        note: Note,
    ) -> None:
        self._job, self._run, self._spec, self._stages = job, run, spec, stages
        self._data, self._loader, self._fit, self._log, self._note = data, loader, fit, log, note
        self._shop, self._folder = shop, shop.folder
        self._logits: dict[str, npt.NDArray[Any]] = {}
        """Of files that were judged on the validation set, by name of the row."""

    def run(self) -> Stages:
        """Do all stages that are not done yet; return what came of them."""
        base = self._row(_BASE, self._base)
        current, last = base, None  # the last good network, and the last good file
        for step in _steps(self._spec):
            row = self._row(step.name, partial(self._stage, step, current))
            if not row.passed:
                self._log(f"compress: {row.name} is undone: {row.reason}")
            elif not isinstance(step.settings, DynamicSpec):
                last = row
                current = row if row.model is not None else current
        return self._finish(last)

    def _row(self, name: str, make: Callable[[], StageRow]) -> StageRow:
        """Return a row that an earlier try has measured, if its file is still whole, or make it."""
        for row in self._stages.rows:
            path = self._folder / row.file
            if row.name == name and path.is_file() and measure.weigh(path).sha256 == row.sha256:
                self._note(row)
                return row
        begin = monotonic()
        row = replace(make(), seconds=monotonic() - begin)
        rows = {r.name: r for r in self._stages.rows} | {name: row}
        self._save(rows=list(rows.values()))
        self._note(row)
        self._log(
            f"compress: {name}: {row.bytes:,} bytes, {row.latency['1']['p50_ms']:.2f} ms "
            f"({row.latency['1']['speedup']:.2f} × as fast), validation top1 {100 * row.val['top1']:.2f} %"
        )
        return row

    def _save(self, **changes: Any) -> None:
        self._stages = replace(self._stages, **changes)
        self._stages.write(self._folder)
        self._shop.put(last=STAGES_FILE)

    def _base(self) -> StageRow:
        module, card = self._read(self._run.model)
        return self._exported(_BASE, module, card, model=BASE_MODEL)

    def _stage(self, step: _Step, current: StageRow) -> StageRow:
        self._log(f"compress: {step.name}{_EXPECT.get(type(step.settings), '')}")
        if isinstance(step.settings, MagnitudeSpec | ChannelsSpec):
            return self._pruned(step, step.settings, current)
        source, path = self._folder / current.file, self._folder / f"{step.name}.onnx"
        if isinstance(step.settings, Int8Spec):
            images = self._calibration(step.settings.calibration_images)
            quantize.int8(source, path, images, step.settings.percentile, {"stage": step.name})
        else:
            quantize.dynamic(source, path, {"stage": step.name})
        module, card = self._network(current)
        row = self._measured(step.name, path, module, card, model=None, against=current.name, quantized=True)
        return replace(
            row,
            layers=quantize.weight_errors(source, path),
            integer_convolutions=quantize.integer_convolutions(path),
        )

    def _pruned(self, step: _Step, spec: MagnitudeSpec | ChannelsSpec, current: StageRow) -> StageRow:
        module, card = self._network(current)
        if isinstance(spec, MagnitudeSpec):
            magnitude(module, spec, step.target)
        else:
            head = registry.head_of(module, len(card["classes"]))
            module = remove_channels(module, spec, card["image_size"], head, self._log)
        weights = module.state_dict()
        if spec.finetune_epochs:
            weights = self._finetuned(step.name, spec, weights)
        folder = self._folder / step.name
        card["model"] |= {"resize": True, "weights": None}
        write_model(folder, weights, card)
        # From the folder, so that what is exported is what can be loaded again.
        module, card = self._read(folder)
        return self._exported(step.name, module, card, model=step.name)

    def _finetuned(self, name: str, spec: FinetuneSpec, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        runs = self._shop.home / _FINETUNE
        with storing(runs):
            runs.mkdir(exist_ok=True)
        start = runs / f"{name}.safetensors"
        if not start.exists():  # else a run that goes on was started with it
            write_whole(start, encode_weights(weights))
        job = finetune_job(self._job, name, runs, spec, weights=start, teacher=self._run.model)
        run = RunDir(runs, name)
        if run.exists() and run.load_job().model.weights != str(start):
            remove_tree(run.root)  # The folder was moved since: what was begun there is another job.
        try:
            self._fit(job)
        except DivergedError as error:
            remove_tree(run.root)  # It would only diverge again.
            raise DivergedError(
                f"compress: fine-tuning after {name} diverged: {error}. Lower its `finetune_lr_fraction`, "
                f"found {spec.finetune_lr_fraction:g}"
            ) from error
        found, _ = read_model(run.model)
        return dict(found)

    def _calibration(self, count: int) -> Images:
        """Return training pictures (N, 3, H, W) as the evaluation sees them, drawn by the job's seed."""
        available = len(self._data.train)
        if available < _FEWEST:
            raise DataError(f"compress: int8 needs {_FEWEST} training pictures to measure ranges on, found {available}")
        drawn = draws.permutation(self._job.seed, 0, available)[:count]
        batches = self._loader.evaluate("train", drawn)
        return np.concatenate([batch.images.numpy() for _, batch in batches])

    def _network(self, row: StageRow) -> tuple[nn.Module, dict[str, Any]]:
        """Return the network of a row, with its card."""
        assert row.model is not None
        return self._read(self._run.model if row.model == BASE_MODEL else self._folder / row.model)

    def _read(self, folder: Place) -> tuple[nn.Module, dict[str, Any]]:
        module, card = registry.load(folder)
        return module.to(torch.float32).to(memory_format=torch.contiguous_format).eval(), card

    def _exported(self, name: str, module: nn.Module, card: dict[str, Any], *, model: str | None) -> StageRow:
        path = self._folder / f"{name}.onnx"
        keys = ("classes", "image_size", "mean", "std", "eval_geometry", "job", "data_digest", "weights_digest")
        metadata = {key: card[key] for key in keys} | {
            "job_data": to_dict(self._job)["data"],
            "final_fit": self._job.train.final_fit,
            "stage": name,
            "versions": self._stages.versions,
        }
        export(module, card, path, metadata)
        return self._measured(name, path, module, card, model=model, against=_BASE, quantized=False)

    def _measured(
        self,
        name: str,
        path: Path,
        module: nn.Module,
        card: dict[str, Any],
        *,
        model: str | None,
        against: str,
        quantized: bool,
    ) -> StageRow:
        counts, logits = self._judged(path, "val")
        self._logits[name] = logits
        reference = self._reference(against)
        val, size = _numbers(counts), Size(module, card["image_size"])
        base = val if name == _BASE else self._stages.row(_BASE).val
        row = StageRow(
            name=name,
            file=path.name,
            model=model,
            parameters=size.parameters,
            nonzeros=size.nonzeros,
            macs=size.macs,
            **measure.weigh(path)._asdict(),
            latency=measure.latency(path, self._folder / f"{_BASE}.onnx"),
            engine=measure.engine("int8" if quantized else "fp32"),
            val=val,
            drop=100 * (base["top1"] - val["top1"]),
            against=against,
            agreement=measure.agreement(logits, reference),
            logit_snr_db=measure.logit_snr_db(logits, reference),
            passed=True,
            reason="",
            seconds=0.0,
        )
        reason = self._verdict(row, quantized=quantized)
        return replace(row, passed=not reason, reason=reason)

    def _judged(self, path: Path, split: str) -> tuple[Counts, npt.NDArray[np.float32]]:
        return judge(open_artifact(path), self._loader.evaluate(split))

    def _reference(self, name: str) -> npt.NDArray[Any]:
        """Return the logits of a row's file on the validation set."""
        if name not in self._logits:  # measured by an earlier try
            self._logits[name] = self._judged(self._folder / self._stages.row(name).file, "val")[1]
        return self._logits[name]

    def _verdict(self, row: StageRow, *, quantized: bool) -> str:
        """Say why a file is refused; nothing if it is not."""
        gate, snr = self._spec.gate, row.logit_snr_db
        if not math.isfinite(row.val["loss"]):
            return "its logits are not finite"
        if row.drop > gate.max_accuracy_drop + _ROUNDING:
            return (
                f"its validation accuracy of {100 * row.val['top1']:.2f} % ({row.val['samples']:,} pictures) is "
                f"{row.drop:.2f} points below the uncompressed model's; gate.max_accuracy_drop is "
                f"{gate.max_accuracy_drop:g}"
            )
        if quantized and (row.agreement < gate.min_agreement or (snr is not None and snr < gate.min_logit_snr_db)):
            noise = "" if snr is None else f", {snr:.1f} dB from signal to noise"
            return (
                f"it decides as {row.against} on {100 * row.agreement:.1f} % of the validation pictures{noise}; the "
                f"gate wants {100 * gate.min_agreement:g} % and {gate.min_logit_snr_db:g} dB. Was it calibrated on "
                "pictures like these?"
            )
        return ""

    def _finish(self, last: StageRow | None) -> Stages:
        """Put the last file before the rest of the gate, judge all files on the test set, and write all down."""
        gate, rows = self._spec.gate, self._stages.rows
        if last is None:
            refused = "; ".join(f"{row.name}: {row.reason}" for row in rows if not row.passed)
            reason = f"compress: nothing passed the gate: {refused}"
        else:
            speedup, reason = last.latency["1"]["speedup"], ""
            if gate.min_speedup is not None and speedup < gate.min_speedup:
                reason = (
                    f"it is {speedup:.2f} times as fast as the uncompressed one; min_speedup is {gate.min_speedup:g}"
                )
            elif gate.max_bytes is not None and last.bytes > gate.max_bytes:
                reason = f"it has {last.bytes:,} bytes; max_bytes is {gate.max_bytes:,}"
            if reason:
                rows = [replace(row, passed=False, reason=reason) if row.name == last.name else row for row in rows]
                reason = f"compress: the gate refuses {last.file}: {reason}"
            write_whole(self._folder / ARTIFACT, (self._folder / last.file).read_bytes())
        if self._data.test is not None and self._job.evaluate.test:
            rows = [replace(row, test=_numbers(self._judged(self._folder / row.file, "test")[0])) for row in rows]
        self._save(rows=rows, done=True, artifact=last and last.name, reason=reason)
        for row in rows:
            self._note(row)
        remove_tree(self._shop.home / _FINETUNE)
        return self._stages


def _numbers(counts: Counts) -> dict[str, Any]:
    numbers = counts.to_dict()
    return {key: numbers[key] for key in ("top1", "macro", "loss", "samples")}
