/// A set of paths: exact ones, and those that end in a slash or are empty, for all that is below.
///
/// Sorted, and no path is covered by another. So the last one that is not greater than a path is the only one that can cover it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Paths(Vec<String>);

impl Paths {
    pub(super) fn have(&self, path: &str) -> bool {
        let next = self.0.partition_point(|known| known.as_str() <= path);
        let last = next.checked_sub(1).and_then(|last| self.0.get(last));
        last.is_some_and(|last| covers(last, path))
    }

    fn add(&mut self, path: &str) {
        let path = path.trim_start_matches('/');
        if self.have(path) {
            return;
        }
        self.0.retain(|known| !covers(path, known));
        let at = self.0.partition_point(|known| known.as_str() < path);
        self.0.insert(at, path.to_owned());
    }
}

fn covers(known: &str, path: &str) -> bool {
    let is_directory = known.is_empty() || known.ends_with('/');
    known == path || is_directory && path.starts_with(known)
}

impl<T: AsRef<str>> Extend<T> for Paths {
    fn extend<I: IntoIterator<Item = T>>(&mut self, paths: I) {
        for path in paths {
            self.add(path.as_ref());
        }
    }
}

impl<T: AsRef<str>> FromIterator<T> for Paths {
    fn from_iter<I: IntoIterator<Item = T>>(paths: I) -> Self {
        let mut set = Self::default();
        set.extend(paths);
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_path_is_found_as_if_all_were_compared(
            known in proptest::collection::vec("[ab/.]{0,4}", 0..8), path in "[ab/.]{0,5}",
        ) {
            let set: Paths = known.iter().collect();
            let is_covered = known.iter().any(|known| covers(known.trim_start_matches('/'), &path));
            prop_assert_eq!(set.have(&path), is_covered);
        }
    }
}
