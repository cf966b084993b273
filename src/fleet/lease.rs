//! The leases of this member.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The owners of leases for which a task of this process is alive.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases(Arc<Mutex<HashSet<Box<str>>>>);

/// The name under which one task takes a lease. Each acquisition has another.
pub(super) struct Owner {
    name: Box<str>,
    leases: Leases,
}

impl Leases {
    pub(super) fn owner(&self, member: &str) -> Owner {
        let name: Box<str> = format!("{member}-{:016x}", fastrand::u64(..)).into();
        self.lock().insert(name.clone());
        Owner {
            name,
            leases: self.clone(),
        }
    }

    /// Whether this member has taken the lease in a task that is gone: its runtime has ended, for example.
    pub(super) fn is_dead(&self, member: &str, owner: &str) -> bool {
        let is_own = owner
            .strip_prefix(member)
            .is_some_and(|rest| rest.starts_with('-'));
        is_own && !self.lock().contains(owner)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Box<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owner {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.leases.lock().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_dead_when_its_task_is_gone() {
        let leases = Leases::default();
        let owner = leases.owner("member");
        let name = owner.name().to_owned();
        assert_ne!(name, leases.owner("member").name());
        assert!(!leases.is_dead("member", &name));
        drop(owner);
        assert!(leases.is_dead("member", &name));
        assert!(!leases.is_dead("mem", &name), "it is another member's");
        assert!(!leases.is_dead("other", &name));
    }
}
