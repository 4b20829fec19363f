//! A small report, its verdicts and its three forms.

use super::*;

fn cell(subject: &str, cpu_us: &[f64]) -> Cell {
    let mut cell = Cell { subject: subject.to_owned(), ..Cell::default() };
    cell.put(Figure::CpuUs, cpu_us.to_vec());
    cell.curve = vec![(50.0, 1.0), (99.0, 3.0)];
    cell
}

fn row() -> Row {
    Row {
        id: "x".to_owned(),
        title: "a <row>".to_owned(),
        cells: vec![cell("outrider", &[10.0, 22.0, 10.0]), cell("haproxy", &[10.0, 20.0, 20.0])],
        verdicts: Vec::new(),
        notes: vec!["a note".to_owned()],
    }
}

const LIMITS: &[Limit] = &[
    Limit::Ratio { figure: Figure::CpuUs, peer: "haproxy", at_most: 0.8 },
    Limit::Ratio { figure: Figure::CpuUs, peer: "envoy", at_most: 0.37 },
    Limit::Absolute { figure: Figure::CpuUs, at_most: 12.0 },
];

fn report() -> Report {
    let mut row = row();
    row.verdicts = judge(&row, LIMITS);
    if let Some(cell) = row.cells.get_mut(1) {
        cell.limited_by_generator = 1;
        cell.put(Figure::RequestsPerSecond, vec![50_000.0, 50_000.0]);
    }
    Report { about: About::default(), rows: vec![row], skipped: vec!["envoy is missing".to_owned()] }
}

#[test]
fn a_row_is_held_against_its_limits() {
    let words: Vec<String> = judge(&row(), LIMITS).iter().map(Verdict::words).collect();
    // Ratios of the rounds: 1.0, 1.1, 0.5; the median is 1.0, a quarter more than 0.8.
    assert_eq!(words, ["falls short by 25 %", "not measured", "pass"]);
}

#[test]
fn markdown_shows_budget_figures_and_notes() {
    let text = report().markdown();
    for line in [
        "| a <row> | CPU <= 0.80 of haproxy | 1.00 ±0.10 | **falls short by 25 %** |",
        "| a <row> | 10.0 ±0.00 | 20.0 ±0.00 |",
        "| a <row> | 50000 ±0* |",
        "- a <row>: the generator was the limit for haproxy (1 of 2 rounds)",
        "- envoy is missing",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let page = html::render(&report());
    assert!(page.contains("<polyline") && page.contains("<rect") && page.contains("a &lt;row&gt;"));
    for outside in ["src=", "href=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn json_reads_back() {
    let text = serde_json::to_string(&report()).unwrap();
    let read: Report = serde_json::from_str(&text).unwrap();
    assert_eq!(read.markdown(), report().markdown());
}
