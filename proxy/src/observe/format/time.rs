//! Points in time in the forms that `%START_TIME%` knows, always in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// From the day of the week of 1970-01-01.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
/// Digits of a second's fraction in nanoseconds.
const NANO_DIGITS: usize = 9;

/// A compiled form of a point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TimeFormat(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Year,
    YearOfCentury,
    Month,
    MonthName,
    Day,
    DayPadded,
    DayOfYear,
    Weekday,
    Hour,
    Minute,
    Second,
    EpochSeconds,
    /// This many digits of the second's fraction, 1 to 9.
    Fraction(usize),
}

impl TimeFormat {
    /// RFC 3339 with milliseconds, Envoy's default.
    pub(super) fn rfc3339() -> Self {
        Self::parse("%Y-%m-%dT%H:%M:%S.%3fZ").unwrap_or(Self(Vec::new()))
    }

    /// Compiles the specifiers of `strftime` that make sense for a log: `%Y %y %m %b %d %e %j %a %H %M %S %s %f`
    /// and `%1f` to `%9f`, `%F %T %R %z %Z %%`. `None` for any other.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            push_text(&mut parts, before);
            let mut letters = after.chars();
            let mut letter = letters.next()?;
            let digits = letter.to_digit(10).and_then(|digits| usize::try_from(digits).ok());
            if let Some(digits) = digits {
                letter = letters.next()?;
                if letter != 'f' || !(1..=NANO_DIGITS).contains(&digits) {
                    return None;
                }
            }
            match letter {
                'f' => parts.push(Part::Fraction(digits.unwrap_or(NANO_DIGITS))),
                'F' => parts.extend(Self::parse("%Y-%m-%d")?.0),
                'T' => parts.extend(Self::parse("%H:%M:%S")?.0),
                'R' => parts.extend(Self::parse("%H:%M")?.0),
                'z' => push_text(&mut parts, "+0000"),
                'Z' => push_text(&mut parts, "UTC"),
                '%' => push_text(&mut parts, "%"),
                letter => parts.push(Part::simple(letter)?),
            }
            rest = letters.as_str();
        }
        push_text(&mut parts, rest);
        Some(Self(parts))
    }

    /// Writes `time`; what lies before 1970 is shown as its first moment.
    pub(super) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second_of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        for part in &self.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Year => padded(year, 4, b'0', out),
                Part::YearOfCentury => padded(year % 100, 2, b'0', out),
                Part::Month => padded(month, 2, b'0', out),
                Part::MonthName => named(&MONTHS, month.saturating_sub(1), out),
                Part::Day => padded(day, 2, b'0', out),
                Part::DayPadded => padded(day, 2, b' ', out),
                Part::DayOfYear => padded(day_of_year(year, month, day), 3, b'0', out),
                Part::Weekday => named(&WEEKDAYS, days % 7, out),
                Part::Hour => padded(second_of_day / 3600, 2, b'0', out),
                Part::Minute => padded(second_of_day / 60 % 60, 2, b'0', out),
                Part::Second => padded(second_of_day % 60, 2, b'0', out),
                Part::EpochSeconds => padded(since.as_secs(), 1, b'0', out),
                Part::Fraction(digits) => {
                    let start = out.len();
                    padded(u64::from(since.subsec_nanos()), NANO_DIGITS, b'0', out);
                    out.truncate(start + digits);
                }
            }
        }
    }
}

impl Part {
    const fn simple(letter: char) -> Option<Self> {
        Some(match letter {
            'Y' => Self::Year,
            'y' => Self::YearOfCentury,
            'm' => Self::Month,
            'b' => Self::MonthName,
            'd' => Self::Day,
            'e' => Self::DayPadded,
            'j' => Self::DayOfYear,
            'a' => Self::Weekday,
            'H' => Self::Hour,
            'M' => Self::Minute,
            'S' => Self::Second,
            's' => Self::EpochSeconds,
            _ => return None,
        })
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.into()));
    }
}

fn padded(value: u64, width: usize, fill: u8, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    out.extend(std::iter::repeat_n(fill, width.saturating_sub(digits.len())));
    out.extend_from_slice(digits);
}

fn named(names: &[&str], index: u64, out: &mut Vec<u8>) {
    let name = usize::try_from(index).ok().and_then(|index| names.get(index));
    out.extend_from_slice(name.copied().unwrap_or_default().as_bytes());
}

/// Year, month and day of a day number since 1970-01-01, in the Gregorian calendar.
const fn civil(days: u64) -> (u64, u64, u64) {
    // Counted in years that begin in March, so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

const fn day_of_year(year: u64, month: u64, day: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_before = (month * 275 / 9) - 30;
    let shorter_february = if month <= 2 {
        0
    } else if leap {
        1
    } else {
        2
    };
    days_before - shorter_february + day
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shown(format: &str, millis: u64) -> String {
        let mut out = Vec::new();
        let time = UNIX_EPOCH + Duration::from_millis(millis);
        TimeFormat::parse(format).unwrap().write(time, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn specifiers_are_what_envoy_makes_of_them() {
        // The second column was printed by Envoy 1.40 for the same moment.
        let cases = [
            ("%Y/%m/%dT%H:%M:%S%z %s", "2026/11/21T01:20:44+0000 1795224044"),
            ("%s.%3f", "1795224044.716"),
            ("%f", "716000000"),
            ("%6f %9f %1f", "716000 716000000 7"),
            ("%b %a %j %e %Z %y", "Nov Sat 325 21 UTC 26"),
            ("%T %F %R %%", "01:20:44 2026-11-21 01:20 %"),
        ];
        for (format, expected) in cases {
            assert_eq!(shown(format, 1_795_224_044_716), expected, "{format}");
        }
    }

    #[test]
    fn the_calendar_holds_at_its_corners() {
        let day = 86_400_000;
        let cases = [
            (0, "1970-01-01 Thu 001"),
            (19_782 * day, "2024-02-29 Thu 060"),
            (20_088 * day, "2024-12-31 Tue 366"),
            (20_453 * day, "2025-12-31 Wed 365"),
            (11_016 * day, "2000-02-29 Tue 060"),
            (47_540 * day, "2100-02-28 Sun 059"),
            (47_541 * day, "2100-03-01 Mon 060"),
        ];
        for (millis, expected) in cases {
            assert_eq!(shown("%F %a %j", millis), expected);
        }
        assert_eq!(shown("[%e]", 0), "[ 1]");
    }

    #[test]
    fn the_time_before_the_epoch_is_its_beginning() {
        let mut out = Vec::new();
        TimeFormat::rfc3339().write(UNIX_EPOCH - Duration::from_secs(5), &mut out);
        assert_eq!(out, b"1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn unknown_specifiers_are_refused() {
        for format in ["%Q", "%", "%3", "%3S", "%0f", "%E3S"] {
            assert_eq!(TimeFormat::parse(format), None, "{format}");
        }
    }
}
