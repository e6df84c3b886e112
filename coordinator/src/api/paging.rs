//! `page` and `per_page` of lists.

use super::problem::Answer;
use serde::Deserialize;

/// From the query: the first page of 50 unless said otherwise.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Paging {
    page: i64,
    per_page: i64,
}

impl Default for Paging {
    fn default() -> Self {
        Self { page: 1, per_page: 50 }
    }
}

impl Paging {
    /// What was given, and the rest as usual.
    pub(super) fn of(page: Option<i64>, per_page: Option<i64>) -> Self {
        let usual = Self::default();
        Self {
            page: page.unwrap_or(usual.page),
            per_page: per_page.unwrap_or(usual.per_page),
        }
    }

    /// Within the bounds of every list.
    pub(super) fn checked(&self) -> Answer<(i64, i64)> {
        crate::service::apps::check_page(self.page, self.per_page)?;
        Ok((self.page, self.per_page))
    }
}
