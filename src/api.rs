//! The contract's face: generated messages, decoding into the domain, encoding, statuses and the services. The only
//! place where protobuf meets the domain.

pub mod codec;
pub mod decode;
pub mod encode;
pub mod health;
pub mod json;
mod metadata;
pub mod methods;
pub mod operations;
pub mod proto;
pub mod query;
pub mod sandbox;
pub mod scribe;
pub mod service;
pub mod status;
