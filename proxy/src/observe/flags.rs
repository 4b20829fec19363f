//! Envoy's response flags.

use std::fmt;

/// A set of response flags, under Envoy's short names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

macro_rules! flags {
    ($($name:ident $bit:literal $short:literal $doc:literal;)*) => {
        impl Flags {
            $(#[doc = $doc] pub const $name: Self = Self(1 << $bit);)*
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $short)),*];
        }
    };
}

flags! {
    UH 0 "UH" "No healthy upstream.";
    UF 1 "UF" "Connecting to the upstream failed.";
    UO 2 "UO" "A circuit breaker was open.";
    NR 3 "NR" "No route, or no filter chain.";
    URX 4 "URX" "The retry limit was reached.";
    UT 5 "UT" "The route's timeout ran out.";
    LR 6 "LR" "We reset the stream.";
    UR 7 "UR" "The upstream reset the stream.";
    UC 8 "UC" "The upstream ended the connection.";
    DC 9 "DC" "The client went away.";
    SI 10 "SI" "The stream was idle for too long.";
    DPE 11 "DPE" "The client broke the protocol.";
    UPE 12 "UPE" "The upstream broke the protocol.";
    UMSDR 13 "UMSDR" "The stream took longer than it may.";
    DT 14 "DT" "The connection lived longer than it may.";
    NC 15 "NC" "The cluster does not exist.";
    OM 16 "OM" "The proxy is short of a resource.";
}

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("-");
        }
        let mut first = true;
        for (_, name) in Self::ALL.iter().filter(|(flag, _)| self.has(*flag)) {
            f.write_str(if first { "" } else { "," })?;
            f.write_str(name)?;
            first = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_as_envoy_does() {
        assert_eq!(Flags::NONE.to_string(), "-");
        assert_eq!(Flags::URX.with(Flags::UF).to_string(), "UF,URX");
    }
}
