//! Whether each address of the coordinator answers over UDP, and how large a datagram the way carries.

use super::Finding;
use crate::identity::{
    Identity,
    dial::DialError,
    probe::{Answer, probe_all},
};
use proximity_protocol::close;
use std::time::Duration;
use time::OffsetDateTime;

const CHECK: &str = "coordinator";
/// Less than the bound of all checks, so that each address gets a sentence of its own.
const EACH: Duration = Duration::from_secs(9);
/// Below this every message of some size is cut into needlessly many pieces: a tunnel or a wrong MTU is in the way.
const DATAGRAM_GOOD_BYTES: u16 = 1280;

pub(super) async fn check(identity: Option<&Identity>) -> Vec<Finding> {
    let Some(identity) = identity else {
        return vec![Finding::warn(
            CHECK,
            "not asked, because this machine has no identity that could be used",
            "join first: make a join token at the coordinator and run `proximity-agent join`",
        )];
    };
    let answers = match probe_all(identity, EACH).await {
        Ok(answers) => answers,
        Err(error) => {
            return vec![Finding::fail(
                CHECK,
                format!("the identity cannot be used for a connection: {error}"),
                "join again with a new join token and --take-over",
            )];
        }
    };
    let now = OffsetDateTime::now_utc();
    let reached = answers
        .iter()
        .any(|(_, answer)| matches!(answer, Some(Ok(answer)) if answer.hung_up.is_none()));
    answers
        .iter()
        .map(|(address, answer)| match answer {
            Some(Ok(answer)) => of_answer(address, answer, now),
            Some(Err(error)) => of_error(address, error, reached),
            None => not_reached(
                address,
                &format!("no answer within {} s", EACH.as_secs()),
                BY_UDP.to_owned(),
                reached,
            ),
        })
        .collect()
}

fn of_answer(address: &str, answer: &Answer, now: OffsetDateTime) -> Finding {
    let at = format!("{address} ({})", answer.socket);
    if let Some((code, words)) = &answer.hung_up {
        let todo = match *code {
            close::REVOKED => {
                "this node was revoked there: if it should come back, join again with a new join token and --take-over"
            }
            close::CLONED => {
                "this identity is alive on another machine too: find that machine, then join anew on one of the two"
            }
            _ => "look at the coordinator's log",
        };
        return Finding::fail(CHECK, format!("{at} answers and hangs up: {words}"), todo);
    }
    if answer.datagram_bytes < DATAGRAM_GOOD_BYTES {
        return Finding::warn(
            CHECK,
            format!(
                "{at} answers, but only datagrams of {} bytes come through",
                answer.datagram_bytes
            ),
            "look for a tunnel or a wrong MTU between this node and the coordinator: `ping -M do -s 1400 <address>`",
        );
    }
    if let Some((_, not_after)) = answer.validity
        && not_after - now < time::Duration::days(3)
    {
        return Finding::warn(
            CHECK,
            format!("{at} answers, but its certificate ends on {not_after}"),
            "restart the coordinator, which makes a new one; if this clock is ahead, set it",
        );
    }
    Finding::ok(
        CHECK,
        format!(
            "{at} answered within {} ms, and datagrams of {} bytes come through",
            answer.handshake.as_millis(),
            answer.datagram_bytes
        ),
    )
}

const BY_UDP: &str =
    "is the coordinator running, and does every firewall on the way let UDP through to that port in both directions?";

/// Whether a handshake failed for the dates of a certificate.
fn is_about_time(error: &str) -> bool {
    let error = error.to_ascii_lowercase();
    ["expired", "not valid yet", "notvalidyet"]
        .iter()
        .any(|word| error.contains(word))
}

fn of_error(address: &str, error: &DialError, another_answers: bool) -> Finding {
    let says = error.to_string();
    let todo = match error {
        DialError::Resolve { .. } => {
            "the name does not resolve: look at /etc/resolv.conf and at `getent hosts`, or join with an address of numbers"
                .to_owned()
        }
        DialError::Unseen { socket, sight } => sight.advice(socket),
        _ if is_about_time(&says) => {
            "a certificate's dates do not fit this machine's clock: see the check `clock`, and compare `date -u` here and there"
                .to_owned()
        }
        _ if says.contains("invalid peer certificate") => {
            "whoever answers is not the coordinator that this node joined; nothing was told to it: look at what listens at that address"
                .to_owned()
        }
        _ => BY_UDP.to_owned(),
    };
    not_reached(address, &says, todo, another_answers)
}

/// One address that answers is enough for the link: then another that does not is only worth a look.
fn not_reached(address: &str, why: &str, todo: String, another_answers: bool) -> Finding {
    let says = format!("{address} is not reached: {why}");
    if another_answers {
        Finding::warn(CHECK, says, todo)
    } else {
        Finding::fail(CHECK, says, todo)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{doctor::Level, identity::Sight};

    fn answer() -> Answer {
        let now = OffsetDateTime::UNIX_EPOCH;
        Answer {
            socket: "127.0.0.1:4433".parse().unwrap(),
            handshake: Duration::from_millis(3),
            datagram_bytes: 1452,
            validity: Some((now, now + time::Duration::days(90))),
            hung_up: None,
        }
    }

    #[test]
    fn an_answer_is_judged() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let level = |answer: &Answer, now| of_answer("c:4433", answer, now).level;
        assert_eq!(level(&answer(), now), Level::Ok);
        assert_eq!(level(&answer(), now + time::Duration::days(89)), Level::Warn);
        let narrow = Answer {
            datagram_bytes: 1200,
            ..answer()
        };
        assert_eq!(level(&narrow, now), Level::Warn);
        let revoked = Answer {
            hung_up: Some((close::REVOKED, "the certificate is revoked".into())),
            ..answer()
        };
        let finding = of_answer("c:4433", &revoked, now);
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.todo.unwrap().contains("--take-over"));
    }

    #[test]
    fn each_reason_has_its_own_advice() {
        let todo = |error: DialError| of_error("c:4433", &error, false).todo.unwrap();
        let tls = |words: &str| DialError::Tls(words.into());
        assert!(todo(tls("invalid peer certificate: certificate not valid yet")).contains("date -u"));
        assert!(todo(tls("invalid peer certificate: UnknownIssuer")).contains("not the coordinator"));
        let unresolved = DialError::Resolve {
            address: "c".into(),
            why: "no".into(),
        };
        assert!(todo(unresolved).contains("resolv.conf"));
        let socket = "127.0.0.1:1".parse().unwrap();
        let dropped = DialError::Unseen {
            socket,
            sight: Sight::OnlyTcp,
        };
        assert!(todo(dropped).contains("in both directions"));
        let silent = DialError::NoAnswer { socket, after_s: 5 };
        assert!(todo(silent).contains("UDP"));
        let another = of_error("c:4433", &tls("no"), true);
        assert_eq!(another.level, Level::Warn);
    }
}
