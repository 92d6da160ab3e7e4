"""The predictions table: its columns against loops, and its file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cstn_lib.evaluation.choosing import fused
from cstn_lib.evaluation.metrics import ground_truth
from cstn_lib.evaluation.predictions import (
    TOP_K,
    array,
    describe,
    load_table,
    save_table,
    to_table,
)
from cstn_lib.outputs import LocalizerOutput
from cstn_lib.support.errors import InputError

CLASSES, BATCH = 3, 4
LEVELS = {
    "two levels": (("4", "5"), [(3, 4), (2, 2)]),
    "level 5 alone": (("5",), [(2, 3)]),
    "fewer locations than boxes wanted": (("4", "5"), [(1, 2), (1, 1)]),
    "one vote an image": (("5",), [(1, 1)]),
}


def make_output(
    sizes: list[tuple[int, int]], names: tuple[str, ...], transform: bool = True
) -> LocalizerOutput:
    generator = torch.Generator().manual_seed(5)
    n = sum(h * w for h, w in sizes)
    return LocalizerOutput(
        scores=[2 * torch.randn(BATCH, CLASSES, *size, generator=generator) for size in sizes],
        thetas=[torch.randn(BATCH, *size, 2, 3, generator=generator) for size in sizes]
        if transform
        else [],
        boxes=torch.rand(BATCH, n, 4, generator=generator),
        default_boxes=torch.rand(n, 4, generator=generator),
        level_names=names,
    )


LABELS = torch.tensor([0, 2, 1, 1])


def make_table(name: str, transform: bool = True) -> tuple[LocalizerOutput, pd.DataFrame]:
    level_names, sizes = LEVELS[name]
    output = make_output(sizes, level_names, transform)
    columns = describe(output, LABELS)
    assert all(len(value) == BATCH for value in columns.values())
    assert columns.pop("boxes").shape == columns.pop("default_boxes").shape == output.boxes.shape
    return output, to_table({name: value.numpy() for name, value in columns.items()})


def votes(output: LocalizerOutput, image: int) -> list[dict]:
    """Every vote (c, l, s) of an image with its probability, by loops."""
    found, n = [], 0
    for level, score in enumerate(output.scores):
        for row in range(score.shape[2]):
            for column in range(score.shape[3]):
                for c in range(CLASSES):
                    exponential = math.exp(score[image, c, row, column].item())
                    found.append(
                        {"c": c, "s": level, "at": [row, column], "n": n, "p": exponential}
                    )
                n += 1
    total = sum(vote["p"] for vote in found)
    return [{**vote, "p": vote["p"] / total} for vote in found]


@pytest.mark.parametrize("transform", [True, False])
@pytest.mark.parametrize("name", LEVELS)
def test_columns_against_loops(name, transform):
    output, table = make_table(name, transform)
    level_names, sizes = LEVELS[name]
    k = min(TOP_K, sum(h * w for h, w in sizes))
    for image in range(BATCH):
        found = votes(output, image)
        p_class = [sum(v["p"] for v in found if v["c"] == c) for c in range(CLASSES)]
        predicted, label = p_class.index(max(p_class)), LABELS[image].item()
        line = table.iloc[image]
        assert (line["label"], line["predicted"]) == (label, predicted)
        assert line["predicted_prob"] == pytest.approx(p_class[predicted], rel=1e-5)
        assert line["true_prob"] == pytest.approx(p_class[label], rel=1e-5)
        for who, c in (("predicted", predicted), ("true", label)):
            best = sorted((v for v in found if v["c"] == c), key=lambda v: -v["p"])[:k]
            assert line[f"{who}_score"] == pytest.approx([math.log(v["p"]) for v in best], abs=1e-4)
            assert line[f"{who}_level"].tolist() == [int(level_names[v["s"]]) for v in best]
            places = array(table, f"{who}_location")[image].tolist()
            assert places == [v["at"] for v in best]
            for i, vote in enumerate(best):
                if transform:
                    row, column = vote["at"]
                    theta = output.thetas[vote["s"]][image, row, column].flatten()
                else:
                    theta = torch.tensor([1.0, 0, 0, 0, 1, 0])
                assert array(table, f"{who}_theta")[image, i].tolist() == theta.tolist()
                box = output.boxes[image, vote["n"]]
                assert array(table, f"{who}_box")[image, i].tolist() == box.tolist()
                default = output.default_boxes[vote["n"]]
                assert array(table, f"{who}_default_box")[image, i].tolist() == default.tolist()
            own = sorted((v for v in found if v["c"] == c), key=lambda v: v["n"])
            log_p = torch.tensor([[math.log(v["p"]) for v in own]])
            chosen = fused(log_p, output.boxes[image, None])[0].tolist()
            assert line[f"{who}_fused_box"].tolist() == pytest.approx(chosen, abs=1e-5)
        for s in range(len(sizes)):
            best = max((v for v in found if (v["c"], v["s"]) == (label, s)), key=lambda v: v["p"])
            assert line["level_score"][s] == pytest.approx(math.log(best["p"]), abs=1e-4)
            box = output.boxes[image, best["n"]]
            assert array(table, "level_box")[image, s].tolist() == box.tolist()


def test_the_example_tells_predicted_from_true():
    """Or the loops above could not tell the two groups of columns apart."""
    _, table = make_table("two levels")
    assert (table["label"] != table["predicted"]).any()
    assert (table["label"] == table["predicted"]).any()


def test_shapes_of_arrays():
    _, table = make_table("two levels")
    for who in ("predicted", "true"):
        assert array(table, f"{who}_score").shape == (BATCH, 5)
        assert array(table, f"{who}_level").shape == (BATCH, 5)
        assert array(table, f"{who}_location").shape == (BATCH, 5, 2)
        assert array(table, f"{who}_theta").shape == (BATCH, 5, 6)
        assert array(table, f"{who}_box").shape == (BATCH, 5, 4)
        assert array(table, f"{who}_default_box").shape == (BATCH, 5, 4)
        assert array(table, f"{who}_fused_box").shape == (BATCH, 1, 4)
    assert array(table, "level_score").shape == (BATCH, 2)
    assert array(table, "level_box").shape == (BATCH, 2, 4)


def test_bfloat16_scores_and_thetas_become_numbers_of_numpy():
    output = make_output([(2, 2)], ("5",))
    output.scores = [score.bfloat16() for score in output.scores]
    output.thetas = [theta.bfloat16() for theta in output.thetas]
    columns = describe(output, LABELS)
    assert all(value.numpy() is not None for value in columns.values())


def test_to_table():
    table = to_table({"image": np.arange(2), "values": np.array([[1.0, 2.0], [3.0, 4.0]])})
    assert table["image"].tolist() == [0, 1]
    assert [v.tolist() for v in table["values"]] == [[1, 2], [3, 4]]


def complete_table() -> pd.DataFrame:
    _, table = make_table("two levels")
    counts = [1, 2, 0, 1]
    table.insert(0, "gt_boxes", [np.linspace(0, 1, 4 * n, dtype=np.float32) for n in counts])
    return table


def test_file_round_trip(tmp_path: Path):
    table, path = complete_table(), tmp_path / "run" / "test.parquet"
    save_table(table, path)
    again = load_table(path)
    assert again.columns.tolist() == table.columns.tolist()
    assert len(again) == BATCH
    for column in table.columns:
        for a, b in zip(table[column], again[column], strict=True):
            assert np.asarray(a).dtype == np.asarray(b).dtype, column
            assert np.array_equal(a, b), column
    assert array(again, "true_theta").shape == (BATCH, 5, 6)
    assert ground_truth(again).offsets.tolist() == [0, 1, 3, 3, 4]
    assert [p.name for p in path.parent.iterdir()] == ["test.parquet"]


def test_a_failed_save_leaves_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "test.parquet"
    save_table(complete_table(), path)
    before = path.read_bytes()

    def half(self: pd.DataFrame, target: Path, **_: object) -> None:
        Path(target).write_bytes(before[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", half)
    with pytest.raises(InputError, match="no space"):
        save_table(complete_table(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["test.parquet"]


def damaged(raw: bytes) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    noise = np.frombuffer(raw, np.uint8).copy()
    middle = slice(len(raw) // 4, len(raw) // 2)
    noise[middle] = rng.integers(0, 256, middle.stop - middle.start)
    footer = np.frombuffer(raw, np.uint8).copy()
    footer[-400:-8] = rng.integers(0, 256, 392)
    return {
        "empty": b"",
        "cut off": raw[: len(raw) // 2],
        "head missing": raw[100:],
        "text": b"label,predicted\n1,2\n",
        "noise in the middle": noise.tobytes(),
        "noise in the footer": footer.tobytes(),
    }


@pytest.mark.parametrize("kind", ["absent", *damaged(b"0" * 1000)])
def test_an_unreadable_file_is_an_input_error(tmp_path: Path, kind):
    path = tmp_path / "test.parquet"
    if kind != "absent":
        save_table(complete_table(), path)
        path.write_bytes(damaged(path.read_bytes())[kind])
    with pytest.raises(InputError) as caught:
        load_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
