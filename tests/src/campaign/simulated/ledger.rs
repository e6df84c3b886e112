//! What users were promised, and what became of it, by names that are the same whenever a run is repeated.

use proximity_coordinator::events::Event;
use std::collections::BTreeMap;

/// A file that was written into a container, and must be there for as long as that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Place of the node.
    pub node: usize,
    /// The container.
    pub vmid: u32,
    /// What is in the file.
    pub content: Vec<u8>,
}

/// One app.
#[derive(Debug, Clone)]
pub struct App {
    /// Its id in the registry.
    pub id: String,
    /// Its file, once it was deployed.
    pub proof: Option<Proof>,
}

/// One operation.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Its id in the registry.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// Place of its app.
    pub app: Option<usize>,
    /// A user was told that it is accepted.
    pub acknowledged: bool,
    /// As last told.
    pub state: String,
}

impl Operation {
    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        matches!(self.state.as_str(), "done" | "undone" | "stuck")
    }
}

/// The ledger.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Apps in the order of their creation.
    pub apps: Vec<App>,
    /// Operations in the order in which they were heard of.
    pub operations: Vec<Operation>,
    places: BTreeMap<String, usize>,
}

impl Ledger {
    /// The place of the app of that id.
    pub fn app(&self, id: &str) -> Option<usize> {
        self.apps.iter().position(|app| app.id == id)
    }

    /// Enters an app.
    pub fn created(&mut self, id: &str) -> usize {
        self.apps.push(App {
            id: id.to_owned(),
            proof: None,
        });
        self.apps.len() - 1
    }

    /// Enters an operation, or finds it; answers its place.
    pub fn operation(&mut self, id: &str, kind: &str, app: Option<usize>) -> usize {
        if let Some(place) = self.places.get(id) {
            return *place;
        }
        self.operations.push(Operation {
            id: id.to_owned(),
            kind: kind.to_owned(),
            app,
            acknowledged: false,
            state: "queued".into(),
        });
        let place = self.operations.len() - 1;
        self.places.insert(id.to_owned(), place);
        place
    }

    /// The operation's name in schedules: its place, kind and app.
    pub fn name(&self, id: &str) -> String {
        match self.places.get(id) {
            // A look of reconciliation is no operation of the registry.
            None => "a look".to_owned(),
            Some(place) => {
                let operation = &self.operations[*place];
                let app = operation
                    .app
                    .map_or("an unknown app".to_owned(), |app| format!("app {app}"));
                format!("{} {place} of {app}", operation.kind)
            }
        }
    }

    /// Takes in what the coordinator told. Answers the place of an operation that ended with this.
    pub fn heard(&mut self, event: &Event) -> Option<usize> {
        if event.kind != "operation" {
            return None;
        }
        let text = |name: &str| event.data[name].as_str().unwrap_or_default().to_owned();
        let app = self.app(&text("app_id"));
        let place = self.operation(&text("id"), &text("kind"), app);
        let operation = &mut self.operations[place];
        let before = operation.ended();
        operation.state = text("state");
        (operation.ended() && !before).then_some(place)
    }

    /// Operations that have not ended, as far as was heard.
    pub fn under_way(&self) -> usize {
        self.operations.iter().filter(|operation| !operation.ended()).count()
    }
}
