//! A clock that is off, each way: both clocks are named, and the token is good for another try.

use super::{failed, hospitable, join, run, said};
use proximity_agent::cli::exit;
use proximity_tests::{authority::Dates, fleet::LoneNode, impostor::Impostor, wrong_clock::WrongClock};
use time::{Duration, OffsetDateTime};

fn words(at: OffsetDateTime) -> String {
    format!("{}-{:02}-{:02} ", at.year(), u8::from(at.month()), at.day())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_a_day_off() {
    let lone = LoneNode::create().unwrap();
    for (ahead, which) in [(1, "it is behind by a day"), (-1, "it is ahead by a day")] {
        let impostor = Impostor::listen().unwrap().with_clock(Duration::days(ahead)).unwrap();
        let (impostor, _serving) = hospitable(impostor);
        let output = run(join(&lone.node, &impostor.token().unwrap(), &[]));
        let now = OffsetDateTime::now_utc();
        failed(
            &lone.node,
            &output,
            exit::CLOCKS_DIFFER,
            &[
                which,
                "this machine's clock says",
                &words(now),
                "the coordinator's says",
                &words(now + Duration::days(ahead)),
                "timedatectl",
                "secret was not sent",
            ],
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_older_coordinator_the_certificate_tells() {
    let lone = LoneNode::create().unwrap();
    let now = OffsetDateTime::now_utc();
    for (from, until, which) in [(1, 90, "it is behind"), (-90, -1, "it is ahead")] {
        let dates = Dates {
            from: now + Duration::days(from),
            until: now + Duration::days(until),
        };
        let (impostor, _serving) = hospitable(Impostor::listen().unwrap().of_before(dates).unwrap());
        let output = run(join(&lone.node, &impostor.token().unwrap(), &[]));
        failed(
            &lone.node,
            &output,
            exit::CLOCKS_DIFFER,
            &[which, &words(dates.from), &words(dates.until), &words(now)],
        );
    }
    // One whose certificate is good is joined as ever.
    let (impostor, _serving) = hospitable(Impostor::listen().unwrap().of_before(Dates::default()).unwrap());
    let output = run(join(&lone.node, &impostor.token().unwrap(), &[]));
    assert!(output.status.success(), "{}", said(&output));
}

/// The agent's own clock, set by libfaketime, against a coordinator of the product.
#[tokio::test(flavor = "multi_thread")]
async fn the_machines_own_clock_is_set_wrong() {
    let Some(wrong) = WrongClock::new("a clock that is set wrong") else {
        return;
    };
    use proximity_tests::fleet::{Fleet, FleetSpec};
    let fleet = Fleet::start(&FleetSpec::hollow(0), |_| ()).await.unwrap();
    let lone = LoneNode::create().unwrap();
    let token = fleet.join_token(&serde_json::json!({})).await.unwrap();
    for (offset, which) in [
        ("+1d", "ahead by a day"),
        ("-1d", "behind by a day"),
        ("+100d", "ahead by 100 days"),
    ] {
        let mut command = join(&lone.node, &token, &[]);
        wrong.set(&mut command, offset);
        failed(&lone.node, &run(command), exit::CLOCKS_DIFFER, &[which, "timedatectl"]);
    }
    let output = run(join(&lone.node, &token, &[]));
    assert!(output.status.success(), "the token is good still: {}", said(&output));
    fleet.stop().await.unwrap();
}
