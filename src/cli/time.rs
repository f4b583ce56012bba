//! A point in time as a calendar date in UTC, and lengths of time for people.

use std::time::{SystemTime, UNIX_EPOCH};

/// A date and a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Utc {
    year: u64,
    month: u64,
    day: u64,
    second_of_day: u64,
}

impl From<SystemTime> for Utc {
    /// Times before 1970 are shown as its first second; nothing of ours is older.
    fn from(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |duration| duration.as_secs());
        // Days to a civil date by Howard Hinnant's algorithm (chrono-compatible low-level date
        // algorithms, civil_from_days): years begin in March, eras have 400 years.
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        Self { year, month, day, second_of_day: seconds % 86_400 }
    }
}

impl Utc {
    /// `2026-06-01`
    pub(super) fn date(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    /// `2026-06-01T12:00:00Z`
    pub(super) fn rfc3339(self) -> String {
        let (hour, minute, second) = self.clock();
        format!("{}T{hour:02}:{minute:02}:{second:02}Z", self.date())
    }

    /// `6/1/2026, 12:00:00 PM`
    pub(super) fn american(self) -> String {
        let (hour, minute, second) = self.clock();
        let half = if hour < 12 { "AM" } else { "PM" };
        let hour = if hour % 12 == 0 { 12 } else { hour % 12 };
        let Self { year, month, day, .. } = self;
        format!("{month}/{day}/{year}, {hour}:{minute:02}:{second:02} {half}")
    }

    fn clock(self) -> (u64, u64, u64) {
        (self.second_of_day / 3600, self.second_of_day / 60 % 60, self.second_of_day % 60)
    }
}

/// `2m`, `3d`: the largest unit that fits.
pub(super) fn rough_duration(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{}s", seconds.max(0)),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| Utc::from(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0).rfc3339(), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399).rfc3339(), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400).rfc3339(), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_780_315_200).rfc3339(), "2026-06-01T12:00:00Z");
        assert_eq!(at(1_780_315_200).american(), "6/1/2026, 12:00:00 PM");
        assert_eq!(at(1_780_272_000).american(), "6/1/2026, 12:00:00 AM");
    }

    #[test]
    fn rough_durations_take_the_largest_unit() {
        let texts: Vec<_> = [-1, 59, 60, 7199, 86_400].map(rough_duration).into();
        assert_eq!(texts, ["0s", "59s", "1m", "1h", "1d"]);
    }
}
