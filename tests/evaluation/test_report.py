"""Facts of the report: complete, self-contained, escaped, honest about what is missing."""

import html.parser
import re
import shutil

import pytest
from etils import epath

from promptcot_jax.evaluation import charts, em_sections, page, report, self_play_sections
from tests.evaluation import workdirs

ANCHORS = (
    *("flow", "likelihood", "e-step", "candidates", "problems", "self-play", "solver", "training"),
    "settings",
)
VOID = {"meta"}


class Outline(html.parser.HTMLParser):
    """Tags of a page, checked for balance, and the anchors of its sections."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.links = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        self.links += [named[name] for name in ("href", "src") if name in named]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)


def outline(page):
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "first"
    directory.mkdir()
    workdirs.write(directory)
    return directory


def test_the_page_is_one_file_that_asks_for_nothing(workdir):
    report.write_report(workdir)
    parser = outline((workdir / "report.html").read_text())
    assert not parser.tags & {"script", "img", "link", "iframe"}
    links = [link for link in parser.links if link != "self_play/samples.html"]
    assert len(parser.links) == len(links) + 1  # for readers to follow, beside the page
    assert all(link.startswith("#") and link[1:] in parser.ids for link in links)
    assert "url(" not in page.STYLE
    assert parser.ids == list(ANCHORS)


def test_text_of_a_model_never_becomes_markup(workdir):
    rendered = report.render(workdir)
    assert "<script" not in rendered
    assert "<b>7</b>" not in rendered
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in rendered


def test_the_page_is_a_function_of_the_files(workdir):
    assert report.render(workdir) == report.render(workdir)


def test_figures_of_the_records_stand_on_the_page(workdir):
    rendered = report.render(workdir)
    assert "0.47 \u2192 0.412" in rendered  # nll_bound of round -1 and of the best round
    assert re.search(r"256 <small>in</small> \u2192 <b>201</b>", rendered)
    assert re.search(r"<dt class=\"drop\">dropped: duplicate</dt><dd class=\"drop\">31</dd>", rendered)
    assert re.search(r"<dt>dropped: empty</dt><dd>0</dd>", rendered)
    assert rendered.count('<div class="candidate won">') == 2 * em_sections.NUM_PAIRS_SHOWN
    assert rendered.count("cannot win: cut off") == 2 * em_sections.NUM_PAIRS_SHOWN
    assert rendered.count("without rationale (cold start)") == 1
    assert "EStepConfig.num_samples = 8" in rendered


def test_an_empty_workdir_gives_a_page_that_says_what_is_missing(tmp_path):
    rendered = report.render(tmp_path)
    assert outline(rendered).ids == list(ANCHORS)
    assert rendered.count('class="missing"') == len(ANCHORS)


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ("manifest.json", "manifest.json is not there"),
        ("em", "em/nll.jsonl is not there"),
        ("problems.jsonl", "problems.jsonl is not there"),
        ("self_play", "self_play/metrics.jsonl is not there"),
        ("self_play/samples.jsonl", "self_play/samples.jsonl is not there"),
        ("self_play/samples.html", None),  # no link then
        ("results.json", "results.json is not there"),
        ("evaluate/attempts.jsonl", "evaluate/attempts.jsonl is not there"),
        ("triples.jsonl", None),  # candidates are shown without their problem
    ],
)
def test_a_missing_file_is_said_to_be_missing(workdir, tmp_path, removed, said):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / removed) if (copy / removed).is_dir() else (copy / removed).unlink()
    rendered = report.render(copy)
    assert outline(rendered).ids == list(ANCHORS)
    assert said is None or said in rendered


def test_a_damaged_file_spoils_its_own_part_only(workdir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    with (copy / "problems.jsonl").open("a") as file:
        file.write('{"half": ')
    rendered = report.render(copy)
    assert "problems.jsonl:25: not a JSON object" in rendered
    assert [anchor for anchor in ANCHORS if anchor not in outline(rendered).ids] == ["problems"]


def test_a_damaged_sample_of_self_play_is_named(workdir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    (copy / "self_play" / "samples.jsonl").write_text('{"wave": 1}\n')
    rendered = report.render(copy)
    assert re.search(r"samples.jsonl:1: field &#x27;kind&#x27; of CompletionSample is missing", rendered)
    assert [anchor for anchor in ANCHORS if anchor not in outline(rendered).ids] == ["self-play"]


def figure_of(section, title):
    (figure,) = [part for part in section.split("<figure") if f"<figcaption>{title}</figcaption>" in part]
    return figure


def points_of(figure, colour):
    return [
        tuple(map(float, point.split(",")))
        for points in re.findall(rf'<polyline class="line c{colour}"[^>]* points="([^"]*)"', figure)
        for point in points.split()
    ]


def test_self_play_is_drawn_wave_by_wave_where_a_wave_has_the_figure(workdir):
    section = self_play_sections.self_play_section(epath.Path(workdir))
    assert len(points_of(figure_of(section, "Reward"), 0)) == 30
    assert len(points_of(figure_of(section, "Entropy (nats a token)"), 0)) == 29  # one wave had no update
    assert len(points_of(figure_of(section, "Gradient norm"), 0)) == 28  # and one a norm that is no number
    assert len(points_of(figure_of(section, "Length of completions (tokens)"), 1)) == 29  # none ended in one
    assert "Implicit rewards" not in section  # DPO's
    assert re.search(r'width:60.00%" title="sampling: 60.0%"', section)


def test_held_out_accuracy_has_bars_of_its_standard_error(workdir):
    figure = figure_of(self_play_sections.self_play_section(epath.Path(workdir)), "Held-out accuracy")
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


def test_the_counts_of_self_play_are_sums_over_its_waves(workdir):
    section = self_play_sections.self_play_section(epath.Path(workdir))
    cells = dict(re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", section))
    assert cells["prompts drawn"] == "600"
    assert cells["completions trained on"] == "3,840"
    assert (cells["updates"], cells["waves without an update"]) == ("58", "1")
    assert (cells["updates left out as not finite"], cells["completions drawn"]) == ("1", "4,800")
    assert "<td>match</td><td>30.0%</td><td>59.0%</td><td>44.5%</td>" in section
    assert section.count('<article class="card">') == 6  # the first and the newest wave with samples
    assert "0.29 \u2192 0.49" in report.render(workdir)


def test_a_chart_places_its_points_on_scale():
    line = charts.Line(label="a", points=((0.0, 0.0), (1.0, 1.0), (2.0, 0.5)), colour=0)
    drawn = charts.line_chart("t", [line], x_label="x", y_range=(0.0, 1.0))
    (points,) = re.findall(r'<polyline[^>]* points="([^"]*)"', drawn)
    base, top = charts.HEIGHT - charts.BOTTOM, charts.TOP
    expected = [
        (charts.LEFT, base),
        ((charts.LEFT + charts.WIDTH - charts.RIGHT) / 2, top),
        (charts.WIDTH - charts.RIGHT, (base + top) / 2),
    ]
    for point, place in zip(points.split(), expected, strict=True):
        assert tuple(map(float, point.split(","))) == pytest.approx(place, abs=0.06)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 4.9), (0.4071, 0.4072), (1e6, 9e6), (-1e-9, 1e-9)])
def test_ticks_are_round_few_and_inside(low, high):
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 8
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)


def test_a_chart_of_one_constant_point_is_drawn():
    line = charts.Line(label="a", points=((3.0, 0.0),), colour=0)
    assert "nan" not in charts.line_chart("t", [line], x_label="x").lower()
    assert charts.line_chart("t", [charts.Line(label="a", points=(), colour=0)], x_label="x") == ""


def test_the_worth_of_a_rationale_is_drawn_for_each_round(workdir):
    section = em_sections.likelihood_section(epath.Path(workdir))
    (figure,) = [part for part in section.split("<figure") if "z gap" in part.partition("</figure>")[0]]
    assert len(re.search(r'<polyline[^>]* points="([^"]*)"', figure)[1].split()) == 6  # rounds -1 to 4
    assert "does not read z" in figure
    assert "held out" in em_sections.e_step_section(epath.Path(workdir))
