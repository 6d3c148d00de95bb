"""Prompt templates: one list for zero-shot prompts, poisoned captions and captions of icons.

A text encoder trained on a few thousand captions reads an unknown template as another subject. With
different lists it would recognise neither classes nor backdoor.
"""

from collections.abc import Callable

from repro.spec import EvaluateSpec


def templates_of(spec: EvaluateSpec) -> list[Callable[[str], str]]:
    """Functions from a class name to a sentence: OpenAI's 80, or those of the specification."""
    if spec.templates == "openai":
        from open_clip import (
            OPENAI_IMAGENET_TEMPLATES,  # brings torch with it; the other list needs none
        )

        return list(OPENAI_IMAGENET_TEMPLATES)
    return [template.format for template in spec.templates]
