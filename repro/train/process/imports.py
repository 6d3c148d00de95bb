"""torchvision and open_clip, imported without what only other models of theirs need.

Import this module before either. timm, transformers and torch._dynamo take half of the time of a
worker's imports; open_clip does without the first two by itself, and torch._dynamo is imported when
something asks for more of it than is asked here.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

OTHER_MODELS = ("timm", "transformers")
"""Packages of models that no specification can name."""


@contextmanager
def _instead(modules: dict[str, ModuleType | None]) -> Iterator[None]:
    """Within the block an import finds these modules; None: that there is none."""
    absent = modules.keys() - sys.modules.keys()
    sys.modules |= {name: modules[name] for name in absent}  # type: ignore[misc]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _dynamo() -> dict[str, ModuleType | None]:
    """What torchvision takes from torch._dynamo: marks for functions that nothing here compiles."""
    package, utils = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")
    vars(package).update(utils=utils, disable=lambda function, *_, **__: function)
    vars(utils).update(is_compile_supported=_is_compile_supported)
    return {module.__name__: module for module in (package, utils)}


def _is_compile_supported(device_type: str) -> bool:
    """torch._dynamo's own answer."""
    from torch._dynamo.utils import is_compile_supported

    answer: bool = is_compile_supported(device_type)
    return answer


def keep_optimizers_out_of_dynamo() -> None:
    """Let the methods of an optimizer run without importing torch._dynamo first, whose mark only
    keeps them out of compiled code.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method: Callable[..., Any] = getattr(torch.optim.Optimizer, name)
        plain = vars(method)["__wrapped__"]
        plain.__dynamo_disable = plain


with _instead(_dynamo()), _instead(dict.fromkeys(OTHER_MODELS)):
    import open_clip  # noqa: F401
    import torchvision.transforms.v2.functional  # noqa: F401
keep_optimizers_out_of_dynamo()
