//! What an entry is, once its file has been found good.

use proximity_protocol::{
    ids::{ContainerPath, EnvName, TemplatePrefix},
    spec::RecipeFile,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// One app of the catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its id: a DNS label of at most 50 characters.
    pub id: String,
    /// As people call it.
    pub name: String,
    /// In a sentence.
    pub description: String,
    /// Of the app.
    pub version: String,
    /// One word or two.
    pub category: String,
    /// For the search.
    pub tags: Vec<String>,
    /// A file name or a URL.
    pub icon: Option<String>,
    /// A URL.
    pub documentation: Option<String>,
    /// A URL.
    pub homepage: Option<String>,
    /// A URL.
    pub repository: Option<String>,
    /// What a user may give. `environment` of the original format is in here as inputs with a default.
    pub env_vars: BTreeMap<EnvName, Input>,
    /// Ports that the app listens on inside its container, by name.
    pub ports: BTreeMap<String, u16>,
    /// The one of `ports` that is published.
    pub main_port: u16,
    /// Least memory, MiB.
    pub min_memory_mb: u32,
    /// Least CPU cores.
    pub min_cpu: u32,
    /// Least root volume, GiB.
    pub min_disk_gb: u32,
    /// Volumes of their own (native entries).
    pub volumes: Vec<Volume>,
    /// How it is deployed.
    pub deploy: Deploy,
    /// `environment`, `volumes` and `docker_compose` as they stand in the file, for answers.
    pub(super) as_written: AsWritten,
}

/// Fields that are served as they stand in the file.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct AsWritten {
    pub(super) environment: Map<String, Value>,
    pub(super) volumes: Vec<Value>,
    pub(super) docker_compose: Option<Value>,
    pub(super) author: Option<String>,
}

/// A value that a user may give at creation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Input {
    /// What it is for.
    pub description: String,
    /// Taken if none is given.
    pub default: Option<String>,
    /// Whether one has to be given (or generated).
    pub required: bool,
    /// Whether it is kept encrypted and never shown in lists or logs.
    pub secret: bool,
    /// Drawn at random if none is given: how many characters. Always secret.
    pub generated_length: Option<u8>,
    /// The whole value has to match this regular expression.
    pub pattern: Option<String>,
    /// It is taken at creation and cannot be changed afterwards (a name that data are filed under).
    pub fixed: bool,
}

/// A volume of its own inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where it is mounted.
    pub path: ContainerPath,
    /// GiB.
    pub size_gb: u32,
}

/// How an app gets into its container.
#[derive(Debug, Clone, PartialEq)]
pub enum Deploy {
    /// Packages and files in a Debian container.
    Native(Box<Native>),
    /// Docker compose: listed, not deployed by this version.
    Compose {
        /// Why not, in words.
        because: String,
    },
}

/// A native recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Native {
    /// The template's name begins so.
    pub template: TemplatePrefix,
    /// Shell script that may be repeated. It is also what makes changed values take effect, unless `files` has one named
    /// [`proximity_protocol::spec::CONFIGURE_FILE`].
    pub install: String,
    /// Shell script that ends with zero only if the app works.
    pub health: String,
    /// Further files.
    pub files: Vec<RecipeFile>,
    /// How long `install` may tell nothing, seconds.
    pub install_timeout_s: u32,
    /// How long the app may take until `health` is content, seconds.
    pub health_timeout_s: u32,
}

impl Entry {
    /// The native recipe, or why this entry cannot be deployed.
    pub fn native(&self) -> Result<&Native, &str> {
        match &self.deploy {
            Deploy::Native(native) => Ok(native),
            Deploy::Compose { because } => Err(because),
        }
    }

    /// The entry as the API shows it.
    pub fn to_json(&self) -> Value {
        let env_vars: Map<String, Value> = self
            .env_vars
            .iter()
            .map(|(n, i)| (n.to_string(), i.to_json()))
            .collect();
        let deploy = match &self.deploy {
            Deploy::Native(n) => json!({
                "kind": "native",
                "template": n.template,
                "install": n.install,
                "health": n.health,
                "files": n.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
                "install_timeout_s": n.install_timeout_s,
                "health_timeout_s": n.health_timeout_s,
            }),
            Deploy::Compose { .. } => json!({"kind": "compose"}),
        };
        json!({
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "version": self.version,
            "category": self.category,
            "tags": self.tags,
            "icon": self.icon,
            "documentation": self.documentation,
            "homepage": self.homepage,
            "repository": self.repository,
            "author": self.as_written.author,
            "env_vars": env_vars,
            "ports": self.ports,
            "main_port": self.main_port,
            "environment": self.as_written.environment,
            "volumes": self.as_written.volumes,
            "docker_compose": self.as_written.docker_compose,
            "min_memory": self.min_memory_mb,
            "min_cpu": self.min_cpu,
            "min_disk": self.min_disk_gb,
            "deploy": deploy,
            "deployable": self.native().is_ok(),
            "not_deployable_because": self.native().err(),
        })
    }
}

impl Input {
    fn to_json(&self) -> Value {
        json!({
            "description": self.description,
            // A default of a secret is no secret: it stands in a public file. It is shown so that a user knows what is taken.
            "default": self.default,
            "required": self.required,
            "secret": self.secret,
            "generated": self.generated_length.is_some(),
            "pattern": self.pattern,
            "fixed": self.fixed,
        })
    }
}
