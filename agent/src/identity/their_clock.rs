//! What time it is at the coordinator, and whether that is the time here.
//!
//! Asked on a connection of its own on which nothing secret is said: whoever answers has shown the trusted authority and its own name, with whatever dates.

use super::{clock::date, frames, judge::Dates};
use proximity_protocol::{
    VERSION_MIN,
    enquiry::{Enquiry, EnquiryReply},
};
use quinn::Connection;
use std::{fmt, time::Duration};
use time::OffsetDateTime;

/// How far the two clocks may be apart. Certificates of nodes begin an hour before they are given.
const APART_MAX: time::Duration = time::Duration::minutes(30);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What is known of the coordinator's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TheirTime {
    /// It said so.
    Told(OffsetDateTime),
    /// It is older than the question; its certificate was made and is used at some time between these.
    Between(OffsetDateTime, OffsetDateTime),
}

/// The clocks differ by more than certificates bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClocksDiffer {
    /// This machine's clock.
    pub here: OffsetDateTime,
    /// The coordinator's.
    pub there: TheirTime,
}

impl fmt::Display for ClocksDiffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this machine's clock says {}", date(self.here))?;
        let ahead = match self.there {
            TheirTime::Told(there) => {
                write!(f, ", the coordinator's says {}", date(there))?;
                self.here > there
            }
            TheirTime::Between(from, until) => {
                write!(
                    f,
                    ", and the coordinator's certificate is valid from {} to {} by its own clock",
                    date(from),
                    date(until)
                )?;
                self.here > until
            }
        };
        let (word, by) = match (ahead, self.apart()) {
            (true, Some(apart)) => ("ahead", format!(" by {apart}")),
            (false, Some(apart)) => ("behind", format!(" by {apart}")),
            (true, None) => ("ahead", String::new()),
            (false, None) => ("behind", String::new()),
        };
        write!(f, ": it is {word}{by}, or the coordinator's is wrong")
    }
}

impl ClocksDiffer {
    /// In days, hours or minutes.
    fn apart(&self) -> Option<String> {
        let TheirTime::Told(there) = self.there else {
            return None;
        };
        // To the nearest minute: a question takes a moment.
        let apart = (self.here - there).abs() + time::Duration::seconds(30);
        Some(match (apart.whole_days(), apart.whole_hours()) {
            (0, 0) => format!("{} minutes", apart.whole_minutes()),
            (0, 1) => "an hour".to_owned(),
            (0, hours) => format!("{hours} hours"),
            (1, _) => "a day".to_owned(),
            (days, _) => format!("{days} days"),
        })
    }
}

/// Asks; `None` if the coordinator does not know the question, or does not answer it.
pub(super) async fn ask(connection: &Connection) -> Option<OffsetDateTime> {
    let asked = async {
        let (mut send, mut recv) = connection.open_bi().await.ok()?;
        frames::write(&mut send, VERSION_MIN, &Enquiry::Clock).await.ok()?;
        send.finish().ok()?;
        frames::read::<EnquiryReply>(&mut recv).await.ok()?
    };
    let EnquiryReply::Clock { unix_ms } = tokio::time::timeout(ANSWER, asked).await.ok()??;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000).ok()
}

/// Judges the two clocks by what was told, else by the dates of the coordinator's certificate.
pub(crate) fn judge(
    here: OffsetDateTime,
    told: Option<OffsetDateTime>,
    certificate: Option<Dates>,
) -> Result<(), ClocksDiffer> {
    let there = match (told, certificate) {
        (Some(there), _) if (here - there).abs() > APART_MAX => TheirTime::Told(there),
        (None, Some(dates)) if !(dates.not_before..=dates.not_after).contains(&here) => {
            TheirTime::Between(dates.not_before, dates.not_after)
        }
        _ => return Ok(()),
    };
    Err(ClocksDiffer { here, there })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use time::{Duration, macros::datetime};

    #[test]
    fn both_clocks_are_named_and_which_is_ahead() {
        let there = datetime!(2026-03-01 12:00 UTC);
        let validity = Some(Dates {
            not_before: there - Duration::days(1),
            not_after: there + Duration::days(90),
        });
        for (here, words) in [
            (there + Duration::days(1), "ahead by a day"),
            (there - Duration::days(1), "behind by a day"),
            (there + Duration::minutes(31), "ahead by 31 minutes"),
            (there - Duration::hours(5), "behind by 5 hours"),
            (there + Duration::days(400), "ahead by 400 days"),
        ] {
            let text = judge(here, Some(there), validity).unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
            assert!(
                text.contains("2026-03-01 12:00 UTC") && text.contains(&date(here)),
                "{text}"
            );
        }
        for apart in [Duration::minutes(29), Duration::ZERO, -Duration::minutes(29)] {
            judge(there + apart, Some(there), validity).unwrap();
        }
    }

    #[test]
    fn without_an_answer_the_certificate_tells() {
        let made = datetime!(2026-03-01 12:00 UTC);
        let validity = Some(Dates {
            not_before: made,
            not_after: made + Duration::days(90),
        });
        let text = |here| judge(here, None, validity).unwrap_err().to_string();
        assert!(text(made - Duration::hours(1)).contains("behind"));
        assert!(text(made + Duration::days(91)).contains("ahead"));
        judge(made + Duration::days(1), None, validity).unwrap();
        judge(made, None, None).unwrap();
    }
}
