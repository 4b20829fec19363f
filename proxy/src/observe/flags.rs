//! Envoy's response flags (`%RESPONSE_FLAGS%`), written in the order in which Envoy numbers them.

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
    LH 0 "LH" "The upstream failed its health check.";
    UH 1 "UH" "No healthy upstream.";
    UT 2 "UT" "The route's timeout ran out.";
    LR 3 "LR" "We reset the stream.";
    UR 4 "UR" "The upstream reset the stream.";
    UF 5 "UF" "Connecting to the upstream failed.";
    UC 6 "UC" "The upstream ended the connection.";
    UO 7 "UO" "A circuit breaker was open.";
    NR 8 "NR" "No route, or no filter chain.";
    DI 9 "DI" "A fault delayed the request.";
    FI 10 "FI" "A fault aborted the request.";
    RL 11 "RL" "The request was over a rate limit.";
    UAEX 12 "UAEX" "The request was denied by authorization.";
    RLSE 13 "RLSE" "The rate limit service failed.";
    DC 14 "DC" "The client went away.";
    URX 15 "URX" "The retry limit was reached.";
    SI 16 "SI" "The stream was idle for too long.";
    IH 17 "IH" "A header that must be strict was not.";
    DPE 18 "DPE" "The client broke the protocol.";
    UMSDR 19 "UMSDR" "The stream took longer than it may.";
    DT 20 "DT" "The connection lived longer than it may.";
    UPE 21 "UPE" "The upstream broke the protocol.";
    NC 22 "NC" "The cluster does not exist.";
    OM 23 "OM" "The proxy is short of a resource.";
    FS 24 "FS" "A fault changed how the bytes went: slower, not as they were, or not to their end. Not one of Envoy's.";
    TR 25 "TR" "TLS with the upstream was refused, by it or by us. Not one of Envoy's.";
}

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// There is no connection to the upstream because of TLS.
    pub const UF_TR: Self = Self::UF.with(Self::TR);

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
        assert!(Flags::URX.with(Flags::UF).has(Flags::UF));
        assert!(!Flags::URX.has(Flags::URX.with(Flags::UF)));
    }

    #[test]
    fn the_short_names_are_envoys_and_ours_come_last() {
        let all = Flags::ALL.iter().fold(Flags::NONE, |all, (flag, _)| all.with(*flag));
        let names = "LH,UH,UT,LR,UR,UF,UC,UO,NR,DI,FI,RL,UAEX,RLSE,DC,URX,SI,IH,DPE,UMSDR,DT,UPE,NC,OM,FS,TR";
        assert_eq!(all.to_string(), names);
    }
}
