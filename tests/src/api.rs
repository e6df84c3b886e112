//! The HTTP API as a client sees it.

use anyhow::{Context, Result, bail};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use std::time::Duration;

use crate::process::until;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body; `Null` if there was none.
    pub body: Value,
}

impl Answer {
    /// The body, if the status is the expected one.
    pub fn expect(self, status: u16) -> Result<Value> {
        if self.status.as_u16() == status {
            return Ok(self.body);
        }
        bail!("expected HTTP {status}, got {}: {}", self.status, self.body)
    }

    /// The sentence of a refusal, if the status is the expected one.
    pub fn refusal(self, status: u16) -> Result<String> {
        let body = self.expect(status)?;
        Ok(body["detail"]
            .as_str()
            .with_context(|| format!("no detail in {body}"))?
            .to_owned())
    }
}

/// A client with a login.
#[derive(Debug, Clone)]
pub struct Client {
    /// `http://address:port`.
    pub base: String,
    /// Access token.
    pub token: Option<String>,
    http: reqwest::Client,
}

impl Client {
    /// A client without a login.
    pub fn new(base: impl Into<String>) -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()?;
        Ok(Self {
            base: base.into(),
            token: None,
            http,
        })
    }

    /// Logs in.
    pub async fn login(&mut self, username: &str, password: &str) -> Result<()> {
        let body = self
            .post("/api/auth/login", &json!({"username": username, "password": password}))
            .await?
            .expect(200)?;
        self.token = Some(
            body["access_token"]
                .as_str()
                .context("no access_token in the login's answer")?
                .to_owned(),
        );
        Ok(())
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a prepared request.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer> {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await?;
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?
        };
        Ok(Answer { status, headers, body })
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(self.request(Method::GET, path)).await
    }

    /// POST.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// PUT.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// PATCH.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Opens a Server-Sent Events stream.
    pub async fn stream(&self, path: &str) -> Result<reqwest::Response> {
        let response = self
            .request(Method::GET, path)
            .header("accept", "text/event-stream")
            .timeout(Duration::from_secs(3600))
            .send()
            .await?;
        if !response.status().is_success() {
            bail!("{path}: HTTP {}", response.status());
        }
        Ok(response)
    }

    /// Creates an app and answers it.
    pub async fn create_app(&self, catalog_id: &str, hostname: &str) -> Result<Value> {
        self.post("/api/apps", &json!({"catalog_id": catalog_id, "hostname": hostname}))
            .await?
            .expect(201)
    }

    /// Waits until an operation has ended and answers it.
    pub async fn operation_end(&self, id: &str, patience: Duration) -> Result<Value> {
        let path = format!("/api/operations/{id}");
        let mut last = Value::Null;
        let waited = until("the operation's end", patience, async || {
            // A coordinator that is being restarted does not answer; the wait is bounded all the same.
            let Ok(answer) = self.get(&path).await else {
                return Ok(None);
            };
            let operation = answer.expect(200)?;
            last = operation.clone();
            let ended = matches!(operation["state"].as_str(), Some("done" | "undone" | "stuck"));
            Ok(ended.then_some(operation))
        })
        .await;
        waited.with_context(|| format!("the operation is {last:#}"))
    }

    /// Waits until an app has one of the statuses and answers it.
    pub async fn app_status(&self, id: &str, wanted: &[&str], patience: Duration) -> Result<Value> {
        let path = format!("/api/apps/{id}");
        let mut last = Value::Null;
        let waited = until("the app's status", patience, async || {
            let Ok(answer) = self.get(&path).await else {
                return Ok(None);
            };
            let app = answer.expect(200)?;
            last = app.clone();
            Ok(app["status"]
                .as_str()
                .is_some_and(|status| wanted.contains(&status))
                .then_some(app))
        })
        .await;
        waited.with_context(|| format!("wanted {wanted:?}; the app is {last:#}"))
    }
}

/// Gets a page without a login; `None` if nothing answers or the answer is no success.
pub async fn page(url: &str) -> Option<String> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()
        .ok()?;
    let response = client.get(url).send().await.ok()?;
    if !response.status().is_success() {
        return None;
    }
    response.text().await.ok()
}
