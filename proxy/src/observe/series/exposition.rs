//! A reader of Prometheus' text format (version 0.0.4), to hold what we write against.

use std::collections::{BTreeMap, BTreeSet};

/// One line with a value.
#[derive(Debug)]
pub(crate) struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// All that was written.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    samples: Vec<Sample>,
    /// Families with a `TYPE` line, and their type.
    pub(crate) types: BTreeMap<String, String>,
    /// Families with a `HELP` line.
    pub(crate) helps: BTreeSet<String>,
}

impl Exposition {
    /// All samples of this name.
    pub(crate) fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    /// The one with exactly these labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: BTreeMap<String, String> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples(name).find(|sample| sample.labels == wanted).map(|sample| sample.value)
    }
}

/// Reads a text; anything that a scraper would refuse is a panic.
pub(crate) fn parse(text: &str) -> Exposition {
    let mut read = Exposition::default();
    assert!(text.is_empty() || text.ends_with('\n'));
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, family) = (words.next().unwrap(), words.next().unwrap().to_owned());
            let rest = words.next().unwrap_or_default().to_owned();
            match what {
                "HELP" => assert!(read.helps.insert(family), "two HELP lines: {line}"),
                "TYPE" => assert_eq!(read.types.insert(family, rest), None, "two TYPE lines: {line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let sample = sample(line);
        assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| sample.name.strip_suffix(end));
        let typed = read.types.contains_key(&sample.name)
            || base
                .and_then(|base| read.types.get(base))
                .is_some_and(|kind| kind == "histogram" || kind == "summary");
        assert!(typed, "no TYPE line before {line}");
        read.samples.push(sample);
    }
    read
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    let valid =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'));
    assert!(valid(name) && !name.is_empty(), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(mut left) = rest.strip_prefix('{') {
        while !left.starts_with('}') {
            let (label, after) = left.split_once("=\"").unwrap();
            assert!(valid(label), "{line}");
            let mut value = String::new();
            let mut letters = after.char_indices();
            let closed = loop {
                match letters.next().unwrap() {
                    (index, '"') => break index,
                    (_, '\\') => value.push(match letters.next().unwrap().1 {
                        'n' => '\n',
                        letter @ ('"' | '\\') => letter,
                        other => panic!("\\{other} in {line}"),
                    }),
                    (_, letter) => value.push(letter),
                }
            };
            assert_eq!(labels.insert(label.to_owned(), value), None, "label twice: {line}");
            left = after.split_at(closed + 1).1;
            left = left.strip_prefix(',').unwrap_or(left);
        }
        rest = left.split_at(1).1;
    }
    Sample { name: name.to_owned(), labels, value: rest.trim().parse().unwrap() }
}
