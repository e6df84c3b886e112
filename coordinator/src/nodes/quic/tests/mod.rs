//! The listener against agents and intruders that speak QUIC themselves, on loopback.
#![allow(clippy::unwrap_used)]

mod certificates;
mod clones;
mod doors;
mod goodbyes;
mod links;

use super::*;
use crate::{
    clock::SystemClock,
    nodes::{NodeChange, NodeQueries as _},
    pki::NodeKey,
    service::{
        Caller, Role,
        join_tokens::{JoinTokens, NewJoinToken},
        nodes::Nodes,
    },
    store,
};
use proximity_protocol::{
    ALPN_LINK, COORDINATOR_TLS_NAME,
    command::{Command, Reply},
    hello::{Hello, HelloReply, VersionRange},
    ids::{BootId, NodeId, ProcessId},
    observed::NodeFacts,
    token::JoinToken,
};
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::time::Duration;
use tokio::sync::broadcast;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(value) => value,
        Err(_) => panic!("not in time: {what}"),
    }
}

struct World {
    folder: tempfile::TempDir,
    deps: Deps,
    listener: Listener,
}

/// A node's identity, as its agent holds it.
struct Identity {
    node: NodeId,
    name: String,
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

fn facts(name: &str, installation: u8) -> NodeFacts {
    serde_json::from_value(serde_json::json!({
        "node_name": name, "address": "127.0.0.1", "cluster": null, "quorate": true,
        "host_fingerprint": vec![installation; 32], "pve_version": "8.4.1", "kernel": "6.8.12-9-pve", "cpu_count": 4,
        "memory_total_bytes": 8_000_000_000_u64, "storages": [], "bridges": [], "next_id": null,
        "policy": {"vmid_first": 100, "vmid_last": 999_999_999, "port_first": 8000, "port_last": 9000, "storages": [], "bridges": [], "denied_verbs": []},
    }))
    .unwrap()
}

fn request(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default()
        .serialize_request(key)
        .unwrap()
        .der()
        .to_vec()
}

fn hello(name: &str, boot: u128, process: u128) -> Hello {
    Hello {
        versions: VersionRange::OURS,
        agent_version: "0.1.0".into(),
        capabilities: Vec::new(),
        boot: BootId(Uuid::from_u128(boot)),
        process: ProcessId(Uuid::from_u128(process)),
        epoch: Epoch(0),
        facts: facts(name, 1),
        open_jobs: Vec::new(),
    }
}

/// Remembers whether the server ever gave a ticket to resume a session with.
#[derive(Debug, Default)]
struct Tickets(std::sync::atomic::AtomicUsize);

impl rustls::client::ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: rustls_pki_types::ServerName<'static>, _: rustls::NamedGroup) {}
    fn kx_hint(&self, _: &rustls_pki_types::ServerName<'_>) -> Option<rustls::NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: rustls_pki_types::ServerName<'static>, _: rustls::client::Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &rustls_pki_types::ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &rustls_pki_types::ServerName<'static>) {}
    fn insert_tls13_ticket(
        &self,
        _: rustls_pki_types::ServerName<'static>,
        _: rustls::client::Tls13ClientSessionValue,
    ) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
    fn take_tls13_ticket(
        &self,
        _: &rustls_pki_types::ServerName<'static>,
    ) -> Option<rustls::client::Tls13ClientSessionValue> {
        None
    }
}

fn client(
    ca: &CertificateDer<'static>,
    alpn: &[u8],
    own: Option<(&CertificateDer<'static>, &KeyPair)>,
) -> quinn::ClientConfig {
    client_resuming(ca, alpn, own, rustls::client::Resumption::default())
}

/// A client's settings. Resumption is on, as an intruder would have it.
fn client_resuming(
    ca: &CertificateDer<'static>,
    alpn: &[u8],
    own: Option<(&CertificateDer<'static>, &KeyPair)>,
    resumption: rustls::client::Resumption,
) -> quinn::ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut tls = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder.with_client_auth_cert(vec![certificate.clone()], key).unwrap()
        }
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.enable_early_data = true;
    tls.resumption = resumption;
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_millis(500)));
    config.transport_config(Arc::new(transport));
    config
}

fn endpoint() -> Endpoint {
    Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap()
}

fn admin() -> Caller {
    Caller {
        user_id: 1,
        username: "root".into(),
        role: Role::Admin,
        remote: None,
        request_id: None,
    }
}

/// A connected agent in the hands of a test.
struct FakeAgent {
    connection: Connection,
    control: SendStream,
    notices: RecvStream,
    welcome: proximity_protocol::hello::Welcome,
    _endpoint: Endpoint,
}

impl World {
    async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> Self {
        Self::at(limits, Arc::new(SystemClock)).await
    }

    async fn at(limits: Limits, clock: SharedClock) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let deps = Deps {
            store: Store::open(&folder.path().join("registry.db")).await.unwrap(),
            pki: Pki::open(folder.path(), clock.now_ms()).unwrap(),
            clock,
            live: Live::default(),
            inventories: Inventories::default(),
            bus: Bus::default(),
            epoch: Epoch(7),
        };
        let listener = Listener::bind_with("127.0.0.1:0".parse().unwrap(), deps.clone(), limits).unwrap();
        Self { folder, deps, listener }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    fn nodes(&self) -> Nodes {
        Nodes::new(
            self.deps.store.clone(),
            Arc::clone(&self.deps.clock),
            self.listener.connections(),
            self.deps.live.clone(),
            self.deps.inventories.clone(),
            self.deps.bus.clone(),
        )
    }

    async fn token(&self) -> JoinToken {
        let tokens = JoinTokens::new(
            self.deps.store.clone(),
            Arc::clone(&self.deps.clock),
            self.deps.pki.clone(),
            vec![self.address().to_string()],
        );
        let made = tokens.create(&admin(), NewJoinToken::default()).await.unwrap();
        made.token.expose().parse().unwrap()
    }

    /// A node that is in the registry, without the way there.
    async fn enrolled(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let now = self.deps.clock.now_ms();
        let node = NodeId(Uuid::new_v4());
        let node_key = NodeKey::from_request(&request(&key)).unwrap();
        let issued = self.deps.pki.issue(node, &node_key, now).unwrap();
        let fields = store::hosts::HostFields {
            name: format!("host-{name}"),
            host: String::new(),
            port: 8006,
            is_active: true,
            is_default: false,
        };
        let mut tx = self.deps.store.begin().await.unwrap();
        let known = store::hosts::by_fingerprint(&mut tx, &[1; 32]).await.unwrap();
        let host = match known {
            Some(host) => host.id,
            None => store::hosts::insert(&mut tx, now, None, &fields, Some(&[1; 32]))
                .await
                .unwrap(),
        };
        store::nodes::insert(&mut tx, now, node, host, &facts(name, 1))
            .await
            .unwrap();
        let row = store::certificates::CertificateRow {
            serial: issued.serial,
            node_id: node,
            spki_sha256: node_key.spki_sha256().to_vec(),
            der: issued.der.clone(),
            not_before: issued.not_before,
            not_after: issued.not_after,
            revoked_at: None,
        };
        store::certificates::insert(&mut tx, now, &row).await.unwrap();
        tx.commit().await.unwrap();
        Identity {
            node,
            name: name.into(),
            certificate: CertificateDer::from(issued.der),
            key,
        }
    }

    fn link_config(&self, identity: &Identity) -> quinn::ClientConfig {
        client(
            &self.deps.pki.ca_der(),
            ALPN_LINK,
            Some((&identity.certificate, &identity.key)),
        )
    }

    async fn connect(&self, identity: &Identity, boot: u128, process: u128) -> FakeAgent {
        self.connect_saying(identity, hello(&identity.name, boot, process))
            .await
            .unwrap()
    }

    async fn connect_saying(&self, identity: &Identity, hello: Hello) -> Result<FakeAgent, HelloReply> {
        let endpoint = endpoint();
        let connecting = endpoint
            .connect_with(self.link_config(identity), self.address(), COORDINATOR_TLS_NAME)
            .unwrap();
        let connection = soon("connection", connecting).await.unwrap();
        let (mut control, mut notices) = connection.open_bi().await.unwrap();
        frames::write(&mut control, 1, &hello).await.unwrap();
        match soon("an answer to Hello", frames::read::<HelloReply>(&mut notices))
            .await
            .unwrap()
            .unwrap()
        {
            HelloReply::Welcome(welcome) => Ok(FakeAgent {
                connection,
                control,
                notices,
                welcome,
                _endpoint: endpoint,
            }),
            refused => Err(refused),
        }
    }
}

impl FakeAgent {
    async fn close_code(&self) -> u64 {
        application_code(soon("the end of the connection", self.connection.closed()).await)
    }

    async fn command(&self) -> (Command, SendStream) {
        let (send, mut recv) = soon("a command", self.connection.accept_bi()).await.unwrap();
        let command = soon("a command", frames::read::<Command>(&mut recv))
            .await
            .unwrap()
            .unwrap();
        (command, send)
    }
}

fn application_code(error: ConnectionError) -> u64 {
    match error {
        ConnectionError::ApplicationClosed(closed) => closed.error_code.into_inner(),
        other => panic!("another end than expected: {other}"),
    }
}

async fn next_change(changes: &mut broadcast::Receiver<NodeChange>) -> NodeChange {
    soon("a change", changes.recv()).await.unwrap()
}

async fn reply(send: &mut SendStream, reply: Reply) {
    frames::write(send, 1, &reply).await.unwrap();
}
