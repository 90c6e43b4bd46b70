pub mod api;
pub mod backend;
pub mod clock;
pub mod random;
pub mod rule;
