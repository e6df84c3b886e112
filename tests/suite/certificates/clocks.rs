//! A clock is set wrong, on either side, forwards and back: links that are up stay up, what cannot connect says which clock it suspects, and once the clock is
//! right again everybody is back with the identity that they had.

use proximity_tests::{
    inside::Inside,
    process::{PATIENCE, until},
};
use serde_json::Value;

/// The agent of that node begins a new connection.
async fn connects_anew(inside: &mut Inside, index: usize) {
    inside.nodes[index].stop().await.unwrap();
    inside.nodes[index].start().unwrap();
}

/// Both sides say that they are linked.
async fn online(inside: &Inside, index: usize, what: &str) -> Value {
    let node = &inside.nodes[index];
    let linked = node.linked().await;
    linked.unwrap_or_else(|error| panic!("{what}: {error:#}"));
    let online = inside.online(&node.node.name).await;
    online.unwrap_or_else(|error| panic!("{what}: {error:#}: {:?}", node.status()))
}

async fn alarm(inside: &Inside, index: usize, words: &str) {
    let name = &inside.nodes[index].node.name;
    let mut last = Value::Null;
    let waited = until("the alarm", PATIENCE, async || {
        last = inside.node(name).await?["alarm"].clone();
        let message = last["message"].as_str().unwrap_or_default();
        Ok(if words.is_empty() {
            last.is_null()
        } else {
            message.contains(words)
        }
        .then_some(()))
    })
    .await;
    assert!(waited.is_ok(), "wanted {words:?}, {name} has {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinators_clock_is_set_wrong() {
    let mut inside = Inside::start(2).await.unwrap();
    let ids: Vec<Value> = inside
        .nodes
        .iter()
        .map(|node| node.identity().unwrap()["node"].clone())
        .collect();
    for (days, suspicion) in [
        (1, None),
        (-1, None),
        (200, Some("the coordinator's clock is ahead of this node's by 19")),
        (-200, Some("the coordinator's clock is behind this node's by 11")),
    ] {
        let what = format!("coordinator set by {days} days");
        inside.clock.set(days);
        inside.login().await.unwrap();
        // The link of the first node is up, and stays so; the second one's agent connects anew.
        connects_anew(&mut inside, 1).await;
        match suspicion {
            None => drop(online(&inside, 1, &what).await),
            Some(words) => {
                let said = inside.nodes[1].says(&["not valid today", words]).await.unwrap();
                assert!(said.contains("this node's fits its own certificate"), "{what}: {said}");
            }
        }
        assert_eq!(online(&inside, 0, &what).await["id"], ids[0], "{what}");
        inside.clock.set(0);
        inside.login().await.unwrap();
        for index in [0, 1] {
            assert_eq!(
                online(&inside, index, &what).await["id"],
                ids[index],
                "{what}, set right again"
            );
            connects_anew(&mut inside, index).await;
            assert_eq!(
                online(&inside, index, &what).await["id"],
                ids[index],
                "{what}, and connected anew"
            );
            alarm(&inside, index, "").await;
        }
    }
    inside.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_clock_is_set_wrong() {
    let mut inside = Inside::start(3).await.unwrap();
    for (days, alarmed, running, anew) in [
        (1, "24 hours ahead of", None, None),
        (-1, "24 hours behind", None, None),
        (
            200,
            "200 days ahead of",
            Some("this node's clock was set ahead by 200 days while the agent was running"),
            Some("this node's clock is ahead of the coordinator's by 11"),
        ),
        (
            -200,
            "200 days behind",
            Some("this node's clock was set back by 200 days while the agent was running"),
            Some("this node's clock is behind: its own certificate was made"),
        ),
    ] {
        let what = format!("node set by {days} days");
        let before = inside.nodes[0].identity().unwrap();
        // The link is up, and stays so: the coordinator sees by the figures what the node's clock says.
        inside.nodes[0].clock.set(days);
        alarm(&inside, 0, alarmed).await;
        alarm(&inside, 1, "").await;
        online(&inside, 0, &what).await;
        if let (Some(running), Some(anew)) = (running, anew) {
            // The coordinator is restarted: the running agent dials.
            inside.stop_coordinator().await.unwrap();
            inside.start_coordinator().await.unwrap();
            inside.nodes[0].says(&[running]).await.unwrap();
            // So is the agent, which cannot know any more that the clock was set.
            connects_anew(&mut inside, 0).await;
            inside.nodes[0].says(&[anew]).await.unwrap();
        } else {
            connects_anew(&mut inside, 0).await;
            online(&inside, 0, &what).await;
        }
        inside.nodes[0].clock.set(0);
        online(&inside, 0, &what).await;
        alarm(&inside, 0, "").await;
        connects_anew(&mut inside, 0).await;
        online(&inside, 0, &what).await;
        let after = inside.nodes[0].identity().unwrap();
        assert_eq!(
            after["certificate_der"], before["certificate_der"],
            "{what}: nothing was lost or renewed"
        );
    }
    inside.stop().await.unwrap();
}
