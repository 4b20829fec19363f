//! Names of the fields that Envoy has and Outrider does not, for the messages that both have: a refusal can then say
//! `upstream_bind_config` instead of `field 21`, and tell a field outside the subset from a slip of the pen.
//!
//! The table decides nothing: whatever is not in the `.proto` files is refused, named here or not.

/// One line per field: message, number, name.
const TABLE: &str = include_str!("outside.txt");

/// The name of a field outside the subset, by number.
pub(crate) fn field_outside(message: &str, number: u32) -> Option<&'static str> {
    rows().find(|row| row.message == message && row.number == number).map(|row| row.name)
}

/// Whether Envoy has a field of that name, outside the subset. The name may be in lowerCamelCase too.
pub(crate) fn is_outside(message: &str, name: &str) -> bool {
    rows().any(|row| row.message == message && is_same(row.name, name))
}

/// Whether two names differ by underscores and case only.
fn is_same(left: &str, right: &str) -> bool {
    let letters = |name: &str| name.replace('_', "").to_ascii_lowercase();
    letters(left) == letters(right)
}

/// A line of the table.
struct Row {
    message: &'static str,
    number: u32,
    name: &'static str,
}

/// The lines of the table; read only when something is refused.
fn rows() -> impl Iterator<Item = Row> {
    TABLE.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let message = words.next()?;
        let number = words.next()?.parse().ok()?;
        Some(Row { message, number, name: words.next()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool;

    #[test]
    fn the_table_names_only_fields_outside_the_subset() {
        assert_eq!(rows().count(), TABLE.lines().count(), "a line is malformed");
        for row in rows() {
            let message = pool::message(row.message).expect(row.message);
            assert!(message.get_field(row.number).is_none(), "{} {} is supported", row.message, row.name);
            assert!(
                message.get_field_by_name(row.name).is_none(),
                "{} {} is supported",
                row.message,
                row.name
            );
        }
        assert_eq!(field_outside("envoy.config.cluster.v3.Cluster", 21), Some("upstream_bind_config"));
        assert!(is_outside("envoy.config.cluster.v3.Cluster", "upstream_bind_config"));
        assert!(is_outside("envoy.config.cluster.v3.Cluster", "upstreamBindConfig"));
        assert!(!is_outside("envoy.config.cluster.v3.Cluster", "upstream_bind"));
    }
}
