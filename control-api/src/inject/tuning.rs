//! The annotations with which a pod tunes its sidecar, checked: a name that is not known or a value that cannot be
//! meant is refused, because a port that is believed to be left alone and is not, or the other way round, is an outage
//! or a hole.

use std::collections::BTreeMap;
use std::net::IpAddr;

use outrider_proto::Fault;

use super::names::TUNING;

/// Longest list in an annotation.
const MAX_ITEMS: usize = 128;
/// Longest time to drain: an hour.
const MAX_DRAIN_S: u32 = 3600;

/// What a pod wants of its sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Ports of the pod that are reached past the sidecar.
    pub skip_inbound: Vec<Ports>,
    /// Ports elsewhere that are reached past it.
    pub skip_outbound: Vec<Ports>,
    /// Destinations that are reached past it.
    pub skip_subnets: Vec<String>,
    /// Ports of the pod that are not looked into; the control server reads them from the annotation.
    pub opaque: Vec<Ports>,
    /// CPU asked for.
    pub cpu_request: Option<Quantity>,
    /// CPU at most.
    pub cpu_limit: Option<Quantity>,
    /// Memory asked for.
    pub memory_request: Option<Quantity>,
    /// Memory at most.
    pub memory_limit: Option<Quantity>,
    /// Level of the log.
    pub log_level: Option<String>,
    /// How long what is under way may take to end.
    pub drain: Option<Seconds>,
    /// Whether the sidecar is a native one.
    pub native: Option<bool>,
}

/// One port, or a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// An amount as Kubernetes writes it: `10m`, `1.5`, `64Mi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity(String);

impl Quantity {
    /// Of a text that is known to be one.
    pub(super) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let suffix = text.get(number.len()..).unwrap_or_default();
        let known = ["", "m", "k", "M", "G", "Ki", "Mi", "Gi"].contains(&suffix);
        let digits = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let positive = number.parse::<f64>().is_ok_and(|number| number > 0.0 && number.is_finite());
        if known && digits && positive && text.len() <= 32 {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("\"{text}\" is not an amount like 10m, 1.5 or 64Mi"))
        }
    }
}

/// Whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub u32);

impl std::str::FromStr for Seconds {
    type Err = String;

    /// `25` or `25s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('s').unwrap_or(text);
        match number.parse() {
            Ok(number) if number <= MAX_DRAIN_S => Ok(Self(number)),
            _ => Err(format!("\"{text}\" is not a number of seconds up to {MAX_DRAIN_S}")),
        }
    }
}

/// Reads what the annotations of a pod say.
///
/// # Errors
/// Every annotation that is wrong, by its name.
pub fn read(annotations: &BTreeMap<String, String>) -> Result<Tuning, Vec<Fault>> {
    let (mut tuning, mut faults) = (Tuning::default(), Vec::new());
    for (name, value) in annotations {
        let Some(short) = name.strip_prefix(TUNING) else { continue };
        if let Err(reason) = set(&mut tuning, short, value.trim()) {
            faults.push(Fault::new(format!("metadata.annotations[{name}]"), reason));
        }
    }
    if faults.is_empty() { Ok(tuning) } else { Err(faults) }
}

fn set(tuning: &mut Tuning, name: &str, value: &str) -> Result<(), String> {
    match name {
        "skip-inbound-ports" => tuning.skip_inbound = list(value, ports)?,
        "skip-outbound-ports" => tuning.skip_outbound = list(value, ports)?,
        "skip-subnets" => tuning.skip_subnets = list(value, subnet)?,
        "opaque-ports" => tuning.opaque = list(value, ports)?,
        "proxy-cpu-request" => tuning.cpu_request = Some(value.parse()?),
        "proxy-cpu-limit" => tuning.cpu_limit = Some(value.parse()?),
        "proxy-memory-request" => tuning.memory_request = Some(value.parse()?),
        "proxy-memory-limit" => tuning.memory_limit = Some(value.parse()?),
        "log-level" => tuning.log_level = Some(level(value)?),
        "drain-timeout" => tuning.drain = Some(value.parse()?),
        "native-sidecar" => tuning.native = Some(switch(value)?),
        _ => {
            return Err("is not known; there are skip-inbound-ports, skip-outbound-ports, skip-subnets, \
                        opaque-ports, proxy-{cpu,memory}-{request,limit}, log-level, drain-timeout, native-sidecar"
                .to_owned());
        }
    }
    Ok(())
}

fn list<T>(text: &str, item: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let items: Vec<&str> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    if items.len() > MAX_ITEMS {
        return Err(format!("has more than {MAX_ITEMS} entries"));
    }
    items.into_iter().map(item).collect()
}

/// Ports of a list: `80, 8000-8100`. The control server reads `opaque-ports` with it.
///
/// # Errors
/// What is not a port.
pub fn port_list(text: &str) -> Result<Vec<Ports>, String> {
    list(text, ports)
}

fn ports(text: &str) -> Result<Ports, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first > 0 && first <= last => Ok(Ports { first, last }),
        _ => Err(format!("\"{text}\" is neither a port nor a range like 8000-8100")),
    }
}

fn subnet(text: &str) -> Result<String, String> {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let wrong = || format!("\"{text}\" is not a subnet like 10.0.0.0/8");
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length: u8 = if length.is_empty() { most } else { length.parse().map_err(|_| wrong())? };
    if length == 0 {
        return Err(format!("\"{text}\" is everything; to go without a sidecar, say so"));
    }
    if length > most { Err(wrong()) } else { Ok(format!("{address}/{length}")) }
}

fn level(text: &str) -> Result<String, String> {
    if ["error", "warn", "info", "debug", "trace", "off"].contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("\"{text}\" is none of error, warn, info, debug, trace, off"))
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "enabled" => Ok(true),
        "false" | "disabled" => Ok(false),
        _ => Err(format!("\"{text}\" is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> Result<Tuning, String> {
        let annotations = BTreeMap::from([(format!("{TUNING}{name}"), value.to_owned())]);
        read(&annotations).map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn values_are_read() {
        let ports = of("skip-inbound-ports", "22, 8000-8100,").unwrap().skip_inbound;
        assert_eq!(ports, [Ports { first: 22, last: 22 }, Ports { first: 8000, last: 8100 }]);
        assert_eq!(
            of("skip-subnets", "10.0.0.0/8,fd00::1").unwrap().skip_subnets,
            ["10.0.0.0/8", "fd00::1/128"]
        );
        assert_eq!(of("drain-timeout", "45s").unwrap().drain, Some(Seconds(45)));
        assert_eq!(of("native-sidecar", "false").unwrap().native, Some(false));
        assert_eq!(of("proxy-memory-limit", "64Mi").unwrap().memory_limit, Some(Quantity::of("64Mi")));
        assert_eq!(
            read(&BTreeMap::from([("other.io/x".to_owned(), String::new())])).unwrap(),
            Tuning::default()
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let wrong = [
            ("skip-inbound-ports", "0"),
            ("skip-inbound-ports", "9-8"),
            ("skip-outbound-ports", "65536"),
            ("skip-outbound-ports", "http"),
            ("skip-subnets", "0.0.0.0/0"),
            ("skip-subnets", "10.0.0.0/33"),
            ("skip-subnets", "example.org"),
            ("proxy-cpu-request", "-1"),
            ("proxy-cpu-request", "0"),
            ("proxy-memory-limit", "64MB"),
            ("log-level", "loud"),
            ("drain-timeout", "3601"),
            ("native-sidecar", "maybe"),
            ("skip-inbound-port", "22"),
        ];
        for (name, value) in wrong {
            let said = of(name, value).unwrap_err();
            assert!(
                said.starts_with(&format!("metadata.annotations[config.outrider.dev/{name}]: ")),
                "{said}"
            );
        }
        assert!(of("skip-inbound-ports", &"1,".repeat(129)).unwrap_err().contains("128"));
    }
}
