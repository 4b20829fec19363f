//! Lists of who is cut off, as they come over ADS.

use outrider_proto::outrider::identity::v1 as pb;
use outrider_proto::{Fault, Path};

use crate::identity::{Revoked, SpiffeId};

/// Entries of one list.
const MAX_ENTRIES: usize = 100_000;
/// Hexadecimal digits of a serial number (RFC 5280 section 4.1.2.2 allows 20 bytes; some authorities use more).
const MAX_SERIAL_DIGITS: usize = 64;

/// Checks a list.
///
/// # Errors
/// All faults, with the paths of the fields: who would not be cut off because of a typing error must be known.
pub fn compile(list: &pb::RevocationList) -> Result<Revoked, Vec<Fault>> {
    let mut path = Path::root();
    if list.spiffe_ids.len() + list.serial_numbers.len() > MAX_ENTRIES {
        return Err(vec![Fault::new("", format!("more than {MAX_ENTRIES} entries"))]);
    }
    let mut revoked = Revoked::default();
    for (index, id) in list.spiffe_ids.iter().enumerate() {
        path.item("spiffe_ids", index, |path| match SpiffeId::parse(id) {
            Ok(id) => {
                revoked.identities.insert(id.as_str().into());
            }
            Err(error) => path.fault(error.to_string()),
        });
    }
    for (index, serial) in list.serial_numbers.iter().enumerate() {
        path.item("serial_numbers", index, |path| match digits(serial) {
            Some(digits) => {
                revoked.serials.insert(digits);
            }
            None => path.fault("not a number in hexadecimal"),
        });
    }
    path.finish(Some(revoked))
}

/// In lower case, without colons and leading zeros.
fn digits(serial: &str) -> Option<Box<str>> {
    let plain = serial.replace(':', "").to_ascii_lowercase();
    let valid = !plain.is_empty()
        && plain.len() <= MAX_SERIAL_DIGITS
        && plain.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid.then(|| plain.trim_start_matches('0').into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_typing_errors_are_named() {
        let list = pb::RevocationList {
            name: "l".into(),
            spiffe_ids: vec!["spiffe://a/ns/b/sa/c".into()],
            serial_numbers: vec!["00:0A:ff".into(), "7".into()],
        };
        let revoked = compile(&list).unwrap();
        assert!(revoked.identities.contains("spiffe://a/ns/b/sa/c"));
        assert!(revoked.serials.contains("aff") && revoked.serials.contains("7"));
        let list = pb::RevocationList {
            name: "l".into(),
            spiffe_ids: vec!["spiffe://a/b".into(), "https://a/b".into()],
            serial_numbers: vec!["x".into(), String::new()],
        };
        let faults: Vec<String> = compile(&list).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].starts_with("spiffe_ids[1]: "), "{faults:?}");
        assert!(faults[1].starts_with("serial_numbers[0]: "), "{faults:?}");
    }
}
