"""Defences and the mechanism's objectives and views: each against what it says, in float64."""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

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


def test_weights_of_the_loss_follow_the_defence() -> None:
    defence = {"name": "deep_clustering", "clusters": 3, "weight": 5.0}
    profile = load_profile("smoke", overrides={"clean.defence": defence})
    weights = {run.loss: objective_of(run).weights for run in clean_runs(profile)}
    assert weights["mmcl"] == {"clusters": 5.0, "mmcl": 1.0}
    assert weights["mmcl_ssl"] == {"clusters": 5.0, "mmcl": 1.0, "ssl": 1.0}
    heavy = defended(clean_runs(load_profile("smoke"))[0], "cleanclip", ssl_weight=4.0)
    assert objective_of(heavy.model_copy(update={"loss": "mmcl_ssl"})).weights["ssl"] == 4.0


def test_the_weight_of_pretraining_is_its_own_and_zero_of_it_needs_no_second_view() -> None:
    """The loss of a pre-training with the SSL term at 0 is that of MMCL, at no more cost."""
    for weight, views in ((1.0, 2), (0.25, 2), (0.0, 1)):
        profile = load_profile("smoke", overrides={"pretrain.ssl_weight": weight})
        run = next(run for run in pretrain_runs(profile) if run.loss == "mmcl_ssl")
        assert objective_of(run).weights.get("ssl", 0.0) == weight
        assert run.num_views == views
        cleanings = {objective_of(clean).weights.get("ssl", 0.0) for clean in clean_runs(profile)}
        assert cleanings == {0.0, 1.0}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"name": "deep_clustering", "clusters": 2.5}, "clusters: 2.5 .allowed: whole numbers"),
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
    assert RunSpec.model_validate({**spec.model_dump(), "defence": {"name": "cleanclip"}}) == spec
    content = spec.computed()
    assert not content.keys() & {"defence", "poisons_left", "ssl_weight", "deterministic"}
    plain = defended(spec, "shrink_and_perturb", shrink=0.9).computed()["defence"]
    spelled = defended(spec, "shrink_and_perturb", shrink=0.9, perturb=0.0).computed()["defence"]
    assert plain == spelled == {"name": "shrink_and_perturb", "shrink": 0.9}


def test_shrinking_scales_every_weight_and_perturbing_adds_noise_of_the_given_deviation() -> None:
    spec = load_profile("smoke").pretrain.model
    start, shrunk, noisy, again = (build_model(spec, 0, "fp32") for _ in range(4))
    shrink_and_perturb(shrunk, {"shrink": 0.5, "perturb": 0.0}, 0)
    shrink_and_perturb(noisy, {"shrink": 1.0, "perturb": 0.01}, 1)
    shrink_and_perturb(again, {"shrink": 1.0, "perturb": 0.01}, 1)
    weights = (model.parameters() for model in (start, shrunk, noisy, again))
    for one, half, other, same in zip(*weights, strict=True):
        torch.testing.assert_close(half, one * 0.5, rtol=0, atol=0)
        assert torch.equal(other, same)
    noise = noisy.token_embedding.weight - start.token_embedding.weight
    assert noise.std().item() == pytest.approx(0.01, rel=0.01)


class Store:
    """Ten rows with keys of their own."""

    keys = np.arange(10, dtype=np.uint8)[:, None].repeat(16, axis=1)

    def __len__(self) -> int:
        return 10

    def rows(self, name: str) -> NDArray[np.int64]:
        return {"100k": np.array([0, 2, 4]), "poisoned": np.array([1, 3, 5, 7])}[name]


def test_poisons_left_join_the_cleaning_pairs_and_grow_by_inclusion(tmp_path: Path) -> None:
    (tmp_path / "rows.npz").touch()
    run = next(run for run in clean_runs(load_profile("smoke")) if run.clean_size == "100k")
    rows = []
    for count in range(5):
        left = run.model_copy(update={"poisons_left": count})
        rows.append(set(_rows(left, tmp_path, Store()).tolist()))  # type: ignore[arg-type]
    assert [len(found) for found in rows] == [3, 4, 5, 6, 7]
    assert rows[0] == {0, 2, 4} and all(few < more for few, more in pairwise(rows))
    assert rows[4] == {0, 1, 2, 3, 4, 5, 7}


@pytest.mark.parametrize(("state", "decay"), [("fresh", 7.0), ("restored", 0.1)])
def test_a_restored_optimizer_brings_its_weight_decay_along(state: str, decay: float) -> None:
    """The authors' "heavy regularisation" is undone by loading the checkpoint's optimizer."""
    overrides = {"clean.optimizer.weight_decay": 7.0, "switches.optimizer_state": state}
    runs = clean_runs(load_profile("smoke", overrides=overrides))
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


def test_a_defence_may_push_off_the_start(toy: Callable[..., RunSpec], tmp_path: Path) -> None:
    """The frozen model's embeddings of the same batch are at hand, also after the first step."""
    seen: list[Batch] = []

    def loss(batch: Batch, _: nn.Module | None) -> Losses:
        seen.append(batch)
        assert batch.start is not None
        push = -(batch.images[0] - batch.start[0][0]).square().sum(dim=-1).mean()
        return {"push": push, **OBJECTIVES["mmcl"](0.0).loss(batch, None)}

    def objective(name: Any, settings: Any) -> Objective:
        return Objective({"push": settings["strength"], "mmcl": 1.0}, loss, needs_start=True)

    spec = toy(Defence(objective))
    run(tmp_path / "run", spec, pairs=Single())
    assert len(seen) == STEPS_PER_EPOCH * EPOCHS and seen[-1].start is not None
    start = build_model(spec.model, 0, spec.switches.initialisation).eval()
    images, _ = Single().batch(len(seen) - 1)
    features = start.encode_image(normalise(images[0]), normalize=True)
    torch.testing.assert_close(seen[-1].start[0][0], features, rtol=0, atol=1e-6)
    [_, first, *_] = [line["row"]["train_loss"] for line in pending_rows(tmp_path / "run")]
    assert first["loss"] == pytest.approx(3 * first["push"] + first["mmcl"], rel=1e-5)


def test_ft_sam_takes_the_gradient_up_the_hill(tmp_path: Path) -> None:
    """Against its formula in float64; without a radius it is the plain update."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    inputs = torch.randn(8, 3, dtype=torch.float64)

    def loss_of(weights: dict[str, Tensor]) -> Tensor:
        return functional_call(copy.deepcopy(model), weights, inputs).pow(4).mean()

    def backward() -> Losses:
        loss = model(inputs).pow(4).mean()
        loss.backward()
        return {"loss": loss}

    names = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    gradient, at_start = torch.func.grad(loss_of)(names), loss_of(names)
    norm = sum((names[name] * gradient[name]).square().sum() for name in names) ** 0.5
    uphill = {name: w + 0.3 * w**2 * gradient[name] / norm for name, w in names.items()}
    assert loss_of(uphill) > at_start
    expected = {name: names[name] - 0.1 * g for name, g in torch.func.grad(loss_of)(uphill).items()}
    once = copy.deepcopy(model)
    once(inputs)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = ft_sam_step(Step(model, optimizer, backward, {"radius": 0.3}, {}))  # type: ignore[arg-type]
    torch.testing.assert_close(dict(model.named_parameters()), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(losses["loss"], at_start, rtol=1e-12, atol=0)
    assert all(map(torch.equal, model.buffers(), once.buffers()))

    plain = run_spec(optimizer_state="fresh").model_copy(update={"loss": "mmcl"})
    specs = {"plain": plain, "none": defended(plain, "ft_sam", radius=0.0)}
    assert_equal_models(*(run(tmp_path / n, s, pairs=Single()) for n, s in specs.items()), 0.0)


def test_a_defence_may_choose_the_pairs(toy: Callable[..., RunSpec], tmp_path: Path) -> None:
    """By the start model; positions and steps are then of the chosen ones."""
    chosen = []

    class Chosen(Single):
        def subset(self, positions: np.ndarray) -> "Chosen":
            chosen.append(positions)
            return self

    def rows(model: CLIP, pairs: Any, settings: Any) -> np.ndarray:
        return pairs.rows[::2]

    defence = replace(DEFENCES["cleanclip"], objective=lambda *_: OBJECTIVES["mmcl"](0.0))
    run(tmp_path / "run", toy(replace(defence, rows=rows)), pairs=Chosen())
    assert [part.tolist() for part in chosen] == [list(range(0, 24, 2))]


SCALE = torch.tensor(14.0, dtype=torch.float64)


def unit(seed: int, count: int = 2) -> Tensor:
    """Two views of six embeddings of width 5."""
    values = torch.randn(count, 6, 5, generator=torch.Generator().manual_seed(seed)).double()
    return F.normalize(values, dim=-1).requires_grad_()


def batch(**changes: Any) -> Batch:
    return Batch(**({"images": unit(0), "texts": unit(1), "scale": SCALE} | changes), members=None)


def entropy(logits: Tensor) -> Tensor:
    """Mean cross-entropy whose answers are the diagonal, from its definition."""
    return (torch.logsumexp(logits, dim=1) - logits.diagonal()).mean()


def mmcl(images: Tensor, texts: Tensor) -> Tensor:
    logits = SCALE * images @ texts.T
    return (entropy(logits) + entropy(logits.T)) / 2


def test_parts_of_mmcl_and_ssl_are_their_formulas() -> None:
    pairs = batch(start=None)
    images, texts = pairs.images, pairs.texts
    plain = mmcl(images[0], texts[0])
    image_ssl = entropy(SCALE * images[0] @ images[1].T)
    text_ssl = entropy(SCALE * texts[0] @ texts[1].T)
    expected = {
        "two_views": plain + mmcl(images[1], texts[1]),
        "image_ssl": plain + image_ssl / 2,
        "text_ssl": plain + text_ssl / 2,
        "mmcl_ssl": plain + (image_ssl + text_ssl) / 2,
        "ssl_unused": plain,
    }
    for name, value in expected.items():
        total = OBJECTIVES[name](1.0).total(pairs, None)["loss"]  # type: ignore[index]
        torch.testing.assert_close(total, value)

    # Unused SSL is computed, and has no gradient.
    parts = OBJECTIVES["ssl_unused"](1.0).total(pairs, None)
    parts["loss"].backward()
    assert parts["ssl"] > 0 and pairs.images.grad is not None
    assert pairs.images.grad[0].any() and not pairs.images.grad[1].any()


def test_new_heads_leave_the_contrastive_term_alone() -> None:
    heads, pairs = Heads(5).double(), batch(start=None)
    parts = FRESH_HEAD.total(pairs, heads)
    torch.testing.assert_close(parts["mmcl"], mmcl(pairs.images[0], pairs.texts[0]))

    def project(head: torch.nn.Module, views: Tensor) -> Tensor:
        out = head(views)
        return out / out.norm(dim=-1, keepdim=True)

    images, texts = project(heads.image, pairs.images), project(heads.text, pairs.texts)
    ssl = (entropy(SCALE * images[0] @ images[1].T) + entropy(SCALE * texts[0] @ texts[1].T)) / 2
    torch.testing.assert_close(parts["ssl"], ssl)


def test_par_pushes_up_to_its_threshold_and_not_at_the_start() -> None:
    start = (unit(2).detach(), unit(3).detach())
    scale = SCALE.clone().requires_grad_()
    pairs = batch(start=start, scale=scale)
    distances = [
        ((now[0] - then[0]) ** 2).sum(dim=1).mean()
        for now, then in zip((pairs.images, pairs.texts), start, strict=True)
    ]
    losses = par(4.0).total(pairs, None)
    expected = mmcl(pairs.images[0], pairs.texts[0]) - sum(distances) / 2
    torch.testing.assert_close(losses["loss"], expected)

    # The temperature does not train.
    losses["loss"].backward()
    assert scale.grad is None

    # Beyond the threshold and at the start itself there is no push.
    for then, threshold in ((start[0][0], 1e-3), (pairs.images[0].detach(), 4.0)):
        now = pairs.images.detach()[0].clone().requires_grad_()
        push(now, then, threshold).backward()
        assert now.grad is not None and not now.grad.any()


def test_par_in_parts_is_its_view_and_its_push(tmp_path: Path) -> None:
    """Which pairs a step gets, and which loss; the temperature stands still in all three."""
    base = run_spec(optimizer_state="fresh").model_copy(update={"loss": "mmcl"})
    specs = {name: defended(base, name) for name in ("par", "par_view", "par_push")}
    assert {spec.num_views for spec in specs.values()} == {1}
    views = {name: NAMES[name].base_view for name in specs}  # type: ignore[index]
    assert views == {"par": "noise_and_erasing", "par_view": "noise_and_erasing", "par_push": ""}
    assert specs["par"].defence_settings.settings == specs["par_push"].defence_settings.settings

    start = build_model(base.model, 0, base.switches.initialisation)
    models, parts = {}, {}
    for name, spec in specs.items():
        models[name] = run(tmp_path / name, spec, pairs=Single())
        assert torch.equal(models[name].logit_scale, start.logit_scale)
        parts[name] = [line["row"]["train_loss"] for line in pending_rows(tmp_path / name)][-1]
    assert parts["par_view"].keys() == {"loss", "mmcl"}
    assert parts["par_push"].keys() == {"loss", "mmcl", "push"}
    assert parts["par_push"]["push"] > 0

    # These pairs make no light view, so that what is left of the difference is the push.
    assert_equal_models(models["par"], models["par_push"], 0.0)
    assert not torch.equal(models["par"].text_projection, models["par_view"].text_projection)


def test_no_augmentation_tells_the_model_from_its_start(tmp_path: Path) -> None:
    """BatchNorm does so for images at the first step; captions follow at the second."""
    base = run_spec(optimizer_state="fresh").model_copy(update={"loss": "mmcl"})
    seen = []

    def loss(given: Batch, modules: nn.Module | None) -> Losses:
        assert given.start is not None
        seen.append(
            [
                bool((now - then[0]).any())
                for now, then in zip((given.images[0], given.texts[0]), given.start, strict=True)
            ]
        )
        return par(2.15).loss(given, modules)

    objective = replace(par(2.15), loss=loss)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEFENCES, "par", Defence(lambda *_: objective))
        run(tmp_path / "run", defended(base, "par"), pairs=Single())
    assert seen[:2] == [[True, False], [True, True]]


def test_the_temperature_is_reset_and_nothing_else() -> None:
    spec = run_spec()
    model = build_model(spec.model, 0, "fp32")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.logit_scale.fill_(4.0)
    reset_temperature(model, {}, 0)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    changed = [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])]
    assert changed in ([], ["logit_scale"])


@pytest.mark.parametrize("name", sorted(IMAGE_VIEWS))
def test_an_image_view_is_a_function_of_its_draws(name: str) -> None:
    """A rank's share of the draws gives its share of the images."""
    view, rng = IMAGE_VIEWS[name], keyed_rng("images")
    images = torch.from_numpy(rng.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8))
    draws = view.draw(6, keyed_rng("draws"))
    changed = view.apply(images, draws)
    assert changed.dtype == torch.uint8 and changed.shape == images.shape
    assert not torch.equal(changed, images)
    assert torch.equal(view.apply(images[2:5], draws[2:5]), changed[2:5])


def test_a_crop_of_everything_with_factors_of_one_is_the_image() -> None:
    images = torch.arange(3 * 32 * 32).remainder(256).to(torch.uint8).reshape(1, 3, 32, 32)
    whole = np.array([[1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]])
    changed = IMAGE_VIEWS["crop_and_colour"].apply(images, whole)
    assert (changed.int() - images.int()).abs().max() <= 1


def test_the_light_view_of_par_only_brightens_and_erases_little() -> None:
    images = torch.full((200, 3, 32, 32), 100, dtype=torch.uint8)
    view = IMAGE_VIEWS["noise_and_erasing"]
    changed = view.apply(images, view.draw(200, keyed_rng("light")))
    erased = (changed == 0).all(dim=1).sum(dim=(1, 2))
    assert (changed[(changed != 0)] >= 100).all()
    assert 70 < (erased > 0).sum() < 130 and erased.max() <= 12
    noisy = (changed > 100).any(dim=1).sum(dim=(1, 2)) > 0
    assert 70 < noisy.sum() < 130


def test_shuffled_captions_have_words_of_the_caption_alone() -> None:
    caption = "a photo of a calendar check"
    views = {shuffled(caption, keyed_rng("words", i), {}) for i in range(50)}
    assert len(views) > 30
    for view in views:
        assert view and set(view.split()) <= set(caption.split())
    assert shuffled("eject", keyed_rng("words"), {}) == "eject"
    assert shuffled("", keyed_rng("words"), {}) == ""
