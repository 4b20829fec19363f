//! Tables for people.

use std::io::{self, Write};

use serde_json::Value;

use super::text;
use crate::source::InForce;

/// Rows under a head; all cells of a column are equally wide.
#[derive(Debug)]
pub(in crate::cli) struct Table(Vec<Vec<String>>);

impl Table {
    pub(in crate::cli) fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(|cell| (*cell).to_owned()).collect()])
    }

    pub(in crate::cli) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.into());
    }

    pub(in crate::cli) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.0.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.0 {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{:<width$}  ", printable(cell)));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Something that is wrong in a file, on one line.
pub(in crate::cli) fn problem(problem: &Value) -> String {
    let object = problem["object"].as_str().map(|object| format!("{object}: ")).unwrap_or_default();
    let in_force = [("kept", InForce::LastGood), ("denied", InForce::Denial)];
    let in_force = in_force.into_iter().find(|(name, _)| problem[*name] == true);
    let in_force = in_force.map(|(_, one)| format!(" ({})", one.said())).unwrap_or_default();
    let (file, severity) = (text(&problem["file"]), text(&problem["severity"]));
    let (reason, rule) = (text(&problem["reason"]), text(&problem["rule"]));
    printable(&format!("{file}:{}: {severity}: {object}{reason} [{rule}]{in_force}", problem["line"]))
}

/// What others say may not move the cursor.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
