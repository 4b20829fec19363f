//! The harness as a whole: a short run with what is always there, and its three files.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use outrider_bench::report::{Figure, Report};

/// Runs share two cores: two at a time would each take the other's.
static ALONE: Mutex<()> = Mutex::new(());

fn bench(arguments: &[&str]) -> Result<Output> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Command::new(env!("CARGO_BIN_EXE_outrider-bench")).args(arguments).output().context("the harness")
}

/// A folder that is removed with the value.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_short_run_writes_a_report() -> Result<()> {
    let folder = Folder(std::env::temp_dir().join(format!("outrider-bench-smoke-{}", std::process::id())));
    let path = folder.0.to_str().context("a path")?;
    let floor = format!("mine:launcher={}", env!("CARGO_BIN_EXE_outrider-floor-raw"));
    let mut arguments =
        vec!["run", "--only", "h1-12b-64,new-connection", "--rounds", "2", "--seconds", "0.2"];
    arguments.extend(["--subjects", "direct,floor-raw,floor-tcp,floor-hyper,mine", "--subject", &floor]);
    arguments.extend(["--out", path]);
    let output = bench(&arguments)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Report = serde_json::from_str(&fs::read_to_string(folder.0.join("report.json"))?)?;
    ensure!(report.rows.len() == 2, "{report:?}");
    for row in &report.rows {
        for name in ["direct", "floor-raw", "floor-tcp", "floor-hyper"] {
            let cell = row.cell(name).with_context(|| format!("{name}: {:?}", row.notes))?;
            ensure!(cell.errors == 0, "{row:?}");
            ensure!(cell.figures.contains_key(&Figure::CpuUs) == (name != "direct"), "{row:?}");
        }
        // A floor wants its addresses as arguments: as a launcher it ends at once, and the report says what it said.
        let note = row.notes.iter().find(|note| note.starts_with("mine left out")).context("no note")?;
        ensure!(note.ends_with("usage: LISTEN UPSTREAM, two addresses with ports"), "{note}");
    }
    let (markdown, page) =
        (fs::read_to_string(folder.0.join("report.md"))?, fs::read_to_string(folder.0.join("report.html"))?);
    ensure!(markdown.contains("| HTTP/1.1, 12 B, 64 connections |") && page.contains("<svg"), "{markdown}");
    ensure!(!markdown.contains(path) && !page.contains(path), "a folder of this machine is in the report");
    Ok(())
}

#[test]
fn mutual_tls_is_measured_with_whole_handshakes() -> Result<()> {
    let folder = Folder(std::env::temp_dir().join(format!("outrider-bench-mtls-{}", std::process::id())));
    let path = folder.0.to_str().context("a path")?;
    let scenarios = "pair-12b,pair-64k,mtls-new-connection";
    let mut arguments = vec!["run", "--only", scenarios, "--subjects", "direct,floor-rustls"];
    arguments.extend(["--rounds", "1", "--seconds", "0.5", "--out", path]);
    let output = bench(&arguments)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Report = serde_json::from_str(&fs::read_to_string(folder.0.join("report.json"))?)?;
    ensure!(report.rows.len() == 5, "{report:?}");
    for row in &report.rows {
        let cell = row.cell("floor-rustls").with_context(|| format!("{:?}", row.notes))?;
        ensure!(cell.errors == 0 && cell.figures.contains_key(&Figure::CpuUs), "{row:?}");
        let handshakes = cell.figures.contains_key(&Figure::HandshakesPerCpuSecond);
        ensure!(handshakes == row.id.starts_with("mtls-"), "{row:?}");
        ensure!(row.notes.iter().any(|note| note == "left out: direct (no TLS)"), "{:?}", row.notes);
    }
    Ok(())
}

#[test]
fn wrong_arguments_are_named() -> Result<()> {
    for (arguments, reason) in [
        (["run", "--only", "nothing"], "--only nothing: no scenario begins so"),
        (["run", "--rounds", "0"], "--rounds 0: must be from 1 to 100"),
        (["run", "--subjects", "nobody"], "--subjects nobody: known are direct, outrider"),
    ] {
        let output = bench(&arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(reason), "{said}");
    }
    Ok(())
}
