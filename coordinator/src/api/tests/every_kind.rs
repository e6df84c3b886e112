//! Each kind of operation tells what it does: in events, step by step, and in the app's log, in words. The list of kinds is the engine's.
use super::*;
use crate::operations::{KINDS, step::Kind};
use std::collections::BTreeSet;

/// A line that an operator reads: a sentence, and nothing of the program's own. Besides, what the node's tools say is passed on as it is.
fn is_in_words(line: &str) -> bool {
    if line.starts_with("working on ") {
        return true;
    }
    let begins = line.starts_with(|c: char| c.is_uppercase() || c.is_numeric());
    let programs = ["::", "Some(", "Ok(", "Err(", "{", "}", "\"", "_id"];
    begins && line.contains(' ') && !programs.iter().any(|word| line.contains(word))
}

async fn follow(t: &TestApi, token: &str, kind: &Kind) {
    let id = t.world.queued(kind.name).await;
    t.world.settle(&t.world.engine(1)).await;
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("last-event-id", "0")];
    let reply = t
        .send("GET", &format!("/api/operations/{id}/events"), &headers, "")
        .await;
    assert_eq!(reply.status, 200, "{}: {}", kind.name, reply.text);
    let events: Vec<Value> = reply
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .filter(|event: &Value| event["kind"] == kind.name)
        .collect();
    let last = events.last().unwrap_or_else(|| panic!("{}: no event", kind.name));
    assert_eq!(last["state"], "done", "{}: {last:#}", kind.name);
    let told: BTreeSet<&str> = events.iter().filter_map(|event| event["step"].as_str()).collect();
    let steps: BTreeSet<&str> = kind.steps.iter().map(|step| step.name).collect();
    assert_eq!(told, steps, "{}", kind.name);
    for event in &events {
        let Some(step) = kind.steps.iter().find(|step| event["step"] == step.name) else {
            continue;
        };
        assert_eq!(event["step_title"], step.title, "{}: {event:#}", kind.name);
        assert!(event["step_state"].is_string(), "{}: {event:#}", kind.name);
    }
    let said: Vec<&str> = events.iter().filter_map(|event| event["message"].as_str()).collect();
    assert!(said.len() >= 2, "{}: {said:?}", kind.name);
    for line in &said {
        assert!(is_in_words(line), "{}: {line}", kind.name);
    }

    let path = "/api/apps/nginx-00000001/logs?per_page=200";
    if t.world.app("nginx-00000001").await.is_none() {
        t.get(token, path).await.problem(404);
        return;
    }
    let log = t.get(token, path).await.expect(200);
    let lines = log["logs"].as_array().unwrap();
    assert_eq!(log["total"], lines.len());
    let messages: Vec<&str> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    for (line, message) in lines.iter().zip(&messages) {
        assert!(is_in_words(message), "{}: {message}", kind.name);
        assert_eq!(line["level"], "info", "{}: {line:#}", kind.name);
    }
    // Newest first, and what was streamed stands there.
    assert!(messages[0].ends_with("is done"), "{}: {messages:?}", kind.name);
    assert!(said.iter().all(|line| messages.contains(line)), "{said:?} {messages:?}");
}

#[tokio::test]
async fn each_kind_of_operation_tells_its_steps_in_events_and_in_words() {
    for kind in KINDS {
        let t = TestApi::over(World::of(kind.name).await).await;
        let token = t.user("op", Role::Operator).await;
        follow(&t, &token, kind).await;
    }
}
