//! The report as one HTML page that needs nothing else: style, tables, plots.

use std::fmt::Write as _;

use super::markdown::ELSEWHERE;
use super::plot::{self, Bar, COLOURS, Line, Ticks, escape};
use super::{Figure, Report, Row, markdown};

const STYLE: &str = "\
:root{color-scheme:light dark;--fg:#1c2024;--soft:#60646c;--bg:#fff;--line:#d9d9e0;--good:#18794e;--bad:#cd2b31;\
--k0:#8b8d98;--k1:#0b68cb;--k2:#d6409f;--k3:#30a46c;--k4:#e5484d;--k5:#ad7f00;--k6:#6e56cf;--k7:#0797b9}\
@media(prefers-color-scheme:dark){:root{--fg:#edeef0;--soft:#b0b4ba;--bg:#111113;--line:#363a3f;--good:#3dd68c;--bad:#ff9592}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:980px;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.4rem}h3{font-size:1rem;margin:1.4rem 0 .2rem}\
table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}td,th{padding:.25rem .6rem;border-bottom:1px solid var(--line);\
text-align:right;white-space:nowrap}td:first-child,th:first-child{text-align:left}td.w{text-align:left}.pass{color:var(--good)}\
.short{color:var(--bad);font-weight:600}.soft,dt{color:var(--soft)}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dd{margin:0}\
svg{width:100%;max-width:760px;height:auto;font:12px system-ui,sans-serif}svg text{fill:var(--fg)}.grid{stroke:var(--line)}\
.whisker{stroke:var(--fg)}polyline{fill:none;stroke-width:2}";

pub(super) fn render(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Outrider: benchmark report</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}{}</style></head><body>\n\
         <h1>Outrider: benchmark report</h1>\n",
        colours()
    );
    head(report, &mut page);
    budget(report, &mut page);
    costs(report, &mut page);
    curves(report, &mut page);
    memory(report, &mut page);
    page.push_str("<h2>All figures</h2>\n");
    for figure in Figure::ALL {
        table(report, figure, &mut page);
    }
    notes(report, &mut page);
    page.push_str("</body></html>\n");
    page
}

fn colours() -> String {
    (0..COLOURS).fold(String::new(), |mut css, number| {
        let _ = write!(css, ".c{number}{{fill:var(--k{number})}}.l{number}{{stroke:var(--k{number})}}");
        css
    })
}

fn colour(report: &Report, subject: &str) -> usize {
    report.about.subjects.iter().position(|one| one.name == subject).unwrap_or(0) % COLOURS
}

fn head(report: &Report, page: &mut String) {
    let about = &report.about;
    let facts = [
        ("Machine", format!("{}, {} cores, {} MiB", about.cpu, about.cores, about.memory_mb)),
        ("System", format!("{}, {}", about.system, about.kernel)),
        ("Cores", about.division.clone()),
        ("Load before the run", about.load_before.clone()),
        ("Commit", about.commit.clone()),
        ("Started", about.started.clone()),
        ("Command", about.command.clone()),
        ("Method", format!("{} rounds, passes of {} ms, subjects interleaved", about.rounds, about.pass_ms)),
        ("System calls counted by", about.syscalls_by.clone()),
    ];
    page.push_str("<dl>");
    let versions = about.subjects.iter().map(|one| (one.name.as_str(), one.version.clone()));
    for (name, value) in facts.into_iter().chain(versions) {
        let _ = write!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(&value));
    }
    page.push_str("</dl>\n");
}

fn budget(report: &Report, page: &mut String) {
    let _ = writeln!(
        page,
        "<h2>Budget</h2>\n<p class=\"soft\">Ratios are taken within each round; shown is their median. {ELSEWHERE}</p>"
    );
    page.push_str("<table><tr><th>scenario</th><th>limit</th><th>measured</th><th></th></tr>\n");
    for row in &report.rows {
        for verdict in &row.verdicts {
            let measured = verdict
                .measured
                .as_ref()
                .map_or_else(|| "-".to_owned(), |one| format!("{:.2} ±{:.2}", one.median, one.deviation));
            let class = match verdict.is_kept() {
                Some(true) => "pass",
                Some(false) => "short",
                None => "soft",
            };
            let _ = writeln!(
                page,
                "<tr><td>{}</td><td class=\"w\">{}</td><td>{measured}</td><td class=\"w {class}\">{}</td></tr>",
                escape(&row.title),
                escape(&verdict.limit),
                verdict.words()
            );
        }
    }
    page.push_str("</table>\n");
}

fn costs(report: &Report, page: &mut String) {
    page.push_str("<h2>CPU time of the proxy, us per request</h2>\n");
    for row in &report.rows {
        let bars: Vec<Bar> = row
            .cells
            .iter()
            .filter_map(|cell| {
                let spread = cell.figures.get(&Figure::CpuUs)?;
                Some(Bar {
                    name: cell.subject.clone(),
                    colour: colour(report, &cell.subject),
                    value: spread.median,
                    deviation: spread.deviation,
                    label: Figure::CpuUs.digits(spread.median),
                })
            })
            .collect();
        if !bars.is_empty() {
            let _ = writeln!(page, "<h3>{}</h3>\n{}", escape(&row.title), plot::bars(&row.title, &bars));
        }
    }
}

fn curves(report: &Report, page: &mut String) {
    page.push_str("<h2>Latency</h2>\n<p class=\"soft\">Share of the requests that took at most so long; both axes logarithmic.</p>\n");
    let ticks: Ticks = [50.0, 90.0, 99.0, 99.9, 99.99]
        .iter()
        .map(|percentile| (rarity(*percentile), format!("{percentile} %")))
        .collect();
    let last = ticks.last().map_or(1.0, |tick| tick.0);
    for row in &report.rows {
        let lines: Vec<Line> = row
            .cells
            .iter()
            .map(|cell| Line {
                name: cell.subject.clone(),
                colour: colour(report, &cell.subject),
                points: cell
                    .curve
                    .iter()
                    .map(|(percentile, ms)| (rarity(*percentile), ms.max(1e-3)))
                    .filter(|(x, _)| *x >= 2.0 && *x <= last * 1.001)
                    .collect(),
            })
            .filter(|line| line.points.len() > 1)
            .collect();
        if !lines.is_empty() {
            let svg = plot::lines(&row.title, ("requests", "ms"), &ticks, &lines);
            let _ = writeln!(page, "<h3>{}</h3>\n{svg}", escape(&row.title));
        }
    }
}

/// One in how many is slower.
fn rarity(percentile: f64) -> f64 {
    100.0 / (100.0 - percentile.min(99.9999))
}

/// Peak memory over the number of services: the rows whose id is `services-N`.
fn memory(report: &Report, page: &mut String) {
    let count = |row: &Row| row.id.strip_prefix("services-")?.parse::<f64>().ok();
    let rows: Vec<(f64, &Row)> = report.rows.iter().filter_map(|row| Some((count(row)?, row))).collect();
    if rows.len() < 2 {
        return;
    }
    let lines: Vec<Line> = report
        .subjects()
        .into_iter()
        .map(|subject| Line {
            name: subject.to_owned(),
            colour: colour(report, subject),
            points: rows
                .iter()
                .filter_map(|(x, row)| Some((*x, row.cell(subject)?.figures.get(&Figure::PeakRssMb)?.median)))
                .collect(),
        })
        .filter(|line| line.points.len() > 1)
        .collect();
    let ticks: Ticks = rows.iter().map(|(x, _)| (*x, format!("{x}"))).collect();
    let svg = plot::lines("memory over services", ("services", "MiB"), &ticks, &lines);
    let _ = writeln!(page, "<h2>Memory over the number of services</h2>\n{svg}");
}

fn table(report: &Report, figure: Figure, page: &mut String) {
    let has = |row: &Row, name: &str| row.cell(name).is_some_and(|cell| cell.figures.contains_key(&figure));
    let names = report.subjects();
    let rows: Vec<&Row> = report.rows.iter().filter(|row| names.iter().any(|name| has(row, name))).collect();
    let columns: Vec<&str> =
        names.iter().copied().filter(|name| rows.iter().any(|row| has(row, name))).collect();
    if rows.is_empty() {
        return;
    }
    let _ = write!(page, "<h3>{}</h3>\n<table><tr><th></th>", figure.title());
    for column in &columns {
        let _ = write!(page, "<th>{}</th>", escape(column));
    }
    page.push_str("</tr>\n");
    for row in rows {
        let _ = write!(page, "<tr><td>{}</td>", escape(&row.title));
        for column in &columns {
            let _ = write!(page, "<td>{}</td>", escape(&markdown::value(row, column, figure)));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

fn notes(report: &Report, page: &mut String) {
    page.push_str("<h2>Notes</h2>\n<ul><li>*: the generator was the limit in at least one round, not the subject.</li>\n");
    for row in &report.rows {
        for note in markdown::row_notes(row) {
            let _ = writeln!(page, "<li>{}: {}</li>", escape(&row.title), escape(&note));
        }
    }
    for line in &report.skipped {
        let _ = writeln!(page, "<li>{}</li>", escape(line));
    }
    page.push_str("</ul>\n");
}
