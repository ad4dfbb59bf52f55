"""Facts of the report: complete, self-contained, escaped, honest about what is missing."""

import re
import shutil

import pytest

from promptcot_jax.core import jsonl, manifest
from promptcot_jax.report import charts, em_sections, page, report
from tests.report import outline, workdirs

ANCHORS = [
    *(
        "in-short",
        "what-was-run",
        "warnings",
        "flow",
        "data",
        "annotate",
        "likelihood",
        "e-step",
        "candidates",
    ),
    *("problems", "verify", "distill", "self-play", "solver", "paper", "training", "analyses"),
    *("samples", "settings"),
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "first"
    directory.mkdir()
    workdirs.write(directory)
    return directory


@pytest.fixture
def copy(tmp_path):
    workdirs.write(tmp_path / "copy", num_rounds=1, num_pairs=2)
    return tmp_path / "copy"


def test_the_page_is_one_file_that_asks_for_nothing(workdir):
    report.write_report(workdir)
    text = (workdir / "report.html").read_text()
    found = outline.elements(text)
    assert not outline.named(found, "link", "iframe", "object", "embed", "base")
    assert not any("action" in element.attrs for element in outline.named(found, "form", "button"))
    links = [value for element in found for name, value in element.attrs.items() if name in ("href", "src")]
    beside = [link for link in links if not link.startswith(("#", "data:image/svg+xml;base64,"))]
    assert beside == ["self_play/samples.html"]  # for readers to follow, beside the page
    assert {link[1:] for link in links if link.startswith("#")} <= set(outline.ids(found))
    assert not re.search(r"https?://|url\(|@import", text)
    assert outline.sections(found) == ANCHORS


def test_text_of_a_model_never_becomes_markup(workdir):
    rendered = report.render(workdir)
    assert len(outline.named(outline.elements(rendered), "script")) == 1  # its own
    assert "<script>alert" not in rendered
    assert "{<b>7</b>}" not in rendered
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in rendered


def test_the_page_is_a_function_of_the_files(workdir):
    assert report.render(workdir) == report.render(workdir)


def test_figures_of_the_records_stand_on_the_page(workdir):
    rendered = report.render(workdir)
    assert "0.47 \u2192 0.412" in rendered  # nll_bound of round -1 and of the best round
    assert re.search(r"256 <small>in</small> \u2192 <b>201</b>", rendered)
    assert '<div class="drop"><dt>dropped: duplicate</dt><dd>31</dd></div>' in rendered
    assert "<div><dt>dropped: empty</dt><dd>0</dd></div>" in rendered
    assert rendered.count('<div class="candidate won">') == 2 * em_sections.NUM_PAIRS_SHOWN
    assert rendered.count("cannot win: cut off") == 2 * em_sections.NUM_PAIRS_SHOWN
    assert len(re.findall(r"</i>without rationale \(cold start\)", rendered)) == 1
    assert "EStepConfig.group_size = 8" in rendered


def test_devices_and_their_cost_are_told_by_stage_and_in_all(workdir):
    section = outline.section(workdir, "what-was-run")
    cells = re.findall(r"<td[^>]*>(.*?)</td>|<th scope=\"row\"[^>]*>(.*?)</th>", section)
    row = [a or b for a, b in cells]
    start = row.index("EM")
    assert row[start : start + 7] == [
        *("EM", "complete", "1", "3"),
        "TPU v5 lite \u00d7 16, 4 hosts; TPU v5 lite \u00d7 8, 2 hosts",
        *("2 min", "2 chip-hours; 2 chip-hours"),
    ]
    start = row.index("sft")
    assert row[start + 4] == "cpu, 2 processors"
    assert row[start + 6] == "1 processor-hours"
    assert "4 chip-hours of TPU v5 lite, 2 chip-hours of TPU v4." in section  # no sum with processors
    assert "python 3.11.9" in section
    assert "{workdir}/cold_start/theta" in section


def test_a_manifest_of_an_earlier_version_is_read(copy):
    document = jsonl.read_json(copy / "manifest.json")
    for entry in document["stages"].values():
        for name in ("devices", "attempts", "timed_attempts"):
            del entry[name]
    jsonl.write_json(copy / "manifest.json", document)
    assert manifest.read(copy)["em"].devices == ()
    assert "No stage has recorded devices" in report.render(copy)


def test_an_empty_workdir_gives_a_page_that_says_so(tmp_path):
    found = outline.elements(report.render(tmp_path))
    assert outline.sections(found) == ["flow"]
    assert "no stage has run in this workdir" in outline.told(found, "flow")
    (left_out,) = [one.text for one in found if one.attrs.get("id") == "not-run"]
    assert "candidates" in left_out


def test_the_report_of_its_own_stage_alone_is_no_run(tmp_path):
    entry = {"status": "running", "config_digest": "", "seed": 0, "inputs": {}, "counts": {}, "versions": {}}
    manifest.record(tmp_path, manifest.StageEntry(stage="report", wall_seconds=0.0, **entry))
    assert outline.sections(outline.elements(report.render(tmp_path))) == ["flow"]


def test_of_several_seeds_the_pages_are_named(tmp_path):
    for name in ("seed_1", "seed_2"):
        (tmp_path / name).mkdir()
    assert '<a href="seed_2/report.html">' in report.render(tmp_path)


def test_sections_of_stages_that_never_ran_are_left_out_and_named(copy):
    shutil.rmtree(copy / "em")
    document = jsonl.read_json(copy / "manifest.json")
    del document["stages"]["em"]
    jsonl.write_json(copy / "manifest.json", document)
    found = outline.elements(report.render(copy))
    gone = ["likelihood", "e-step", "candidates"]
    assert outline.sections(found) == [anchor for anchor in ANCHORS if anchor not in gone]
    (left_out,) = [one.text for one in found if one.attrs.get("id") == "not-run"]
    assert left_out == "Not in this workdir, and left out: likelihood, e-step, candidates."
    assert [link.attrs["href"][1:] for link in outline.named(found, "a") if "nav" in link.inside] == (
        outline.sections(found)
    )


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ("manifest.json", "no stage has run in this workdir"),
        ("em", "em/nll.jsonl is not there"),  # the manifest says that it ran
        ("problems.jsonl", "problems.jsonl is not there"),
        ("self_play", "self_play/metrics.jsonl is not there"),
        ("self_play/samples.jsonl", "self_play/samples.jsonl is not there"),
        ("self_play/samples.html", None),  # no link then
        ("results.json", "results.json is not there"),
        ("evaluate/attempts.jsonl", "evaluate/attempts.jsonl is not there"),
        ("triples.jsonl", None),  # candidates are shown without their problem
        ("config", None),
    ],
)
def test_a_missing_file_is_said_to_be_missing(copy, removed, said):
    shutil.rmtree(copy / removed) if (copy / removed).is_dir() else (copy / removed).unlink()
    rendered = report.render(copy)
    outline.elements(rendered)
    assert said is None or said in rendered


@pytest.mark.parametrize(
    ("damaged", "section"),
    [
        ("problems.jsonl", "problems"),
        ("em/nll.jsonl", "likelihood"),
        ("em/diagnostics.jsonl", "e-step"),
        ("em/round_000/candidates.jsonl", "candidates"),
        ("self_play/metrics.jsonl", "self-play"),
        ("results.json", "solver"),
        ("manifest.json", "flow"),
        ("annotate/report.json", "annotate"),
        ("verify/report.json", "verify"),
        ("distill/report.json", "distill"),
        ("config/em.settings.json", "what-was-run"),
        ("analyses/index.json", "analyses"),
        ("sft/metrics.jsonl", "training"),
    ],
)
def test_a_damaged_file_spoils_its_own_part_only(copy, damaged, section):
    with (copy / damaged).open("a") as file:
        file.write('{"half": ')
    found = outline.elements(report.render(copy))
    assert outline.sections(found) == ANCHORS
    said = f"{damaged}(:[0-9]+)?: (the file ends inside a row: )?not a JSON"
    assert re.search(said, outline.told(found, section))
    assert "not a JSON" not in outline.told(found, "settings") or damaged == "manifest.json"


def test_a_half_written_line_takes_its_own_tiles_and_curves_only(copy):
    for file in ("em/nll.jsonl", "cold_start/phi_training/metrics.jsonl"):
        with (copy / file).open("a") as out:
            out.write('{"half": ')
    found = outline.elements(report.render(copy))
    tiles = [one.text for one in outline.named(found, "div") if one.attrs.get("class") == "tile"]
    assert any("solver accuracy" in tile for tile in tiles)
    assert not any("cold start" in tile for tile in tiles)
    said = outline.told(found, "training")
    assert re.search(r"cold_start/phi_training: .*not a JSON", said)
    assert "Values of cold_start/theta_training" in said


def test_candidates_written_twice_spoil_no_other_part(copy):
    (place,) = copy.glob("em/round_*/candidates.jsonl")
    (place.parent / "candidates-00000-of-00001.jsonl").write_bytes(place.read_bytes())
    assert "solver accuracy" in report.render(copy)


def test_the_best_round_is_the_records_for_both_figures(tmp_path):
    rows = [
        {"round": i - 1, "nll_bound": bound, "nll_x_given_q": nll, "best_round": min(i - 1, 0)}
        for i, (bound, nll) in enumerate([(0.5, 0.3), (0.45, 0.35), (0.4, 0.2)])
    ]
    rows[1] |= {"bound_change": -0.05, "bound_change_half_width": 0.012}
    jsonl.write_records(tmp_path / "em" / "nll.jsonl", rows)
    said = report.render(tmp_path)
    assert "0.5 \u2192 0.45<" in said
    assert "round 0 (change -0.0500 \u00b1 0.0120)" in said
    assert "0.3 \u2192 0.35<" in said


def test_a_damaged_sample_of_self_play_is_named_and_the_others_stay(copy):
    (copy / "self_play" / "samples.jsonl").write_text('{"iteration": 1}\n')
    told = outline.told(outline.elements(report.render(copy)), "samples")
    assert "samples.jsonl:1: field 'kind' of CompletionSample is missing" in told
    assert "24 of 24 new problems" in told


def figure_of(section, title):
    (figure,) = [part for part in section.split("<figure") if f"<figcaption>{title}</figcaption>" in part]
    return figure


def points_of(figure, colour):
    return [
        tuple(map(float, point.split(",")))
        for points in re.findall(rf'<polyline class="line c{colour}"[^>]* points="([^"]*)"', figure)
        for point in points.split()
    ]


def test_self_play_is_drawn_iteration_by_iteration_where_a_iteration_has_the_figure(workdir):
    section = outline.section(workdir, "self-play")
    assert len(points_of(figure_of(section, "Reward"), 0)) == 30
    assert (
        len(points_of(figure_of(section, "Entropy (nats a token)"), 0)) == 29
    )  # one iteration had no update
    assert len(points_of(figure_of(section, "Gradient norm"), 0)) == 28  # and one a norm that is no number
    assert len(points_of(figure_of(section, "Length of completions (tokens)"), 1)) == 29  # none ended in one
    assert "Implicit rewards" not in section  # DPO's
    assert re.search(r'width:60.00%" title="sampling: 60.0%"', section)


def test_held_out_accuracy_has_bars_of_its_standard_error(workdir):
    figure = figure_of(outline.section(workdir, "self-play"), "Held-out accuracy")
    points = points_of(figure, 2)
    bars = re.findall(r'<line class="line error c2" x1="(.*?)" x2="(.*?)" y1="(.*?)" y2="(.*?)"', figure)
    bars = [tuple(map(float, bar)) for bar in bars]
    assert len(points) == len(bars) == 3
    unit = (points[0][1] - points[1][1]) / 0.1  # of the drawing, for an accuracy of 1
    for (across, down), (x1, x2, bottom, top) in zip(points, bars, strict=True):
        assert x1 == x2 == across
        assert (bottom - down, down - top) == pytest.approx((0.05 * unit, 0.05 * unit), abs=0.11)
        assert charts.TOP <= top < bottom <= charts.HEIGHT - charts.BOTTOM
    assert "0.29 \u00b1 0.05 at 10" in figure


def test_the_counts_of_self_play_are_sums_over_its_iterations(workdir):
    section = outline.section(workdir, "self-play")
    cells = dict(re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td></tr>', section))
    assert cells["prompts drawn"] == "600"
    assert cells["completions trained on"] == "3,840"
    assert (cells["updates"], cells["iterations without an update"]) == ("58", "1")
    assert (cells["updates left out as not finite"], cells["completions drawn"]) == ("1", "4,800")
    assert '<th scope="row">match</th><td>30.0%</td><td>59.0%</td><td>44.5%</td>' in section
    assert "0.29 \u2192 0.49" in report.render(workdir)


def drawn_by_template(chart) -> str:
    return page.macros("charts").figure(chart)


def test_a_chart_places_its_points_on_scale():
    line = charts.Line(label="a", points=((0.0, 0.0), (1.0, 1.0), (2.0, 0.5)), colour=0)
    drawn = drawn_by_template(charts.line_chart("t", [line], x_label="x", y_range=(0.0, 1.0)))
    (points,) = re.findall(r'<polyline[^>]* points="([^"]*)"', drawn)
    base, top = charts.HEIGHT - charts.BOTTOM, charts.TOP
    expected = [
        (charts.LEFT, base),
        ((charts.LEFT + charts.WIDTH - charts.RIGHT) / 2, top),
        (charts.WIDTH - charts.RIGHT, (base + top) / 2),
    ]
    for point, place in zip(points.split(), expected, strict=True):
        assert tuple(map(float, point.split(","))) == pytest.approx(place, abs=0.06)


def test_a_chart_says_where_its_lines_begin_and_end_and_has_their_values():
    line = charts.Line(label="a<b", points=tuple((float(i), i / 4) for i in range(100)), colour=0)
    flat = charts.Line(label="base", points=((0.0, 7.0),), colour=1, is_flat=True)
    found = outline.elements(drawn_by_template(charts.line_chart("Loss", [line, flat], x_label="step")))
    (drawing,) = outline.named(found, "svg")
    assert drawing.attrs["aria-label"] == "Loss. a<b: 0 at 0 to 24.75 at 99; base: 7"
    rows = [element.text for element in outline.named(found, "th") if element.attrs.get("scope") == "row"]
    assert len(rows) == charts.NUM_VALUE_ROWS
    assert (rows[0], rows[-1]) == ("0", "99")
    cells = [element.text for element in outline.named(found, "td")]
    assert cells[:2] == ["0", "7"]
    assert cells[-2:] == ["24.75", "7"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 4.9), (0.4071, 0.4072), (1e6, 9e6), (-1e-9, 1e-9)])
def test_ticks_are_round_few_and_inside(low, high):
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 8
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)


def test_a_chart_of_one_constant_point_is_drawn():
    line = charts.Line(label="a", points=((3.0, 0.0),), colour=0)
    assert "nan" not in drawn_by_template(charts.line_chart("t", [line], x_label="x")).lower()
    assert charts.line_chart("t", [charts.Line(label="a", points=(), colour=0)], x_label="x") is None


def test_the_worth_of_a_rationale_is_drawn_for_each_round(workdir):
    section = outline.section(workdir, "likelihood")
    (figure,) = [part for part in section.split("<figure") if "(z gap)</figcaption>" in part]
    assert len(re.search(r'<polyline[^>]* points="([^"]*)"', figure)[1].split()) == 6  # rounds -1 to 4
    assert "does not read z" in figure
    assert "held out" in outline.section(workdir, "e-step")


def test_words_of_a_name():
    assert page.label("dropped_bad_json") == "dropped: bad json"
    assert page.label("em") == "EM"
    assert page.interval([0.1, 0.25]) == "10.0 to 25.0"
    assert page.interval([None, 0.25]) == page.interval(None) == page.interval("ab") == ""


def test_numbers_for_people_never_have_an_exponent_that_they_need_not_have():
    values = (999.7, 999.4, 1000.4, -999.7, 0.12345, 0.00001)
    assert [page.number(value) for value in values] == [
        *("1,000", "999", "1,000", "\u22121,000", "0.123", "1.0e\u221205")
    ]
    assert page.number(999.7, 4) == "999.7"
