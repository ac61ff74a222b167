"""Tables for people: written by hand here."""

from secateur.plan import Plan
from secateur.report import Report
from secateur.table import plan_table, report_table
from tests.service.helpers import search, trial
from tests.worker.programs import plan

VERIFICATION = {
    "is_exact": True,
    "max_relative_error": 0.0,
    "exempt_operators": [],
    "counts_match": True,
    "reload_matches": True,
}


COMPARISON = {
    "speedup": 2.0,
    "original": {"p50_ms": 1.5, "p95_ms": 1.5},
    "compressed": {"p50_ms": 0.75, "p95_ms": 0.75},
    "runtime": "torch 2.13.0 eager",
    "mode": "eager",
    "round_count": 1,
    "batch_size": 1,
    "device": "cpu",
    "thread_count": 1,
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


def report(
    *columns: dict[str, object],
    latency: object = None,
    search: object = None,
    latency_table: object = None,
    formats: object = (),
    steps: object = (),
) -> Report:
    before, after_prune, after_recovery = columns
    return Report.model_validate(
        {
            "format_version": 1,
            "before": before,
            "after_prune": after_prune,
            "after_recovery": after_recovery,
            "latency": latency,
            "search": search,
            "latency_table": latency_table,
            "safety": None,
            "verification": VERIFICATION,
            "formats": formats,
            "steps": steps,
            "stage_seconds": {},
            "warnings": [],
        }
    )


def test_a_report_shows_what_was_measured() -> None:
    table = report_table(
        report(
            measurement(12000, 0.97, 1.5),
            measurement(6000, 0.5),
            measurement(6000, 0.96, 0.75),
            latency=COMPARISON,
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


def below(**fields: object) -> str:
    """What a report shows under its first table."""
    column = measurement(1000, None)
    return report_table(report(column, column, column, **fields)).partition("\n\n")[2]


def test_a_search_shows_every_trial() -> None:
    trials = [
        trial(1, 0.5, 0.9),
        trial(2, 0.75, 0.945),
        trial(3, 0.7, 0.94, is_confirmed=False),
        trial(4, 0.6, None),
    ]
    assert below(search=search(*trials, delivered_trial=2)) == (
        "least MACs with accuracy 0.01 lower at most: found (4 tried, nothing smaller left to "
        "try)\n"
        "trial           MACs  accuracy                promise\n"
        "original      100.0%    95.00%\n"
        "1  macs 0.5    50.0%    90.00%               not kept\n"
        "2  macs 0.75   75.0%    94.50%                   kept  delivered\n"
        "3  macs 0.7    70.0%    94.00%  not kept on test data\n"
        "4  macs 0.6    60.0%         -               not kept\n"
    )


def test_a_search_that_found_none_says_so_and_shows_what_was_measured() -> None:
    fields = {
        "outcome": "accuracy_budget_unreachable",
        "ended_by": "seconds",
        "budget": "loss",
        "minimize": "latency",
    }
    trials = [trial(1, 0.5, 0.75, latency_ratio=0.625), trial(2, 0.9, 0.5)]
    assert below(search=search(*trials, **fields)) == (
        "least latency with loss 0.01 higher at most: no model keeps the promise (2 tried, out of "
        "time)\n"
        "trial          MACs  latency  loss   promise\n"
        "original     100.0%   100.0%  0.05\n"
        "1  macs 0.5   50.0%    62.5%  0.25  not kept\n"
        "2  macs 0.9   90.0%        -   0.5  not kept\n"
    )


def test_latency_is_shown_by_what_a_group_keeps() -> None:
    group = {"id": "g1", "name": "conv1.weight", "channel_count": 16}
    groups = [
        {**group, "kept": [4, 8], "ratio": [0.5, 0.75]},
        {**group, "name": "fc.weight", "kept": [8], "ratio": [1.0]},
    ]
    assert below(latency_table=groups) == (
        "latency by channels kept  of\n"
        "conv1.weight              16   4: 50.0%  8: 75.0%\n"
        "fc.weight                 16  8: 100.0%\n"
    )


def test_each_format_shows_what_its_runtime_did() -> None:
    nothing = dict.fromkeys(
        ("file", "size_bytes", "max_relative_error", "runtime", "reason", "quality", "latency")
    )
    quality = measurement(1, 0.875)["quality"]
    made = {"size_bytes": 12345, "max_relative_error": 0.001}
    formats = [
        {
            **nothing | made,
            "format": "onnx",
            "file": "model.onnx",
            "runtime": "onnxruntime 1.32.0",
            "quality": quality,
            "latency": COMPARISON | {"speedup": 2.5, "mode": None},
        },
        {**nothing | made, "format": "keras", "file": "model.keras", "runtime": "keras 3.1"},
        {**nothing, "format": "aotinductor", "reason": "too far off", "quality": quality},
        {**nothing, "format": "transformers", "reason": "it was none"},
    ]
    shown = below(formats=[{**each, "unmeasured": None} for each in formats])
    assert shown == (
        "format                   file   bytes  difference  accuracy  speedup              ran in\n"
        "onnx               model.onnx  12,345       0.001    87.50%    2.50x  onnxruntime 1.32.0\n"
        "keras             model.keras  12,345       0.001         -        -           keras 3.1\n"
        "aotinductor   none, see below                        87.50%\n"
        "transformers  none, see below                             -\n"
    )


def layer(name: str, became: str = "kept", **fields: object) -> dict[str, object]:
    blank = dict.fromkeys(("reason", "weight_error", "output_error"))
    return {"layer": name, "became": became, "bytes_before": 400, "bytes_after": 400, **blank} | (
        fields
    )


def step(*layers: dict[str, object], **fields: object) -> dict[str, object]:
    counts = {"parameters": 1000, "macs": 10, "size_bytes": 1234}
    blank = {"index": 2, "step": "quantize", "counts": counts, "quality": None, "latency": None}
    return {**blank, "layers": layers, **fields}


def test_a_step_shows_its_layers_from_the_largest_error_down_and_why_others_stayed() -> None:
    small = "codes and scales would take no less room"
    layers = [
        layer("a", "int8 per_channel", bytes_after=110, weight_error=0.5, output_error=0.01),
        layer("b", reason=small),
        layer("c", "int8 per_channel", bytes_after=1100, weight_error=0.004, output_error=0.02),
        layer("d", reason="keep_float names it"),
        *(layer(name, reason=small) for name in "efg"),
    ]
    column = measurement(1000, 0.9)
    measured = {
        "quality": column["quality"],
        "latency": COMPARISON | {"speedup": 0.5},
    }
    assert below(steps=[step(*layers, **measured)]) == (
        "step 2, quantize: 2 of 7 layers, 1,234 weight bytes, accuracy 90.00%, 0.50x as .pt2\n"
        "layer            became  bytes    now  weight error  output error\n"
        "c      int8 per_channel    400  1,100         0.40%         2.00%\n"
        "a      int8 per_channel    400    110        50.00%         1.00%\n"
        "kept: 4 layers, 1,600 bytes: codes and scales would take no less room (b, e, f, ...)\n"
        "kept: 1 layer, 400 bytes: keep_float names it (d)\n"
    )


def test_a_step_shows_no_more_than_twenty_layers() -> None:
    layers = [layer(f"l{at}", "svd 2", weight_error=at / 100) for at in range(23)]
    lines = below(steps=[step(*layers)]).splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == [f"l{at}" for at in range(22, 2, -1)]
    assert lines[-1] == "and 3 more with smaller errors, see report.json"
    assert "output error" in lines[1]
    assert lines[2].split()[-2:] == ["22.00%", "-"]


def test_a_step_of_which_nothing_came_says_why_alone() -> None:
    assert below(steps=[step(layer("a", reason="it is small"))]) == (
        "step 2, quantize: 0 of 1 layers, 1,234 weight bytes\n"
        "kept: 1 layer, 400 bytes: it is small (a)\n"
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
