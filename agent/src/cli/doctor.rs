//! `proximity-agent doctor`.

use super::{exit::DOCTOR, failure::Failure};
use crate::{
    config::Config,
    doctor::{self, Finding, Level},
};
use clap::Args;
use serde::Serialize;

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: usize,
    warn: usize,
    fail: usize,
    findings: &'a [Finding],
}

impl Doctor {
    pub(super) async fn execute(self, config: &Config) -> Result<(), Failure> {
        let findings = doctor::examine(config).await;
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        let report = Report {
            ok: count(Level::Ok),
            warn: count(Level::Warn),
            fail: count(Level::Fail),
            findings: &findings,
        };
        if self.json {
            println!(
                "{}",
                serde_json::to_string_pretty(&report).expect("strings, numbers and lists always serialise")
            );
        } else {
            print(&report);
        }
        match report.fail {
            0 => Ok(()),
            1 => Err(Failure::new(DOCTOR, "1 check failed")),
            more => Err(Failure::new(DOCTOR, format!("{more} checks failed"))),
        }
    }
}

fn print(report: &Report<'_>) {
    for finding in report.findings {
        let word = match finding.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        println!("{word}  {:<16} {}", finding.check, finding.says);
        if let Some(todo) = &finding.todo {
            println!("{:24}-> {todo}", "");
        }
    }
    println!("{} ok, {} to look at, {} failed", report.ok, report.warn, report.fail);
}
