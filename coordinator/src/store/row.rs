//! Reading values out of rows into types that cannot be wrong.

use super::StoreError;
use sqlx::{Row, sqlite::SqliteRow};
use std::str::FromStr;

/// A column as it stands.
pub(super) fn get<'r, T>(row: &'r SqliteRow, column: &'static str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    Ok(row.try_get(column)?)
}

fn corrupt(column: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("{column}: {why}"))
}

/// A text column that has to parse.
pub(super) fn parse<T: FromStr>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError>
where
    T::Err: std::fmt::Display,
{
    get::<String>(row, column)?.parse().map_err(|e| corrupt(column, e))
}

/// The same, which may be null.
pub(super) fn parse_opt<T: FromStr>(row: &SqliteRow, column: &'static str) -> Result<Option<T>, StoreError>
where
    T::Err: std::fmt::Display,
{
    get::<Option<String>>(row, column)?
        .map(|text| text.parse().map_err(|e| corrupt(column, e)))
        .transpose()
}

/// A number that has to fit.
pub(super) fn number<T: TryFrom<i64>>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    let value: i64 = get(row, column)?;
    T::try_from(value).map_err(|_| corrupt(column, format!("{value} is out of bounds")))
}

/// The same, which may be null.
pub(super) fn number_opt<T: TryFrom<i64>>(row: &SqliteRow, column: &'static str) -> Result<Option<T>, StoreError> {
    get::<Option<i64>>(row, column)?
        .map(|value| T::try_from(value).map_err(|_| corrupt(column, format!("{value} is out of bounds"))))
        .transpose()
}

/// A JSON column.
pub(super) fn json<T: serde::de::DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(&get::<String>(row, column)?).map_err(|e| corrupt(column, e))
}

/// The same, which may be null.
pub(super) fn json_opt<T: serde::de::DeserializeOwned>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<T>, StoreError> {
    get::<Option<String>>(row, column)?
        .map(|text| serde_json::from_str(&text).map_err(|e| corrupt(column, e)))
        .transpose()
}
