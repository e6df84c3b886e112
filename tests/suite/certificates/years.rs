//! Time passes: two thirds of a certificate's life, all of it, and more than twice of it; with the agent running or not, with the coordinator running or not.

use super::days_left;
use proximity_tests::{
    inside::Inside,
    process::{PATIENCE, until},
    turned_clock::DAY,
};

/// Waits until the node is online with a certificate that was made after `days` had passed.
async fn renewed(inside: &Inside, index: usize, what: &str) {
    let node = &inside.nodes[index];
    let name = &node.node.name;
    let wanted = format!("{what}: {name} online and renewed");
    let view = until(&wanted, PATIENCE, async || {
        let view = inside.node(name).await?;
        Ok((view["status"] == "online" && days_left(inside, &view) >= 88).then_some(view))
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {:?}", node.status()));
    let id = node.identity().unwrap()["node"].clone();
    assert_eq!(view["id"], id, "{what}: the same node as ever");
    // The agent has it too: on the disk, not only in the registry.
    until(
        &format!("{what}: {name} has put its new certificate in place"),
        PATIENCE,
        async || Ok((!node.node.state().join("identity/renewal.json").exists()).then_some(())),
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_61_91_and_200_days_every_node_is_back_by_itself() {
    let mut inside = Inside::start(2).await.unwrap();
    for coordinator_runs in [true, false] {
        for days in [61, 91, 200] {
            let what = format!(
                "{days} days, coordinator {}",
                if coordinator_runs { "up" } else { "down" }
            );
            // The first node's agent runs all the time, the second one's is off.
            inside.nodes[1].stop().await.unwrap();
            if !coordinator_runs {
                inside.stop_coordinator().await.unwrap();
            }
            inside.pass(DAY * days);
            if coordinator_runs {
                inside.login().await.unwrap();
            } else {
                inside.start_coordinator().await.unwrap();
            }
            renewed(&inside, 0, &what).await;
            inside.nodes[1].start().unwrap();
            renewed(&inside, 1, &what).await;
        }
    }
    let nodes = inside
        .client
        .get("/api/proxmox/nodes")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let ids: Vec<&str> = nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 2, "no node had to join again: {nodes:#}");
    inside.stop().await.unwrap();
}
