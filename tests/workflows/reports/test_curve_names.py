"""Tests of the charts of training: which metrics share one, and their names."""

from __future__ import annotations

from workflows.reports.curve_names import charts_of, curve_name_of

POINTS = [(1.0, 0.25), (2.0, 0.5)]


def test_metrics_that_are_compared_share_a_chart() -> None:
    """Held-out rows are drawn beside training rows, and each k of hit@k beside the others."""
    metrics = ("critic_loss", "seen_hit1", "held_out_critic_loss", "seen_hit5", "unheard_of")
    drawn = list(charts_of((name, "", POINTS) for name in metrics))
    assert [(c.title, c.unit, [curve.name for curve in c.curves]) for c in drawn] == [
        ("Critic loss", "", ["training images", "held-out images"]),
        ("hit@k of seen classes", "%", ["hit@1", "hit@5"]),
        ("Unheard of", "", ["training images"]),
    ]


def test_the_metrics_of_a_classifier_are_named() -> None:
    """Accuracy is drawn in percent, and top-5 beside top-1."""
    metrics = ("loss", "accuracy", "held_out_loss", "held_out_accuracy", "held_out_top5")
    drawn = list(charts_of((name, "", POINTS) for name in metrics))
    assert [(c.title, c.unit, [curve.name for curve in c.curves]) for c in drawn] == [
        ("Loss", "", ["training images", "held-out images"]),
        ("Accuracy", "%", ["training images", "held-out images", "held-out images, top-5"]),
    ]


def test_fractions_are_drawn_in_percent() -> None:
    """The axis of hit@k ends at percent, that of a loss at its value."""
    hits, loss = charts_of([("seen_hit1", "", POINTS), ("loss", "", POINTS)])
    assert float(hits.y_ticks[-1].label) >= 50
    assert float(loss.y_ticks[-1].label) < 1


def test_runs_are_told_apart() -> None:
    """A remark follows the name of the curve."""
    (chart,) = charts_of([("loss", "first", POINTS), ("loss", "second", POINTS)])
    assert [curve.name for curve in chart.curves] == [
        "training images, first",
        "training images, second",
    ]


def test_nothing_is_drawn_of_nothing() -> None:
    """A metric without points has no chart."""
    assert list(charts_of([("loss", "", [])])) == []
    assert curve_name_of("images_per_second").unit == "images/s"


def test_the_metrics_of_super_resolution_are_named() -> None:
    """The network's PSNR is drawn in decibels beside that of bicubic interpolation."""
    metrics = ("pixel_loss", "perceptual_loss", "held_out_psnr", "held_out_ssim", "bicubic_psnr")
    drawn = list(charts_of((name, "", POINTS) for name in metrics))
    assert [(c.title, c.unit, [curve.name for curve in c.curves]) for c in drawn] == [
        ("Pixel loss, weighted", "", ["training images"]),
        ("Perceptual loss, weighted", "", ["training images"]),
        ("PSNR of luma, held-out images", "dB", ["network", "bicubic"]),
        ("SSIM of luma, held-out images", "", ["network"]),
    ]
