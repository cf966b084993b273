//! What the manager promises, tested without network and without waiting: time is moved by hand.

mod early_renewal;
mod events;
mod failures;
mod flights;
mod model;
mod rejections;
mod stores;
mod tenants;
mod time;
mod world;
