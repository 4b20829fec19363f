//! Ranges of addresses.

use std::net::IpAddr;

/// Bits of an address and the mark of its family before them.
const MAX_TEXT_BYTES: usize = 129;

/// What stands before an IPv4 address that is mapped to IPv6 (RFC 4291 section 2.5.5.2).
const MAPPED_BITS: u32 = 96;

/// A CIDR block; one of IPv4 never holds an address of IPv6, mapped ones aside, and the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRange {
    is_v4: bool,
    /// The address from the highest bit on, whatever its family.
    bits: u128,
    length: u8,
}

impl IpRange {
    /// The block of all addresses whose first `length` bits are those of `address`; `None` when it has fewer bits.
    /// One within `::ffff:0:0/96` is a block of IPv4.
    #[must_use]
    pub fn new(address: IpAddr, length: u32) -> Option<Self> {
        let (address, length) = match (address, length.checked_sub(MAPPED_BITS)) {
            (IpAddr::V6(_), Some(rest)) if address.to_canonical().is_ipv4() && rest <= 32 => {
                (address.to_canonical(), rest)
            }
            _ => (address, length),
        };
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = u8::try_from(length).ok().filter(|length| *length <= longest)?;
        let (is_v4, bits) = bits(address);
        Some(Self { is_v4, bits, length })
    }

    /// Whether the address is in the block.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let (is_v4, bits) = bits(address.to_canonical());
        let differing = (bits ^ self.bits).leading_zeros();
        is_v4 == self.is_v4 && differing >= u32::from(self.length)
    }

    /// The beginning that the texts of all its addresses share, as [`BitText`] writes them.
    pub(super) fn text(&self) -> BitText {
        BitText::of_bits(self.is_v4, self.bits, usize::from(self.length))
    }
}

fn bits(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(address) => (true, u128::from(address.to_bits()) << 96),
        IpAddr::V6(address) => (false, address.to_bits()),
    }
}

/// An address or a port as a text of `0` and `1`, so that a block is a beginning of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct BitText {
    bytes: [u8; MAX_TEXT_BYTES],
    len: usize,
}

impl BitText {
    /// The whole of an address.
    pub(super) fn of_address(address: IpAddr) -> Self {
        let (is_v4, bits) = bits(address.to_canonical());
        Self::of_bits(is_v4, bits, if is_v4 { 32 } else { 128 })
    }

    /// The first `length` bits of a port.
    pub(super) fn of_port(port: u16, length: usize) -> Self {
        Self::of_bits(true, u128::from(port) << 112, length)
    }

    fn of_bits(is_v4: bool, bits: u128, length: usize) -> Self {
        let mut bytes = [b'0'; MAX_TEXT_BYTES];
        let [family, rest @ ..] = &mut bytes;
        *family = if is_v4 { b'4' } else { b'6' };
        for (place, byte) in rest.iter_mut().enumerate().take(length) {
            *byte += u8::from(bits >> (127 - place) & 1 == 1);
        }
        Self { bytes, len: length + 1 }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(address: &str, length: u32) -> Option<IpRange> {
        IpRange::new(address.parse().unwrap(), length)
    }

    #[test]
    fn a_range_holds_its_addresses_and_no_other() {
        for (address, length, inside, outside) in [
            ("10.1.2.3", 32, "10.1.2.3", "10.1.2.2"),
            ("10.1.2.3", 8, "10.255.0.0", "11.0.0.0"),
            ("10.0.0.0", 0, "255.255.255.255", "::1"),
            ("2001:db8::", 33, "2001:db8:7fff::", "2001:db8:8000::"),
            ("::", 0, "2001:db8::1", "10.0.0.1"),
            ("10.0.0.0", 8, "::ffff:10.0.0.1", "::10.0.0.1"),
            ("::ffff:10.1.0.0", 112, "10.1.2.3", "10.2.0.0"),
        ] {
            let range = range(address, length).unwrap();
            assert!(range.holds(inside.parse().unwrap()), "{address}/{length} {inside}");
            assert!(!range.holds(outside.parse().unwrap()), "{address}/{length} {outside}");
            let text = BitText::of_address(inside.parse().unwrap());
            assert!(text.as_bytes().starts_with(range.text().as_bytes()));
            let text = BitText::of_address(outside.parse().unwrap());
            assert!(!text.as_bytes().starts_with(range.text().as_bytes()));
        }
        assert_eq!(range("10.0.0.0", 33), None);
        assert_eq!(range("::", 129), None);
        assert_eq!(range("::ffff:10.0.0.0", 129), None);
        assert!(range("::", 128).is_some());
    }
}
