import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mvtec_tree import make_mvtec_tree
from teach import append_rows, missing, parse, read_rows
from teach_parts.methods import Method
from teach_parts.report import as_markdown, at_least, summarise
from teach_parts.sets import Product, draw_goods, draw_stream, possible_counts, read_products, stream_length

SCRIPT = Path(__file__).parents[2] / "benchmarks/teach.py"
MACHINE = {"cpu": "CPU 9", "cpu_count": 2, "openvino": "1"}


@pytest.fixture
def product(tmp_path: Path) -> Product:
    (found,) = read_products(make_mvtec_tree(tmp_path / "parts", good=24, bad=9), per_folder=5)
    return found


@pytest.fixture
def product_without_train(tmp_path: Path) -> Product:
    root = make_mvtec_tree(tmp_path / "tested", good=16, bad=4)
    for image in (root / "plate/train/good").iterdir():
        image.unlink()
    (found,) = read_products(root, per_folder=80)
    return found


def row(method: str, **others: Any) -> dict[str, Any]:
    made = {
        "product": "ksdd/part",
        "goods": 16,
        "stream": 0.0,
        "most": 100,
        "draw": 0,
        "method": method,
        "per_folder": 80,
    }
    made |= {"threads": 2, "machine": MACHINE, "auroc": 0.9, "pixel_ap": None, "recall_at_rate": 0.5, "promises": []}
    return made | others


def facts(tests: list[float], **others: Any) -> dict[str, Any]:
    answers = {"scores": tests, "unknown": 0, "pixel_ap": 0.25}
    return {"tests": answers, "teach_s": 2.0, "teach_cpu_s": 3.0, "teach_rss_mb": 100.0} | others


def promised(threshold: float, rate: float) -> dict[str, float]:
    return {"asked": 0.01, "promised": rate, "promised_90": 2 * rate, "threshold": threshold}


def test_a_draw_is_seeded_and_holds_the_smaller_one(product: Product) -> None:
    small, large = draw_goods(product, 4, 1), draw_goods(product, 8, 1)
    assert small == draw_goods(product, 4, 1)
    assert large.goods[:4] == small.goods
    assert small.goods != draw_goods(product, 4, 2).goods
    assert not {*small.goods} & {*small.held_out}
    assert {*large.goods, *large.held_out} == set(product.goods)
    assert len(small.held_out) == 5  # at most as many as of each folder of the tests
    assert small.tests == product.tests


def test_a_few_pictures_of_each_folder_are_tested(product: Product) -> None:
    defects = [sample.defect for sample in product.tests]
    assert defects.count("good") == 5 and defects.count("blot") == 5


def test_goods_of_the_test_split_are_not_tested_too(product_without_train: Product) -> None:
    assert possible_counts(product_without_train, [1, 16, 60]) == [1, 4]
    draw = draw_goods(product_without_train, 4, 0)
    assert not draw.held_out
    assert len(draw.tests) == 8 + 4 - 4
    assert not {*draw.goods} & {*draw.tests}


def test_a_stream_has_defects_that_are_not_tested(product: Product) -> None:
    stream = draw_stream(product, 0.2, 3)
    assert stream == draw_stream(product, 0.2, 3)
    assert len(stream.goods) == stream_length(product, 0.2) == 10  # two defects: half of the tests' five
    bad = [sample for sample in stream.goods if sample.is_anomalous]
    assert len(bad) == 2 and not {*bad} & {*stream.tests}
    assert [sample.is_anomalous for sample in stream.goods] != sorted(sample.is_anomalous for sample in stream.goods)
    assert not {*stream.goods} & {*stream.held_out}


def test_products_without_train_pictures_have_no_stream(product_without_train: Product) -> None:
    assert stream_length(product_without_train, 0.1) == 0


def test_a_stream_has_a_table_of_its_own() -> None:
    lines = as_markdown([row("a", auroc=0.8), row("a", goods=105, stream=0.1, auroc=0.7)]).splitlines()
    assert [line.split(":")[0] for line in lines if "image AUROC" in line] == ["|16 goods", "|stream with 10% defects"]
    assert [line for line in lines if line.startswith("|a|")] == [
        "|a|80.0 / - / 50.0|80.0 / - / 50.0|",
        "|a|70.0 / - / 50.0|70.0 / - / 50.0|",
    ]


@pytest.mark.parametrize(
    ("seen", "count", "rate", "expected"),
    [(0, 10, 0.5, 1.0), (1, 1, 0.25, 0.25), (2, 3, 0.5, 0.5), (10, 10, 0.1, 1e-10)],
)
def test_probability_of_at_least_so_many_rejects(seen: int, count: int, rate: float, expected: float) -> None:
    assert at_least(seen, count, rate) == pytest.approx(expected)


def test_a_promise_is_compared_with_the_goods_that_were_held_out() -> None:
    held = {"scores": [0.1] * 17 + [0.5, 0.6, 0.9], "unknown": 0}
    given = facts([0.2, 0.5, 0.4, 0.9], promises=[promised(0.5, 0.01)], held_out=held)
    found = summarise(given, [False, False, True, True], rates=[0.01], turns=[], yardstick=[])
    (kept,) = found["promises"]
    assert (kept["rejected"], kept["held_out"], kept["recall"], kept["tests_rejected"]) == (3, 20, 0.5, 0.5)
    assert kept["probability"] == pytest.approx(0.001, abs=2e-4)
    assert found["auroc"] == 0.75
    assert found["recall_at_rate"] == 0.5  # 0.9 is above both goods


def test_a_method_without_promises_gets_them_from_scores_that_were_not_learned() -> None:
    goods = {"scores": list(np.linspace(0.1, 0.3, 19)), "unknown": 0}
    given = facts([0.2, 0.9], promises_by_scores=True, goods=goods, held_out={"scores": [0.1, 0.4], "unknown": 0})
    found = summarise(given, [False, True], rates=[0.05, 0.01], turns=[], yardstick=[])
    for kept in found["promises"]:
        assert kept["promised"] == pytest.approx(1 / 20)
        assert 0.3 < kept["threshold"] < 0.301 and kept["rejected"] == 1
    given = facts([0.2, 0.9])
    assert summarise(given, [False, True], rates=[0.05], turns=[], yardstick=[])["promises"] == []


def test_times_are_compared_with_the_yardstick_of_the_same_round() -> None:
    own, other = ([{"loop_ms": [ms], "cpu_ms": ms, "rss_mb": 1.0} for ms in times] for times in ([10, 90], [5, 45]))
    found = summarise(facts([0.1, 0.9]), [False, True], rates=[], turns=own, yardstick=other)
    assert found["times_zero_shot"] == 2.0 and found["ms"] == 50.0
    assert "times_zero_shot" not in summarise(facts([0.1, 0.9]), [False, True], rates=[], turns=own, yardstick=[])


def test_a_refusal_is_a_row_and_a_line_of_the_table() -> None:
    refusal = summarise({"refused": "too few"}, [], rates=[], turns=[], yardstick=[])
    table = as_markdown([row("zsad-small level 1") | refusal, row("zsad-tiny level 1")])
    assert refusal == {"refused": "too few"}
    assert as_markdown([]) == "no results"
    assert table.splitlines()[-1] == "- zsad-small level 1, 16 goods: not offered: too few (ksdd/part draw 0)"


def test_pictures_without_a_result_are_a_line_of_the_table() -> None:
    rows = [row("a", unknown=3, left_out=["1.png: dark"]), row("a", draw=1, unknown=3), row("b", unknown=0)]
    assert as_markdown(rows).splitlines()[-2:] == [
        "- a, 16 goods: 1 of the pictures were not learned (ksdd/part draw 0)",
        "- a, 16 goods: 3 test pictures have no verdict and count as rejects (ksdd/part draw 0, ksdd/part draw 1)",
    ]


def test_the_table_has_the_mean_of_the_draws_and_of_products_with_fewer_goods() -> None:
    kept = {"held_out": 10, "rejected": 1, "probability": 0.01, "probability_90": 0.2, "recall": 0.5}
    promises = [promised(0.5, 0.02) | kept]
    rows = [
        row("a", auroc=0.8, promises=promises, teach_s=3.0, teach_cpu_s=1.0, ms=5.0),
        row("a", auroc=1.0, draw=1, promises=promises, teach_s=5.0, teach_cpu_s=1.0, ms=7.0),
        row("a", product="aws_cookie/cookie", goods=15, most=15, auroc=0.5),
        row("b", auroc=0.7),
    ]
    lines = as_markdown(rows).splitlines()
    accuracy = [line for line in lines if line.startswith("|a|")]
    assert accuracy == ["|a|90.0 / - / 50.0|50.0 / - / 50.0|70.0 / - / 50.0|"]
    assert "|b|70.0 / - / 50.0|-|-|" in lines
    assert "|a, 16 goods, asked 1%|2.0 % (4.0 %); 2/20 = 10.0%; 2 (0) of 2; 50.0|-|" in lines
    assert any(line.startswith("|a, 16 goods|4.0|1.0|6.0|") for line in lines)


def test_what_the_file_has_is_not_repeated(product: Product, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    args = parse(["--results", str(results), "--counts", "4", "60", "--draws", "0", "1", "--streams"])
    args.methods = [Method(name=name, kind="anomalib", what=name) for name in ("a", "b")]

    def todo(rows: list[dict[str, Any]]) -> list[tuple[int, int, list[str]]]:
        found = missing([product], args, rows)
        return [(setting.goods, setting.draw, [one.name for one in left]) for _, setting, left in found]

    assert todo([]) == [(4, 0, ["a", "b"]), (12, 0, ["a", "b"]), (4, 1, ["a", "b"])]  # all 12 goods are drawn once
    rows = [row("a", product=product.name, goods=4), row("b", product=product.name, goods=4, draw=1)]
    append_rows(results, [rows[0] | {"refused": f"{tmp_path}/data/a.png: no part"}, rows[1]], tmp_path / "data")
    assert read_rows(results)[0]["refused"] == "a.png: no part"
    with results.open("a") as file:
        file.write('{"product": "cut sho')
    append_rows(results, [row("b", product=product.name, goods=12)], tmp_path / "data")
    rows = read_rows(results)
    assert len(rows) == 3
    assert todo(rows) == [(4, 0, ["b"]), (12, 0, ["a"]), (4, 1, ["a"])]
    args.only = ["a"]
    assert todo(rows) == [(12, 0, ["a"]), (4, 1, ["a"])]


def test_a_bundle_is_judged_and_a_second_run_only_prints_the_table(tiny_bundle: Path, tmp_path: Path) -> None:
    make_mvtec_tree(tmp_path / "data/parts", good=12, bad=4)
    results = tmp_path / "results.jsonl"
    command = [sys.executable, str(SCRIPT), "--results", str(results), "--data-root", str(tmp_path / "data")]
    command += ["--sets", "parts", "--bundles", str(tiny_bundle), "--counts", "4", "--draws", "0", "--streams"]
    command += ["--threads", "1", "--rounds", "2", "--turn", "0.05"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = [json.loads(line) for line in results.read_text().splitlines()]
    assert found["method"] == "darkness zero-shot" and found["times_zero_shot"] == 1.0
    assert found["auroc"] > 0.9 and found["pixel_ap"] > 0.5  # the bundle finds dark blots
    assert found["ms"] > 0 and found["rss_mb"] > 50
    assert [kept["held_out"] for kept in found["promises"]] == [2, 2]
    before = results.read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0 and again.stdout == done.stdout and results.read_bytes() == before


@pytest.mark.parametrize(
    "flags",
    [["--counts", "0"], ["--rates", "1"], ["--draws", "-1"], ["--streams", "1"], ["--anomalib-python", "python"]],
)
def test_wrong_flags_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--results", "r.jsonl", *flags])
    assert ended.value.code == 2 and flags[0] in capsys.readouterr().err
