//! The report as Markdown: the head, the budget, one table for each figure, the notes.

use std::fmt::Write as _;

use super::{Cell, Figure, Report, Row};

/// The one row of the budget that cannot be seen from outside a process.
pub(super) const ELSEWHERE: &str = "Not measured: who is compared with did not take part, or was left out for the reason in the notes. \
    Allocations per request in the steady state (limit: 0) are counted inside the proxy by its test `allocations`.";

pub(super) fn render(report: &Report) -> String {
    let mut text = head(report);
    budget(report, &mut text);
    for figure in Figure::ALL {
        table(report, figure, &mut text);
    }
    notes(report, &mut text);
    text
}

fn head(report: &Report) -> String {
    let about = &report.about;
    let mut text =
        "# Benchmark report\n\nMade by `make bench`; do not edit. How it measures: [README](README.md).\n\n"
            .to_owned();
    let facts = [
        ("Machine", format!("{}, {} cores, {} MiB", about.cpu, about.cores, about.memory_mb)),
        ("System", format!("{}, {}", about.system, about.kernel)),
        ("Cores", about.division.clone()),
        ("Load before the run", about.load_before.clone()),
        ("Commit", about.commit.clone()),
        ("Started", about.started.clone()),
        ("Command", format!("`{}`", about.command)),
        (
            "Method",
            format!(
                "{} rounds, passes of {} ms, subjects interleaved in each round",
                about.rounds, about.pass_ms
            ),
        ),
        ("System calls counted by", about.syscalls_by.clone()),
    ];
    for (name, value) in facts {
        let _ = writeln!(text, "- {name}: {value}");
    }
    text.push_str("\n| subject | version |\n|---|---|\n");
    for subject in &about.subjects {
        let _ = writeln!(text, "| {} | {} |", subject.name, subject.version.replace('|', "/"));
    }
    text
}

fn budget(report: &Report, text: &mut String) {
    text.push_str("\n## Budget\n\nRatios are taken within each round; shown is the median of the rounds and the deviation from it.\n\n");
    text.push_str(ELSEWHERE);
    text.push_str("\n\n| scenario | limit | measured | |\n|---|---|---|---|\n");
    for row in &report.rows {
        for verdict in &row.verdicts {
            let measured = verdict
                .measured
                .as_ref()
                .map_or_else(|| "-".to_owned(), |one| format!("{:.2} ±{:.2}", one.median, one.deviation));
            let words = verdict.words();
            let words = if words.starts_with("falls short") { format!("**{words}**") } else { words };
            let _ = writeln!(text, "| {} | {} | {measured} | {words} |", row.title, verdict.limit);
        }
    }
}

fn table(report: &Report, figure: Figure, text: &mut String) {
    let has = |cell: &Cell| cell.figures.contains_key(&figure);
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.cells.iter().any(has)).collect();
    let columns: Vec<&str> = report
        .subjects()
        .into_iter()
        .filter(|name| rows.iter().any(|row| row.cell(name).is_some_and(has)))
        .collect();
    if rows.is_empty() {
        return;
    }
    let _ = write!(text, "\n## {}\n\n| |", figure.title());
    for column in &columns {
        let _ = write!(text, " {column} |");
    }
    let _ = writeln!(text, "\n|---{}|", "|---:".repeat(columns.len()));
    for row in rows {
        let _ = write!(text, "| {} |", row.title);
        for column in &columns {
            let _ = write!(text, " {} |", value(row, column, figure));
        }
        text.push('\n');
    }
}

/// `14.7 ±0.3`, with `*` where the generator was the limit.
pub(super) fn value(row: &Row, subject: &str, figure: Figure) -> String {
    let Some(cell) = row.cell(subject) else { return "-".to_owned() };
    let Some(spread) = cell.figures.get(&figure) else { return "-".to_owned() };
    let limited = figure == Figure::RequestsPerSecond && cell.limited_by_generator > 0;
    let mark = if limited { "*" } else { "" };
    if spread.samples.len() < 2 {
        return format!("{}{mark}", figure.digits(spread.median));
    }
    format!("{} ±{}{mark}", figure.digits(spread.median), figure.digits(spread.deviation))
}

fn notes(report: &Report, text: &mut String) {
    text.push_str(
        "\n## Notes\n\n`*`: the generator was the limit in at least one round, not the subject.\n\n",
    );
    for row in &report.rows {
        for note in row_notes(row) {
            let _ = writeln!(text, "- {}: {note}", row.title);
        }
    }
    for line in &report.skipped {
        let _ = writeln!(text, "- {line}");
    }
}

/// What is to be said about a row beside its figures.
pub(super) fn row_notes(row: &Row) -> Vec<String> {
    let mut notes = row.notes.clone();
    for cell in &row.cells {
        if cell.errors > 0 {
            notes.push(format!("{}: {} requests failed", cell.subject, cell.errors));
        }
    }
    let limited: Vec<String> =
        row.cells.iter().filter(|cell| cell.limited_by_generator > 0).map(limited).collect();
    if !limited.is_empty() {
        notes.push(format!("the generator was the limit for {}", limited.join(", ")));
    }
    notes
}

fn limited(cell: &Cell) -> String {
    let rounds = cell.figures.get(&Figure::RequestsPerSecond).map_or(0, |spread| spread.samples.len());
    format!("{} ({} of {rounds} rounds)", cell.subject, cell.limited_by_generator)
}
