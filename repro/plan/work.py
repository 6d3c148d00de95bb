"""What a profile has to do: the pairs and evaluations of every run, from its specifications alone.

Nothing here needs torch. FLOPs of the model are counted in repro/plan/flops.py.
"""

from typing import NamedTuple

from repro.profile import runs_of
from repro.spec import Dataset, Profile, RunSpec
from repro.train.schedule import evaluation_steps, num_steps


class Work(NamedTuple):
    """What one training run does, unless it ends early."""

    spec: RunSpec
    pairs: int
    """Training pairs processed, views not counted."""
    evaluations: int
    """Evaluations of its own: the cleaning runs of one model share that of the start model, and the
    first one has it.
    """
    partial: int
    """Evaluations among them of `images_between` images a class."""


def kind_of(spec: RunSpec) -> str:
    """Runs of one kind take the same time a pair: stage, loss and batch."""
    return f"{spec.stage} {spec.loss} x{spec.schedule.global_batch_size}"


def work_of(profile: Profile, dataset: Dataset | None = None) -> list[Work]:
    """The work of every run of `runs_of`."""
    result = []
    starts: set[tuple[str, str, int]] = set()
    for spec in runs_of(profile, dataset):
        steps_per_epoch = num_rows(profile, spec) // spec.schedule.global_batch_size
        steps = evaluation_steps(spec, steps_per_epoch)
        evaluations = len(steps)
        # The start model of several cleaning runs is evaluated once.
        start = spec.stage, spec.model_name, spec.seed
        if start in starts:
            evaluations -= 1
        starts.add(start)

        partial = 0
        if spec.images_between:
            partial = sum(step % steps_per_epoch > 0 for step in steps)
        pairs = num_steps(spec, steps_per_epoch) * spec.schedule.global_batch_size
        result.append(Work(spec, pairs, evaluations, partial))
    return result


def num_rows(profile: Profile, spec: RunSpec) -> int:
    """Pairs that a run trains on, before its incomplete last batch is dropped
    (repro/data/poison.py).
    """
    data = profile.data
    if spec.clean_size is not None:
        return data.cleaning_sizes[spec.clean_size] + spec.poisons_left
    rows = data.num_pairs[spec.dataset] - data.num_validation
    if profile.switches.cleaning_pairs == "held_out":
        rows -= max(data.cleaning_sizes.values())
    return rows


class Counts(NamedTuple):
    """FLOPs of one model."""

    parameters: int
    image_forward: int
    """Of one image through the image tower."""
    image_step: int
    """The same, forward and backward."""
    text_forward: dict[Dataset, int]
    """Of one of the dataset's captions through the text tower."""
    text_step: dict[Dataset, int]
    loss: dict[str, int]
    """Of the similarity matrices, forward and backward, for one view of a pair, by `kind_of`."""
    prompts_forward: int
    """All prompts through the text tower, batch by batch as they are trimmed."""
    evaluation_image: int
    """An image without and with trigger, and their similarities to the classes."""
    num_images: int
    """Images of a whole evaluation."""
    classes: int

    @property
    def evaluation(self) -> int:
        """A whole evaluation: prompts once, and every image."""
        return self.prompts_forward + self.num_images * self.evaluation_image

    def evaluations(self, work: Work) -> int:
        """All evaluations of a run."""
        images_between = (work.spec.images_between or 0) * self.classes
        left_out = work.partial * (self.num_images - images_between)
        return work.evaluations * self.evaluation - left_out * self.evaluation_image

    def training(self, work: Work) -> int:
        """All training steps of a run: each view of each pair through both towers, forward and
        backward, and its part of the loss.
        """
        spec = work.spec
        towers = self.image_step + self.text_step[spec.dataset]
        view = towers + self.loss[kind_of(spec)]
        return work.pairs * spec.num_views * view
