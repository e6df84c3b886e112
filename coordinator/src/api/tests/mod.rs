//! The router with everything behind it but the nodes, which are the engine's in-memory fleet.
#![allow(clippy::unwrap_used)]

mod adoption;
mod apps;
mod auth;
mod catalog;
mod every_kind;
mod proxmox;
mod schedules;
mod settings;
mod shapes;
mod streams;
mod upkeep;

use super::*;
use crate::{
    auth::{passwords::Passwords, sessions::Sessions, setup_code::SetupCode, tokens::Signer},
    clock::SharedClock,
    domain::{catalog::Catalog, catalog::SharedCatalog, role::Role},
    operations::tests::world::World,
    service::{apps::AppsDeps, users::UserService},
};
use axum::body::Body;
use axum::http::{HeaderMap, Method};
use proximity_protocol::secret::SecretText;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tower::ServiceExt as _;

const NGINX: &str = r#"{"id": "nginx", "name": "Nginx", "description": "Lightweight web server", "version": "1.22", "category": "Web",
  "tags": ["proxy"], "ports": {"http": 80}, "min_memory": 256, "min_disk": 2, "env_vars": {"PAGE_TITLE": {"default": "Hello", "pattern": "[^<]{1,20}"}},
  "deploy": {"kind": "native", "template": "debian-12-standard", "install": "apt-get install -y nginx", "health": "curl -sf localhost"}}"#;

pub(super) struct TestApi {
    pub(super) world: World,
    pub(super) api: Api,
    pub(super) users: UserService,
    pub(super) setup: SetupCode,
    pub(super) folder: PathBuf,
    _dir: tempfile::TempDir,
}

pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {:?}", self.text))
    }
    #[track_caller]
    pub(super) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json()
    }
    /// Every refusal is a problem document of its status, and its id is that of the header.
    #[track_caller]
    pub(super) fn problem(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let body = self.json();
        assert_eq!(body["status"], status);
        for field in ["type", "title", "detail"] {
            assert!(!body[field].as_str().unwrap().is_empty(), "{field}: {body}");
        }
        assert_eq!(body["request_id"], self.headers["x-request-id"].to_str().unwrap());
        body
    }
    pub(super) fn cookies(&self) -> Vec<String> {
        let all = self.headers.get_all("set-cookie");
        all.iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    }
}

/// The places that a 422 names.
pub(super) fn locs(body: &Value) -> Vec<String> {
    body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            e["loc"]
                .as_array()
                .unwrap()
                .last()
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

impl TestApi {
    /// Two nodes, no user.
    pub(super) async fn new() -> Self {
        Self::over(World::new(2, false).await).await
    }

    /// Over that world, without its users.
    pub(super) async fn over(world: World) -> Self {
        let mut tx = world.store.begin().await.unwrap();
        sqlx::query("DELETE FROM users").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("catalog");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("nginx.json"), NGINX).unwrap();
        let clock: SharedClock = Arc::new(world.clock.clone());
        let passwords = Passwords::default();
        let setup = SetupCode::new(dir.path());
        let sessions = Sessions::new(world.store.clone(), clock.clone(), Signer::open(dir.path()).unwrap());
        let catalog = SharedCatalog::new(Catalog::parse([("nginx.json", NGINX.as_bytes())]).unwrap());
        let users = UserService::new(world.store.clone(), clock.clone(), passwords.clone(), setup.clone());
        let api = Api {
            audit: Arc::new(crate::service::audit::Audit::new(world.store.clone(), clock.clone())),
            auth: AuthService::new(world.store.clone(), clock.clone(), passwords, sessions, setup.clone()),
            settings: SettingsService::new(world.store.clone(), clock.clone()),
            catalog: CatalogService::new(catalog.clone(), folder.clone(), world.store.clone(), clock.clone()),
            system: SystemService::new(world.store.clone(), world.queries(), catalog.clone(), &clock),
            apps: Apps::new(AppsDeps {
                store: world.store.clone(),
                engine: world.engine(1),
                queries: world.queries(),
                live: crate::live::Live::default(),
                inventories: world.inventories.clone(),
                catalog,
                clock,
                bus: world.bus.clone(),
                secrets: world.secrets.clone(),
            }),
            schedules: crate::service::schedules::Schedules::new(
                world.store.clone(),
                Arc::new(world.clock.clone()),
                jiff::tz::TimeZone::UTC,
                Arc::default(),
            ),
            operations: Operations::new(world.store.clone(), world.engine(1)),
            upkeep: Upkeep::new(
                world.store.clone(),
                Arc::new(world.clock.clone()),
                Arc::default(),
                Arc::default(),
            ),
            rescue: Rescue::new(
                world.store.clone(),
                Arc::new(world.clock.clone()),
                Some((world.engine(1), world.bus.clone())),
            ),
            hosts: Hosts::new(world.store.clone(), Arc::new(world.clock.clone()), world.queries()),
            nodes: Nodes::new(
                world.store.clone(),
                Arc::new(world.clock.clone()),
                world.queries(),
                crate::live::Live::default(),
                world.inventories.clone(),
                world.bus.clone(),
            ),
            join_tokens: JoinTokens::new(
                world.store.clone(),
                Arc::new(world.clock.clone()),
                crate::pki::Pki::open(dir.path(), 1_700_000_000_000).unwrap(),
                vec!["192.0.2.9:4433".into()],
            ),
            bus: world.bus.clone(),
            trusted_proxies: TrustedProxies::default(),
            shutdown: CancellationToken::new(),
            stream_check: std::time::Duration::from_millis(100),
        };
        Self {
            world,
            api,
            users,
            setup,
            folder,
            _dir: dir,
        }
    }

    /// The answer as soon as its head is there; the body is not read yet.
    pub(super) async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> axum::response::Response {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        router(self.api.clone())
            .oneshot(request.body(body.into()).unwrap())
            .await
            .unwrap()
    }

    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let response = self.open(method, path, headers, body).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        Reply {
            status,
            headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(super) async fn get(&self, token: &str, path: &str) -> Reply {
        self.send("GET", path, &[("authorization", &format!("Bearer {token}"))], "")
            .await
    }

    pub(super) async fn post(&self, token: &str, path: &str, body: Value) -> Reply {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("content-type", "application/json")];
        if !token.is_empty() {
            headers.push(("authorization", &bearer));
        }
        self.send("POST", path, &headers, body.to_string()).await
    }

    /// Any method, with a body or without.
    pub(super) async fn send_as(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Reply {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.send(method, path, &headers, body).await
    }

    /// Makes a user and logs it in; its access token.
    pub(super) async fn user(&self, name: &str, role: Role) -> String {
        self.users
            .create(name, SecretText::new("password"), role)
            .await
            .unwrap();
        let body = self
            .post("", "/api/auth/login", json!({"username": name, "password": "password"}))
            .await
            .expect(200);
        body["access_token"].as_str().unwrap().to_owned()
    }
}

pub(super) fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}
