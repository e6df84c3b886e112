//! stub
use crate::call::{Call, Stop};
pub(crate) fn run(_: &mut Call<'_>, _: &[String]) -> Result<(), Stop> { Err(Stop::NotSimulated("nft".into())) }
