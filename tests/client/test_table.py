"""Tables for people: written by hand here."""

from secateur.plan import Plan
from secateur.report import Report
from secateur.table import plan_table, report_table
from tests.worker.programs import plan

VERIFICATION = {
    "is_exact": True,
    "max_relative_error": 0.0,
    "exempt_operators": [],
    "counts_match": True,
    "reload_matches": True,
}


def measurement(
    parameters: int, accuracy: float | None, p50_ms: float | None = None, **more: object
):
    quality = {
        "row_count": 100,
        "accuracy": accuracy,
        "top5_accuracy": None,
        "class_accuracy": None,
        "noise_accuracy": None,
        "fgsm_accuracy": None,
        "loss": 0.25,
        "agreement": None,
        "output_mse": 0.0,
        **more,
    }
    return {
        "counts": {"parameters": parameters, "macs": 10 * parameters, "size_bytes": 4},
        "sparsity": 0.0,
        "file_bytes": None,
        "quality": None if accuracy is None else quality,
        "latency": None if p50_ms is None else {"p50_ms": p50_ms, "p95_ms": p50_ms},
    }


def report(*columns: dict[str, object], latency: object = None) -> Report:
    before, after_prune, after_recovery = columns
    return Report.model_validate(
        {
            "format_version": 1,
            "before": before,
            "after_prune": after_prune,
            "after_recovery": after_recovery,
            "latency": latency,
            "search": None,
            "latency_table": None,
            "safety": None,
            "verification": VERIFICATION,
            "stage_seconds": {},
            "warnings": [],
        }
    )


def test_a_report_shows_what_was_measured() -> None:
    comparison = {
        "speedup": 2.0,
        "mode": "eager",
        "round_count": 1,
        "batch_size": 1,
        "device": "cpu",
        "thread_count": 1,
    }
    table = report_table(
        report(
            measurement(12000, 0.97, 1.5),
            measurement(6000, 0.5),
            measurement(6000, 0.96, 0.75),
            latency=comparison,
        )
    )
    assert table == (
        "                before  pruned  recovered        change\n"
        "parameters      12,000   6,000      6,000         50.0%\n"
        "MACs           120,000  60,000     60,000         50.0%\n"
        "weight bytes         4       4          4        100.0%\n"
        "accuracy        97.00%  50.00%     96.00%  -1.00 points\n"
        "loss              0.25    0.25       0.25\n"
        "output MSE           0       0          0\n"
        "latency p50   1.500 ms       -   0.750 ms         50.0%\n"
        "latency p95   1.500 ms       -   0.750 ms         50.0%\n"
        "speedup                                           2.00x\n"
    )


def test_what_was_measured_on_request_has_its_lines() -> None:
    more = {"top5_accuracy": 1.0, "noise_accuracy": 0.75, "fgsm_accuracy": 0.25}
    before = measurement(10, 0.9, **more, class_accuracy=[0.9, None, 0.5])
    after = measurement(10, 0.9, **more | {"fgsm_accuracy": 0.5}, class_accuracy=[0.25, None, 1.0])
    lines = report_table(report(before, before, after)).splitlines()
    found = {line.split("  ")[0]: line.split()[-5:] for line in lines}
    assert found["top-5"] == ["100.00%", "100.00%", "100.00%", "+0.00", "points"]
    assert found["worst class"] == ["50.00%", "50.00%", "25.00%", "-25.00", "points"]
    assert found["with noise"] == ["75.00%", "75.00%", "75.00%", "+0.00", "points"]
    assert found["attacked"] == ["25.00%", "25.00%", "50.00%", "+25.00", "points"]


def test_what_was_not_measured_has_no_line() -> None:
    column = measurement(1000, None)
    assert report_table(report(column, column, column)) == (
        "              before  pruned  recovered  change\n"
        "parameters     1,000   1,000      1,000  100.0%\n"
        "MACs          10,000  10,000     10,000  100.0%\n"
        "weight bytes       4       4          4  100.0%\n"
    )


def test_a_plan_shows_every_group() -> None:
    group = {
        "id": "g1",
        "name": "conv1.weight",
        "granularity": "channels",
        "channel_count": 4,
        "channel_names": None,
        "keep": [0, 2, 3],
        "importance": [1.0, 0.5, 1.0, 1.0],
        "merges": [],
        "members": [],
    }
    shown = plan_table(Plan.model_validate({**plan([]), "channel_groups": [group]}))
    assert shown == (
        "              now  planned  change\n"
        "parameters      1        1  100.0%\n"
        "MACs            1        1  100.0%\n"
        "bytes           4        4  100.0%\n"
        "conv1.weight    4        3   75.0%\n"
    )
