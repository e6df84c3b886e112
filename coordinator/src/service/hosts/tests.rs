#![allow(clippy::unwrap_used)]
use super::*;
use crate::{
    clock::SystemClock,
    nodes::{BoxFuture, CommandError, NodeQueries},
    service::Role,
    store::hosts::NetworkRow,
};
use proximity_protocol::ids::NodeId;
use std::{sync::Arc, time::Duration};

/// No agent is there.
struct Nobody;
impl NodeQueries for Nobody {
    fn is_online(&self, _: NodeId) -> bool {
        false
    }
    fn online(&self) -> Vec<NodeId> {
        Vec::new()
    }
    fn round_trip(&self, _: NodeId) -> Option<Duration> {
        None
    }
    fn refresh(&self, _: NodeId) -> BoxFuture<'_, Result<(), CommandError>> {
        Box::pin(async { Err(CommandError::Offline) })
    }
    fn look(
        &self,
        _: NodeId,
        _: proximity_protocol::command::Verb,
        _: Duration,
    ) -> BoxFuture<'_, Result<proximity_protocol::command::Outcome, CommandError>> {
        Box::pin(async { Err(CommandError::Offline) })
    }
    fn disconnect(&self, _: NodeId, _: u32, _: &str) {}
}

async fn hosts() -> (tempfile::TempDir, Hosts) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("registry.db")).await.unwrap();
    (folder, Hosts::new(store, Arc::new(SystemClock), Arc::new(Nobody)))
}

fn caller(role: Role) -> Caller {
    Caller {
        user_id: 1,
        username: "ada".into(),
        role,
        remote: None,
        request_id: None,
    }
}

fn named(name: &str) -> HostInput {
    HostInput {
        name: Some(name.into()),
        ..HostInput::default()
    }
}

fn fields(error: ServiceError) -> Vec<String> {
    let ServiceError::Invalid(wrong) = error else {
        panic!("{error}")
    };
    wrong.into_iter().map(|e| e.loc[1].clone()).collect()
}

#[tokio::test]
async fn a_host_is_made_changed_and_taken_out() {
    let (_folder, hosts) = hosts().await;
    let admin = caller(Role::Admin);
    let made = hosts.create(&admin, named("lab")).await.unwrap();
    assert_eq!(
        (made.port, made.is_active, made.is_default, made.created_by),
        (8006, true, false, Some(1))
    );
    assert!(matches!(
        hosts.create(&admin, named("lab")).await,
        Err(ServiceError::Conflict(_))
    ));
    let second = hosts
        .create(
            &admin,
            HostInput {
                is_default: Some(true),
                ..named("two")
            },
        )
        .await
        .unwrap();
    let change = HostInput {
        is_default: Some(true),
        is_active: Some(false),
        ..HostInput::default()
    };
    let changed = hosts.update(&admin, made.id, change).await.unwrap();
    assert!(changed.is_default && !changed.is_active && changed.name == "lab");
    assert!(
        !hosts.get(&admin, second.id).await.unwrap().is_default,
        "one default at most"
    );
    let rename = hosts.update(&admin, second.id, named("lab")).await;
    assert!(matches!(rename, Err(ServiceError::Conflict(_))));
    hosts.delete(&admin, made.id).await.unwrap();
    assert!(matches!(
        hosts.get(&admin, made.id).await,
        Err(ServiceError::NotFound(_))
    ));
    assert!(matches!(
        hosts.delete(&admin, made.id).await,
        Err(ServiceError::NotFound(_))
    ));
}

#[tokio::test]
async fn each_has_what_its_role_allows() {
    let (_folder, hosts) = hosts().await;
    let id = hosts.create(&caller(Role::Admin), named("lab")).await.unwrap().id;
    for role in [Role::Viewer, Role::User, Role::Operator] {
        let caller = caller(role);
        assert_eq!(hosts.list(&caller).await.unwrap().len(), 1);
        assert!(matches!(
            hosts.create(&caller, named("x")).await,
            Err(ServiceError::Forbidden(_))
        ));
        assert!(matches!(
            hosts.update(&caller, id, named("x")).await,
            Err(ServiceError::Forbidden(_))
        ));
        assert!(matches!(
            hosts.delete(&caller, id).await,
            Err(ServiceError::Forbidden(_))
        ));
        let network = hosts.set_network(&caller, id, HostNetworkInput::default()).await;
        assert!(matches!(network, Err(ServiceError::Forbidden(_))));
        assert_eq!(hosts.test(&caller, id).await.is_ok(), role == Role::Operator);
        assert_eq!(hosts.sync_nodes(&caller, id).await.is_ok(), role == Role::Operator);
    }
}

#[tokio::test]
async fn bad_fields_are_named_before_a_missing_host() {
    let (_folder, hosts) = hosts().await;
    let admin = caller(Role::Admin);
    let bad = HostInput {
        name: Some(String::new()),
        host: Some("a b".into()),
        port: Some(0),
        ..HostInput::default()
    };
    assert_eq!(
        fields(hosts.create(&admin, bad.clone()).await.unwrap_err()),
        ["name", "host", "port"]
    );
    assert_eq!(
        fields(hosts.update(&admin, 99, bad).await.unwrap_err()),
        ["name", "host", "port"]
    );
    assert_eq!(
        fields(hosts.create(&admin, HostInput::default()).await.unwrap_err()),
        ["name"]
    );
    let no_pool = HostNetworkInput {
        address_mode: Some("static".into()),
        ..HostNetworkInput::default()
    };
    assert_eq!(
        fields(hosts.set_network(&admin, 99, no_pool).await.unwrap_err()),
        ["pool_first", "pool_last"]
    );
}

#[tokio::test]
async fn a_network_is_checked_as_a_whole_and_kept() {
    let (_folder, hosts) = hosts().await;
    let admin = caller(Role::Admin);
    let id = hosts.create(&admin, named("lab")).await.unwrap().id;
    let fresh = hosts.network(&admin, id).await.unwrap();
    assert_eq!((fresh.address_mode.as_str(), fresh.bridge), ("dhcp", None));
    let good = HostNetworkInput {
        bridge: Some("vmbr1".into()),
        vlan: Some(7),
        address_mode: Some("static".into()),
        subnet: Some("10.9.0.0/24".into()),
        pool_first: Some("10.9.0.10".into()),
        pool_last: Some("10.9.0.99".into()),
        exclusions: vec!["10.9.0.12".into(), "10.9.0.20-10.9.0.30".into()],
        gateway: Some("10.9.0.1".into()),
        dns: vec!["10.9.0.2".into()],
    };
    let set = hosts.set_network(&admin, id, good.clone()).await.unwrap();
    assert_eq!(hosts.network(&admin, id).await.unwrap(), set);
    type Spoil = fn(&mut HostNetworkInput);
    let spoils: [(&str, Spoil); 11] = [
        ("bridge", |n| n.bridge = Some("a bridge".into())),
        ("vlan", |n| n.vlan = Some(4095)),
        ("address_mode", |n| n.address_mode = Some("manual".into())),
        ("subnet", |n| n.subnet = Some("10.9.0.0".into())),
        ("pool_first", |n| n.pool_first = Some("10.8.0.10".into())),
        ("pool_last", |n| n.pool_last = Some("10.9.0.9".into())),
        ("pool_last", |n| n.pool_last = None),
        ("exclusions", |n| n.exclusions = vec!["10.9.0.30-10.9.0.20".into()]),
        ("gateway", |n| n.gateway = Some("10.9.1.1".into())),
        ("dns", |n| n.dns = vec!["dns.example.org".into()]),
        ("dns", |n| n.dns = vec!["10.9.0.2".into(); 4]),
    ];
    for (field, spoil) in spoils {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert_eq!(fields(hosts.set_network(&admin, id, bad).await.unwrap_err()), [field]);
    }
    assert_eq!(
        hosts.network(&admin, id).await.unwrap(),
        set,
        "a refused change changed something"
    );
    let row: NetworkRow = rows::network(&mut hosts.store.read().await.unwrap(), id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.exclusions, r#"["10.9.0.12","10.9.0.20-10.9.0.30"]"#);
}
