//! What the nodes of a cluster share: the host, storages and their templates, numbers, pools.

use super::{app, cluster, delete, deploy, settled, tasks};
use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec},
};
use pve_sim::Node;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_one_host_and_its_nodes_deploy() {
    let fleet = Fleet::start(&FleetSpec::hollow(1).with_cluster(3), |_| ())
        .await
        .unwrap();
    let nodes = fleet
        .client
        .get("/api/proxmox/nodes")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let host = |name: &str| {
        let nodes = nodes.as_array().unwrap();
        nodes.iter().find(|node| node["name"] == name).unwrap()["host_id"].clone()
    };
    assert_eq!(host("pve2"), host("pve4"));
    assert_ne!(host("pve1"), host("pve2"));
    let app = fleet.deploy("nginx", "clustered").await.unwrap();
    assert!(page(app["url"].as_str().unwrap()).await.is_some());
    settled(&fleet).await;
    fleet.stop().await.unwrap();
}

/// Two nodes want the same template on the storage that they share, at the same time: it is fetched once.
#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_fetched_once_to_a_shared_storage() {
    let fleet = cluster(2).await;
    let (one, two) = tokio::join!(deploy(&fleet, "one", "pve1"), deploy(&fleet, "two", "pve2"));
    assert_ne!(one["lxc_id"], two["lxc_id"]);
    assert_eq!(tasks(&fleet, "download"), 1);
    settled(&fleet).await;
    fleet.stop().await.unwrap();
}

/// The number of any guest of the cluster is taken, of virtual machines too, and `next-id` is kept to.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_the_clusters_and_pools_are_the_operators() {
    let mut fleet = cluster(2).await;
    let sim = fleet.clusters[0].sim.clone();
    sim.write("datacenter.cfg", "keyboard: en-us\nnext-id: lower=500,upper=600\n")
        .unwrap();
    for vmid in [500, 501] {
        let stranger = Node::open(fleet.nodes[1].root()).unwrap();
        stranger.add_stranger("pve2", "qemu", vmid).unwrap();
    }
    // Told at once when it comes anew, and within seconds else.
    fleet.nodes[0].stop_agent().await.unwrap();
    fleet.nodes[0].start_agent().unwrap();
    fleet.node_online("pve1").await.unwrap();
    let deployed = deploy(&fleet, "numbered", "pve1").await;
    assert_eq!(deployed["lxc_id"], 502);
    let id = deployed["id"].as_str().unwrap();
    let pools = "pool:apps:of the operators:101,502:nas:\npool:rest::500::\n";
    sim.write("user.cfg", pools).unwrap();
    fleet.done(&super::act(&fleet, id, "restart").await).await.unwrap();
    assert_eq!(app(&fleet, id).await.unwrap()["status"], "running");
    assert_eq!(sim.read("user.cfg").unwrap().as_deref(), Some(pools));
    fleet.done(&delete(&fleet, id).await).await.unwrap();
    assert_eq!(
        sim.read("user.cfg").unwrap().as_deref(),
        Some("pool:apps:of the operators:101:nas:\npool:rest::500::\n"),
        "only the destroyed container has left its pool"
    );
    fleet.stop().await.unwrap();
}
