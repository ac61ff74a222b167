"""Promises: kept, broken, and at the border; numbers by hand."""

import pytest

from worker.engine.safety import SafetyConfig, broken, judged, told, unmeasured

BEFORE = {
    "accuracy": 0.9,
    "top5_accuracy": 1.0,
    "agreement": 1.0,
    "loss": 0.25,
    "class_accuracy": [1.0, None, 0.75, 0.5, 0.75],
    "noise_accuracy": None,
    "fgsm_accuracy": 0.5,
}
AFTER = {
    "accuracy": 0.8,
    "top5_accuracy": 1.0,
    "agreement": 0.75,
    "loss": 0.5,
    "class_accuracy": [0.5, None, 0.0, 1.0, 0.25],
    "noise_accuracy": None,
    "fgsm_accuracy": 0.75,
}


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("accuracy", 0.1),
        ("top5_accuracy", 0.0),
        ("agreement", 0.25),
        ("loss", 0.25),
        ("class_accuracy", 0.75),
    ],
)
def test_a_promise_holds_up_to_its_border_and_not_beyond(name, lost):
    # 0.9 - 0.8 is a little more than 0.1 in floats, which is nobody's loss.
    assert broken(BEFORE, AFTER, SafetyConfig(**{name: lost})) == []
    if lost:
        [found] = broken(BEFORE, AFTER, SafetyConfig(**{name: lost - 1e-6}))
        assert found.name == name
        assert found.drop == pytest.approx(lost)


def test_a_gain_is_a_negative_drop():
    [found] = judged(BEFORE, AFTER, SafetyConfig(fgsm_accuracy=0.0))
    assert (found.drop, found.is_kept) == (-0.25, True)


def test_classes_that_lose_too_much_come_worst_first():
    [found] = broken(BEFORE, AFTER, SafetyConfig(class_accuracy=0.25))
    assert (found.worst_class, found.before, found.after) == (2, 0.75, 0.0)
    assert found.broken_classes == (2, 0, 4)


def test_a_kept_promise_about_classes_names_the_worst_all_the_same():
    [found] = judged(BEFORE, AFTER, SafetyConfig(class_accuracy=0.9))
    assert (found.worst_class, found.broken_classes, found.is_kept) == (2, (), True)


def test_what_is_no_number_is_no_promise_kept():
    after = AFTER | {"loss": float("nan")}
    assert broken(BEFORE, after, SafetyConfig(loss=1e9))


def test_only_what_is_promised_is_held_against_anybody():
    assert judged(BEFORE, AFTER, SafetyConfig()) == []
    found = judged(BEFORE, AFTER, SafetyConfig(loss=1.0, accuracy=0.2))
    assert [promise.name for promise in found] == ["accuracy", "loss"]


def test_what_was_not_measured_cannot_be_promised():
    promises = SafetyConfig(accuracy=0.1, noise_accuracy=0.1)
    assert unmeasured(BEFORE, promises) == ["noise_accuracy needs noise_std in the evaluation"]
    assert len(unmeasured(None, promises)) == 2
    nobody = BEFORE | {"class_accuracy": [None, None]}
    [said] = unmeasured(nobody, SafetyConfig(class_accuracy=0.1))
    assert said.startswith("class_accuracy needs class numbers")


def test_the_sentence_has_every_broken_promise_and_its_numbers():
    lost = broken(BEFORE, AFTER, SafetyConfig(agreement=0.1, loss=0.125, class_accuracy=0.25))
    assert told(lost) == (
        "agreement fell by 0.25, from 1 to 0.75, and may fall by 0.1; "
        "loss rose by 0.25, from 0.25 to 0.5, and may rise by 0.125; "
        "class_accuracy of class 2 (and of 2 more) fell by 0.75, from 0.75 to 0, "
        "and may fall by 0.25"
    )
