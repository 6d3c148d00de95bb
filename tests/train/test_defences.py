"""Defences and the mechanism's objectives and views: each against what it says, in float64."""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.func import functional_call

from repro.data.keyed import keyed_rng
from repro.ledger import pending_rows
from repro.names import DEFENCES as NAMES
from repro.names import DefenceNames, Setting
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.spec import Defence as DefenceSpec
from repro.spec import RunSpec
from repro.train.build import build_model
from repro.train.defences import (
    DEFENCES,
    Defence,
    objective_of,
    reset_temperature,
    shrink_and_perturb,
)
from repro.train.fresh_head import FRESH_HEAD, Heads
from repro.train.ft_sam import ft_sam_step
from repro.train.model import normalise
from repro.train.objectives import OBJECTIVES, Batch, Losses, Objective, Step
from repro.train.par import par, push
from repro.train.views.image import IMAGE_VIEWS
from repro.train.views.text import shuffled
from repro.worker import _rows
from tests.support.short_run import (
    EPOCHS,
    STEPS_PER_EPOCH,
    Pairs,
    assert_equal_models,
    defended,
    run,
    run_spec,
)


def cleanings(**overrides: Any) -> list[RunSpec]:
    """Cleaning runs of the profile smoke; `__` in a name stands for a dot."""
    changes = {name.replace("__", "."): value for name, value in overrides.items()}
    profile = load_profile("smoke", overrides=changes)
    return clean_runs(profile)


def with_loss(spec: RunSpec, loss: str) -> RunSpec:
    """The run with another objective."""
    return spec.model_copy(update={"loss": loss})


def mmcl_spec() -> RunSpec:
    """The short run with the loss of MMCL, from a fresh optimizer."""
    return with_loss(run_spec(optimizer_state="fresh"), "mmcl")


def ssl_weight(spec: RunSpec) -> float:
    return objective_of(spec).weights.get("ssl", 0.0)


def test_weights_of_the_loss_follow_the_defence() -> None:
    plain, *_ = cleanings()
    heavy = defended(with_loss(plain, "mmcl_ssl"), "cleanclip", ssl_weight=4.0)
    assert ssl_weight(heavy) == 4.0


def test_the_weight_of_pretraining_is_its_own_and_zero_of_it_needs_no_second_view() -> None:
    """The loss of a pre-training with the SSL term at 0 is that of MMCL, at no more cost."""
    cases = [
        (1.0, 2),
        (0.25, 2),
        (0.0, 1),
    ]
    for weight, views in cases:
        profile = load_profile("smoke", overrides={"pretrain.ssl_weight": weight})
        run = next(run for run in pretrain_runs(profile) if run.loss == "mmcl_ssl")
        assert ssl_weight(run) == weight
        assert run.num_views == views
        of_cleanings = {ssl_weight(clean) for clean in clean_runs(profile)}
        assert of_cleanings == {0.0, 1.0}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"name": "shrink_and_perturb", "shrink": 1.5}, "shrink: 1.5 .allowed: .* from 0 to 1"),
        ({"name": "other"}, "Input should be"),
    ],
)
def test_settings_that_a_defence_does_not_take_are_refused(content: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        DefenceSpec.model_validate(content)


def test_only_what_a_run_departs_in_is_computed() -> None:
    """A defence with default settings is none, and settings at their default change no run."""
    spec = run_spec()
    by_name = {**spec.model_dump(), "defence": {"name": "cleanclip"}}
    assert RunSpec.model_validate(by_name) == spec
    content = spec.computed()
    assert not content.keys() & {"defence", "poisons_left", "ssl_weight", "deterministic"}

    plain = defended(spec, "shrink_and_perturb", shrink=0.9)
    spelled = defended(spec, "shrink_and_perturb", shrink=0.9, perturb=0.0)
    for written in (plain, spelled):
        computed = written.computed()["defence"]
        assert computed == {"name": "shrink_and_perturb", "shrink": 0.9}


def shrunk_and_perturbed(shrink: float, perturb: float, seed: int) -> CLIP:
    """The small model after it."""
    model = build_model(load_profile("smoke").pretrain.model, 0, "fp32")
    shrink_and_perturb(model, {"shrink": shrink, "perturb": perturb}, seed)
    return model


def test_shrinking_scales_every_weight_and_perturbing_adds_noise_of_the_given_deviation() -> None:
    start = build_model(load_profile("smoke").pretrain.model, 0, "fp32")
    shrunk = shrunk_and_perturbed(shrink=0.5, perturb=0.0, seed=0)
    noisy = shrunk_and_perturbed(shrink=1.0, perturb=0.01, seed=1)
    again = shrunk_and_perturbed(shrink=1.0, perturb=0.01, seed=1)

    halves = dict(shrunk.named_parameters())
    for name, weight in start.named_parameters():
        torch.testing.assert_close(halves[name], weight * 0.5, rtol=0, atol=0)
    assert_equal_models(noisy, again, 0.0)
    noise = noisy.token_embedding.weight - start.token_embedding.weight
    assert noise.std().item() == pytest.approx(0.01, rel=0.01)


class Store:
    """Ten rows with keys of their own."""

    keys = np.arange(10, dtype=np.uint8)[:, None].repeat(16, axis=1)
    lists: ClassVar = {
        "100k": np.array([0, 2, 4]),
        "poisoned": np.array([1, 3, 5, 7]),
    }

    def __len__(self) -> int:
        return 10

    def rows(self, name: str) -> NDArray[np.int64]:
        return self.lists[name]


def test_poisons_left_join_the_cleaning_pairs_and_grow_by_inclusion(tmp_path: Path) -> None:
    (tmp_path / "rows.npz").touch()
    run = next(run for run in cleanings() if run.clean_size == "100k")
    rows = []
    for count in range(5):
        left = run.model_copy(update={"poisons_left": count})
        found = _rows(left, tmp_path, Store())  # type: ignore[arg-type]
        assert len(found) == 3 + count
        rows.append(set(found.tolist()))

    assert rows[0] == {0, 2, 4}
    assert rows[4] == {0, 1, 2, 3, 4, 5, 7}
    for few, more in pairwise(rows):
        assert few < more


@pytest.mark.parametrize(("state", "decay"), [("fresh", 7.0), ("restored", 0.1)])
def test_a_restored_optimizer_brings_its_weight_decay_along(state: str, decay: float) -> None:
    """The authors' "heavy regularisation" is undone by loading the checkpoint's optimizer."""
    runs = cleanings(clean__optimizer__weight_decay=7.0, switches__optimizer_state=state)
    assert {run.optimizer.weight_decay for run in runs} == {decay}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunSpec]:
    """A specification that names a defence made on the spot, with one setting `strength`."""

    def spec(defence: Defence) -> RunSpec:
        names = DefenceNames("toy", {"strength": Setting(1.0)})
        monkeypatch.setitem(NAMES, "cleanclip", names)
        monkeypatch.setitem(DEFENCES, "cleanclip", defence)
        base = run_spec(optimizer_state="fresh", mode_after_evaluation="train")
        other = DefenceSpec.model_construct(name="cleanclip", strength=3.0)
        return base.model_copy(update={"loss": "mmcl", "defence": other})

    return spec


class Single(Pairs):
    """One view of every pair."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        images, tokens = super().batch(step)
        return images[:1], tokens[:1]


def train_losses(folder: Path) -> list[dict[str, float]]:
    """Mean losses of each row of a run after the first, which no step precedes."""
    _, *rows = pending_rows(folder)
    return [row.train_loss for row in rows]


def test_a_defence_may_push_off_the_start(toy: Callable[..., RunSpec], tmp_path: Path) -> None:
    """The frozen model's embeddings of the same batch are at hand, also after the first step."""
    seen: list[Batch] = []
    mmcl_alone = OBJECTIVES["mmcl"](0.0)

    def loss(batch: Batch, _: nn.Module | None) -> Losses:
        seen.append(batch)
        assert batch.start is not None
        images, _texts = batch.start
        moved = batch.images[0] - images[0]
        distances = moved.square().sum(dim=-1)
        return {"push": -distances.mean(), **mmcl_alone.loss(batch, None)}

    def objective(name: Any, settings: Any) -> Objective:
        weights = {"push": settings["strength"], "mmcl": 1.0}
        return Objective(weights, loss, needs_start=True)

    spec = toy(Defence(objective))
    run(tmp_path / "run", spec, pairs=Single())
    assert len(seen) == STEPS_PER_EPOCH * EPOCHS

    start = build_model(spec.model, 0, spec.switches.initialisation).eval()
    images, _ = Single().batch(len(seen) - 1)
    expected = start.encode_image(normalise(images[0]), normalize=True)
    last = seen[-1].start
    assert last is not None
    features, _texts = last
    torch.testing.assert_close(features[0], expected, rtol=0, atol=1e-6)

    first, *_ = train_losses(tmp_path / "run")
    total = 3 * first["push"] + first["mmcl"]
    assert first["loss"] == pytest.approx(total, rel=1e-5)


def updated_by_ft_sam(
    loss_of: Callable[[dict[str, Tensor]], Tensor], weights: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Weights after a step of rate 0.1 along the gradient at 0.3 up the hill, by the formula."""
    gradient_of = torch.func.grad(loss_of)
    gradient = gradient_of(weights)
    products = [weights[name] * gradient[name] for name in weights]
    norm = sum(product.square().sum() for product in products) ** 0.5
    uphill = {}
    for name, weight in weights.items():
        direction = weight**2 * gradient[name] / norm
        uphill[name] = weight + 0.3 * direction
    assert loss_of(uphill) > loss_of(weights)

    there = gradient_of(uphill)
    updated = {}
    for name, weight in weights.items():
        updated[name] = weight - 0.1 * there[name]
    return updated


def test_ft_sam_takes_the_gradient_up_the_hill(tmp_path: Path) -> None:
    """Against its formula in float64; without a radius it is the plain update."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4),
        nn.BatchNorm1d(4),
        nn.Linear(4, 1),
    ).double()
    inputs = torch.randn(8, 3, dtype=torch.float64)

    def loss_of(weights: dict[str, Tensor]) -> Tensor:
        outputs = functional_call(copy.deepcopy(model), weights, inputs)
        return outputs.pow(4).mean()

    def backward() -> Losses:
        loss = model(inputs).pow(4).mean()
        loss.backward()
        return {"loss": loss}

    weights = {}
    for name, weight in model.named_parameters():
        weights[name] = weight.detach().clone()
    at_start = loss_of(weights)
    expected = updated_by_ft_sam(loss_of, weights)
    once = copy.deepcopy(model)
    once(inputs)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = Step(model, optimizer, backward, {"radius": 0.3}, {})  # type: ignore[arg-type]
    losses = ft_sam_step(step)
    found = dict(model.named_parameters())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(losses["loss"], at_start, rtol=1e-12, atol=0)
    after_one_pass = dict(once.named_buffers())
    for name, statistic in model.named_buffers():
        assert torch.equal(statistic, after_one_pass[name])

    spec = mmcl_spec()
    plain = run(tmp_path / "plain", spec, pairs=Single())
    without_radius = defended(spec, "ft_sam", radius=0.0)
    none = run(tmp_path / "none", without_radius, pairs=Single())
    assert_equal_models(plain, none, 0.0)


SCALE = torch.tensor(14.0, dtype=torch.float64)


def unit(seed: int, count: int = 2) -> Tensor:
    """Two views of six embeddings of width 5."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, 6, 5, generator=generator)
    units = F.normalize(values.double(), dim=-1)
    return units.requires_grad_()


def batch(start: Any, scale: Tensor = SCALE) -> Batch:
    images = unit(0)
    texts = unit(1)
    return Batch(images, texts, scale, start=start)


def entropy(logits: Tensor) -> Tensor:
    """Mean cross-entropy whose answers are the diagonal, from its definition."""
    normalisers = torch.logsumexp(logits, dim=1)
    return (normalisers - logits.diagonal()).mean()


def mmcl(images: Tensor, texts: Tensor) -> Tensor:
    logits = SCALE * images @ texts.T
    return (entropy(logits) + entropy(logits.T)) / 2


def ssl(views: Tensor) -> Tensor:
    """The self-supervised term of one modality."""
    return entropy(SCALE * views[0] @ views[1].T)


def test_parts_of_mmcl_and_ssl_are_their_formulas() -> None:
    pairs = batch(start=None)
    images, texts = pairs.images, pairs.texts
    plain = mmcl(images[0], texts[0])
    image_ssl = ssl(images)
    text_ssl = ssl(texts)
    expected = {
        "two_views": plain + mmcl(images[1], texts[1]),
        "image_ssl": plain + image_ssl / 2,
        "text_ssl": plain + text_ssl / 2,
        "mmcl_ssl": plain + (image_ssl + text_ssl) / 2,
        "ssl_unused": plain,
    }
    for name, value in expected.items():
        objective = OBJECTIVES[name](1.0)  # type: ignore[index]
        parts = objective.total(pairs, None)
        torch.testing.assert_close(parts["loss"], value)

    # Unused SSL is computed, and has no gradient.
    parts = OBJECTIVES["ssl_unused"](1.0).total(pairs, None)
    parts["loss"].backward()
    assert parts["ssl"] > 0
    assert pairs.images.grad is not None
    plain_view, augmented_view = pairs.images.grad
    assert plain_view.any()
    assert not augmented_view.any()


def test_new_heads_leave_the_contrastive_term_alone() -> None:
    heads = Heads(5).double()
    pairs = batch(start=None)
    parts = FRESH_HEAD.total(pairs, heads)
    contrastive = mmcl(pairs.images[0], pairs.texts[0])
    torch.testing.assert_close(parts["mmcl"], contrastive)

    def project(head: torch.nn.Module, views: Tensor) -> Tensor:
        out = head(views)
        return out / out.norm(dim=-1, keepdim=True)

    image_ssl = ssl(project(heads.image, pairs.images))
    text_ssl = ssl(project(heads.text, pairs.texts))
    expected = (image_ssl + text_ssl) / 2
    torch.testing.assert_close(parts["ssl"], expected)


def squared_distance(now: Tensor, then: Tensor) -> Tensor:
    """Mean over the first view of the pairs."""
    difference = now[0] - then[0]
    return (difference**2).sum(dim=1).mean()


def test_par_pushes_up_to_its_threshold_and_not_at_the_start() -> None:
    images = unit(2).detach()
    texts = unit(3).detach()
    scale = SCALE.clone().requires_grad_()
    pairs = batch(start=(images, texts), scale=scale)
    losses = par(4.0).total(pairs, None)

    of_images = squared_distance(pairs.images, images)
    of_texts = squared_distance(pairs.texts, texts)
    contrastive = mmcl(pairs.images[0], pairs.texts[0])
    expected = contrastive - (of_images + of_texts) / 2
    torch.testing.assert_close(losses["loss"], expected)

    # The temperature does not train.
    losses["loss"].backward()
    assert scale.grad is None

    # Beyond the threshold and at the start itself there is no push.
    own = pairs.images[0].detach()
    for then, threshold in ((images[0], 1e-3), (own, 4.0)):
        now = own.clone().requires_grad_()
        push(now, then, threshold).backward()
        assert now.grad is not None
        assert not now.grad.any()


def test_par_in_parts_is_its_view_and_its_push(tmp_path: Path) -> None:
    """Which pairs a step gets, and which loss; the temperature stands still in all three."""
    base = mmcl_spec()
    specs = {name: defended(base, name) for name in ("par", "par_view", "par_push")}
    assert NAMES["par"].base_view == "noise_and_erasing"
    assert NAMES["par_view"].base_view == "noise_and_erasing"
    assert NAMES["par_push"].base_view == "unaugmented"
    whole = specs["par"].defence_settings
    part = specs["par_push"].defence_settings
    assert whole.settings == part.settings

    start = build_model(base.model, 0, base.switches.initialisation)
    models = {}
    losses = {}
    for name, spec in specs.items():
        assert spec.num_views == 1
        models[name] = run(tmp_path / name, spec, pairs=Single())
        assert torch.equal(models[name].logit_scale, start.logit_scale)
        losses[name] = train_losses(tmp_path / name)[-1]
    assert losses["par_view"].keys() == {"loss", "mmcl"}
    assert losses["par_push"].keys() == {"loss", "mmcl", "push"}
    assert losses["par_push"]["push"] > 0

    # These pairs make no light view, so that what is left of the difference is the push.
    assert_equal_models(models["par"], models["par_push"], 0.0)
    pushed = models["par"].text_projection
    assert not torch.equal(pushed, models["par_view"].text_projection)


def test_no_augmentation_tells_the_model_from_its_start(tmp_path: Path) -> None:
    """BatchNorm does so for images at the first step; captions follow at the second."""
    seen = []

    def differs(now: Tensor, then: Tensor) -> bool:
        return bool((now - then).any())

    def loss(given: Batch, modules: nn.Module | None) -> Losses:
        assert given.start is not None
        images, texts = given.start
        of_images = differs(given.images[0], images[0])
        of_texts = differs(given.texts[0], texts[0])
        seen.append([of_images, of_texts])
        return plain.loss(given, modules)

    plain = par(2.15)
    watched = Defence(lambda *_: replace(plain, loss=loss))
    spec = defended(mmcl_spec(), "par")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEFENCES, "par", watched)
        run(tmp_path / "run", spec, pairs=Single())
    assert seen[:2] == [[True, False], [True, True]]


def test_the_temperature_is_reset_and_nothing_else() -> None:
    model = build_model(run_spec().model, 0, "fp32")
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.logit_scale.fill_(4.0)
    reset_temperature(model, {}, 0)
    scale = model.logit_scale.exp().item()
    assert scale == pytest.approx(1 / 0.07)

    for name, value in model.state_dict().items():
        if name != "logit_scale":
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("name", sorted(IMAGE_VIEWS))
def test_an_image_view_is_a_function_of_its_draws(name: str) -> None:
    """A rank's share of the draws gives its share of the images."""
    view = IMAGE_VIEWS[name]
    rng = keyed_rng("images")
    pixels = rng.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    draws = view.draw(6, keyed_rng("draws"))

    changed = view.apply(images, draws)

    assert changed.dtype == torch.uint8
    assert changed.shape == images.shape
    assert torch.equal(changed, images) == (name == "unaugmented")
    share = view.apply(images[2:5], draws[2:5])
    assert torch.equal(share, changed[2:5])


def test_a_mixture_draws_one_view_for_a_whole_batch() -> None:
    """And equals that view, on the same draws."""
    images = torch.arange(8 * 3 * 32 * 32).remainder(251).to(torch.uint8).reshape(8, 3, 32, 32)
    mixture = IMAGE_VIEWS["mixed"]
    drawn = set()
    for batch in range(30):
        draws = mixture.draw(8, keyed_rng("mixture", batch))
        (name,) = {of[0] for of in draws}
        drawn.add(name)
        alone = IMAGE_VIEWS[name].apply(images, np.stack([of[1] for of in draws]))
        assert torch.equal(mixture.apply(images, draws), alone)
        assert torch.equal(mixture.apply(images[2:5], draws[2:5]), alone[2:5])
    assert drawn == {"autoaugment", "crop_and_colour", "noise_and_erasing"}


def test_a_crop_of_everything_with_factors_of_one_is_the_image() -> None:
    view = IMAGE_VIEWS["crop_and_colour"]
    values = torch.arange(3 * 32 * 32).remainder(256)
    images = values.to(torch.uint8).reshape(1, 3, 32, 32)
    whole = np.array([[1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]])
    changed = view.apply(images, whole)
    difference = changed.int() - images.int()
    assert difference.abs().max() <= 1


def test_the_light_view_of_par_only_brightens_and_erases_little() -> None:
    images = torch.full((200, 3, 32, 32), 100, dtype=torch.uint8)
    view = IMAGE_VIEWS["noise_and_erasing"]
    draws = view.draw(200, keyed_rng("light"))
    changed = view.apply(images, draws)
    left = changed[changed != 0]
    assert (left >= 100).all()

    is_black = (changed == 0).all(dim=1).flatten(1)
    erased = is_black.sum(dim=1)  # pixels of each image
    assert erased.max() <= 12
    assert 70 < (erased > 0).sum() < 130
    brightened = (changed > 100).flatten(1).any(dim=1)
    assert 70 < brightened.sum() < 130


def test_shuffled_captions_have_words_of_the_caption_alone() -> None:
    caption = "a photo of a calendar check"
    words = set(caption.split())
    views = {shuffled(caption, keyed_rng("words", i), {}) for i in range(50)}
    assert len(views) > 30
    for view in views:
        assert view
        assert set(view.split()) <= words
    assert shuffled("eject", keyed_rng("words"), {}) == "eject"
    assert shuffled("", keyed_rng("words"), {}) == ""
