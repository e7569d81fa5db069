"""Evaluation of generated images: samples that are real images, noise, or one digit, whose numbers are known."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import asks

from gen_jax import data, evaluators
from gen_jax.core.state import State
from gen_jax.errors import CheckpointError, ConfigError
from gen_jax.evaluators import evaluator, generation
from gen_jax.evaluators.evaluator import Context
from gen_jax.features import Features, Weights, classifier
from gen_jax.metrics.frechet import fid, moments
from gen_jax.metrics.precision_recall import precision_recall
from gen_jax.models import gan
from gen_jax.runs import metric_tags

STATE = State(jnp.zeros((), jnp.int32), {})


SET = data.load(data.parse({"source": "digits"}), 0)


RECIPE = {"widths": (16,), "features": 16, "epochs": 6, "lr": 1e-2, "shift": 0}


FEATURES = {"recipe": RECIPE}


FACTS = {"n_real", "n_fake", "split", "data", "features", "resize"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One for all tests here, so that the classifier is trained once."""
    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path_factory.getbasetemp() / "features"))


@dataclasses.dataclass(frozen=True)
class Replays:
    """Samples are images of a split, those of the class that was asked for where it has classes."""

    split: str = "test"
    num_classes: int = 0
    only: int = -1

    def sample(self, state: State, rng: jax.Array, n: int, options: Any) -> jax.Array:
        images, labels = (jnp.asarray(SET.arrays[self.split][name]) for name in ("image", "label"))
        wanted = jnp.arange(n) % self.num_classes if self.num_classes else jnp.full(n, self.only)
        fits = (labels[None] == wanted[:, None]) | (wanted[:, None] < 0)
        return images[jax.random.categorical(rng, jnp.where(fits, 0.0, -jnp.inf))]


@dataclasses.dataclass(frozen=True)
class Noise:
    def sample(self, state: State, rng: jax.Array, n: int, options: Any) -> jax.Array:
        return jax.random.randint(rng, (n, 8, 8, 1), 0, 256).astype(jnp.uint8)


def batches(split):
    feed = SET.eval_feed(split, 100)
    return (jax.tree.map(jnp.asarray, feed.assemble(feed.resident, feed.rows(i))) for i in range(feed.num_batches))


def facts_of(report: Any) -> list[dict[str, str]]:
    """Of each number; all have those of `FACTS`."""
    found = [metric_tags.facts_of(tag) for tag in report.scalars]
    assert found and all(set(facts) >= FACTS for facts in found), found
    return found


def build(section: dict, model: Any, info: data.Info = SET.info):
    context = Context(
        model, info, batches, 100, None, jax.random.key(0), size=SET.sizes.get, **asks(gan.Sampling, info)
    )
    return evaluators.build(evaluators.parse(section), context)


def found(model: Any, **section: Any) -> tuple[dict, Any]:
    section = {"type": "generation", "n": 250, "features": FEATURES, "kid_subsets": 5, "kid_subset_size": 100} | section
    report = build(section, model)(STATE)
    return {metric_tags.name_of(tag): value for tag, value in report.scalars.items()}, report


def test_real_images_are_near_their_floor_and_noise_is_far():
    real, report = found(Replays("train"))
    noise, _ = found(Noise())
    assert real["fid"] < 2 * real["fid_floor"] and 4 * real["fid_floor"] < noise["fid"]
    assert real["precision"] > noise["precision"] and real["recall"] > noise["recall"]
    assert real["kid"] < 0.2 * noise["kid"] and real["inception_score"] > noise["inception_score"]
    assert real["inception_score"] == pytest.approx(real["inception_score_floor"], rel=0.1)
    assert real["classifier_accuracy"] > 0.8
    assert not report.warnings and "as_asked" not in real and report.images["class_shares"].shape[2] == 3
    assert found(Replays("train"))[0] == real


def test_one_digit_is_precise_without_recall():
    one, report = found(Replays("test", only=3))
    assert one["precision"] > 0.9 and one["recall"] < 0.2 and one["inception_score"] < 2
    assert one["class_share_max"] > 0.8 and one["class_share_min"] == 0
    (warning,) = report.warnings
    assert warning.startswith("mode collapse: samples hardly show the classes 0, ") and "3" not in warning


def test_a_conditional_model_is_checked_for_what_was_asked():
    asked, _ = found(Replays("test", num_classes=10))
    assert asked["as_asked"] == pytest.approx(asked["classifier_accuracy"], abs=0.1) and asked["as_asked"] > 0.8


def test_no_number_is_bare():
    _, report = found(Noise(), n=130)
    facts_of(report)
    (tag,), (floor,) = (metric_tags.find(name, list(report.scalars)) for name in ("fid", "fid_floor"))
    facts = metric_tags.facts_of(tag)
    assert {k: facts[k] for k in ("n_real", "n_fake", "split", "resize")} == {
        "n_real": "180", "n_fake": "130", "split": "test", "resize": "none",
    }  # fmt: skip
    assert facts["features"].startswith("classifier-") and len(facts["features"]) == len("classifier-") + 12
    train = metric_tags.real("train", evaluator.rows(batches("train")))
    assert metric_tags.facts_of(floor)["of"] == train.name and facts["data"] != train.digest


def test_of_the_floor_only_what_is_used_is_computed_and_of_real_images_each_number_once(monkeypatch, tmp_path):
    def flat(variables, image):
        return image.reshape(len(image), -1).astype(jnp.float32), jnp.zeros((len(image), 3))

    features, computed = Features("flat", "none", flat, lambda: Weights({}, "0")), []
    monkeypatch.setenv("GEN_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(evaluator, "choose_features", lambda *_: features)
    for name in ("radii", "moments"):
        plain = getattr(generation, name)
        monkeypatch.setattr(
            generation, name, lambda *args, name=name, plain=plain: computed.append(name) or plain(*args)
        )
    first, again = (build({"type": "generation", "n": 130, "kid_subsets": 1}, Noise()) for _ in range(2))
    scalars = first(STATE).scalars
    assert first(STATE).scalars == again(STATE).scalars == scalars and sorted(computed) == ["moments", "radii"]
    images = {split: SET.arrays[split]["image"].reshape(-1, 64).astype(np.float32) for split in ("train", "test")}
    chosen = np.random.default_rng(0).permutation(1437)[:130]
    drawn = images["train"][chosen]
    kept = [np.load(next(tmp_path.glob(f"features_*_{n}.npz")))["features"] for n in ("130of1437", "180of180")]
    np.testing.assert_array_equal(kept[0], images["train"][np.sort(chosen)])
    np.testing.assert_array_equal(kept[1], images["test"])
    (floor,) = metric_tags.find("fid_floor", list(scalars))
    assert scalars[floor] == pytest.approx(fid(drawn, *moments(images["test"])))
    (floor,) = metric_tags.find("precision_floor", list(scalars))
    assert scalars[floor] == pytest.approx(precision_recall(drawn, images["test"])[0])


def test_a_split_that_was_a_floor_is_read_in_its_own_order():
    """With n above both sizes, each of two evaluations finds in the cache what the other left there."""
    for split, floor in (("test", "train"), ("train", "test"), ("test", "train")):
        values, _ = found(Noise(), split=split, floor=floor, n=2_000)
        assert values["classifier_accuracy"] > 0.8


def test_the_classifier_is_trained_once_and_again_for_another_recipe_or_other_data(monkeypatch):
    runs = []

    def train_stub(*_):
        runs.append(1)
        return {"params": {"leaf": np.full(3, len(runs))}}

    monkeypatch.setattr(classifier, "train", train_stub)
    monkeypatch.setattr(classifier, "accuracy", lambda *_: 0.5)
    train, test = ((SET.arrays[s]["image"][:150], SET.arrays[s]["label"][:150]) for s in ("train", "test"))

    def load(recipe, split):
        return classifier.features(recipe, 10, lambda: split, lambda: test, lambda: None).load().digest

    small = classifier.Recipe(widths=(4,), features=4, epochs=1)
    first = load(small, train)
    assert load(small, train) == first and len(runs) == 1
    other = train[0].copy()
    other[0, 0, 0, 0] ^= 1
    assert load(small, (other, train[1])) != first and len(runs) == 2
    assert load(small.model_copy(update={"seed": 1}), train) != first and len(runs) == 3


def test_what_cannot_be_measured_is_refused(tmp_path):
    for section, model, message in (
        ({"floor": "test"}, Noise(), "generation: floor: expected another split than test"),
        ({}, object(), "generation: expected a model that samples"),
        ({"n": 3}, Noise(), "generation: expected n above k = 3, not 3"),
        ({"k": 180}, Noise(), "generation: expected more than k = 180 images in test, not 180"),
        ({"k": 1437, "split": "train", "floor": "test"}, Noise(), "more than k = 1437 images in train, not 1437"),
        ({"k": 180, "split": "train", "floor": "test"}, Noise(), "more than k = 180 images in test, not 180"),
        ({"features": {"name": "inception"}}, Noise(), "weights: expected a file beside"),
        ({"features": {"name": "inception", "weights": "http://x/y"}}, Noise(), "expected a file or an https"),
        ({"features": {"name": "inception", "weights": "https://x/y"}}, Noise(), "sha256: expected"),
        ({"type": "neighbours", "split": "test+train"}, Noise(), "another split than train, got test[+]train"),
    ):
        with pytest.raises(ConfigError, match=message):
            build({"type": "generation"} | section, model)
    with pytest.raises(ConfigError, match=r"features\.name: expected inception for data without labels"):
        build({"type": "generation"}, Noise(), dataclasses.replace(SET.info, num_classes=0))
    (tmp_path / "w.pth").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"w\.pth: not safetensors"):
        build({"type": "generation", "features": {"name": "inception", "weights": str(tmp_path / "w.pth")}}, Noise())


def test_real_images_are_named_by_their_pixels_whatever_the_batches_are():
    image, label = (SET.arrays["test"][name] for name in ("image", "label"))
    one = metric_tags.real("test", [(image, label)])
    assert metric_tags.real("test", [(image[i : i + 7], label[i : i + 7]) for i in range(0, 180, 7)]).facts(
        3
    ) == one.facts(3)
    assert metric_tags.real("test", evaluator.rows(batches("test"))).name == one.name == f"test-{one.digest}"
    changed = [image[::-1], image.reshape(180, 16, 4, 1), image ^ (np.arange(180) == 90)[:, None, None, None]]
    assert one.digest not in [metric_tags.real("test", [(other.astype(np.uint8), label)]).digest for other in changed]
    assert one.facts(3) == {"n_real": 180, "n_fake": 3, "split": "test", "data": one.digest}


def test_neighbours_tell_copies_from_new_images(written):
    def found(model):
        report = build({"type": "neighbours", "n": 200}, model)(STATE)
        assert [facts.get("of", "")[:5] for facts in facts_of(report)] == ["", "test-", "test-"]
        return {metric_tags.name_of(tag): value for tag, value in report.scalars.items()}, report.images["neighbours"]

    copies, picture = found(Replays("train"))
    assert copies["neighbour_distance"] == 0 and copies["neighbour_copies"] == 1 and picture.dtype == np.uint8
    assert len(written["0.0"]) == 32 and len(written["sample"]) == len(written["nearest"]) == 4
    assert "The samples nearest to training images, and the distance in grey levels" in written
    fresh, _ = found(Replays("test"))
    assert fresh["neighbour_copies"] < 0.1
    assert fresh["neighbour_distance"] == pytest.approx(fresh["neighbour_distance_floor"], rel=0.1)
    assert found(Noise())[0]["neighbour_distance"] > 2 * fresh["neighbour_distance"]


def test_classification_score_of_real_images_is_that_of_real_images():
    section = {"type": "classification_score", "n": 1400, "recipe": RECIPE}
    report = build(section, Replays("train", num_classes=10))(STATE)
    real = {metric_tags.name_of(tag): value for tag, value in report.scalars.items()}
    assert [facts["n_fake"] for facts in facts_of(report)] == ["1400", "0"]
    assert real["classification_accuracy"] == pytest.approx(real["classification_accuracy_real"], abs=0.1)
    assert real["classification_accuracy_real"] > 0.8
    with pytest.raises(ConfigError, match="classification_score: expected a class-conditional model"):
        build(section, Replays("train"))


@dataclasses.dataclass(frozen=True)
class Stacks:
    """Triples of test images whose first channel shows one of `first` digits."""

    first: int

    def sample(self, state: State, rng: jax.Array, n: int, options: Any) -> jax.Array:
        images, labels = (jnp.asarray(SET.arrays["train"][name]) for name in ("image", "label"))
        weights = jnp.stack([labels < self.first, labels >= 0, labels >= 0])
        index = jax.random.categorical(rng, jnp.where(weights, 0.0, -jnp.inf)[None], shape=(n, 3))
        return jnp.concatenate([images[index[:, i]] for i in range(3)], -1)


def test_stacked_modes_of_known_coverage():
    def stacked(split):
        for batch in batches(split):
            label = batch["label"]
            yield batch | {"image": jnp.repeat(batch["image"], 3, -1), "label": 111 * label}

    def found(model):
        section = {"type": "stacked_modes", "n": 3000, "recipe": RECIPE}
        context = Context(model, data.Info("image", (8, 8, 3), 1000), stacked, 100, None, jax.random.key(0))
        report = evaluators.build(evaluators.parse(section), context)(STATE)
        assert {(facts["split"], facts["n_fake"]) for facts in facts_of(report)} == {("train", "3000"), ("test", "0")}
        return {metric_tags.name_of(tag): value for tag, value in report.scalars.items()}

    whole, some = found(Stacks(10)), found(Stacks(4))
    assert whole["stacked_modes"] > 850 and whole["stacked_kl"] < 0.5  # 3,000 draws reach 950 of 1,000
    assert some["stacked_modes"] < 0.7 * whole["stacked_modes"] and some["stacked_kl"] > 0.6
    assert whole["stacked_modes_floor"] == 10 and whole["stacked_kl_floor"] == pytest.approx(np.log(100), abs=0.05)
    with pytest.raises(ConfigError, match="stacked images of three channels"):
        build({"type": "stacked_modes"}, Noise())
