"""The job that trains a pruned network again."""

from distaug.spec.augment import MixSpec
from distaug.spec.compress import FinetuneSpec
from distaug.spec.job import JobSpec
from distaug.spec.train import DistillSpec, ScheduleSpec, StopSpec
from distaug.store.place import Place

__all__ = ["finetune_job"]


def finetune_job(
    job: JobSpec, name: str, folder: Place, spec: FinetuneSpec, *, weights: Place, teacher: Place
) -> JobSpec:
    """Derive the job that trains a pruned network again: as the run was trained, but shorter and with smaller steps.

    Args:
        job: The job of the run, with everything decided.
        name: Name of the run that fine-tunes.
        folder: Folder of such runs.
        spec: Section of the stage.
        weights: File of the pruned network's weights.
        teacher: Folder of the uncompressed model.
    """
    assert job.train.optimizer.lr != "auto"
    optimizer = job.train.optimizer.model_copy(update={"lr": job.train.optimizer.lr * spec.finetune_lr_fraction})
    train = job.train.model_copy(
        update={
            "epochs": spec.finetune_epochs,
            "optimizer": optimizer,
            "schedule": ScheduleSpec(),
            "keep_zeros": True,
            "distill": DistillSpec(teacher=str(teacher), weight=spec.distill) if spec.distill else None,
        }
    )
    # Weights that a factory would fetch are not those to start from.
    options = {key: value for key, value in job.model.options.items() if key != "pretrained"}
    model = {"weights": str(weights), "resize": True, "freeze_epochs": 0, "options": options}
    return job.model_copy(
        update={
            "name": name,
            "runs_dir": str(folder),
            "model": job.model.model_copy(update=model),
            # A training that ends with unmixed pictures has its last, fine steps behind it.
            "mix": MixSpec() if job.mix.off_after_epoch is not None else job.mix,
            "train": train,
            "stop": StopSpec(metric=job.stop.metric, patience_epochs=None, start_epoch=0),
            "evaluate": job.evaluate.model_copy(update={"test": False, "tta": []}),
            "compress": None,
        }
    )
