use super::{
    super::intake::{Decision, Known, decide},
    command, install, start, target,
};
use proximity_protocol::{
    command::{Outcome, Verb},
    fault::{Fault, FaultKind},
    ids::Epoch,
};

fn kind(decision: Decision) -> FaultKind {
    match decision {
        Decision::Refuse(fault) => fault.kind,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn an_older_run_of_the_coordinator_is_refused_even_for_what_is_recorded() {
    let command = start(1, 100);
    let recorded = Ok(Outcome::Done);
    for known in [Known::Nothing, Known::Running(&command), Known::Finished(&recorded)] {
        assert_eq!(kind(decide(&command, Epoch(6), known, false)), FaultKind::OldEpoch);
    }
    assert_eq!(decide(&command, Epoch(5), Known::Nothing, false), Decision::Begin);
    assert_eq!(decide(&command, Epoch(4), Known::Nothing, false), Decision::Begin);
}

#[test]
fn a_repeated_command_is_never_begun_again() {
    let command = start(1, 100);
    assert_eq!(
        decide(&command, Epoch(5), Known::Running(&command), false),
        Decision::Attach
    );
    for recorded in [Ok(Outcome::Done), Err(Fault::new(FaultKind::ToolFailed, "no"))] {
        assert_eq!(
            decide(&command, Epoch(5), Known::Finished(&recorded), false),
            Decision::Answer(recorded.clone())
        );
    }
}

#[test]
fn one_name_for_two_acts_is_refused() {
    let (running, other) = (start(1, 100), start(1, 101));
    assert_eq!(
        kind(decide(&other, Epoch(5), Known::Running(&running), false)),
        FaultKind::Malformed
    );
}

#[test]
fn a_stopping_agent_takes_nothing_new_but_still_answers() {
    let command = start(1, 100);
    assert_eq!(
        kind(decide(&command, Epoch(5), Known::Nothing, true)),
        FaultKind::ShuttingDown
    );
    assert_eq!(
        decide(&command, Epoch(5), Known::Running(&command), true),
        Decision::Attach
    );
    assert_eq!(
        decide(&command, Epoch(5), Known::Finished(&Ok(Outcome::Done)), true),
        Decision::Answer(Ok(Outcome::Done))
    );
}

#[test]
fn looks_are_not_journaled() {
    let look = command(1, "look", Verb::Inventory);
    assert_eq!(decide(&look, Epoch(5), Known::Nothing, false), Decision::Look);
}

#[test]
fn numbers_out_of_bounds_are_refused() {
    let mut recipe = install(1, "x");
    if let Verb::InstallRecipe { recipe, .. } = &mut recipe.verb {
        recipe.install_timeout_s = 0;
    }
    let address = [10, 0, 0, 9].into();
    let verbs = [
        recipe.verb,
        Verb::EnsureStopped {
            target: target(100),
            timeout_s: 601,
        },
        Verb::AwaitNetwork {
            target: target(100),
            expect: None,
            timeout_s: 0,
        },
        Verb::AwaitHealthy {
            target: target(100),
            timeout_s: 3_601,
        },
        Verb::EnsurePublished {
            target: target(100),
            public_port: 0,
            address,
            port: 80,
        },
        Verb::EnsurePublished {
            target: target(100),
            public_port: 30_000,
            address,
            port: 0,
        },
        Verb::EnsurePublished {
            target: target(100),
            public_port: 30_000,
            address: [0, 0, 0, 0].into(),
            port: 80,
        },
        Verb::EnsureUnpublished {
            target: target(100),
            public_port: 0,
        },
    ];
    for verb in verbs {
        let name = verb.name();
        let refused = kind(decide(&command(1, "act", verb), Epoch(5), Known::Nothing, false));
        assert_eq!(refused, FaultKind::Malformed, "{name}");
    }
}
