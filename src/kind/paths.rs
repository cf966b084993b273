/// A set of paths: exact ones, and those below which all belong to it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Paths {
    exact: Vec<Box<[u8]>>,
    /// Each ends in a slash or is empty.
    below: Vec<Box<[u8]>>,
}

impl Paths {
    pub(super) fn have(&self, path: &[u8]) -> bool {
        self.below.iter().any(|known| path.starts_with(known))
            || self.exact.iter().any(|known| **known == *path)
    }

    fn add(&mut self, path: &str) {
        let path = path.trim_start_matches('/');
        // Every request goes through these lists, so they are kept short.
        if self.have(path.as_bytes()) {
            return;
        }
        let list = match path.is_empty() || path.ends_with('/') {
            true => &mut self.below,
            false => &mut self.exact,
        };
        list.push(path.as_bytes().into());
    }
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
