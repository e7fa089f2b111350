"""The table of a comparison and the page around it."""

import base64
import csv
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from gpvae_jax.plots import images_grid
from gpvae_jax.report import CompareRow, Estimate, Picture, estimate, page, png, table, write_report

NAN = float("nan")
BAD = Estimate(NAN, NAN)
RUN = {"data": "digits", "split": {"seed": 20, "counts": [1297, 250, 250]}, "seed": 0, "device": None}


def row(name="vae", shift=0.0, **changes):
    values = CompareRow(
        name, 433_152, 60, 33.2, 250, Estimate(-24.634 + shift, 0.187),
        {100: Estimate(-23.5 + shift, 0.19), 1000: Estimate(-23.25 + shift, 0.19)}, 61.25, 1.21, best_epoch=54,
    )  # fmt: skip
    return values._replace(**changes)


def five():
    gains = [Estimate(shift, 0.0226) for shift in (0.52, 1.75, 1.3, -0.8)]
    others = [
        row(name, gain.mean, difference=gain, latency_ms=1.21 * factor)
        for name, gain, factor in zip(("gpvae", "savi", "mixture", "iaf"), gains, (1.2, 8.1, 2.8, 2.5), strict=True)
    ]
    return [row(), *others]


def make_page(rows=None, title="Inference methods", pictures=(), command="gpvae compare", **more):
    return page(title, run=RUN, rows=rows or five(), pictures=pictures, command=command, **more)


def drawing():
    return images_grid(np.eye(4)[None], 1)


class Reader(HTMLParser):
    """Checks that tags nest, and collects them, their attributes and the text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)


# ---- estimates


def test_estimate_is_the_mean_and_its_standard_error():
    values = np.array([1.0, 2.0, 3.0, 6.0])
    mean, se = estimate(values)
    assert mean == 3.0
    assert se == pytest.approx(math.sqrt(14 / 3) / 2)
    assert np.isnan(estimate(np.array([1.0, NAN])).mean)
    assert estimate(np.array([1.0, -np.inf])).mean == -np.inf
    assert np.isnan(estimate(np.array([1.0])).se)
    with pytest.raises(ValueError, match=r"\[N\]"):
        estimate(np.zeros((2, 3)))


def test_estimate_of_single_precision_values_is_accumulated_in_double():
    values = np.full(100_000, -1000.1, np.float32)
    assert estimate(values).mean == pytest.approx(float(values[0]), rel=1e-12)


# ---- tables


def test_csv_holds_the_numbers_unrounded():
    lines = list(csv.DictReader(io.StringIO(table(five(), "csv"))))
    assert [line["method"] for line in lines] == ["vae", "gpvae", "savi", "mixture", "iaf"]
    assert float(lines[1]["elbo"]) == -24.634 + 0.52
    assert float(lines[1]["iwae_1000_se"]) == 0.19
    assert (lines[0]["difference"], float(lines[2]["difference"])) == ("", 1.75)
    assert float(lines[2]["latency_relative"]) == pytest.approx(8.1)
    assert (lines[0]["epochs"], lines[0]["best_epoch"]) == ("60", "54")
    assert "bits_per_dim" not in lines[0]


def test_latex_escapes_what_it_must_and_has_as_many_cells_in_each_line():
    rows = [row("a_b & 5%"), row("$x$", difference=Estimate(-0.5, 0.1), difference_se_seeds=0.0123, p_value=1e-9)]
    lines = table(rows, "latex").splitlines()
    assert len({line.count(" & ") for line in lines if line.endswith(r"\\")}) == 1
    assert lines[4].startswith(r"a\_b \& 5\% & 433,152 &")
    assert r"\$x\$ &" in lines[5]
    assert r"$-$0.50 $\pm$ 0.10 & $\pm$ 0.012 & $<$ 0.001 &" in lines[5]
    assert "−" not in "".join(lines)


def test_a_differences_confidence_is_shown_where_it_is_known():
    plain = table(five(), "markdown").splitlines()[0]
    assert "over seeds" not in plain
    assert "| p |" not in plain
    rows = [row(), row("iaf", difference=Estimate(0.5, 0.1), difference_se_seeds=0.2, p_value=0.0421)]
    lines = table(rows, "markdown").splitlines()
    assert "| ± over seeds | p |" in lines[0]
    assert "| – | – |" in lines[2]
    assert "| ± 0.20 | 0.042 |" in lines[3]


def test_markdown_has_a_line_per_method_and_as_many_cells_in_each():
    lines = table(five(), "markdown").splitlines()
    assert len(lines) == 2 + 5
    assert len({line.count("|") for line in lines}) == 1
    assert "| −24.63 ± 0.19 |" in lines[2]
    assert "| +1.750 ± 0.023 |" in lines[4]
    assert "| 9.80 (8.1×) |" in lines[4]
    assert "IWAE-1000 over vae" in lines[0]
    assert r"| a\|b |" in table([row("a|b\n")], "markdown")


def terminal(rows, width=100, told=True):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table(rows, "rich", width=width if told else None))
    return console.file.getvalue().splitlines()


def test_a_narrow_terminal_is_shown_whole_columns_and_told_of_the_others():
    rows = [r._replace(name=f"{r.name}_long_name") for r in five()]
    lines = terminal(rows, 72)
    assert max(map(len, lines)) <= 72
    text = " ".join(" ".join(lines).split())
    assert "No room here for: Training (s), Parameters" in text
    assert "params" not in text
    for r in rows:  # on one line each, no number over two
        (line,) = (line for line in lines if line.startswith(r.name))
        assert f"{r.elbo.mean:.2f}".replace("-", "−") in line
        assert f"{r.iwae[1000].mean:.2f}".replace("-", "−") in line


@pytest.mark.parametrize("wide", [False, True], ids=["usual", "widest"])
def test_the_terminal_table_fits_100_columns_with_no_number_cut(wide):
    rows = [r._replace(name=f"{r.name}_long_name") for r in five()]
    if wide:
        bits, more = Estimate(3.214, 0.002), {5000: Estimate(-19.5, 0.19)}
        rows = [r._replace(bits_per_dim=bits, iwae=r.iwae | more) for r in rows]
    lines = terminal(rows)
    assert max(map(len, lines)) <= 100
    assert "…" not in "".join(lines)
    (savi,) = [number for number, line in enumerate(lines) if line.startswith("savi_long_name ")]
    bounds = ["−22.88", "−21.75", "−21.50", *["−19.50"] * wide]
    expected = ["savi_long_name", "433,152", "54/60", *bounds, "61.2", "+1.750", *["3.214"] * wide, "9.80", "33.2"]
    assert lines[savi].split() == expected
    assert lines[savi + 1].split("±")[1].strip() == "0.19"
    assert "(8.1×)" in lines[savi + 1]


def test_a_narrow_terminal_folds_numbers_but_drops_none():
    digits = re.sub(r"\D", "", "".join(terminal([row()], 100)))
    assert sorted(re.sub(r"\D", "", "".join(terminal([row()], 60, told=False)))) == sorted(digits)


def test_brackets_in_a_name_are_no_markup():
    assert any(line.startswith("vae [red]") for line in terminal([row("vae [red]")]))


@pytest.mark.parametrize("format", ["markdown", "rich", "html", "csv"])
def test_nan_and_infinite_bounds_are_shown_as_such(format):
    rows = [row(), row("broken", elbo=BAD, iwae={100: Estimate(-math.inf, NAN), 1000: BAD}, difference=BAD)]
    if format == "csv":
        line = list(csv.DictReader(io.StringIO(table(rows, "csv"))))[1]
        assert (line["elbo"], line["iwae_100"], line["difference"]) == ("nan", "-inf", "nan")
        return
    text = {"markdown": table, "rich": lambda *_: "\n".join(terminal(rows)), "html": lambda *_: make_page(rows)}
    text = text[format](rows, format)
    assert text.count("NaN") >= 3
    assert "−∞" in text
    assert "−23.25" in text  # the healthy method beside it


def test_a_broken_bound_is_warned_of_by_name_and_a_sound_page_has_no_warning():
    assert "not every bound of broken is a finite number" in make_page([row(), row("broken", elbo=BAD)])
    assert "Warning" not in make_page()


def test_decimals_follow_the_smallest_standard_error():
    precise = [row(elbo=Estimate(-85.12345, 0.0123)), row("b", elbo=Estimate(-84.0, 0.9))]
    assert "−85.123 ± 0.012" in table(precise, "markdown")
    assert "−84.000 ± 0.900" in table(precise, "markdown")
    assert "−1,234.6 ± 31.2" in table([row(elbo=Estimate(-1234.56, 31.2))], "markdown")


def test_one_method_has_no_comparison_and_an_unmeasured_time_is_a_dash():
    text = table([row(latency_ms=None, best_epoch=None)], "markdown")
    assert "over" not in text
    assert "×" not in text
    assert "| 60 |" in text
    assert "| – | 33.2 |" in text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one method"),
        ([row(), row()], "different names"),
        ([row(), row("b", num_examples=10)], "'b' has num_examples 10 but 'vae' 250"),
        ([row(), row("b", latency_batch=1)], "latency_batch"),
        ([row(), row("b", iwae={5000: BAD})], r"of \[5000\] samples"),
        ([row(iwae={})], "no IWAE bound"),
    ],
)
def test_rows_that_cannot_stand_in_one_table_are_refused(rows, message):
    for format in ("markdown", "csv", "rich"):
        with pytest.raises(ValueError, match=message):
            table(rows, format)


def test_an_unknown_format_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="did you mean 'markdown'"):
        table([row()], "markdwon")


# ---- the page


def test_the_page_has_every_part_in_order():
    reader = Reader(make_page(pictures=[Picture("Likelihood", "Up is better.", drawing())]))
    text = "\n".join(reader.texts)
    parts = ["Inference methods", "What was run", "seed 20, counts 1297, 250, 250", "none", "Results"]
    parts += ["IWAE-100", "+1.750", "Likelihood", "Up is better.", "How to read the table"]
    parts += ["Higher is better", "standard error of the mean over the 250", "Reproduce", "gpvae compare"]
    positions = [text.index(part, text.index("What was run") if index > 1 else 0) for index, part in enumerate(parts)]
    assert positions[1:] == sorted(positions[1:])
    assert reader.tags.count("tr") == 1 + 5
    assert reader.tags.count("th") + reader.tags.count("td") == 6 * 10


def test_every_column_is_explained():
    html = make_page([r._replace(bits_per_dim=Estimate(1.0, 0.1)) for r in five()])
    heads = re.findall(r'<th scope="col">(.*?)</th>', html)
    terms = re.findall(r"<dt>(.*?)</dt><dd>(.+?)</dd>", html)
    assert len(heads) == 11
    assert set(heads) <= {term for term, _ in terms}


def test_figures_are_inside_as_png_and_nothing_is_outside():
    figure = drawing()
    html = make_page(pictures=[Picture("A", "b", figure), Picture("C", "d", figure)])
    reader = Reader(html)
    sources = [value for name, value in reader.attributes if name == "src"]
    assert len(sources) == 2
    for source in sources:
        prefix, data = source.split(",")
        assert prefix == "data:image/png;base64"
        assert base64.b64decode(data, validate=True) == png(figure)
        assert png(figure).startswith(b"\x89PNG\r\n\x1a\n")
    assert not {"script", "link", "iframe"} & set(reader.tags)
    assert not {"href", "srcset", "action"} & {name for name, _ in reader.attributes}
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r"base64,[^\"]*", "", html))


def test_all_text_is_escaped():
    evil = "<script>alert('x')</script> & \"y\""
    html = page(
        evil, run={evil: evil, "dict": {evil: [evil]}}, rows=[row(evil), row("b", difference=BAD)],
        pictures=[Picture(evil, evil, drawing())], command=evil, notes=[evil],
    )  # fmt: skip
    reader = Reader(html)
    assert "script" not in reader.tags
    assert "<script" not in html
    assert sum(evil in text for text in reader.texts) >= 9
    alt = [value for name, value in reader.attributes if name == "alt"]
    assert alt == [f"{evil}: {evil}"]


def test_braces_in_text_are_no_format_fields():
    assert "{title} {0}" in make_page(title="{title} {0}", command="echo {css}")


def test_the_page_is_the_same_each_time():
    def build():
        return make_page(pictures=[Picture("A", "b", drawing())])

    assert build() == build()


def write(path, pictures=()):
    return write_report(path, "Title é", run=RUN, rows=five(), pictures=pictures, command="gpvae", notes=["A note."])


def test_the_file_is_the_page_and_the_only_one(tmp_path):
    path = write(tmp_path / "report.html")
    assert path.read_text("utf-8") == make_page(title="Title é", command="gpvae", notes=["A note."])
    assert list(tmp_path.iterdir()) == [path]


class Unwilling:
    """A figure that cannot be rendered."""

    def savefig(self, *args, **kwargs):
        raise RuntimeError("no ink")


def test_a_failure_leaves_what_was_there_and_nothing_partial(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    with pytest.raises(RuntimeError, match="no ink"):
        write(path, [Picture("A", "b", Unwilling())])
    assert list(tmp_path.iterdir()) == []
    path.write_text("before")
    with pytest.raises(RuntimeError, match="no ink"):
        write(path, [Picture("A", "b", Unwilling())])

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        write(tmp_path / "nowhere" / "report.html")


# ---- what is marked


def test_a_significant_winner_is_bold_in_every_format():
    rows = [row(verdict="below"), row("savi", 1.0, difference=Estimate(1.0, 0.1), verdict="best")]
    assert "| **−22.25** ± 0.19 |" in table(rows, "markdown")
    assert table(rows, "markdown").count("**") == 2
    assert r"\textbf{$-$22.25} $\pm$ 0.19" in table(rows, "latex")
    assert "<strong>−22.25</strong>" in make_page(rows)
    assert "In bold: significantly above" in make_page(rows)
    verdicts = [line["verdict"] for line in csv.DictReader(io.StringIO(table(rows, "csv")))]
    assert verdicts == ["below", "best"]


def test_a_tie_has_no_winner():
    tie = "no significant difference"
    rows = [row(verdict=tie), row("savi", 0.01, difference=Estimate(0.01, 0.1), verdict=tie)]
    assert "**" not in table(rows, "markdown")
    assert "textbf" not in table(rows, "latex")
    assert "<strong>" not in make_page(rows)
    assert table(rows, "csv").count(tie) == 2


def test_bounds_that_cannot_be_trusted_are_marked():
    rows = [row(untrusted=0.05), row("savi", 1.0, difference=Estimate(1.0, 0.1), untrusted=0.4)]
    lines = table(rows, "markdown").splitlines()
    assert [line.count("†") for line in lines] == [0, 0, 0, 2]
    assert "$\\dagger$" in table(rows, "latex")
    assert "more samples would still" in make_page(rows)
    assert "†" not in make_page([row(untrusted=0.05)])
