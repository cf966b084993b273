//! What the manager promises, tested without network and without waiting: time is moved by hand.

mod credentials;
mod events;
mod fleet;
mod forced;
mod memory;
mod model;
mod operators;
mod refresh_ahead;
mod rejections;
mod simulation;
mod single_flight;
mod slow_stores;
mod sources;
mod stats;
mod status;
mod stores;
mod tenants;
mod throttle;
mod tickets;
mod time;
mod traffic;
mod valid_for;
mod world;
