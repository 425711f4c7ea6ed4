//! The day that templates are told: some print it ahead of a conversation.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Years that are printed with four digits.
const YEARS: RangeInclusive<u16> = 1000..=9999;

/// Which day templates are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PromptDate {
    /// The day of the request, in UTC: boards rarely know better.
    #[default]
    Today,
    /// None; what a template prints then is its own affair.
    None,
    /// Always the same one, so that prompts stay the same.
    Fixed(Day),
}

/// A day of the calendar, written as `26 Jul 2024`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    year: u16,
    /// 1 to 12.
    month: u8,
    /// 1 to 31, as the month has them.
    day: u8,
}

/// Why a text is not a [`PromptDate`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not today, none or a day such as 26 Jul 2024")]
pub struct BadDate(pub String);

impl PromptDate {
    /// The day that a request is told which comes now.
    pub fn at(self, now: SystemTime) -> Option<Day> {
        match self {
            Self::Today => Some(Day::of(now)),
            Self::None => None,
            Self::Fixed(day) => Some(day),
        }
    }
}

impl Day {
    /// The day of a time, in UTC.
    pub fn of(time: SystemTime) -> Self {
        let days = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
        // Days are counted from 1 March of the year 0, so that a leap day is the last of its year.
        let days = days + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let year = era * 400 + year_of_era + u64::from(month >= 10);
        let small = |number: u64| u8::try_from(number).unwrap_or(1);
        Self {
            year: u16::try_from(year).unwrap_or(u16::MAX),
            month: small((month + 2) % 12 + 1),
            day: small(day),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (day, month, year) = (words.next()?, words.next()?, words.next()?);
        let month = (1..).zip(MONTHS).find(|(_, name)| *name == month)?.0;
        let (day, year) = (day.parse().ok()?, year.parse().ok()?);
        let date = Self { year, month, day };
        let fits = (1..=date.days_of_month()).contains(&day) && YEARS.contains(&year);
        (fits && words.next().is_none()).then_some(date)
    }

    fn days_of_month(self) -> u8 {
        let Self { year, month, day: _ } = self;
        match month {
            2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day } = self;
        let month = MONTHS[usize::from(month.clamp(&1, &12) - 1)];
        write!(f, "{day:02} {month} {year:04}")
    }
}

impl fmt::Display for PromptDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Today => f.write_str("today"),
            Self::None => f.write_str("none"),
            Self::Fixed(day) => day.fmt(f),
        }
    }
}

impl FromStr for PromptDate {
    type Err = BadDate;

    fn from_str(text: &str) -> Result<Self, BadDate> {
        match text {
            "today" => Ok(Self::Today),
            "none" => Ok(Self::None),
            _ => Day::parse(text).map(Self::Fixed).ok_or_else(|| BadDate(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| Day::of(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
        assert_eq!(at(0), "01 Jan 1970");
        assert_eq!(at(951_782_400), "29 Feb 2000");
        assert_eq!(at(1_721_952_000), "26 Jul 2024");
        assert_eq!(at(1_735_689_599), "31 Dec 2024");
        assert_eq!(at(1_735_689_600), "01 Jan 2025");
    }

    #[test]
    fn a_date_is_today_none_or_a_day_that_there_is() {
        let now = UNIX_EPOCH + Duration::from_secs(951_782_400);
        let told = |text: &str| {
            let date = text.parse::<PromptDate>().map_err(|error| error.to_string())?;
            Ok::<_, String>(date.at(now).map(|day| day.to_string()))
        };
        assert_eq!(told("today"), Ok(Some("29 Feb 2000".to_owned())));
        assert_eq!(told("none"), Ok(None));
        assert_eq!(told("1 Jul 2024"), Ok(Some("01 Jul 2024".to_owned())));
        assert_eq!(told("29 Feb 2024"), Ok(Some("29 Feb 2024".to_owned())));
        for bad in [
            "",
            "Today",
            "26 Jul",
            "26 July 2024",
            "2024-07-26",
            "0 Jul 2024",
            "31 Jun 2024",
            "29 Feb 2023",
            "29 Feb 2100",
            "1 Jan 24",
            "1 Jan 99999",
            "1 Jan 2024 x",
        ] {
            let why = format!("`{bad}` is not today, none or a day such as 26 Jul 2024");
            assert_eq!(told(bad), Err(why));
        }
        for shown in ["today", "none", "26 Jul 2024"] {
            assert_eq!(shown.parse::<PromptDate>().map(|date| date.to_string()).as_deref(), Ok(shown));
        }
    }
}
