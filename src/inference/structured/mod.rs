//! Typed answers of models that may or may not keep to a schema.

mod ahead;
mod before;
#[cfg(feature = "schema")]
mod doubled;
mod partial;
mod repair;
mod scan;
mod text;
mod word;

#[cfg(test)]
mod tests;

pub use self::{
    partial::Partial,
    repair::{Repaired, repair_json},
};
#[cfg(feature = "schema")]
pub(crate) use self::{
    partial::start_of,
    repair::{Parsed, parse_value},
    scan::Start,
};
