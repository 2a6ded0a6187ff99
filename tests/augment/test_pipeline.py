"""The whole augmentation: counter-based, per sample, in the order asked for."""

from typing import Any

import pytest
import torch

from distaug.augment import Augment, normalise

IMAGES = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 4
IDS = torch.tensor([5, 3, 99, 7, 0, 12, 40, 41])


def augment(**changed: Any) -> Augment:
    return Augment(**({"spec": {"preset": "weak"}, "image_size": 16, "num_classes": 4, "seed": 3} | changed))


def test_each_sample_has_its_own_parameters_wherever_it_stands() -> None:
    aug = augment()
    whole, _ = aug(IMAGES, LABELS, IDS, epoch=1, step=0)
    order = torch.tensor([4, 1, 7])
    part, _ = aug(IMAGES[order], LABELS[order], IDS[order], epoch=1, step=9, shard=2)
    assert torch.equal(part, whole[order])
    other, _ = aug(IMAGES, LABELS, IDS, epoch=2, step=0)
    assert not torch.equal(other, whole)


def test_nothing_is_stored_between_calls() -> None:
    aug = augment(mix={"mixup": {}, "cutmix": {}}, label_smoothing=0.1)
    first = aug(IMAGES, LABELS, IDS, epoch=1, step=4, shard=1)
    aug(IMAGES, LABELS, IDS, epoch=0, step=0)
    again = aug(IMAGES, LABELS, IDS, epoch=1, step=4, shard=1)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_preset_none_only_normalises() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    found, targets = augment(spec={"preset": "none"}, mean=mean, std=std)(IMAGES, LABELS, IDS, epoch=0, step=0)
    want = (IMAGES / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    assert torch.equal(targets.argmax(1), LABELS) and targets.sum() == 8


def test_an_operation_given_twice_draws_twice() -> None:
    flips = augment(spec={"ops": [{"flip": {}}, {"flip": {}}]})
    found, _ = flips(IMAGES, LABELS, IDS, epoch=0, step=0)
    plain, _ = augment(spec={"preset": "none"})(IMAGES, LABELS, IDS, epoch=0, step=0)
    same = [torch.equal(a, b) for a, b in zip(found, plain, strict=True)]
    assert any(same) and not all(same)


def test_mixing_ends_after_its_last_epoch() -> None:
    aug = augment(mix={"mixup": {"alpha": 1.0}, "off_after_epoch": 2})
    soft = [aug(IMAGES, LABELS, IDS, epoch=e, step=0)[1] for e in (1, 2)]
    assert (soft[0].max(1).values < 1).any() and (soft[1].max(1).values == 1).all()
    assert aug.mixes(1) and not aug.mixes(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_dtype_and_layout_are_the_models(dtype: torch.dtype) -> None:
    aug = augment(dtype=dtype, memory_format=torch.channels_last, mix={"cutmix": {}})
    images, targets = aug(IMAGES, LABELS, IDS, epoch=0, step=0)
    assert images.dtype == dtype and images.is_contiguous(memory_format=torch.channels_last)
    assert targets.dtype == torch.float32
    assert normalise(IMAGES, (0,) * 3, (1,) * 3, dtype).dtype == dtype


def test_wrong_pictures_are_refused_with_what_was_found() -> None:
    with pytest.raises(ValueError, match=r"uint8 of shape \(B, 3, 16, 16\), found \(8, 3, 16, 16\) torch.float32"):
        augment()(IMAGES.float(), LABELS, IDS, epoch=0, step=0)
    with pytest.raises(ValueError, match=r"found \(8, 3, 15, 16\)"):
        augment()(IMAGES[:, :, 1:], LABELS, IDS, epoch=0, step=0)
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(8,\), one for each picture, found \(7,\)"):
        augment()(IMAGES, LABELS[1:], IDS, epoch=0, step=0)
    with pytest.raises(ValueError, match=r"sample_ids must be int64 .* torch.float32"):
        augment()(IMAGES, LABELS, IDS.float(), epoch=0, step=0)
    with pytest.raises(ValueError, match="cifar10"):
        augment(spec={"ops": [{"autoaugment": "cifar11"}]})


def test_a_compiled_training_step_leaves_the_pipeline_as_it_is() -> None:
    """The compiler would change its bits, and make it slower."""
    aug, compiled = augment(), []

    def note(graph: torch.fx.GraphModule, inputs: Any) -> torch.fx.GraphModule:
        compiled.extend(str(node.target) for node in graph.graph.nodes if node.op.startswith("call"))
        return graph

    def step(epoch: int) -> torch.Tensor:
        return torch.sin(aug(IMAGES, LABELS, IDS, epoch=epoch, step=0)[0])

    assert torch.equal(torch.compile(step, backend=note)(1), step(1))
    assert len(compiled) == 1 and "sin" in compiled[0]
