"""Where networks come from: our own, torchvision's, timm's, and the user's factories."""

import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torchvision import models
from torchvision.models.resnet import ResNet

from distaug.errors import DataError, JobError
from distaug.model.depth import set_depth
from distaug.model.smallnet import DEFAULT_WIDTHS, SmallNet
from distaug.spec.model import ModelSpec

__all__ = ["SMALL_STEM_PIXELS", "make", "torchvision_names"]

SMALL_STEM_PIXELS = 64
"""`stem: auto` of a ResNet is the small one up to this picture size."""


def make(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    """Make the network that the job names, with new weights from torch's generator.

    Args:
        spec: The section `model`.
        num_classes: Number of logits, K.
        image_size: Side of the pictures, in pixels.

    Raises:
        JobError: There is no such network, it does not take these options, or it cannot do what the job asks.
        DataError: timm's own weights (`options: {pretrained: true}`) could not be had.
    """
    ours, factory, timm = spec.name == "smallnet", ":" in spec.name, spec.name.startswith("timm/")
    if not (ours or factory or timm):
        return _from_torchvision(spec, num_classes, image_size)
    if spec.stem == "small":
        raise _no_stem(spec)
    if timm:
        return _from_timm(spec, num_classes, image_size)
    return _smallnet(spec, num_classes) if ours else _from_factory(spec, num_classes)


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classifiers."""
    names: list[str] = models.list_models(module=models)
    return names


def _from_torchvision(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    name = spec.name
    if name not in (known := torchvision_names()):
        near = _nearest(name, [*known, "smallnet"])
        raise JobError(
            f"model.name: there is no `{name}`{near}. Allowed: smallnet, any torchvision classifier, "
            "timm/<name>, package.module:factory"
        )
    builder = models.get_model_builder(name)
    kind = inspect.signature(builder).return_annotation
    if spec.stem == "small" and kind is not ResNet:
        raise _no_stem(spec)
    options = _options(spec, {"stochastic_depth_prob": "model.stochastic_depth", "weights": "model.weights"})
    # Some of the classes swallow any further argument, so what they name is what they take.
    accepted = [p.name for p in inspect.signature(kind).parameters.values() if p.kind is not p.VAR_KEYWORD]
    _check_options(spec, accepted)
    ours = {
        "image_size": image_size,
        "input_size": (image_size, image_size),
        # Auxiliary heads would return their logits beside the others, in training only.
        "aux_logits": False,
        # The default of GoogLeNet and Inception, which warn unless it is given.
        "init_weights": True,
        # The published weights of these two expect their own normalisation, done inside the network.
        "transform_input": spec.weights in models.get_model_weights(name).__members__,
    }
    options = {key: value for key, value in ours.items() if key in accepted} | options
    module = _call(builder, spec, {"num_classes": num_classes, **options})
    set_depth(module, spec.stochastic_depth, name)
    small = spec.stem == "small" or (spec.stem == "auto" and image_size <= SMALL_STEM_PIXELS)
    if kind is ResNet and small:
        _use_small_stem(module)
    return module


def _no_stem(spec: ModelSpec) -> JobError:
    return JobError(f"model.stem: `small` is for torchvision's ResNets, and `{spec.name}` is none: remove it")


def _use_small_stem(module: ResNet) -> None:
    """Look at small pictures in full: a 3×3 convolution of stride 1 and no pooling, under the same names."""
    old = module.conv1
    module.conv1 = nn.Conv2d(old.in_channels, old.out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(module.conv1.weight, mode="fan_out", nonlinearity="relu")
    module.maxpool = nn.Identity()


def _smallnet(spec: ModelSpec, num_classes: int) -> nn.Module:
    options = _options(spec, {})
    _check_options(spec, ["widths"])
    widths = options.get("widths", DEFAULT_WIDTHS)
    if not (isinstance(widths, Sequence) and widths and all(type(width) is int and width > 0 for width in widths)):
        raise JobError(f"model.options.widths: {widths!r} is not a list of channels such as [64, 128, 256]")
    module = SmallNet(num_classes, widths)
    set_depth(module, spec.stochastic_depth, spec.name)
    return module


def _from_timm(spec: ModelSpec, num_classes: int, image_size: int) -> nn.Module:
    try:
        import timm
        from timm.layers.drop import DropPath
    except ImportError as error:
        raise JobError(f"model.name: `{spec.name}` needs timm: pip install 'distaug[timm]'") from error
    name = spec.name.removeprefix("timm/")
    if not timm.is_model(name):
        near = _nearest(name, timm.list_models())
        raise JobError(f"model.name: timm {timm.__version__} has no model `{name}`{near}")
    options = _options(spec, {"drop_path_rate": "model.stochastic_depth"})
    published = timm.get_pretrained_cfg(name)
    if published and published.fixed_input_size and published.input_size[-1] != image_size:
        options = {"img_size": image_size} | options
    if spec.stochastic_depth:
        options["drop_path_rate"] = spec.stochastic_depth

    def factory(**arguments: Any) -> nn.Module:
        module: nn.Module = timm.create_model(name, **arguments)
        return module

    no_depth = JobError(f"model.stochastic_depth: `{spec.name}` has none; set it to 0 or take another model")
    try:
        module = _call(factory, spec, {"num_classes": num_classes, **options})
    except JobError as error:
        if "argument 'drop_path_rate'" in str(error.__cause__):
            raise no_depth from error
        raise
    # Some of timm's models swallow an argument that they do not use.
    if spec.stochastic_depth and not any(isinstance(part, DropPath) for part in module.modules()):
        raise no_depth
    return module


def _from_factory(spec: ModelSpec, num_classes: int) -> nn.Module:
    """Call the user's own factory, found as Python finds modules, the current directory first."""
    place, _, attribute = spec.name.partition(":")
    if spec.stochastic_depth:
        raise JobError(
            f"model.stochastic_depth: found {spec.stochastic_depth:g}, but skipping branches is up to "
            f"`{spec.name}` itself: set it to 0, and give the factory an argument in `model.options`"
        )
    here = str(Path.cwd())
    # For good, not just for this import: the user's module may import its neighbours later.
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        home = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise JobError(f"model.name: importing `{place}` raised {_told(error)}") from error
        raise JobError(f"model.name: no module `{place}` in {here} nor installed") from error
    except Exception as error:
        raise JobError(f"model.name: importing `{place}` raised {_told(error)}") from error
    factory = getattr(home, attribute, None)
    if not callable(factory):
        public = [key for key, value in vars(home).items() if callable(value) and not key.startswith("_")]
        raise JobError(
            f"model.name: `{place}` ({home.__file__}) has no function or class `{attribute}`"
            f"{_nearest(attribute, public)}"
        )
    module = _call(factory, spec, {"num_classes": num_classes, **_options(spec, {})})
    if not isinstance(module, nn.Module):
        raise JobError(f"model.name: `{spec.name}` made a {type(module).__name__}, not a torch.nn.Module")
    return module


def _options(spec: ModelSpec, homes: Mapping[str, str]) -> dict[str, Any]:
    """Return a copy of the options, refusing those that have another home, given as {option: home}."""
    homes = {"num_classes": "the number of classes in the data", **homes}
    for option, home in homes.items():
        if option in spec.options:
            raise JobError(f"model.options.{option}: comes from {home}: remove it here")
    return dict(spec.options)


def _check_options(spec: ModelSpec, accepted: Collection[str]) -> None:
    for option in spec.options:
        if option not in accepted:
            raise JobError(
                f"model.options: `{spec.name}` has no argument `{option}`{_nearest(option, accepted)}. "
                f"It has {', '.join(accepted)}"
            )


def _call(factory: Callable[..., nn.Module], spec: ModelSpec, arguments: Mapping[str, Any]) -> nn.Module:
    """Call a factory and blame the options for what it does not take."""
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise JobError(
            f"model.options: `{spec.name}` does not take ({given}): {error}. Its arguments are "
            f"{inspect.signature(factory)}"
        ) from error
    except ValueError:
        pass  # A factory written in C may have no signature; it can still be called.
    try:
        return factory(**arguments)
    except OSError as error:
        raise DataError(f"model.name: `{spec.name}` needs a file that is out of reach: {error}") from error
    except Exception as error:
        raise JobError(f"model.options: making `{spec.name}` with ({given}) raised {_told(error)}") from error


def _told(error: Exception) -> str:
    """Say an error in one line, with the place in the code that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; nearest: {', '.join(near)}" if near else ""
